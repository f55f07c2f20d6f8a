"""Does a MatMul-free model catch up with a dense one as compute grows? Both at equal compute, each with its own rule.

    python -m sweeps.launch --study=sweeps/studies/matmul_free.py --workdir=runs/matmul_free

Zhu et al. 2024 (arXiv 2406.02528) extrapolate three sizes to a crossing at about 1e23 FLOPs. Here: budgets x sizes for
each family, the learning rate by the family's rule (rules.small_lr) and at half and twice of it, so that the best of
each is seen and not assumed, and the published schedule beside the dense model's cosine (halved in the middle). Compare
the best loss of each family at each budget, and fit each family's own law: analysis/questions/compare.py has exchange rates. FLOPs
are counted as if ternary products were products: that is what this machine does.

Fit: --law=chinchilla --by=family --best_of=lr
Told: nothing

Cost: 54 runs, 3.06e+12 FLOPs.
"""

from sweeps.study import common, rules
from sweeps.study.grid import Grid, cases, chain, derive, product, tag, tags_over

BUDGETS = {"full": {2e10: (8, 16, 24), 5e10: (16, 24, 32), 1e11: (16, 32, 48)}, "smoke": {1e9: (16,)}}
FACTORS = {"full": (0.5, 1, 2), "smoke": (0.25, 0.5, 1, 2, 4)}
SCHEDULES = {"dense": "cosine", "matmul_free": "cosine_halved"}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    budgets = []
    for family, schedule in SCHEDULES.items():
        for budget, widths in BUDGETS[scale].items():
            sizes = common.small_models(family, widths)
            schedules = cases({"schedule.name": schedule})
            budgets.append(product(tags_over("budget_flops", budget), schedules, sizes))
    grid = product(common.settings(scale), chain(*budgets))
    grid = derive(grid, "tokens", rules.tokens_of_budget)
    grid = common.with_warmup(common.with_small_lr(grid, *FACTORS[scale]))
    return tag(grid, group="equal compute")
