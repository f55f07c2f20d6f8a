"""Does the best learning rate stay put as a model grows? Learning rate x width, standard and muP; or x depth.

    python -m sweeps.launch --study=sweeps/studies/transfer.py --workdir=runs/transfer          # or transfer.py:depth
    python -m sweeps.collect --workdir=runs/transfer --out=transfer.csv

56 runs of 15 thousand to 470 thousand parameters, 5.7e12 FLOPs: four to six minutes on two CPU cores. For each
`parametrization` and `width` (or `depth`) of the grid, look at the `lr` with the least `loss_nats`: it falls as the width
grows where every matrix keeps one learning rate, and stays within a factor of two under muP (models/numerics/parametrization.py);
over depth, so does CompleteP's, and its loss falls where muP's rises. Under these init_std is tuned at the base width, as
the learning rate is. Measured over widths 16 to 128: 2^-7 to 2^-9, and 2^-5 to 2^-6. `transfer.py:width,smoke` is two
widths and two rates, to see that everything works.

No fit: the best learning rate of each size is read off.

Cost: 56 runs, 5.66e+12 FLOPs.
Cost of :depth: 56 runs, 4.78e+12 FLOPs.
"""

import dataclasses

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, over, product, tag


@dataclasses.dataclass(frozen=True)
class Axis:
    """What grows, under which parametrizations."""

    sizes: Grid
    parametrizations: Grid


# What the transferred options are tuned at: the base sizes, and the initial size that suits them.
BASE = {"model.base_width": 16, "model.base_head_size": 8, "model.init_std": 0.1}
STANDARD = cases({"model.parametrization": "standard", "model.init_std": 0.02})
MUP = cases({"model.parametrization": "mup"} | BASE)
COMPLETEP = cases({"model.parametrization": "completep", "model.base_depth": 2} | BASE)
WIDTHS = cases(*({"model.width": width, "model.heads": width // 8} for width in (16, 32, 64, 128)))
DEPTHS = over("model.depth", 2, 4, 8, 16)
AXES = {
    "width": Axis(product(cases({"model.depth": 2}), WIDTHS), chain(STANDARD, MUP)),
    "depth": Axis(product(cases({"model.width": 32, "model.heads": 4}), DEPTHS), chain(MUP, COMPLETEP)),
}
RATES = tuple(2.0**power for power in range(-10, -3))


def get_study(axis: str = "width") -> Grid:
    """Return the study; the argument after the colon is width or depth, and full or smoke."""
    chosen = common.arguments(axis, axis=tuple(AXES), scale=("full", "smoke"))
    parametrizations = AXES[chosen.axis].parametrizations
    sizes = AXES[chosen.axis].sizes
    rates = RATES
    steps = 200
    if chosen.scale == "smoke":
        sizes = sizes[:2]
        rates = RATES[2:4]
        steps = 20
    settings = {"data.corpus": ("embedded:1",), "seq_len": 64, "batch_tokens": 512, "tokens": 512 * steps}
    grid = product(cases(settings), parametrizations, sizes, over("opt.lr", *rates))
    return tag(common.with_warmup(grid), group=f"lr_by_{chosen.axis}")
