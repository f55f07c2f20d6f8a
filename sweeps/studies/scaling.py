"""How does a family's loss fall with size and data? IsoFLOPs (budgets x sizes) or a full N x D grid, for every family.

    python -m sweeps.launch --study=sweeps/studies/scaling.py:moe --workdir=runs/scaling_moe      # or moe,nxd

The argument is a family, `isoflop` (each budget spent at sizes on both sides of its best one: approach 2) or `nxd` (every
size at every number of tokens: approach 3), and a scale. `pod` is the ladder of a real machine: heads of 64, width over
depth 128, 40 M to 1 B parameters, batch and learning rate by the Step Law on 32 thousand BPE tokens of `corpus=NAME`
(default tfds:c4/en); look at it with `sweeps.plan --target=v5e-16` before it is paid.

Cost: 20 runs, 2.45e+12 FLOPs.
Cost of :nxd: 20 runs, 1.96e+12 FLOPs.
Cost of :moe: 20 runs, 2.45e+12 FLOPs.
Cost of :pod: 24 runs, 8.16e+20 FLOPs.
"""

from typing import Any

import models
from sweeps.study import common as recipe
from sweeps.study import rules
from sweeps.study.grid import Grid, cases, chain, derive, over, product, tag, tags_over

BUDGETS = {
    "full": {
        2e10: (8, 16, 24, 32, 40),
        5e10: (8, 16, 24, 32, 48),
        1.2e11: (16, 24, 32, 40, 48),
        3e11: (16, 24, 32, 48, 64),
    },
    "smoke": {4e8: (8, 16, 24), 1e9: (8, 16, 24)},
}
GRID = {
    "full": ((8, 16, 24, 32, 48), tuple(512 * n for n in (250, 500, 1_000, 2_000))),
    "smoke": ((8, 16), (256 * 20, 256 * 40)),
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
    """Sizes at each budget; a size keeps its shapes over all budgets, so that one program serves it."""
    rows = (
        product(tags_over("budget_flops", budget), chain(*(recipe.small(family, width) for width in widths)))
        for budget, widths in BUDGETS[scale].items()
    )
    return derive(product(recipe.common(scale), chain(*rows)), "tokens", rules.tokens_of_budget)


def nxd(family: str, scale: str) -> Grid:
    """Every size with every number of tokens."""
    widths, tokens = GRID[scale]
    sizes = chain(*(recipe.small(family, width) for width in widths))
    return product(recipe.common(scale), sizes, over("tokens", *tokens))


def pod(family: str, corpus: str) -> Grid:
    """IsoFLOPs at a pod's scale, every value by a published rule."""
    common: dict[str, Any] = {"data.corpus": (corpus,), "data.tokenizer": "bpe:32000", "seq_len": 2_048}
    rows = []
    for budget, params in POD.items():
        shapes = (rules.shape_of_size(size, 128, 64) for size in params)
        plain = ({key.removeprefix("model."): value for key, value in shape.items()} for shape in shapes)
        sizes = chain(*(recipe.sized(family, **shape, experts=8) for shape in plain))
        rows.append(product(cases(common), sizes, tags_over("budget_flops", budget)))
    grid = derive(chain(*rows), "batch_tokens", rules.step_law_budget_batch)
    grid = derive(derive(grid, "tokens", rules.tokens_of_budget), "opt.lr", rules.step_law_lr)
    return recipe.warmed(grid, 0.01)


def get_study(argument: str = "") -> Grid:
    """The study; after the colon a family, isoflop or nxd, and full, smoke or pod, in any order."""
    chosen = recipe.arguments(
        argument,
        family=("dense", *(f for f in models.family_names() if f != "dense")),
        design=("isoflop", "nxd"),
        scale=("full", "smoke", "pod"),
        corpus=CORPUS,
    )
    if chosen.corpus != CORPUS and chosen.scale != "pod":
        raise ValueError(f"{chosen.corpus!r} is neither a family nor a choice; a corpus is for the scale pod only")
    if chosen.scale == "pod":
        return tag(pod(chosen.family, chosen.corpus), group="isoflop")
    grid = {"isoflop": isoflop, "nxd": nxd}[chosen.design](chosen.family, chosen.scale)
    return tag(recipe.warmed(recipe.tuned(grid)), group=chosen.design)
