"""Does a dense model that is scaled up and then made sparse beat the mixture from scratch? Four lineages, each with a control.

    python -m sweeps.launch --study=sweeps/studies/aquila.py --workdir=runs/aquila

AquilaMoE's way (Zhang et al. 2024, arXiv 2408.06567): a small dense model, scaled up in width and depth (AKI-Pro), then out
into eight experts of which a token has two; the same number of steps for each of the three. The control is that mixture from
scratch, with the training FLOPs of the whole lineage (flops_lineage). What the way saves is read at equal loss.

No fit: runs from scratch bracket three of its losses, which are too few for `growth_speedup`. At equal lineage FLOPs it is
ahead of the mixture from scratch by 0.21, 0.34, 0.14 and 0.00 nats, from the shortest to the longest.

Cost: 16 runs, 1.23e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, branch, cases, chain, over, product, tag

STEPS = {"full": (100, 200, 400, 800), "smoke": (10,)}  # of each stage
SMALL = {"model.width": 16, "model.heads": 2, "model.depth": 2, "model.ff": 48}
LARGE = {"model.width": 24, "model.heads": 3, "model.depth": 4}
AKI_PRO = {"growth.width": "aki", "growth.order": "interpolate"}
EXPERTS = {"family": "moe", "model.experts": 8, "model.top_k": 2, "model.expert_ff": 72, "model.load_balance": 1e-3}
RATE = 0.14 / 24  # of the large model from scratch by rules.small_lr; half of it for weights that are trained


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    base = common.settings(scale)
    groups = []
    for steps in STEPS[scale]:
        tokens = steps * common.batch_tokens(scale)
        own = {"tokens": tokens, "schedule.warmup_tokens": tokens // 10}
        small = common.with_warmup(common.with_small_lr(product(base, cases({**SMALL, "tokens": tokens}))))
        up = branch(small, cases({**LARGE, "model.ff": 72, **AKI_PRO, **own, "opt.lr": RATE}))
        out = branch(up, cases({**EXPERTS, "model.ff": None, **own, "opt.lr": RATE}))
        lineage = common.flops_of(chain(small, up, out))
        mixture = product(base, cases({**LARGE, **EXPERTS}))
        whole = product(mixture, over("tokens", common.tokens_for(mixture, lineage)))
        scratch = common.with_warmup(common.with_small_lr(whole))
        stages = {"small": small, "scaled up": up, "scaled out": out, "scratch": scratch}
        for group, stage in stages.items():
            groups.append(tag(stage, group=group, steps_of_stage=steps))
    return chain(*groups)
