"""Which learning rate and batch does a size want for its tokens? Learning rate x batch, at two sizes and two lengths.

    python -m sweeps.launch --study=sweeps/studies/lr_batch.py --workdir=runs/lr_batch

The grid that laws such as lr = c N^a D^b, batch = c D^e are fitted to (Step Law, arXiv 2503.04715): all runs of one size
and length see the same tokens, in batches of 256 to 2,048. Where the best batch is the smallest of the grid, the run is
below its critical batch everywhere, and larger ones cost steps only.

Fit: --law=tuning_surface
Told: c, g, k, r
Also: --law=lr_batch,lr_batch_joint,lr_batch_compute
Also: --law=power_scheduler --columns=lr=lr,batch=batch_tokens,D=tokens

Cost: 80 runs, 7.12e+12 FLOPs.
"""

from sweeps.study import common, rules
from sweeps.study.grid import Grid, cases, chain, derive, over, product, tag

FACTORS = {"full": (0.25, 0.5, 1, 2, 4), "smoke": (0.5, 2)}  # of inverse_width_lr
BATCHES = {"full": (256, 512, 1_024, 2_048), "smoke": (256, 512)}
WIDTHS = {"full": (16, 32), "smoke": (8,)}
TOKENS = {"full": (2_048 * 100, 2_048 * 400), "smoke": (512 * 16,)}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    settings = {key: value for key, value in common.SCALES[chosen.scale].items() if key != "batch_tokens"}
    sizes = common.small_models(chosen.family, WIDTHS[chosen.scale])
    lengths = over("tokens", *TOKENS[chosen.scale])
    batches = over("batch_tokens", *BATCHES[chosen.scale])
    grid = common.with_warmup(product(cases(settings), sizes, lengths, batches))
    rates = [derive(grid, "opt.lr", rules.inverse_width_lr, scale=factor) for factor in FACTORS[chosen.scale]]
    return tag(chain(*rates), group="lr_batch")
