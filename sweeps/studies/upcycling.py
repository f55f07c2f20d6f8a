"""When is a trained dense model worth turning into a mixture? Upcycled after several lengths, beside two controls.

    python -m sweeps.launch --study=sweeps/studies/upcycling.py --workdir=runs/upcycling

A dense trunk, and from several points of it: its feed-forward copied into 8 experts of which a token has 2 (Komatsuzaki
et al. 2023), trained on with a schedule of its own; the dense model trained on for the same tokens; and the mixture from
scratch with the tokens of the whole line. Compare at equal `flops_lineage` (analysis/procedures/growth.py). Two ways to upcycle:
whole copies, and slices of a quarter (fine-grained).

No fit: what it saves is read at equal flops_lineage, each length with the mixture from scratch beside it.

Cost: 18 runs, 1.63e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, branch, cases, chain, product, tag

WIDTH = 32
FF = 96
STEPS = {"full": (150, 300, 600), "smoke": (20,)}  # of the trunk when it branches
MORE = {"full": 400, "smoke": 20}  # steps of a branch
WAYS = {
    "full": {"whole": (8, 2, FF), "slices": (32, 8, FF // 4)},  # experts, top_k, expert_ff
    "smoke": {"slices": (8, 4, FF // 4)},
}


def mixture(experts: int, top_k: int, size: int) -> dict[str, object]:
    """Return config keys of the mixture; its own learning rate is the dense rule's over two, for weights that are trained."""
    sizes = {"model.experts": experts, "model.top_k": top_k, "model.expert_ff": size}
    return {"family": "moe", **sizes, "model.load_balance": 1e-3}


def trained(base: Grid, options: dict[str, object]) -> Grid:
    """Make runs from scratch, with the learning rate of the rule and a warm-up."""
    return common.with_warmup(common.with_small_lr(product(base, cases(options))))


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    batch = common.batch_tokens(scale)
    shape = {"model.width": WIDTH, "model.heads": WIDTH // 8, "model.depth": 2, "model.ff": FF}
    base = product(common.settings(scale), cases(shape))
    more = MORE[scale] * batch
    groups = []
    for steps in STEPS[scale]:
        trunk = trained(base, {"tokens": steps * batch})
        rate = trunk[0].values["opt.lr"] / 2
        on = {"tokens": more, "schedule.warmup_tokens": more // 20, "opt.lr": rate}
        groups.append(tag(trunk, group="trunk"))
        groups.append(tag(branch(trunk, cases(on)), group="dense on"))
        for way, sizes in WAYS[scale].items():
            upcycled = branch(trunk, cases({**mixture(*sizes), **on}))
            scratch = trained(base, {**mixture(*sizes), "tokens": steps * batch + more})
            groups.append(tag(upcycled, group="upcycled", way=way))
            groups.append(tag(scratch, group="scratch", way=way))
    return chain(*groups)
