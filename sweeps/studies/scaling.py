"""How does a family's loss fall with size and data? IsoFLOPs (budgets x sizes) or a full N x D grid, for every family.

    python -m sweeps.launch --study=sweeps/studies/scaling.py:moe --workdir=runs/scaling_moe      # or moe,nxd

The argument is a family, `isoflop` (each budget spent at sizes on both sides of its best one: approach 2) or `nxd` (sizes
over a factor of a hundred, each with the numbers of tokens that suit it: approach 3), and a scale. `pod` is the ladder of a
real machine: heads of 64, width over depth 128, 20 M to 1.28 B parameters without embeddings, batch and learning rate by the
Step Law on 32 thousand BPE tokens of `corpus=NAME` (default tfds:c4/en); look at it with `sweeps.plan --target=v5e-16` before
it is paid.

On the recorded grid of `nxd` a sum of two terms lies 2.3% off (root mean square), and Kaplan's form, in which size counts for
little where tokens are few, 1.3%. With 512 tokens a step for all and from 64 thousand tokens on the sum lay 5% off.

Fit: --law=isoflop
Told: a, b, k_N, k_D, K, gamma
Fit of :nxd: --law=chinchilla --columns=N=params_no_embed
Told: all
Fit of :nxd: --law=kaplan --columns=N=params_no_embed
Told: all
Also of :nxd: --law=envelope,coupled,farseer,overtraining,kaplan_n,kaplan_d,kaplan_c

Cost: 20 runs, 2.45e+12 FLOPs.
Cost of :nxd: 37 runs, 1.04e+13 FLOPs.
Cost of :moe: 20 runs, 2.45e+12 FLOPs.
Cost of :pod: 24 runs, 8.16e+20 FLOPs.
"""

import models
from sweeps.study import common, rules
from sweeps.study.grid import Grid, cases, chain, derive, product, tag, tags_over

BUDGETS = {
    "full": {
        2e10: (8, 16, 24, 32, 40),
        5e10: (8, 16, 24, 32, 48),
        1.2e11: (16, 24, 32, 40, 48),
        3e11: (16, 24, 32, 48, 64),
    },
    "smoke": {4e8: (8, 16, 24), 1e9: (8, 16, 24)},
}
# Least and most tokens by width: at least four a parameter, and no run of more than 2e12 FLOPs.
SPAN = {
    "full": {
        8: (2**17, 2**23),
        12: (2**17, 2**23),
        16: (2**17, 2**22),
        24: (2**17, 2**22),
        32: (2**18, 2**22),
        48: (2**19, 2**21),
        64: (2**19, 2**20),
        96: (2**20, 2**20),
    },
    "smoke": {8: (5_120, 10_240), 16: (5_120, 10_240)},
}
CORPUS = "tfds:c4/en"
# Parameters without embeddings, by budget, of the ladder for a pod.
POD = {
    1e18: (2e7, 4e7, 8e7, 1.6e8),
    3e18: (4e7, 8e7, 1.6e8, 3.2e8),
    1e19: (4e7, 8e7, 1.6e8, 3.2e8),
    3e19: (8e7, 1.6e8, 3.2e8, 6.4e8),
    6e19: (1.6e8, 3.2e8, 6.4e8, 1.28e9),
    1e20: (1.6e8, 3.2e8, 6.4e8, 1.28e9),
}


def isoflop(family: str, scale: str) -> Grid:
    """Make sizes at each budget; a size keeps its shapes over all budgets, so that one program serves it."""
    budgets = []
    for budget, widths in BUDGETS[scale].items():
        budgets.append(product(tags_over("budget_flops", budget), common.small_models(family, widths)))
    grid = product(common.settings(scale), chain(*budgets))
    return derive(grid, "tokens", rules.tokens_of_budget)


def nxd(family: str, scale: str) -> Grid:
    """Make every size with the numbers of tokens that suit it."""
    settings = common.settings(scale, batch_tokens=None)
    return common.with_small_batch(product(settings, common.span(family, SPAN[scale])))


def pod(family: str, corpus: str) -> Grid:
    """Make IsoFLOPs at a pod's scale, every value by a published rule."""
    settings = cases({"data.corpus": (corpus,), "data.tokenizer": "bpe:32000", "seq_len": 2_048})
    budgets = []
    for budget, params in POD.items():
        shapes = [rules.shape_of_size(size, ratio=128, head_size=64) for size in params]
        sizes = chain(*(common.shaped_model(family, shape, experts=8) for shape in shapes))
        budgets.append(product(settings, sizes, tags_over("budget_flops", budget)))
    grid = derive(chain(*budgets), "batch_tokens", rules.step_law_budget_batch)
    grid = derive(grid, "tokens", rules.tokens_of_budget)
    grid = derive(grid, "opt.lr", rules.step_law_lr)
    return common.with_warmup(grid, 0.01)


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon a family, isoflop or nxd, and full, smoke or pod, in any order."""
    chosen = common.arguments(
        argument,
        family=("dense", *(name for name in models.family_names() if name != "dense")),
        design=("isoflop", "nxd"),
        scale=("full", "smoke", "pod"),
        corpus=CORPUS,
    )
    if chosen.corpus != CORPUS and chosen.scale != "pod":
        raise ValueError(f"{chosen.corpus!r} is neither a family nor a choice; a corpus is for the scale pod only")
    if chosen.scale == "pod":
        return tag(pod(chosen.family, chosen.corpus), group="isoflop")
    if chosen.design == "nxd":
        grid = nxd(chosen.family, chosen.scale)
    else:
        grid = common.with_warmup(common.with_small_lr(isoflop(chosen.family, chosen.scale)))
    return tag(grid, group=chosen.design)
