"""What do more, finer and sparser experts buy at equal compute? Expansion x granularity x sparsity x budgets, and the dense model.

    python -m sweeps.launch --study=sweeps/studies/experts.py --workdir=runs/experts

Expansion is the size of all experts over that of the dense feed-forward, granularity G the dense size over that of one
expert (Krajewski et al. 2024), and a token passes through `share` of the dense size: top_k = share x G of experts =
expansion x G. Every run of a budget spends the same training FLOPs, so that sparser ones see more tokens; columns params_total,
params_active and the tags give what the laws `fine_grained`, `sparsity` and `clark` ask for.

Fit: --law=fine_grained --where="group=='mixture' and expansion==4"
Told: g, b, beta
Fit: --law=sparsity --where="group=='mixture'"
Told: b, beta
Also: --law=clark --where="group=='mixture'"
Also: --law=moe_joint --columns="N=params_active,experts=expansion" --where="group=='mixture' and granularity==1"

Cost: 96 runs, 9.92e+12 FLOPs.
"""

from sweeps.study import common, rules
from sweeps.study.grid import Grid, cases, chain, derive, product, tag, tags_over

FF = 96  # of the dense model; divides into whole experts at every granularity
EXPANSIONS = {"full": (2, 4, 8), "smoke": (4,)}
GRANULARITIES = {"full": (1, 2, 4), "smoke": (1, 4)}
SHARES = {"full": (0.5, 1.0), "smoke": (1.0,)}
WIDTHS = {"full": (16, 32), "smoke": (16,)}
BUDGETS = {"full": (3e10, 8e10, 2e11), "smoke": (5e8,)}


def mixtures(scale: str) -> Grid:
    """Make every mixture in which a token has at least one expert. Weights are not renormalised: one expert has a gradient."""
    points = []
    for expansion in EXPANSIONS[scale]:
        for granularity in GRANULARITIES[scale]:
            for share in SHARES[scale]:
                experts = expansion * granularity
                top_k = round(share * granularity)
                if top_k != share * granularity:
                    continue
                mixture = cases(
                    {
                        "family": "moe",
                        "model.renormalise": False,
                        "model.experts": experts,
                        "model.top_k": top_k,
                        "model.expert_ff": FF // granularity,
                    }
                )
                sparsity = 1 - top_k / experts
                points.append(tag(mixture, expansion=expansion, granularity=granularity, sparsity=sparsity))
    return chain(*points)


def sizes(width: int) -> dict[str, object]:
    """Return config keys of all models at a width."""
    return {"model.width": width, "model.heads": width // 8, "model.depth": 2}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    alone = tag(cases({"family": "dense", "model.ff": FF}), expansion=1, granularity=1, sparsity=0.0)
    models = chain(tag(alone, group="dense"), tag(mixtures(scale), group="mixture"))
    widths = cases(*map(sizes, WIDTHS[scale]))
    budgets = tags_over("budget_flops", *BUDGETS[scale])
    grid = product(common.settings(scale), budgets, widths, models)
    grid = derive(grid, "tokens", rules.tokens_of_budget)
    return common.with_warmup(common.with_small_lr(grid))
