"""Multiply matrices that are rounded to low precision, with the forward and the backward pass rounded separately.

Master weights stay float32. Rounding is straight through: its gradient is taken as one (Bengio et al. 2013). Which
formats there are says models/numerics/formats.py, which of them a model uses models/numerics/precision.py.
"""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.mesh import gather
from models.mesh.current import backend
from models.numerics.formats import Format, quantize, values_and_scale
from models.numerics.precision import Recipe

# Formats for which there are matmul instructions; a scale factors out of the product unless it belongs to a block.
_HARDWARE = {"e4m3": jnp.float8_e4m3fn, "e5m2": jnp.float8_e5m2}


@functools.cache
def has_fp8() -> bool:
    """Whether the backend multiplies 8-bit floats: NVIDIA from compute capability 8.9 on, TPUs from v7 on."""
    device = jax.devices()[0]
    if device.platform == "tpu":
        generation = re.search(r"v?(\d+)", device.device_kind)
        return generation is not None and int(generation[1]) >= 7
    capability = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    return capability is not None and (int(capability[1]), int(capability[2])) >= (8, 9)


def _hardware_types(form_a: Format | None, form_b: Format | None, kernel: str) -> tuple[Any, Any] | None:
    """Return the types in which hardware multiplies two factors of these formats; None where it does not."""
    type_a = _HARDWARE.get(str(form_a))
    type_b = _HARDWARE.get(str(form_b))
    if kernel == "simulated" or type_a is None or type_b is None:
        return None
    if kernel == "auto" and not has_fp8():
        return None
    return type_a, type_b


def _round_factor(x: Array, form: Format | None, axis: int) -> tuple[Array, Array | None]:
    """Round a factor along the axis that is contracted; the scale is one that the product is to be multiplied by.

    No scale where there is none, or where each block has one: then the values are scaled already.
    """
    if form is None or form.block is not None:
        return quantize(x, form, axis), None
    return values_and_scale(x, form, axis)


def _product(
    a: Float[Array, "*b N I"],
    form_a: Format | None,
    b: Float[Array, "*b I O"],
    form_b: Format | None,
    *,
    kernel: str,
    dtype: Any,
    precise: bool,
    axes: tuple[str, ...] = (),
) -> Float[Array, "*b N O"]:
    """Multiply a b with both rounded along I; sums in float32. Simulated, the factors are multiplied in `dtype`.

    axes: logical ones of b, where that is a matrix that may have to be gathered.
    precise: a GPU sums all bits of products of 8-bit floats, as it should for gradients.
    """
    a, scale_a = _round_factor(a, form_a, -1)
    b, scale_b = _round_factor(b, form_b, -2)
    hardware = _hardware_types(form_a, form_b, kernel)
    if hardware is not None:
        type_a, type_b = hardware
    elif backend() == "cpu":  # which has not all of these products in bfloat16, and none faster than float32
        type_a = type_b = jnp.float32
    else:
        type_a = type_b = dtype
    a = a.astype(type_a)
    b = b.astype(type_b)
    if axes:
        b = gather.gathered(b, *axes)
    contracted = ((a.ndim - 1,), (b.ndim - 2,))
    batch = tuple(range(a.ndim - 2))
    out = jax.lax.dot_general(
        a,
        b,
        (contracted, (batch, batch)),
        precision=jax.lax.Precision.HIGHEST if hardware is not None and precise else None,
        preferred_element_type=jnp.float32,
    )
    for scale in (scale_a, scale_b):
        if scale is not None:
            out = out * scale
    return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def quantized_matmul(
    x: Float[Array, "*b N I"], w: Float[Array, "*b I O"], how: Recipe, axes: tuple[str, ...] = ()
) -> Float[Array, "*b N O"]:
    """Multiply x w in float32, where x, w and, on the way back, the gradient are rounded as `how` says.

    The backward pass keeps the arguments and rounds them again, so that a scan over layers saves no copies. `axes`: the
    logical ones of w, where it may be split over devices.
    """
    return _product(x, how.act, w, how.weight, kernel=how.kernel, dtype=x.dtype, precise=False, axes=axes)


def _forward(x: Array, w: Array, how: Recipe, axes: tuple[str, ...]) -> tuple[Array, tuple[Array, Array]]:
    return quantized_matmul(x, w, how, axes), (x, w)


def _backward(how: Recipe, axes: tuple[str, ...], saved: tuple[Array, Array], d_out: Array) -> tuple[Array, Array]:
    """Return the gradients of both factors, each rounded as the recipe says."""
    x, w = saved
    x_dtype = x.dtype
    w_dtype = w.dtype
    if how.saved is None:
        x = quantize(x, how.act, -1)
        w = quantize(w, how.weight, -2)

    transposed = w.swapaxes(-1, -2)
    d_x = _product(
        d_out, how.grad, transposed, how.saved, kernel=how.kernel, dtype=x_dtype, precise=True, axes=axes[::-1]
    )

    def product(x: Array, d_out: Array) -> Array:
        columns = x.swapaxes(-1, -2)
        return _product(columns, how.saved, d_out, how.grad, kernel=how.kernel, dtype=x_dtype, precise=True)

    # Rounded along the rows, the sum needs the scale of all of them: not of each device's.
    rounded_along_rows = how.saved is not None or how.grad is not None
    if axes and not rounded_along_rows:
        d_w = gather.weight_gradient(product, x.astype(x_dtype), d_out, axes)
    else:
        d_w = product(x, d_out)
    return d_x.astype(x_dtype), d_w.astype(w_dtype)


quantized_matmul.defvjp(_forward, _backward)
