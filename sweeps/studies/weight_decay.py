"""Is the weight decay that helps a small model the one that helps a large one? Weight decay x sizes x tokens.

    python -m sweeps.launch --study=sweeps/studies/weight_decay.py --workdir=runs/weight_decay

What holds where models are small and text is repeated need not hold at scale: curves of loss over size may cross (Xiao 2024,
"Rethinking Conventional Wisdom", arXiv 2409.15156). Each decay has a law of its own; where they differ, `analysis.compare
--by=weight_decay` says from which compute on one is better, and whether the intervals settle it.

Fit: --law=chinchilla --by=weight_decay
Told: nothing

Cost: 48 runs, 2.49e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, over, product, tag

DECAYS = {"full": (0.0, 0.1, 0.3), "smoke": (0.0, 0.3)}
WIDTHS = {"full": (8, 16, 32, 48), "smoke": (8,)}
STEPS = {"full": (125, 250, 500, 1_000), "smoke": (20,)}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    scale = chosen.scale
    sizes = common.small_models(chosen.family, WIDTHS[scale])
    lengths = over("tokens", *(common.batch_tokens(scale) * steps for steps in STEPS[scale]))
    decays = over("opt.weight_decay", *DECAYS[scale])
    grid = product(common.settings(scale), sizes, lengths, decays)
    return tag(common.with_warmup(common.with_small_lr(grid)), group="weight_decay")
