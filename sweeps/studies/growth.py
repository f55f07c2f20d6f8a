"""When should a model be stacked from a small one, and by how much? Sizes x budgets x the trunk's share x growth factor.

    python -m sweeps.launch --study=sweeps/studies/growth.py --workdir=runs/growth

A model of 8 layers is stacked from a trunk of 2 layers that has spent a twentieth to three quarters of the budget (growth
factor 4), and from trunks of 4 and of 1 layer that have spent a quarter of it. The grown run spends what is left, with a new
schedule and on text that its trunk has not read, so that all runs of a size and a budget have cost the same, trunk included
(flops_lineage); one run starts from scratch. Where the best share and the best factor lie between those tried, they are
rows for the laws of Du et al. 2024; what growing saves is read at equal loss, by `analysis.speedup`. The published rule for
the timing (rules.stack_timing) is of models ten thousand times this size and asks for more than all the text here.

`growth.py:operators` compares the operators in depth at one trunk; `growth.py:smoke` is the timing study in a few steps.

Four best shares and one best factor lie inside of what was tried: too few for the laws of both, which an hour of a larger
machine would tell.

Fit: --law=growth_speedup --over="group=='scratch'" --columns=C=flops_lineage --where="group=='grown' and growth_factor==4"
Told: all
Also: --law=stack_timing --columns=N=params_no_embed,C=budget_flops --where="group=='grown' and growth_factor==4"

Cost: 133 runs, 7.51e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, branch, cases, chain, over, product, tag

DEPTH = 8
BUDGETS = {  # training FLOPs by width: 200 to 1,500 steps of the model from scratch
    "full": {8: (1e10, 2.5e10, 6e10), 16: (2.5e10, 6e10, 1.5e11), 32: (6e10, 1.5e11, 4e11)},
    "smoke": {8: (5e8,)},
}
SHARES = {"full": (0.05, 0.12, 0.25, 0.45, 0.75), "smoke": (0.25, 0.45)}  # of the budget, spent by the trunk
FACTOR = 4  # where the share is varied
FACTORS = {"full": (2, 8), "smoke": (2,)}  # besides, at one share
SHARE = 0.25


def shape(width: int, depth: int) -> Grid:
    """Make one point: a dense model of the common small shape."""
    return common.small_model("dense", width, depth)


def trained(model: Grid, flops: float) -> Grid:
    """Make a run from scratch that spends so many FLOPs."""
    tokens = over("tokens", common.tokens_for(model, flops))
    return common.with_warmup(common.with_small_lr(product(model, tokens)))


def grown(base: Grid, width: int, budget: float, factor: int, share: float) -> Grid:
    """Make a trunk that spends a share of the budget, and what grows from it with the rest."""
    small = product(base, shape(width, DEPTH // factor))
    large = product(base, shape(width, DEPTH))
    trunk = trained(small, share * budget)
    tokens = common.tokens_for(large, budget - common.flops_of(trunk))
    own = {"model.depth": DEPTH, "tokens": tokens, "schedule.warmup_tokens": tokens // 10}
    child = branch(trunk, cases(own))
    told = {"budget_flops": budget, "growth_factor": factor, "trunk_share": share}
    told["growth_tokens"] = trunk[0].values["tokens"]
    return chain(tag(trunk, group="trunk", budget_flops=budget), tag(child, group="grown", **told))


def timing(scale: str = "full") -> Grid:
    """Make what grows at several shares and by several factors, and a run from scratch, for every size and budget."""
    base = common.settings(scale)
    groups = []
    for width, budgets in BUDGETS[scale].items():
        for budget in budgets:
            scratch = trained(product(base, shape(width, DEPTH)), budget)
            groups.append(tag(scratch, group="scratch", budget_flops=budget))
            for share in SHARES[scale]:
                groups.append(grown(base, width, budget, FACTOR, share))
            for factor in FACTORS[scale]:
                groups.append(grown(base, width, budget, factor, SHARE))
    return chain(*groups)


def operators() -> Grid:
    """Make one trunk, grown in depth by every operator and order, and not at all."""
    tokens = 512 * 1_500
    base = product(common.settings("full"), shape(32, DEPTH // 2))
    trunk = common.with_warmup(common.with_small_lr(product(base, over("tokens", tokens // 5))))
    ways = chain(
        over("growth.order", "stack", "interpolate"),
        cases(
            {"growth.first": 1, "growth.last": 3},
            {"growth.noise": 0.2},
            {"growth.depth": "zero"},
            {"growth.depth": "random", "growth.ramp_tokens": tokens // 10},
            {"growth.depth": "learn"},
        ),
    )
    own = {"model.depth": DEPTH, "tokens": tokens, "schedule.warmup_tokens": tokens // 10}
    grown_ones = branch(trunk, cases(own), ways)
    whole = product(common.settings("full"), shape(32, DEPTH), over("tokens", tokens))
    scratch = common.with_warmup(common.with_small_lr(whole))
    return chain(tag(trunk, group="trunk"), tag(grown_ones, group="grown"), tag(scratch, group="scratch"))


def get_study(argument: str = "") -> Grid:
    """Return the study; the argument after the colon is full, smoke or operators."""
    chosen = common.arguments(argument, scale=("full", "smoke"), part=("timing", "operators"))
    return operators() if chosen.part == "operators" else timing(chosen.scale)
