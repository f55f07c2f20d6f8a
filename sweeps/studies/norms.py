"""Which place of the norm lets depth help? Norm placements x depths at one width, each with four learning rates.

    python -m sweeps.launch --study=sweeps/studies/norms.py --workdir=runs/norms

Pre-norm layers do less the deeper they lie, post-norm ones are hard to train deep: sandwich, DeepNorm (Wang et al. 2022,
arXiv 2203.00555), Mix-LN (Li et al. 2024, arXiv 2412.13795) and LayerNorm Scaling (Sun et al. 2025, arXiv 2502.05795) are ways
out (models/blocks/residual.py). Every run of a depth has the same tokens; compare the best of four rates, placement by
placement, as the depth grows.

At 26 to 68 thousand parameters and 400 steps only DeepNorm gains at each doubling of the depth (2.225, 2.192, 2.184
nats). Post-norm is as good at depth 4 (2.212), but at depth 8 does not train at any rate above the rule's. Pre-norm and
LayerNorm Scaling do not gain from depth (2.41 and 2.38 at 2, 2.46 and 2.45 at 8), nor do they want larger rates.

No fit: the best loss of each placement at each depth is the answer.

Cost: 72 runs, 4.67e+12 FLOPs.
"""

from models.blocks.residual import PLACEMENTS
from sweeps.study import common
from sweeps.study.grid import Grid, chain, over, product, tag

WIDTH = 24
DEPTHS = {"full": (2, 4, 8), "smoke": (2,)}
FACTORS = {"full": (1, 2, 4, 8), "smoke": ()}  # most placements stand more than the rate of the rule
STEPS = {"full": 400, "smoke": 20}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    depths = chain(*(common.small_model("dense", WIDTH, depth) for depth in DEPTHS[scale]))
    placements = over("model.norm_placement", *PLACEMENTS)
    tokens = over("tokens", common.batch_tokens(scale) * STEPS[scale])
    grid = common.with_warmup(product(common.settings(scale), depths, placements, tokens))
    return tag(common.with_small_lr(grid, *FACTORS[scale]), group="norms")
