"""Pieces that families share: parameters, matrices, norms, rotary positions, feed-forward.

Norm statistics and positions are computed in float32 whatever the compute type. Weight matrices are applied
to flattened tokens (rows N = B L): two-dimensional matmuls use all cores of a CPU, batched ones only one.
Letters of the axes: models/contract.py.
"""

from collections.abc import Callable
import math
from typing import Any

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from models.contract import Role
from models.mesh import gather
from models.mesh.current import constrain
from models.mesh.tokens import flatten_tokens, unflatten_tokens
from models.numerics.matmul import quantized_matmul
from models.numerics.precision import Recipe


def param(
    rngs: nnx.Rngs,
    role: Role,
    axes: dict[str, int],
    std: Any = None,
    fill: float = 0.0,
    draw: Callable = jax.random.normal,
) -> nnx.Param:
    """Make a float32 parameter: `std` times `draw` (of variance 1), or constant `fill` without a `std`.

    `axes`: its logical axes with their sizes. Nothing else decides its shape, its sharding (models/mesh/rules.py) or its
    initial value; and nothing but `role` what growth and the transfer of learning rates do with it.
    """
    shape = tuple(axes.values())
    if std is None:
        value = jnp.full(shape, fill, jnp.float32)
    else:
        value = std * draw(rngs.params(), shape, jnp.float32)
    return nnx.Param(value, axes=tuple(axes), role=role)


class Linear(nnx.Module):
    """y = x W (+ b) over the last axis, as one two-dimensional matmul, rounded as `quant` says."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        role: Role,
        axes: dict[str, int],
        std: Any,
        bias: bool = False,
        quant: Recipe | None = None,
    ):
        self.quant = quant
        self.axes = tuple(axes)
        self.kernel = param(rngs, role, axes, std)
        out = self.axes[-1]
        self.bias = param(rngs, role, {out: axes[out]}) if bias else None

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        kernel = self.kernel[...]
        if self.quant is None:
            y = gather.sharded_matmul(x, kernel.astype(x.dtype), self.axes)
        else:
            x_NI = flatten_tokens(x)
            product = quantized_matmul(x_NI, kernel, self.quant, self.axes)
            y_NO = jnp.asarray(product)
            y = unflatten_tokens(y_NO.astype(x.dtype), x.shape[:-1])
        y = checkpoint_name(y, "product")  # which remat "dots" keeps
        if self.bias is None:
            return y
        return y + self.bias[...].astype(x.dtype)


class Norm(nnx.Module):
    """RMSNorm (kind "rms": x / sqrt(mean x^2 + eps) * w) or LayerNorm (kind "layer": with mean and, if asked, bias)."""

    def __init__(
        self, rngs: nnx.Rngs, axes: dict[str, int], kind: str, eps: float, bias: bool = False, last: bool = False
    ):
        """`last`: it stands between the layers and the head."""
        self.kind = kind
        self.eps = eps
        # Before the head, the transfer of learning rates treats a norm unlike those inside the layers.
        scale_role = Role.LAST_NORM_SCALE if last else Role.NORM_SCALE
        shift_role = Role.LAST_NORM_SHIFT if last else Role.NORM_SHIFT
        self.scale = param(rngs, scale_role, axes, fill=1.0)
        self.bias = param(rngs, shift_role, axes) if bias else None

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        # The input becomes float32 first: else the result would be rounded to its type before scale and shift.
        normalised = normalise(x.astype(jnp.float32), self.kind, self.eps)
        y = normalised * self.scale[...]
        if self.bias is not None:
            y = y + self.bias[...]
        return y.astype(x.dtype)


def normalise(x: Float[Array, "*batch D"], kind: str, eps: float) -> Float[Array, "*batch D"]:
    """Scale rows to unit mean square ("rms"), after their mean is taken away ("layer"); in float32 inside."""
    y = x.astype(jnp.float32)
    if kind == "layer":
        y = y - jnp.mean(y, axis=-1, keepdims=True)
    square = jnp.mean(y * y, axis=-1, keepdims=True)
    return (y * jax.lax.rsqrt(square + eps)).astype(x.dtype)


def rotary(
    x_BLHK: Float[Array, "B L H K"],
    theta: float,
    size: int | None = None,
    position: Integer[Array, "B L"] | None = None,
    scale: float = 1.0,
) -> Float[Array, "B L H K"]:
    """Turn by rotary positions in the rotate-half layout (Su et al. 2021).

    At position t, dimension i turns with i + K/2 by t theta^(-2i/K). `size` (even) turns only the first so many
    dimensions of a head, with K = size. `position`: where the sequences do not begin at 0. `scale` divides positions
    (position interpolation, Chen et al. 2023, arXiv 2306.15595, equation 3).
    """
    if size is not None and size < x_BLHK.shape[3]:
        first_BLHK = x_BLHK[..., :size]
        turned = rotary(first_BLHK, theta, position=position, scale=scale) if size else first_BLHK
        return jnp.concatenate([turned, x_BLHK[..., size:]], axis=-1)
    length = x_BLHK.shape[1]
    size = x_BLHK.shape[3]
    dimension_K = jnp.arange(0, size, 2, dtype=jnp.float32)
    frequency_K = theta ** (-dimension_K / size)
    if position is None:
        position = jnp.arange(length)
    time = position.astype(jnp.float32)
    if scale != 1:
        time = time / scale
    angle = time[..., None] * frequency_K
    cos = jnp.cos(angle)[..., None, :]
    sin = jnp.sin(angle)[..., None, :]
    # Dimension i of the first half and i of the second are the coordinates of a point that is turned.
    first, second = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    turned_first = first * cos - second * sin
    turned_second = second * cos + first * sin
    turned = jnp.concatenate([turned_first, turned_second], axis=-1)
    return turned.astype(x_BLHK.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "swiglu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
}


class Mlp(nnx.Module):
    """Feed-forward: act(x Wg) * (x Wu) Wd when gated ("swiglu"), else act(x Wu) Wd."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        width: int,
        ff: int,
        kind: str,
        bias: bool,
        std: Any,
        out_std: Any,
        quant: Recipe | None = None,
    ):
        enter = {"embed": width, "ff": ff}
        self.act = kind
        self.gate = Linear(rngs, Role.READS, enter, std, bias, quant) if kind == "swiglu" else None
        self.up = Linear(rngs, Role.READS, enter, std, bias, quant)
        self.down = Linear(rngs, Role.WRITES, {"ff": ff, "embed": width}, out_std, bias, quant)

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        act = ACTIVATIONS[self.act]
        h_BLF = self.up(x_BLD)
        if self.gate is not None:
            h_BLF = act(self.gate(x_BLD)) * h_BLF
        else:
            h_BLF = act(h_BLF)
        return self.down(constrain(h_BLF, "batch", "position", "ff"))


def usual_ff(width: int, gated: bool) -> int:
    """Return a feed-forward size with about as many parameters with a gate as without."""
    return round_up(8 * width / 3, 16) if gated else 4 * width


def round_up(value: int | float, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is not below `value`."""
    return multiple * math.ceil(value / multiple)
