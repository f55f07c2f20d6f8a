"""How deep should a model of a given size be? Width against depth at equal parameters, with the learning rate swept.

    python -m sweeps.launch --study=sweeps/studies/shapes.py --workdir=runs/shapes

Every column of the grid is one size without embeddings, cut from wide and shallow to narrow and deep (N = 12 L d^2, rounded
to whole heads: params_no_embed says what became of it, and a note where it moved more than a tenth). Kaplan et al. 2020
(figure 5) find a flat minimum over width / depth; a shape's best learning rate moves, so each has three. Whether rates
transfer over width and depth without a sweep is another study: transfer.py (muP, CompleteP).

No fit: the minimum over width / depth is read off.

Cost: 24 runs, 2.09e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, product, tag
from sweeps.study.rules import shape_of_size

SIZES = {"full": (12 * 2 * 24**2, 12 * 2 * 40**2), "smoke": (12 * 2 * 16**2,)}
RATIOS = {"full": (40, 16, 8, 4, 2), "smoke": (16, 4)}  # width / depth that is asked for
FACTORS = {"full": (0.5, 1, 2), "smoke": ()}
STEPS = {"full": 600, "smoke": 20}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    scale = chosen.scale
    shapes = []
    for size in SIZES[scale]:
        for ratio in RATIOS[scale]:
            shape = common.shaped_model(chosen.family, shape_of_size(size, ratio, 8))
            shapes.append(tag(shape, size=size, ratio=ratio))
    tokens = cases({"tokens": STEPS[scale] * common.batch_tokens(scale)})
    grid = product(common.settings(scale), tokens, chain(*shapes))
    grid = common.with_warmup(common.with_small_lr(grid, *FACTORS[scale]))
    return tag(grid, group="shapes")
