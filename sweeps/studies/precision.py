"""What does training in few bits cost, and does it cost larger models less? Number formats x sizes x tokens.

    python -m sweeps.launch --study=sweeps/studies/precision.py --workdir=runs/precision

What enters the matmuls of linear layers is rounded to floats of x exponent and y mantissa bits (ExMy: models/numerics/matmul.py),
weights and activations alike, forward; the tags `exponent_bits`, `mantissa_bits` and `block` (numbers that share a scale:
a vector as wide as the model, or less) are the variables of the law of Sun et al. 2025 (arXiv 2501.02423, eq. 26), in which
few bits hurt more the more tokens a parameter has seen. The first of each size is not rounded: float32. `kumar` rounds
weights, activations or the keys and values of attention, or all of them, to whole numbers of 3 to 8 bits: `bits_weights`,
`bits_activations` and `bits_cache` of Kumar et al. 2024 (arXiv 2411.04330).

Fit: --law=floating_point
Told: gamma, beta
Fit of :kumar: --law=precision
Told: A, beta, g_a

Cost: 81 runs, 6.67e+12 FLOPs.
Cost of :kumar: 153 runs, 1.26e+13 FLOPs.
"""

import re

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, over, product, tag

FLOATS = {
    "full": ("e1m1", "e2m1", "e2m1b8", "e3m1", "e1m3", "e2m3", "e3m2", "e4m3"),
    "smoke": ("e2m1", "e4m3"),
}
WHOLE = {"full": (3, 4, 6, 8), "smoke": (4,)}
FLOAT = re.compile(r"e(?P<exponent>\d)m(?P<mantissa>\d)(?:b(?P<block>\d+))?")
# What is rounded, by its option and the variable of the law.
ROUNDED = {"quant_weight": "bits_weights", "quant_act": "bits_activations", "quant_kv": "bits_cache"}
UNROUNDED = dict.fromkeys(ROUNDED.values(), 32)
KINDS = (*((option,) for option in ROUNDED), tuple(ROUNDED))
WIDTHS = {"full": (16, 32, 48), "smoke": (16,)}
STEPS = {"full": (250, 500, 1_000), "smoke": (20,)}


def float_of(name: str, width: int) -> Grid:
    """Make one point: weights and activations of a model of this width in a format of floats."""
    found = FLOAT.fullmatch(name)
    assert found, name
    point = cases({"model.quant_weight": name, "model.quant_act": name})
    return tag(
        point,
        exponent_bits=int(found["exponent"]),
        mantissa_bits=int(found["mantissa"]),
        block=min(width, int(found["block"] or width)),
    )


def whole_number_of(bits: int, options: tuple[str, ...]) -> Grid:
    """Make one point: whole numbers of so many bits for these options."""
    point = cases({f"model.{option}": f"int{bits}" for option in options})
    rounded = {ROUNDED[option]: bits for option in options}
    return tag(point, **UNROUNDED | rounded)


def formats(part: str, scale: str, width: int) -> Grid:
    """Make every format for models of a width, the one that is not rounded first."""
    if part == "floats":
        plain = tag(cases({}), exponent_bits=8, mantissa_bits=23, block=width)
        return chain(plain, *(float_of(name, width) for name in FLOATS[scale]))
    plain = tag(cases({}), **UNROUNDED)
    return chain(plain, *(whole_number_of(bits, kind) for kind in KINDS for bits in WHOLE[scale]))


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon floats or kumar, full or smoke, and a family that has the options."""
    chosen = common.arguments(argument, part=("floats", "kumar"), scale=("full", "smoke"), family="dense")
    scale = chosen.scale
    models = []
    for width in WIDTHS[scale]:
        size = common.small_model(chosen.family, width)
        models.append(product(size, formats(chosen.part, scale, width)))
    lengths = over("tokens", *(common.batch_tokens(scale) * steps for steps in STEPS[scale]))
    grid = product(common.settings(scale), chain(*models), lengths)
    return tag(common.with_warmup(common.with_small_lr(grid)), group="precision")
