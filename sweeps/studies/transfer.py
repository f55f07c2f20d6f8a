"""Does the best learning rate stay put as a model grows? Learning rate x width, standard and muP; or x depth.

    python -m sweeps.launch --study=sweeps/studies/transfer.py --workdir=runs/transfer          # or transfer.py:depth
    python -m sweeps.collect --workdir=runs/transfer --out=transfer.csv

56 runs of 15 thousand to 470 thousand parameters, 5.7e12 FLOPs: four to six minutes on two CPU cores. For each
`parametrization` and `width` (or `depth`) of the grid, look at the `lr` with the least `loss_nats`: it falls as the width
grows where every matrix keeps one learning rate, and stays within a factor of two under muP (models/numerics/parametrization.py);
over depth, so does CompleteP's, and its loss falls where muP's rises. Under these init_std is tuned at the base width, as
the learning rate is. Measured over widths 16 to 128: 2^-7 to 2^-9, and 2^-5 to 2^-6. `transfer.py:width,smoke` is two
widths and two rates, to see that everything works.

Cost: 56 runs, 5.66e+12 FLOPs.
Cost of :depth: 56 runs, 4.78e+12 FLOPs.
"""

import dataclasses

from sweeps.study import common as recipe
from sweeps.study import rules
from sweeps.study.grid import Grid, cases, chain, derive, over, product, tag


@dataclasses.dataclass(frozen=True)
class Axis:
    """What grows, under which parametrizations."""

    sizes: Grid
    parametrizations: Grid


WIDTHS = (16, 32, 64, 128)
STANDARD, MUP, COMPLETEP = (
    cases({"model.parametrization": name, "model.init_std": std})
    for name, std in (("standard", 0.02), ("mup", 0.1), ("completep", 0.1))
)
AXES = {
    "width": Axis(
        product(cases({"model.depth": 2}), cases(*({"model.width": d, "model.heads": d // 8} for d in WIDTHS))),
        chain(STANDARD, MUP),
    ),
    "depth": Axis(
        product(cases({"model.width": 32, "model.heads": 4}), over("model.depth", 2, 4, 8, 16)),
        chain(MUP, COMPLETEP),
    ),
}
RATES = tuple(2.0**power for power in range(-10, -3))


def get_study(axis: str = "width") -> Grid:
    """The study; the argument after the colon is width or depth, and full or smoke."""
    chosen = recipe.arguments(axis, axis=tuple(AXES), scale=("full", "smoke"))
    axis, smoke = chosen.axis, chosen.scale == "smoke"
    common = {"data.corpus": ("embedded:1",), "model.base_width": 16, "model.base_depth": 2, "model.base_head_size": 8}
    common |= {"seq_len": 64, "batch_tokens": 512, "tokens": 512 * (20 if smoke else 200)}
    grid = product(cases(common), AXES[axis].parametrizations, AXES[axis].sizes[: 2 if smoke else None])
    grid = product(grid, over("opt.lr", *RATES[2:4] if smoke else RATES))
    return tag(derive(grid, "schedule.warmup_tokens", rules.share_of_tokens(0.1)), group=f"lr_by_{axis}")
