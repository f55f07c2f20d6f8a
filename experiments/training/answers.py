"""Have the devices compute the nats of every token of the rows of tasks; experiments/training/tasks.py makes scores of them."""

from collections.abc import Sequence

import numpy as np

from experiments.training.population import Population
from experiments.training.trial import Trial

BATCHES = 64  # whose nats, one a token, are on the devices at a time


def answer(population: Population, due: Sequence[Trial]) -> dict[str, np.ndarray]:
    """Return the nats [S, B, L] of every token but the first of the rows of tasks, by fingerprint, of trials that have any."""
    rows_of = {}
    for trial in due:
        tasks = trial.held_out.tasks
        if tasks.batches:
            rows_of[trial.fingerprint] = tasks.tokens
    if not rows_of:
        return {}

    batches_in_all = max(map(len, rows_of.values()))
    most = min(batches_in_all, BATCHES)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in rows_of}
    for start in range(0, batches_in_all, most):
        end = start + most
        some = {name: rows[start:end] for name, rows in rows_of.items()}
        tokens, batches = population.by_slot(some, most)
        nats_KSBL = population.token_nats(tokens, batches)
        for slot, trial in population.seated():
            own = parts.get(trial.fingerprint)
            if own is not None:
                count = batches[slot]
                own.append(nats_KSBL[slot, :count])
    return {name: np.concatenate(found) for name, found in parts.items()}
