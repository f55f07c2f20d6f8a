"""How large should a small byte model be for its budget? IsoFLOPs: 4 budgets x 5 sizes, and a learning-rate bracket.

    python -m sweeps.launch --study=sweeps/studies/quickstart.py --workdir=runs/quickstart

24 runs of 6 thousand to 130 thousand parameters, 2.6e12 FLOPs: two to three minutes on two CPU cores. Each budget has
sizes on both sides of its best one. A size keeps its shapes over all budgets, so seven programs serve all runs. The
learning rate follows a stated rule; the bracket shows at one size and budget how far from its best the rule is.
`quickstart.py:smoke` is the same in about a minute, to see that everything works: too short for a law.

Fit: --law=isoflop
Told: a, b, k_N, k_D, K, gamma

Cost: 24 runs, 2.65e+12 FLOPs.
"""

import dataclasses

from sweeps.study import rules
from sweeps.study.grid import Grid, cases, chain, derive, over, product, tag, tags_over


@dataclasses.dataclass(frozen=True)
class Scale:
    """Widths by budget (training FLOPs), and where the bracket stands."""

    widths: dict[float, tuple[int, ...]]
    bracket: tuple[float, int]
    corpus: str


SCALES = {
    "full": Scale(
        widths={
            2e10: (8, 12, 16, 24, 32),
            5e10: (8, 12, 16, 24, 32),
            1.2e11: (12, 16, 24, 32, 48),
            3e11: (16, 24, 32, 48, 64),
        },
        bracket=(5e10, 16),
        corpus="embedded",
    ),
    "smoke": Scale(widths=dict.fromkeys((4e8, 8e8, 1.6e9), (8, 12, 16, 24)), bracket=(4e8, 16), corpus="embedded:1"),
}


FACTORS = (0.25, 0.5, 1, 2, 4)  # of the rule's learning rate, in the bracket


def isoflop(budget: float, *widths: int) -> Grid:
    """Make models of these widths, each trained for as many tokens as the budget allows; no learning rate yet."""
    settings = cases({"model.depth": 2, "model.heads": 2, "seq_len": 64, "batch_tokens": 256})
    grid = product(settings, tags_over("budget_flops", budget), over("model.width", *widths))
    grid = derive(grid, "tokens", rules.tokens_of_budget)
    return derive(grid, "schedule.warmup_tokens", rules.share_of_tokens(0.1))


def get_study(scale: str = "full") -> Grid:
    """Return the study; the argument after the colon is full or smoke."""
    if scale not in SCALES:
        raise ValueError(f"{scale!r} is not a scale of this study; expected one of {', '.join(SCALES)}")
    chosen = SCALES[scale]
    sizes = chain(*(isoflop(budget, *widths) for budget, widths in chosen.widths.items()))
    by_rule = derive(sizes, "opt.lr", rules.inverse_width_lr)
    bracketed = isoflop(*chosen.bracket)
    rates = [derive(bracketed, "opt.lr", rules.inverse_width_lr, scale=factor) for factor in FACTORS]
    groups = chain(tag(by_rule, group="isoflop"), tag(chain(*rates), group="lr_bracket"))
    return product(cases({"data.corpus": (chosen.corpus,)}), groups)
