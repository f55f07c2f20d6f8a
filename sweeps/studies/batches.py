"""How large a batch can be before its tokens stop helping, and how does that change as the loss falls? Curves, not ends.

    python -m sweeps.launch --study=sweeps/studies/batches.py --workdir=runs/batches
    python -m sweeps.collect --workdir=runs/batches --evaluations --out=batches.csv
    python -m analysis.trajectory batches.csv

Each size is trained at several batches with a rate that is held, and evaluated along the way: what counts is the step at
which each batch reaches a loss (McCandlish et al. 2018, arXiv 1812.06162; Su et al. 2024, arXiv 2403.06563). The rate
rises with the root of the batch (Malladi et al. 2022, arXiv 2205.10287), so that none is held back by a rate of another.

Fit: --law=batch_trajectory
Told: S_c, alpha_S, B_star
Also: --law=kaplan_steps --columns="N=params_no_embed,S_min=step/(1+1000/batch_tokens),loss=loss_nats"

Cost: 25 runs, 4.27e+12 FLOPs.
"""

from sweeps.study import common, rules
from sweeps.study.grid import Grid, cases, chain, derive, product, tag

WIDTHS = {"full": (12, 16, 24, 32, 48), "smoke": (8,)}
BATCHES = {"full": (128, 256, 512, 1_024, 2_048), "smoke": (256, 512)}
TOKENS = {"full": 2_048 * 400, "smoke": 512 * 16}
WARMUP = {"full": 2_048 * 4, "smoke": 512}
MIDDLE = 512  # tokens of the batch whose rate is that of the rule


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    scale = chosen.scale
    settings = common.SCALES[scale] | {
        "tokens": TOKENS[scale],
        "schedule.name": "constant",
        "schedule.warmup_tokens": WARMUP[scale],
        "evaluation.tokens": 32_768 if scale == "full" else 2_048,
    }
    sizes = common.small_models(chosen.family, WIDTHS[scale], rope_theta=common.SHORT_ROPE)
    runs = []
    for batch in BATCHES[scale]:
        # About as often for each batch as its curve bends: at sixteenths of the run.
        own = {"batch_tokens": batch, "execution.eval_every_tokens": TOKENS[scale] // 16}
        grid = product(cases(settings | own), sizes)
        runs.append(derive(grid, "opt.lr", rules.inverse_width_lr, scale=(batch / MIDDLE) ** 0.5))
    return tag(chain(*runs), group="batches")
