"""Do laws find how much there is to learn? Sizes x tokens on text whose entropy is known exactly.

    python -m sweeps.launch --study=sweeps/studies/known_entropy.py --workdir=runs/known_entropy

The text is a Markov chain (`synthetic:markov`), so that the irreducible loss is a number and not a guess: the column
`entropy_nats`. The E that a law is fitted with stands beside it, a test of the law, of its fit and of the training together: approach 3
gives 1.766 [1.764, 1.770] here, the chain has 1.761 (half a minute on two CPU cores).

Fit: --law=chinchilla --columns=N=params_no_embed,D=tokens,loss=loss_nats
Told: all

Cost: 12 runs, 2.97e+11 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, over, product, tag

CORPUS = "synthetic:markov,symbols=32,documents={}"
DOCUMENTS = {"full": 1_500, "smoke": 200}
WIDTHS = {"full": (8, 16, 32), "smoke": (8, 16)}
STEPS = {"full": (125, 250, 500, 1_000), "smoke": (20, 40)}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    scale = chosen.scale
    corpus = CORPUS.format(DOCUMENTS[scale])
    settings = common.settings(scale, data__corpus=(corpus,), data__tokenizer="symbols:32", data__holdout=0.05)
    sizes = common.small_models(chosen.family, WIDTHS[scale])
    lengths = over("tokens", *(common.batch_tokens(scale) * steps for steps in STEPS[scale]))
    grid = product(settings, sizes, lengths)
    return tag(common.with_warmup(common.with_small_lr(grid)), group="known_entropy")
