"""What does a layer more buy, and what a wider one? Width x depth x tokens, each with two learning rates.

    python -m sweeps.launch --study=sweeps/studies/shapes.py --workdir=runs/shapes

Every width is trained at every depth and for several numbers of tokens, so that a law can tell the three apart: a grid of
shapes at one size and one length cannot. A shape's best learning rate moves, so each has two, of which the better counts.

`shapes.py:equal_size` asks another question, how deep a model of a given size should be: each size without embeddings is
cut from wide and shallow to narrow and deep (N = 12 L d^2, rounded to whole heads: params_no_embed says what became of it,
and a note where it moved more than a tenth), with three learning rates. Kaplan et al. 2020 (figure 5) find a flat minimum
over width / depth. Whether rates transfer over width and depth without a sweep is transfer.py's (muP, CompleteP).

Fit: --law=width_depth --best_of=lr
Told: gamma
Also: --law=width_depth_params

Cost: 72 runs, 5.15e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, chain, over, product, tag
from sweeps.study.rules import shape_of_size

WIDTHS = {"full": (8, 16, 32), "smoke": (8, 16)}
DEPTHS = {"full": (1, 2, 4, 8), "smoke": (1, 2)}
STEPS = {"full": (200, 500, 1_250), "smoke": (20,)}
FACTORS = {"full": (0.5, 1), "smoke": ()}

EQUAL_SIZES = {"full": (12 * 2 * 24**2, 12 * 2 * 40**2), "smoke": (12 * 2 * 16**2,)}
EQUAL_SIZE_RATIOS = {"full": (40, 16, 8, 4, 2), "smoke": (16, 4)}  # width / depth that is asked for
EQUAL_SIZE_FACTORS = {"full": (0.5, 1, 2), "smoke": ()}
EQUAL_SIZE_STEPS = {"full": 600, "smoke": 20}


def every_shape(scale: str, family: str) -> Grid:
    """Make every width at every depth, for each number of tokens."""
    shapes = [common.small_model(family, width, depth) for width in WIDTHS[scale] for depth in DEPTHS[scale]]
    lengths = over("tokens", *(common.batch_tokens(scale) * steps for steps in STEPS[scale]))
    grid = product(common.settings(scale), lengths, chain(*shapes))
    return common.with_warmup(common.with_small_lr(grid, *FACTORS[scale]))


def equal_size(scale: str, family: str) -> Grid:
    """Make shapes of equal size, for one number of tokens."""
    shapes = []
    for size in EQUAL_SIZES[scale]:
        for ratio in EQUAL_SIZE_RATIOS[scale]:
            shape = common.shaped_model(family, shape_of_size(size, ratio, 8))
            shapes.append(tag(shape, size=size, ratio=ratio))
    tokens = over("tokens", EQUAL_SIZE_STEPS[scale] * common.batch_tokens(scale))
    grid = product(common.settings(scale), tokens, chain(*shapes))
    return common.with_warmup(common.with_small_lr(grid, *EQUAL_SIZE_FACTORS[scale]))


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, every_shape or equal_size, and a family."""
    designs = {"every_shape": every_shape, "equal_size": equal_size}
    chosen = common.arguments(argument, scale=("full", "smoke"), design=tuple(designs), family="dense")
    grid = designs[chosen.design](chosen.scale, chosen.family)
    return tag(grid, group="shapes")
