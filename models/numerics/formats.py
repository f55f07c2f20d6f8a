"""Round arrays to number formats such as e4m3, int8 or e2m1 in blocks of 32."""

import dataclasses
import functools
import re
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from models.errors import InputError

Values = Float[Array, "*n"]

_LEAST_SCALE = 2.0**-100  # of a vector of zeros: its inverse is finite
_MANTISSA_BITS = 23  # of float32, whose exponent stands above them with a bias of 127
_MANTISSA_MASK = 2**_MANTISSA_BITS - 1
_BIAS = 127


@dataclasses.dataclass(frozen=True)
class Format:
    """A sign with `exponent` and `mantissa` bits; no exponent: whole numbers up to 2^mantissa - 1.

    Floats of five and more exponent bits give the largest exponent to infinity and nan, smaller ones use every code,
    and e4m3 all but one: the formats that hardware has (IEEE 754; Open Compute Project 2023).
    """

    exponent: int
    mantissa: int
    block: int | None = None

    def __str__(self) -> str:
        name = f"e{self.exponent}m{self.mantissa}" if self.exponent else f"int{self.mantissa + 1}"
        return name + (f"b{self.block}" if self.block else "")

    @property
    def smallest_normal(self) -> float:
        """Below it a float's steps stay the same; everything is below it for whole numbers."""
        return 2.0 ** (2 - 2 ** (self.exponent - 1)) if self.exponent else float("inf")

    @property
    def step(self) -> float:
        """The smallest positive value."""
        return self.smallest_normal * 2.0**-self.mantissa if self.exponent else 1.0

    def mixes(self, seq_len: int) -> bool:
        """Whether a scale along flattened tokens is shared by sequences of this length."""
        return self.exponent != 8 and (self.block is None or seq_len % self.block > 0)

    @property
    def largest(self) -> float:
        """The largest value."""
        if not self.exponent:
            return 2.0**self.mantissa - 1
        if (self.exponent, self.mantissa) == (4, 3):
            return 448.0
        top = 2 ** (self.exponent - 1) - (1 if self.exponent >= 5 else 0)
        return (2 - 2.0**-self.mantissa) * 2.0**top


def parse(text: str, name: str = "format") -> Format:
    """Return the format that `text` writes. Raises InputError, naming the field `name`, when it is none."""
    found = re.fullmatch(r"(?:e([1-8])m(\d+)|int([2-8]))(?:b(\d+))?", text)
    if found is None or int(found[2] or 0) > 22 or found[4] == "0":
        raise InputError(
            f"{name}={text!r} is no number format; expected such as e4m3, e5m2, e8m7, int8 or int4, "
            "with b32 behind it for a scale per block of 32"
        )
    exponent, mantissa, bits, block = found.groups()
    of_block = None if block is None else int(block)
    if bits is not None:
        return Format(0, int(bits) - 1, of_block)
    return Format(int(exponent), int(mantissa), of_block)


def cast(x: Values, form: Format) -> Values:
    """Return the nearest value of the format, halves to even, in float32; beyond the largest value, that value.

    e8: float32's own exponents, so that too large becomes infinite, as in a cast to bfloat16.
    """
    x = x.astype(jnp.float32)
    if form.exponent == 8:
        return lax.reduce_precision(x, 8, form.mantissa)
    steps = jnp.round(x * (1 / form.step))
    y = steps * form.step
    if form.exponent:
        # Below the smallest normal number steps are equal; above it they double with the exponent.
        normal = lax.reduce_precision(x, 8, form.mantissa)
        y = jnp.where(jnp.abs(x) < form.smallest_normal, y, normal)
    return jnp.clip(y, -form.largest, form.largest)


def _scale(most: Values, form: Format) -> Values:
    """Return what the values of a vector are divided by, `most` being the largest magnitude; nan if that is not finite.

    Floats: the least power of two with which nothing overflows. It moves no mantissa, so that rounding is a cast with
    another range of exponents. Whole numbers: most / largest, kept to 16 bits, so that products with it are exact.
    Either way, rounding what is rounded already changes nothing.
    """
    if form.exponent:
        scale = _power_of_two_above(most, form.largest)
    else:
        scale = lax.reduce_precision(most * (1 / form.largest), 8, 15)
    return jnp.where(jnp.isfinite(most), jnp.maximum(scale, _LEAST_SCALE), jnp.nan)


def _power_of_two_above(x: Values, divisor: float) -> Values:
    """Return the least power of two that is not below x / divisor, within 2^-100 and 2^100.

    The bits of positive floats are ordered as they are. The difference of two of them, shifted right by the mantissa and
    rounded up, is the log2 of the quotient rounded up: exactly, which no logarithm would be.
    """
    divisor_bits = int(np.float32(divisor).view(np.int32))
    difference = lax.bitcast_convert_type(x, jnp.int32) - divisor_bits
    power = (difference + _MANTISSA_MASK) >> _MANTISSA_BITS
    power = jnp.clip(power, -100, 100)
    return lax.bitcast_convert_type((power + _BIAS) << _MANTISSA_BITS, jnp.float32)


def values_and_scale(
    x: Float[Array, "..."], form: Format, axis: int
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return values of the format, and the scale of each vector along `axis` (of size 1 there); no blocks. Float32."""
    x = x.astype(jnp.float32)
    most = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    if form.exponent == 8:
        return cast(x, form), jnp.ones_like(most)
    scale = _scale(most, form)
    return cast(x * (1 / scale), form), scale


def quantize(x: Values, form: Format | None, axis: int) -> Values:
    """Round `x` to the format, in float32: each vector along `axis`, or each block of it, has a scale of its own.

    The last block may be shorter. None: `x` as it is.
    """
    if form is None:
        return x
    if form.block is None:
        values, scale = values_and_scale(x, form, axis)
        return values * scale
    axis %= x.ndim
    size = x.shape[axis]
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -size % form.block)
    padded = jnp.pad(x, padding)
    blocks = padded.reshape(*x.shape[:axis], -1, form.block, *x.shape[axis + 1 :])
    values, scale = values_and_scale(blocks, form, axis + 1)
    rounded = (values * scale).reshape(padded.shape)
    return lax.slice_in_dim(rounded, 0, size, axis=axis)


def straight_through(x: Values, form: Format | None, axis: int) -> Values:
    """Apply `quantize` in the type of `x`, with a gradient of one."""
    return x if form is None else _rounded(x, form, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _rounded(x: Array, form: Format, axis: int) -> Array:
    return quantize(x, form, axis).astype(x.dtype)


@_rounded.defjvp
def _rounded_jvp(form: Format, axis: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    return _rounded(primals[0], form, axis), tangents[0]
