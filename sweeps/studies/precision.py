"""What does training in few bits cost, and does it cost larger models less? Number formats x sizes x tokens.

    python -m sweeps.launch --study=sweeps/studies/precision.py --workdir=runs/precision

What enters the matmuls of linear layers is rounded to floats of x exponent and y mantissa bits (ExMy: models/numerics/matmul.py),
weights and activations alike, forward; the tags `exponent_bits`, `mantissa_bits` and `block` are the variables of the
law of Sun et al. 2025 (arXiv 2501.02423, eq. 26), in which few bits hurt more the more tokens a parameter has seen. The
first of each size is not rounded. `kumar` rounds weights or activations alone to whole numbers of 3 to 8 bits, as in
Kumar et al. 2024 (arXiv 2411.04330).

Cost: 48 runs, 2.49e+12 FLOPs.
Cost of :kumar: 78 runs, 4.05e+12 FLOPs.
"""

import re

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, over, product, tag

FLOATS = {
    "full": ("e1m1", "e2m1", "e2m1b32", "e3m1", "e2m3", "e3m2", "e4m3"),
    "smoke": ("e2m1", "e4m3"),
}
WHOLE = {"full": (3, 4, 6, 8), "smoke": (4,)}
FORMAT = re.compile(r"(?:e(?P<exponent>\d)m(?P<mantissa>\d)|int(?P<whole>\d))(?:b(?P<block>\d+))?")
KINDS = (("quant_weight",), ("quant_act",), ("quant_weight", "quant_act"))
WIDTHS = {"full": (16, 32), "smoke": (16,)}
STEPS = {"full": (250, 500, 1_000), "smoke": (20,)}


def rounded(name: str, options: tuple[str, ...] = ("quant_weight", "quant_act")) -> Grid:
    """Make one point: that format for these options."""
    found = FORMAT.fullmatch(name)
    assert found, name
    if found["exponent"]:
        exponent_bits = int(found["exponent"])
        mantissa_bits = int(found["mantissa"])
    else:  # a whole number has a sign besides
        exponent_bits = 0
        mantissa_bits = int(found["whole"]) - 1
    block = int(found["block"] or 0)
    where = "+".join(option.removeprefix("quant_") for option in options)
    point = cases({f"model.{option}": name for option in options})
    return tag(point, rounds=where, exponent_bits=exponent_bits, mantissa_bits=mantissa_bits, block=block)


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon floats or kumar, full or smoke, and a family that has the options."""
    chosen = common.arguments(argument, part=("floats", "kumar"), scale=("full", "smoke"), family="dense")
    scale = chosen.scale
    if chosen.part == "floats":
        formats = chain(*map(rounded, FLOATS[scale]))
    else:
        formats = chain(*(rounded(f"int{bits}", kind) for kind in KINDS for bits in WHOLE[scale]))
    plain = tag(cases({}), rounds="nothing", exponent_bits=8, mantissa_bits=23, block=0)
    lengths = over("tokens", *(common.batch_tokens(scale) * steps for steps in STEPS[scale]))
    sizes = common.small_models(chosen.family, WIDTHS[scale])
    grid = product(common.settings(scale), sizes, lengths, chain(plain, formats))
    return tag(common.with_warmup(common.with_small_lr(grid)), group="precision")
