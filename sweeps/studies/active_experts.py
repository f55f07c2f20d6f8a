"""Do more experts help a trained mixture? Sizes x experts of a token in training x experts of a token afterwards.

    python -m sweeps.launch --study=sweeps/studies/active_experts.py --workdir=runs/active_experts

Each mixture is trained with 2 or 4 of its 8 experts a token and evaluated again with 2 to 8 of them (`reevaluate`: children
with tokens=0). `added_loss` is what another number costs or saves: Shi et al. 2024 ("Unchosen Experts Can Contribute Too",
arXiv 2405.14507) find that more than a model was trained with help little, and may hurt. The weights of the chosen sum to 1
whatever their number.

No fit: an answer is read from `added_loss` by `top_k` and `trained_top_k`.

Cost: 60 runs, 2.07e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, over, product, reevaluate, tag

EXPERTS = 8
EXPERT_FF = {"full": 32, "smoke": 16}
WIDTHS = {"full": (16, 32, 48), "smoke": (8,)}
STEPS = {"full": (500, 2_000), "smoke": (20,)}
TRAINED = {"full": (2, 4), "smoke": (2,)}  # experts of a token in training
AFTER = {"full": (2, 3, 4, 6, 8), "smoke": (4,)}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    sizes = []
    for width in WIDTHS[scale]:
        model = {"width": width, "depth": 2, "heads": width // 8, "experts": EXPERTS, "expert_ff": EXPERT_FF[scale]}
        sizes.append(common.sized_model("moe", **model))
    lengths = over("tokens", *(common.batch_tokens(scale) * steps for steps in STEPS[scale]))
    base = product(common.settings(scale), chain(*sizes), lengths)
    groups = []
    for top_k in TRAINED[scale]:
        trunks = common.with_warmup(common.with_small_lr(product(base, cases({"model.top_k": top_k}))))
        others = (number for number in AFTER[scale] if number != top_k)
        again = reevaluate(trunks, over("model.top_k", *others))
        groups.append(tag(trunks, group="trained", trained_top_k=top_k))
        groups.append(tag(again, group="again", trained_top_k=top_k))
    return chain(*groups)
