"""Is the weight decay that helps a small model the one that helps a large one? Weight decay x sizes x tokens.

    python -m sweeps.launch --study=sweeps/studies/weight_decay.py --workdir=runs/weight_decay

What holds where models are small and text is repeated need not hold at scale: curves of loss over size may cross (Xiao 2024,
"Rethinking Conventional Wisdom", arXiv 2409.15156). Each decay has a law of its own; where they differ, `analysis.compare
--by=weight_decay` says from which compute on one is better, and whether the intervals settle it.

Fit: --law=chinchilla --by=weight_decay --columns=N=params_no_embed
Told: A, B, alpha, beta

Cost: 63 runs, 6.51e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, over, product, tag

DECAYS = {"full": (0.0, 0.1, 0.3), "smoke": (0.0, 0.3)}
# Least and most tokens by width.
SPAN = {
    "full": {
        8: (2**18, 2**23),
        12: (2**18, 2**22),
        16: (2**18, 2**21),
        24: (2**18, 2**20),
        32: (2**18, 2**19),
        48: (2**19, 2**19),
    },
    "smoke": {8: (5_120, 5_120)},
}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    cells = common.span(chosen.family, SPAN[chosen.scale])
    decays = over("opt.weight_decay", *DECAYS[chosen.scale])
    grid = product(common.settings(chosen.scale, batch_tokens=None), cells, decays)
    return tag(common.with_small_batch(grid), group="weight_decay")
