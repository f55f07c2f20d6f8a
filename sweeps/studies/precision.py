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
KINDS = (("quant_weight",), ("quant_act",), ("quant_weight", "quant_act"))
WIDTHS = {"full": (16, 32), "smoke": (16,)}
STEPS = {"full": (250, 500, 1_000), "smoke": (20,)}


def rounded(name: str, options: tuple[str, ...] = ("quant_weight", "quant_act")) -> Grid:
    """One point: that format for these options."""
    found = re.fullmatch(r"(?:e(\d)m(\d)|int(\d))(?:b(\d+))?", name)
    assert found, name
    exponent, mantissa = (int(found[1]), int(found[2])) if found[1] else (0, int(found[3]) - 1)
    bits = {"exponent_bits": exponent, "mantissa_bits": mantissa, "block": int(found[4] or 0)}
    where = "+".join(option.removeprefix("quant_") for option in options)
    return tag(cases({f"model.{option}": name for option in options}), rounds=where, **bits)


def get_study(argument: str = "") -> Grid:
    """The study; after the colon floats or kumar, full or smoke, and a family that has the options."""
    chosen = common.arguments(argument, part=("floats", "kumar"), scale=("full", "smoke"), family="dense")
    scale = chosen.scale
    if chosen.part == "floats":
        formats = chain(*map(rounded, FLOATS[scale]))
    else:
        formats = chain(*(rounded(f"int{bits}", kind) for kind in KINDS for bits in WHOLE[scale]))
    plain = tag(cases({}), rounds="nothing", exponent_bits=8, mantissa_bits=23, block=0)
    steps = over("tokens", *(common.SCALES[scale]["batch_tokens"] * steps for steps in STEPS[scale]))
    sizes = chain(*(common.small(chosen.family, width) for width in WIDTHS[scale]))
    grid = product(common.common(scale), sizes, steps, chain(plain, formats))
    return tag(common.warmed(common.tuned(grid)), group="precision")
