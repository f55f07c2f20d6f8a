"""Does a router that remembers the layers below choose better experts? Recurrent against linear routers, over sizes and seeds.

    python -m sweeps.launch --study=sweeps/studies/routers.py --workdir=runs/routers

The recurrent router is one GRU across depth (RMoE, Qiu et al. 2024, arXiv 2408.06793); the linear one looks at its own layer
alone. Both train on the same tokens in the same order, so that runs of one seed differ in the router only: compare them in
pairs, and the mean difference with its scatter over seeds.

They do not here: with the recurrent router, which has more parameters, the mean loss of six pairs is higher by 0.020 nats at
width 16 and 0.005 at width 32, with standard errors of 0.015 and 0.005. A gain of 0.005 nats or more is ruled out at
width 32; the paper's models are a thousand times larger.

No fit: the difference of each pair is the answer.

Cost: 24 runs, 4.87e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, chain, over, product, tag

DEPTH = 4  # the recurrent router has nothing to remember in the first layer
WIDTHS = {"full": (16, 32), "smoke": (16,)}
SEEDS = {"full": 6, "smoke": 1}
STEPS = {"full": 1_000, "smoke": 20}
ROUTER_WIDTH = 32


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    sizes = chain(*(common.small_model("moe", width, DEPTH) for width in WIDTHS[scale]))
    linear = over("model.router", "linear")
    recurrent = product(over("model.router", "recurrent"), over("model.router_width", ROUTER_WIDTH))
    tokens = over("tokens", common.batch_tokens(scale) * STEPS[scale])
    seeds = over("seed", *range(SEEDS[scale]))
    grid = product(common.settings(scale), sizes, chain(linear, recurrent), tokens, seeds)
    return tag(common.with_warmup(common.with_small_lr(grid)), group="routers")
