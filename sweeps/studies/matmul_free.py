"""Does a MatMul-free model catch up with a dense one as compute grows? Sizes x tokens of both, each with its own rule.

    python -m sweeps.launch --study=sweeps/studies/matmul_free.py --workdir=runs/matmul_free

Zhu et al. 2024 (arXiv 2406.02528) extrapolate three sizes to a crossing at about 1e23 FLOPs. Here: sizes x tokens of each
family, with the published schedule beside the dense model's cosine (halved in the middle); at a few of them also half and
twice the learning rate, so that the best of each is seen and not assumed. Each family has its own law: the losses of both at
equal compute, and where they would cross, follow from the two (analysis.compare: exchange rates). FLOPs are counted as if
ternary products were products: that is what this machine does.

Fit: --law=kaplan --by=family --best_of=lr --columns=N=params_no_embed
Told: N_c, alpha_N
Also: --law=chinchilla --columns=N=params_no_embed

Cost: 54 runs, 7.43e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, product, tag

# Least and most tokens by width; in BRACKET where other learning rates are tried.
SPAN = {
    "full": {
        8: (2**18, 2**23),
        12: (2**18, 2**22),
        16: (2**18, 2**21),
        24: (2**18, 2**20),
        32: (2**18, 2**19),
        48: (2**19, 2**19),
    },
    "smoke": {16: (5_120, 5_120)},
}
BRACKET = {
    "full": {16: (2**18, 2**19), 32: (2**18, 2**18)},
    "smoke": {16: (5_120, 5_120)},
}
SCHEDULES = {"dense": "cosine", "matmul_free": "cosine_halved"}
# Of rules.small_batch_lr, which is higher for large batches than what the family's own factor was measured at.
RATES = {"dense": 1.0, "matmul_free": 0.5}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    grid: Grid = ()
    for family, schedule in SCHEDULES.items():
        settings = product(common.settings(scale, batch_tokens=None), cases({"schedule.name": schedule}))
        rate = RATES[family]
        cells = product(settings, common.span(family, SPAN[scale]))
        bracket = product(settings, common.span(family, BRACKET[scale]))
        grid = chain(grid, common.with_small_batch(cells, rate), common.with_small_batch(bracket, rate / 2, rate * 2))
    return tag(grid, group="matmul_free")
