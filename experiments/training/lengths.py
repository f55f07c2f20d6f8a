"""Have the devices evaluate runs on sequences of other lengths than they are trained on."""

from collections.abc import Sequence

from experiments.training.population import Population
from experiments.training.trial import Trial

Losses = tuple[tuple[int, float], ...]  # by the length of the sequences


def losses(population: Population, due: Sequence[Trial]) -> dict[str, Losses]:
    """Return the held-out losses of some trials at the other lengths that they are evaluated at, by fingerprint."""
    found: dict[str, Losses] = {trial.fingerprint: () for trial in due}
    for seq_len in due[0].at_other_lengths:  # the same of all that share a program
        tokens_of = {}
        most = 0
        for trial in due:
            held_out = trial.at_other_lengths[seq_len]
            tokens_of[trial.fingerprint] = held_out.tokens
            most = max(most, held_out.batches)
        tokens, batches = population.by_slot(tokens_of, most)
        nats_KSBP = population.evaluate(tokens, batches)
        for slot, trial in population.seated():
            if trial not in due:
                continue
            count = batches[slot]
            nats_SBP = nats_KSBP[slot, :count]
            held_out = trial.at_other_lengths[seq_len]
            result = held_out.result(nats_SBP)
            found[trial.fingerprint] += ((seq_len, result.loss_nats),)
    return found
