"""How much of a difference between two runs is chance? The same runs with other seeds, at several sizes and lengths.

    python -m sweeps.launch --study=sweeps/studies/seeds.py --workdir=runs/seeds

The standard deviation of loss_nats over seeds is the noise floor of every grid made in the same way: a difference below
two of them is none, and weights of a fit follow from it. A seed sets the initial parameters and the order of the data.
It is another matter than loss_nats_sem, which is the error of the held-out sample and common to all runs.

Cost: 48 runs, 1.97e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, chain, over, product, tag

SEEDS = {"full": 8, "smoke": 3}
WIDTHS = {"full": (8, 16, 32), "smoke": (8,)}
STEPS = {"full": (250, 1_000), "smoke": (20,)}


def get_study(argument: str = "") -> Grid:
    """The study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    scale = chosen.scale
    sizes = chain(*(common.small(chosen.family, width) for width in WIDTHS[scale]))
    lengths = over("tokens", *(common.SCALES[scale]["batch_tokens"] * steps for steps in STEPS[scale]))
    grid = product(common.common(scale), sizes, lengths, over("seed", *range(SEEDS[scale])))
    return tag(common.warmed(common.tuned(grid)), group="seeds")
