"""What is one optimizer's compute worth in another's? Six optimizers, sizes at three budgets, three learning rates each.

    python -m sweeps.launch --study=sweeps/studies/optimizers.py --workdir=runs/optimizers          # or :muon, one of them
    python -m sweeps.collect --workdir=runs/optimizers --out=optimizers.csv
    python -m analysis.compare optimizers.csv --by=optimizer --baseline=adamw --best_of=lr

One law for all, with exponents that they share and an A and a B of each one's own (Volkova et al. 2026, arXiv 2602.07712),
says how much longer one has to train to be where another is; runs at three budgets, whether that changes with scale
(analysis.compare: exchange rates and crossings). Rates are the rule's of each optimizer (rules.SMALL_RATES), half and twice
of it, and the best of the three counts: look whether it is in the middle. Every optimizer has a warm-up and a cosine, but for
schedule_free, which has a constant rate. Decay is each one's own default. SGD has no rule and is left out.
`optimizers.py:smoke` is two sizes at one small budget and at one rate.

Fit: --law=chinchilla --columns=N=params_no_embed,D=tokens,loss=loss_nats --where=rate==1 --by=optimizer --shared=E,alpha,beta
Told: B, beta

Cost: 162 runs, 5.13e+12 FLOPs.
Cost of :muon: 27 runs, 8.55e+11 FLOPs.
"""

from sweeps.study import common, rules
from sweeps.study.grid import Grid, cases, chain, derive, product, tag, tags_over

# Widths at each budget of training FLOPs.
BUDGETS = {
    "full": {1e10: (8, 16, 24), 2.5e10: (16, 24, 32), 6e10: (16, 24, 32)},
    "smoke": {4e8: (8, 16)},
}
FACTORS = {"full": (0.5, 1, 2), "smoke": (1,)}
CONSTANT = ("schedule_free",)  # what wants no schedule behind its warm-up


def sizes(scale: str) -> Grid:
    """Make the sizes at each budget; a size keeps its shape, so that one program serves it at all of them."""
    budgets = []
    for budget, widths in BUDGETS[scale].items():
        budgets.append(product(tags_over("budget_flops", budget), common.small_models("dense", widths)))
    grid = product(common.settings(scale), chain(*budgets))
    return common.with_warmup(derive(grid, "tokens", rules.tokens_of_budget))


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and an optimizer for that one alone."""
    names = tuple(rules.SMALL_RATES)
    chosen = common.arguments(argument, scale=("full", "smoke"), optimizer=("all", *names))
    kinds = names if chosen.optimizer == "all" else (chosen.optimizer,)
    grid = sizes(chosen.scale)
    trained = []
    for name in kinds:
        schedule = "constant" if name in CONSTANT else "cosine"
        options = cases({"opt.name": name, "schedule.name": schedule})
        trained.append(common.with_small_lr(product(grid, options), *FACTORS[chosen.scale]))
    return tag(chain(*trained), group="optimizers")
