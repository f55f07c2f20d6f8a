"""Which family learns most from the same compute? Every family, one budget, three learning rates each.

    python -m sweeps.launch --study=sweeps/studies/families.py --workdir=runs/families

The families are those that models/ has, found by name, at one width and depth and otherwise at their defaults, so that
sizes are similar and not equal: `params_total` and `params_active` are in the grid. Each trains for as many tokens as
the budget allows it. The best learning rate differs between families: compare the best of three, and look whether it is
in the middle. A loss above the corpus's unigram entropy (3.2 nats a byte or so) says that a family learnt nothing but
how often each byte occurs. `families.py:smoke` is the same with a quarter of the compute.

No fit: one budget has no law; the best loss of each family is the answer.

Cost: 15 runs, 3.00e+12 FLOPs.
"""

import models
from sweeps.study import common, rules
from sweeps.study.grid import Grid, cases, chain, derive, product, tag, tags_over

SIZES = {"width": 48, "depth": 2, "heads": 2, "ff": 128, "experts": 4}  # each where a family has it
BUDGETS = {"full": ("embedded", 2e11), "smoke": ("embedded:1", 5e10)}  # corpus and training FLOPs of a run
FACTORS = (1, 2, 4)  # of the learning rate that the rule gives


def comparable() -> list[str]:
    """Return the families whose loss is that of every token: one that predicts targets alone cannot be set beside them."""
    return [name for name in models.family_names() if models.load(name).Config().predicts_everywhere]


def get_study(scale: str = "full") -> Grid:
    """Return the study; the argument after the colon is full or smoke."""
    if scale not in BUDGETS:
        raise ValueError(f"{scale!r} is not a scale of this study; expected one of {', '.join(BUDGETS)}")
    corpus, budget = BUDGETS[scale]
    settings = cases({"data.corpus": (corpus,), "seq_len": 64, "batch_tokens": 512})
    families = chain(*(common.sized_model(name, **SIZES) for name in comparable()))
    grid = product(settings, tags_over("budget_flops", budget), families)
    grid = common.with_warmup(derive(grid, "tokens", rules.tokens_of_budget))
    rates = []
    for factor in FACTORS:
        at_rate = derive(grid, "opt.lr", rules.inverse_width_lr, scale=factor)
        rates.append(tag(at_rate, rate=factor))
    return chain(*rates)
