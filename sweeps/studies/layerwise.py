"""Should layers be of one size? Uniform layers against such as grow, or shrink, with their depth, at equal parameters.

    python -m sweeps.launch --study=sweeps/studies/layerwise.py --workdir=runs/layerwise

OpenELM (Mehta et al. 2024, arXiv 2404.14619) gives later layers more heads and a larger feed-forward (layer_sizes in
models/families/dense.py). Here the five layers of a model have 50 to 150% of the heads and one to five times the width as their
feed-forward, from the first to the last (`growing`) or the other way round (`shrinking`); `uniform` has the mean of both in
every layer, and as many parameters and FLOPs, to the last one. Runs of a size, a length and a seed see the same text in the
same order: they are pairs.

It does not matter here: of 24 pairs the mean difference to uniform layers is -0.004 nats for growing ones and 0.000 for
shrinking ones, with standard errors of 0.012.

No fit: the differences of pairs are the answer; by kind the grid tells no law of sizes.

Cost: 72 runs, 5.50e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, over, product, tag

DEPTH = 5
HEAD_SIZE = 4  # so that the smallest model has heads to share out
HEADS = (0.5, 1.5)  # share of the heads in the smallest layer and in the largest
FF = (1.0, 5.0)  # feed-forward over width, likewise
WIDTHS = {"full": (16, 32, 48), "smoke": (16,)}
STEPS = {"full": (60, 125, 250, 500), "smoke": (20,)}
SEEDS = {"full": 2, "smoke": 1}


def uniform(width: int) -> Grid:
    """Make one point: every layer has the mean of the others."""
    return cases({"model.ff": round(sum(FF) / 2 * width)})


def unequal(first_to_last: int) -> Grid:
    """Make one point: layers that grow with their depth (1), or shrink (-1)."""
    ends = {"model.layerwise_heads": HEADS[::first_to_last], "model.layerwise_ff": FF[::first_to_last]}
    return cases({"model.layerwise": True, "model.layerwise_divisor": 16} | ends)


def models(width: int) -> Grid:
    """Make the three models of a width: equal in parameters and FLOPs."""
    arms = chain(
        tag(uniform(width), layers="uniform"),
        tag(unequal(1), layers="growing"),
        tag(unequal(-1), layers="shrinking"),
    )
    return product(common.sized_model("dense", width=width, depth=DEPTH, heads=width // HEAD_SIZE), arms)


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    sizes = chain(*(models(width) for width in WIDTHS[scale]))
    lengths = over("tokens", *(common.batch_tokens(scale) * steps for steps in STEPS[scale]))
    seeds = over("seed", *range(SEEDS[scale]))
    grid = product(common.settings(scale), sizes, lengths, seeds)
    return tag(common.with_warmup(common.with_small_lr(grid)), group="layerwise")
