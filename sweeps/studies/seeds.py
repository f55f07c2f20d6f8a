"""How much of a difference between two runs is chance? The same runs with other seeds, at several sizes and lengths.

    python -m sweeps.launch --study=sweeps/studies/seeds.py --workdir=runs/seeds

The standard deviation of loss_nats over seeds is the noise floor of every grid made in the same way: a difference below
two of them is none, and weights of a fit follow from it. A seed sets the initial parameters and the order of the data.
It is another matter than loss_nats_sem, which is the error of the held-out sample and common to all runs.

No fit: its answer is the scatter itself.

Cost: 48 runs, 1.97e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, over, product, tag

SEEDS = {"full": 8, "smoke": 3}
WIDTHS = {"full": (8, 16, 32), "smoke": (8,)}
STEPS = {"full": (250, 1_000), "smoke": (20,)}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    scale = chosen.scale
    sizes = common.small_models(chosen.family, WIDTHS[scale])
    lengths = over("tokens", *(common.batch_tokens(scale) * steps for steps in STEPS[scale]))
    grid = product(common.settings(scale), sizes, lengths, over("seed", *range(SEEDS[scale])))
    return tag(common.with_warmup(common.with_small_lr(grid)), group="seeds")
