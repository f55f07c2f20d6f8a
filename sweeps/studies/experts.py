"""What do more, finer and sparser experts buy at equal compute? Expansion x granularity x sparsity, and the dense model.

    python -m sweeps.launch --study=sweeps/studies/experts.py --workdir=runs/experts

Expansion is the size of all experts over that of the dense feed-forward, granularity G the dense size over that of one
expert (Krajewski et al. 2024), and a token passes through `share` of the dense size: top_k = share x G of experts =
expansion x G. Every run spends the same training FLOPs, so that sparser ones see more tokens; columns params_total,
params_active and the tags give what the laws `krajewski`, `abnar` and `clark` ask for.

Cost: 32 runs, 2.56e+12 FLOPs.
"""

from sweeps.study import common, rules
from sweeps.study.grid import Grid, cases, chain, derive, product, tag, tags_over

FF = 96  # of the dense model; divides into whole experts at every granularity
EXPANSIONS = {"full": (2, 4, 8), "smoke": (4,)}
GRANULARITIES = {"full": (1, 2, 4), "smoke": (1, 4)}
SHARES = {"full": (0.5, 1.0), "smoke": (1.0,)}
WIDTHS = {"full": (16, 32), "smoke": (16,)}
BUDGETS = {"full": 8e10, "smoke": 5e8}


def mixtures(scale: str) -> Grid:
    """Every mixture in which a token has at least one expert. Weights are not renormalised: one expert has a gradient."""
    points = []
    for expansion in EXPANSIONS[scale]:
        for granularity in GRANULARITIES[scale]:
            for share in SHARES[scale]:
                experts, top_k = expansion * granularity, round(share * granularity)
                if top_k != share * granularity:
                    continue
                sizes = {"model.experts": experts, "model.top_k": top_k, "model.expert_ff": FF // granularity}
                names = {"expansion": expansion, "granularity": granularity, "sparsity": 1 - top_k / experts}
                points.append(tag(cases({"family": "moe", "model.renormalise": False} | sizes), **names))
    return chain(*points)


def get_study(argument: str = "") -> Grid:
    """The study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    dense = tag(cases({"family": "dense"}), expansion=1, granularity=1, sparsity=0.0)
    widths = cases(
        *({"model.width": w, "model.heads": w // 8, "model.depth": 2, "model.ff": FF} for w in WIDTHS[scale])
    )
    grid = product(common.common(scale), tags_over("budget_flops", BUDGETS[scale]), widths)
    grid = product(grid, chain(tag(dense, group="dense"), tag(mixtures(scale), group="mixture")))
    return common.warmed(common.tuned(derive(grid, "tokens", rules.tokens_of_budget)))
