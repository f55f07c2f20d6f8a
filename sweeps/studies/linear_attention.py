"""Does linear attention learn as much as softmax attention from the same compute? IsoFLOPs of both.

    python -m sweeps.launch --study=sweeps/studies/linear_attention.py --workdir=runs/linear_attention

Linear attention with decay has a state of fixed size (TransNormerLLM, Qin et al. 2023, arXiv 2307.14995; Lightning
Attention-2, Qin et al. 2024, arXiv 2401.04658): its cost a token does not grow with the sequence, so that a budget buys more
tokens. Each kind has a law of its own, and `analysis.compare --by=attention` says what the compute of one is worth in
that of the other.

At sequences of 256 tokens it learns no less: at 1e10 and 3e10 FLOPs the best losses of both are equal to 0.01 nats, at 1e11 and
3e11 that of linear attention is lower by 0.10 and 0.05. Its best model is larger, since the same size costs it half as much.

Fit: --law=isoflop --by=attention
Told: a, b, k_N, k_D, K, gamma

Cost: 44 runs, 5.20e+12 FLOPs.
"""

from sweeps.study import common, rules
from sweeps.study.grid import Grid, cases, chain, derive, product, tag, tags_over

CHUNK = 32  # positions: between chunks a head of 8 passes its state on
SEQ_LEN = {"full": 256, "smoke": 64}
BATCH_TOKENS = {"full": 512, "smoke": 256}
BUDGETS = {
    "full": {
        1e10: (8, 12, 16, 24, 32),
        3e10: (8, 12, 16, 24, 32),
        1e11: (8, 12, 16, 24, 32, 48),
        3e11: (12, 16, 24, 32, 48, 64),
    },
    "smoke": {5e8: (8, 16)},
}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    settings = common.settings(scale, seq_len=SEQ_LEN[scale], batch_tokens=BATCH_TOKENS[scale])
    softmax = cases({"model.attention": "softmax"})
    linear = cases({"model.attention": "linear", "model.chunk": CHUNK})
    budgets = []
    for budget, widths in BUDGETS[scale].items():
        budgets.append(product(tags_over("budget_flops", budget), common.small_models("dense", widths)))
    grid = product(settings, chain(softmax, linear), chain(*budgets))
    grid = derive(grid, "tokens", rules.tokens_of_budget)
    return tag(common.with_warmup(common.with_small_lr(grid)), group="isoflop")
