"""Low-precision matmuls: number formats, rounding to them, and a product whose two passes are rounded separately.

A format is written as text: "e4m3" is a float of 4 exponent and 3 mantissa bits (and a sign), "int8" a whole number;
"e4m3b32" has a scale for every 32 entries along the contracted axis. Without a block there is one scale for each vector
that is contracted, a row of activations or a column of weights: never one for a whole tensor, which would let a token
see the magnitudes of later ones and of other sequences, and would depend on how a batch is split over devices.

Master weights stay float32. Rounding is straight through: its gradient is taken as one (Bengio et al. 2013).
"""

import dataclasses
import functools
import re
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.errors import InputError
from models.mesh import gather
from models.mesh.rules import backend
from models.numerics.formats import Format, parse, quantize, split
from models.option import option

KERNELS = ("auto", "simulated", "real")
# Formats for which there are matmul instructions; a scale factors out of the product unless it belongs to a block.
_HARDWARE = {"e4m3": jnp.float8_e4m3fn, "e5m2": jnp.float8_e5m2}


# --- what is rounded


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Formats of what enters the three matmuls of a linear layer; None: as it is.

    forward Y = act(X) weight(W); backward dX = grad(dY) saved(W)^T and dW = saved(X)^T grad(dY), each scaled along the
    axis that it contracts. `saved` None: the backward pass uses what the forward pass rounded X and W to.
    """

    weight: Format | None = None
    act: Format | None = None
    grad: Format | None = None
    saved: Format | None = None
    kernel: str = "auto"


@dataclasses.dataclass(frozen=True)
class Precision:
    """Options: formats (as `parse` reads them) of what enters the matmuls of all linear layers; None: not rounded.

    Embedding, head, norms, routers and the products of attention are left as they are.
    """

    quant_weight: str | None = None  # forward: matrices (Kumar et al. 2024: P_w)
    quant_act: str | None = None  # forward: what is multiplied with them (P_a)
    quant_grad: str | None = None  # backward: the gradient that comes in
    quant_saved: str | None = None  # backward: matrices and activations, rounded anew; None: as in the forward pass
    quant_kv: str | None = None  # forward: keys and values of attention, each head's by itself (P_kv)
    quant_kernel: str = option(
        "auto", numerics=False
    )  # simulated | real: 8-bit matmuls of the hardware | auto: if it has

    unrounded: ClassVar[dict[str, str]] = {}  # options that a family has not, and why

    @property
    def quant(self) -> Recipe | None:
        """The recipe; None when nothing is to be rounded. Raises InputError for what is no format."""
        names = ("weight", "act", "grad", "saved")
        texts = {name: getattr(self, f"quant_{name}") for name in names}
        forms = {name: parse(text, f"model.quant_{name}") for name, text in texts.items() if text is not None}
        return Recipe(**forms, kernel=self.quant_kernel) if forms else None

    @property
    def kv_format(self) -> Format | None:
        """Of keys and values. Raises InputError for what is no format."""
        return None if self.quant_kv is None else parse(self.quant_kv, "model.quant_kv")

    def check_precision(self) -> None:
        """Raises InputError for what is no format, and for an option that the family has not."""
        for name, why in self.unrounded.items():
            if (value := getattr(self, name)) is not None:
                raise InputError(f"model.{name}={value!r} cannot be: {why}; expected None")
        _ = self.quant, self.kv_format


# --- matmuls


@functools.cache
def has_fp8() -> bool:
    """Whether the backend multiplies 8-bit floats: NVIDIA from compute capability 8.9 on, TPUs from v7 on."""
    device = jax.devices()[0]
    if device.platform == "tpu":
        generation = re.search(r"v?(\d+)", device.device_kind)
        return generation is not None and int(generation[1]) >= 7
    capability = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    return capability is not None and (int(capability[1]), int(capability[2])) >= (8, 9)


def _hardware(form: Format | None, other: Format | None, kernel: str) -> tuple[Any, Any] | None:
    """The types in which the two factors can be multiplied by hardware, if they can."""
    types = _HARDWARE.get(str(form)), _HARDWARE.get(str(other))
    if kernel == "simulated" or None in types or (kernel == "auto" and not has_fp8()):
        return None
    return types


def _product(
    a: Float[Array, "*b N I"],
    form_a: Format | None,
    b: Float[Array, "*b I O"],
    form_b: Format | None,
    kernel: str,
    dtype: Any,
    precise: bool,
    axes: tuple[str, ...] = (),
) -> Float[Array, "*b N O"]:
    """a b with both rounded along I; sums in float32. Simulated, the factors are multiplied in `dtype`.

    `axes`: of b, where that is a matrix that may have to be gathered.

    `precise`: a GPU sums all bits of products of 8-bit floats, as it should for gradients.
    """
    scales = []

    def factor(x: Array, form: Format | None, axis: int) -> Array:
        if form is None or form.block is not None:
            return quantize(x, form, axis)
        whole, scale = split(x, form, axis)
        scales.append(scale)
        return whole

    a, b = factor(a, form_a, -1), factor(b, form_b, -2)
    if types := _hardware(form_a, form_b, kernel):
        a, b = a.astype(types[0]), b.astype(types[1])
    else:  # a CPU has not all of these products in bfloat16, and none faster than float32
        dtype = jnp.float32 if backend() == "cpu" else dtype
        a, b = a.astype(dtype), b.astype(dtype)
    if axes:
        b = gather.gathered(b, *axes)
    batch = tuple(range(a.ndim - 2))
    out = jax.lax.dot_general(
        a,
        b,
        (((a.ndim - 1,), (b.ndim - 2,)), (batch, batch)),
        precision=jax.lax.Precision.HIGHEST if types and precise else None,
        preferred_element_type=jnp.float32,
    )
    for scale in scales:
        out = out * scale
    return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def matmul(
    x: Float[Array, "*b N I"], w: Float[Array, "*b I O"], how: Recipe, axes: tuple[str, ...] = ()
) -> Float[Array, "*b N O"]:
    """x w in float32, where x, w and, on the way back, the gradient are rounded as `how` says.

    The backward pass keeps the arguments and rounds them again, so that a scan over layers saves no copies. `axes`: the
    logical ones of w, where it may be split over devices.
    """
    return _product(x, how.act, w, how.weight, how.kernel, x.dtype, False, axes)


def _forward(x: Array, w: Array, how: Recipe, axes: tuple[str, ...]) -> tuple[Array, tuple[Array, Array]]:
    return matmul(x, w, how, axes), (x, w)


def _backward(how: Recipe, axes: tuple[str, ...], saved: tuple[Array, Array], d_out: Array) -> tuple[Array, Array]:
    x, w = saved
    dtype, types = x.dtype, (x.dtype, w.dtype)
    if how.saved is None:
        x, w = quantize(x, how.act, -1), quantize(w, how.weight, -2)
    d_x = _product(d_out, how.grad, w.swapaxes(-1, -2), how.saved, how.kernel, dtype, True, axes[::-1])

    def product(x: Array, d_out: Array) -> Array:
        return _product(x.swapaxes(-1, -2), how.saved, d_out, how.grad, how.kernel, dtype, True)

    # Rounded along the rows, the sum needs the scale of all of them: not of each device's.
    each = axes and how.saved is None and how.grad is None
    d_w = gather.weight_gradient(product, x.astype(types[0]), d_out, axes) if each else product(x, d_out)
    return d_x.astype(types[0]), d_w.astype(types[1])


matmul.defvjp(_forward, _backward)
