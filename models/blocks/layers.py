"""Pieces that families share: parameters, norms, positions, recurrence, feed-forward, the layer stack.

Norm statistics and positions are computed in float32 whatever the compute type. Weight matrices are applied
to flattened tokens (rows N = B L): two-dimensional matmuls use all cores of a CPU, batched ones only one.
Letters of the axes: models/contract.py.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.mesh import gather
from models.mesh.gather import exchange, rows, unrows
from models.mesh.rules import backend, constrain
from models.numerics.matmul import Recipe, matmul

# What the backward pass finds and need not compute again: `remat` of `fold_stack`; "none" is no policy.
_POLICIES: dict[str, Any] = {
    "dots": jax.checkpoint_policies.save_from_both_policies(  # a matmul with a gradient of its own is found by its name
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names("product"),
    ),
    "attention": jax.checkpoint_policies.save_only_these_names("attention"),
    "full": None,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["layer"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}
REMAT = ("none", *_POLICIES)


def param(
    rngs: nnx.Rngs, axes: dict[str, int], std: Any = None, fill: float = 0.0, draw: Callable = jax.random.normal
) -> nnx.Param:
    """A float32 parameter: its logical axes with their sizes, `std` times `draw` (of variance 1) or constant `fill`.

    Nothing else decides its shape, its sharding (models/mesh/rules.py) or its initial value.
    """
    shape = tuple(axes.values())
    if std is None:
        value = jnp.full(shape, fill, jnp.float32)
    else:
        value = std * draw(rngs.params(), shape, jnp.float32)
    return nnx.Param(value, axes=tuple(axes))


class Linear(nnx.Module):
    """y = x W (+ b) over the last axis, as one two-dimensional matmul, rounded as `quant` says."""

    def __init__(self, rngs: nnx.Rngs, axes: dict[str, int], std: Any, bias: bool = False, quant: Recipe | None = None):
        self.quant, self.axes = quant, tuple(axes)
        self.kernel = param(rngs, axes, std)
        out = list(axes)[-1]
        self.bias = param(rngs, {out: axes[out]}) if bias else None

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        kernel = self.kernel[...]
        if self.quant is None:
            y = gather.matmul(x, kernel.astype(x.dtype), self.axes)
        else:
            y = unrows(matmul(rows(x), kernel, self.quant, self.axes).astype(x.dtype), x.shape[:-1])
        y = checkpoint_name(y, "product")
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Norm(nnx.Module):
    """RMSNorm (kind "rms": x / sqrt(mean x^2 + eps) * w) or LayerNorm (kind "layer": with mean and, if asked, bias)."""

    def __init__(self, rngs: nnx.Rngs, axes: dict[str, int], kind: str, eps: float, bias: bool = False):
        self.kind, self.eps = kind, eps
        self.scale = param(rngs, axes, fill=1.0)
        self.bias = param(rngs, axes) if bias else None

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        y = normalise(x.astype(jnp.float32), self.kind, self.eps) * self.scale[...]
        return (y if self.bias is None else y + self.bias[...]).astype(x.dtype)


def normalise(x: Float[Array, "*batch D"], kind: str, eps: float) -> Float[Array, "*batch D"]:
    """Rows of unit mean square ("rms"), after their mean is taken away ("layer"); in float32 inside."""
    y = x.astype(jnp.float32)
    if kind == "layer":
        y = y - jnp.mean(y, axis=-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)).astype(x.dtype)


def rotary(x_BLHK: Float[Array, "B L H K"], theta: float, size: int | None = None) -> Float[Array, "B L H K"]:
    """Rotary positions in the rotate-half layout: dimension i turns with i + K/2 by t theta^(-2i/K) (Su et al. 2021).

    `size` (even) turns only the first so many dimensions of a head, with K = size.
    """
    if size is not None and size < x_BLHK.shape[3]:
        turned = rotary(x_BLHK[..., :size], theta) if size else x_BLHK[..., :0]
        return jnp.concatenate([turned, x_BLHK[..., size:]], axis=-1)
    length, size = x_BLHK.shape[1], x_BLHK.shape[3]
    frequency = theta ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angle_LK = jnp.arange(length, dtype=jnp.float32)[:, None] * frequency
    cos, sin = jnp.cos(angle_LK)[:, None, :], jnp.sin(angle_LK)[:, None, :]
    first, second = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BLHK.dtype)


def linear_recurrence(
    decay_BLR: Float[Array, "B L R"], update_BLR: Float[Array, "B L R"], chunk: int | None = None
) -> Float[Array, "B L R"]:
    """s_t = decay_t s_{t-1} + update_t along L from s_{-1} = 0, elementwise, in the type of its arguments.

    `chunk` 0 is one associative scan over the sequence; otherwise chunks of that length go side by side, step by step,
    and are then joined in order. None takes what is faster: on a CPU one chunk, the scan elsewhere. No form divides by a
    product of decays, so that a decay of 0 is as good as any. The backward pass keeps decays and states only. Where the
    mesh splits positions, channels are split instead.
    """
    length = decay_BLR.shape[1]
    if chunk is None:
        chunk = length if backend() == "cpu" else 0
    decay_BLR, update_BLR = (exchange(x, "ff") for x in (decay_BLR, update_BLR))
    return exchange(_recurrence(decay_BLR, update_BLR, min(chunk, length)), "ff", back=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _recurrence(decay_BLR: Array, update_BLR: Array, chunk: int) -> Array:
    batch, length, size = decay_BLR.shape
    if chunk == 0:
        return jax.lax.associative_scan(_then, (decay_BLR, update_BLR), axis=1)[1]
    pad = -length % chunk
    padded = (jnp.pad(x, ((0, 0), (0, pad), (0, 0))) for x in (decay_BLR, update_BLR))
    # [steps of a chunk, batch, chunks, R]: one step of all chunks at a time.
    steps = tuple(x.reshape(batch, -1, chunk, size).transpose(2, 0, 1, 3) for x in padded)
    zero = jnp.zeros_like(steps[1][0])
    if chunk == length:
        _, states = jax.lax.scan(lambda s, step: (step[0] * s + step[1],) * 2, zero, steps)
    else:
        start = (jnp.ones_like(zero), zero)
        _, (decay, local) = jax.lax.scan(lambda s, step: (_then(s, step),) * 2, start, steps)
        # [chunks, batch, R]: the state that each chunk hands to the next.
        ends = tuple(x[-1].transpose(1, 0, 2) for x in (decay, local))
        zero = jnp.zeros_like(ends[1][0])
        _, before = jax.lax.scan(lambda s, end: (end[0] * s + end[1], s), zero, ends)
        states = local + decay * before.transpose(1, 0, 2)
    return states.transpose(1, 2, 0, 3).reshape(batch, -1, size)[:, :length]


def _then(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two affine maps s -> a s + b, one after the other, as one."""
    return second[0] * first[0], second[0] * first[1] + second[1]


def _recurrence_forward(decay_BLR: Array, update_BLR: Array, chunk: int) -> tuple[Array, tuple[Array, Array]]:
    states_BLR = _recurrence(decay_BLR, update_BLR, chunk)
    return states_BLR, (decay_BLR, states_BLR)


def _recurrence_backward(chunk: int, saved: tuple[Array, Array], d_BLR: Array) -> tuple[Array, Array]:
    """The same recurrence from the end: G_t = d_t + decay_{t+1} G_{t+1}; G is d update, and G_t s_{t-1} d decay."""
    decay_BLR, states_BLR = saved
    later_BLR = jnp.pad(decay_BLR[:, 1:], ((0, 0), (0, 1), (0, 0)))
    total_BLR = jnp.flip(_recurrence(jnp.flip(later_BLR, 1), jnp.flip(d_BLR, 1), chunk), 1)
    return total_BLR * jnp.pad(states_BLR[:, :-1], ((0, 0), (1, 0), (0, 0))), total_BLR


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


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
        self.act, enter = kind, {"embed": width, "ff": ff}
        self.gate = Linear(rngs, enter, std, bias, quant) if kind == "swiglu" else None
        self.up = Linear(rngs, enter, std, bias, quant)
        self.down = Linear(rngs, {"ff": ff, "embed": width}, out_std, bias, quant)

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        act, h_BLF = ACTIVATIONS[self.act], self.up(x_BLD)
        h_BLF = act(self.gate(x_BLD)) * h_BLF if self.gate is not None else act(h_BLF)
        return self.down(constrain(h_BLF, "batch", "position", "ff"))


def stack(make: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs, count: int) -> nnx.Module:
    """`count` independently initialised copies of one module as a single module with a leading layer axis."""
    keys = jax.random.split(rngs.params(), count)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(params=0))))
    return nnx.merge(graphdef, jax.vmap(lambda key: nnx.state(make(nnx.Rngs(params=key))))(keys))


def stacks(rngs: nnx.Rngs, runs: Sequence[tuple[Callable[[nnx.Rngs], nnx.Module], int]]) -> nnx.Module:
    """(maker, count) of each run of layers of one shape, first to last: a `stack`, or a dictionary of several."""
    if len(runs) == 1:
        return stack(runs[0][0], rngs, runs[0][1])
    return nnx.Dict({f"{i:03}": stack(make, rngs, count) for i, (make, count) in enumerate(runs)})


def apply_stack(module: nnx.Module, x: Array, *inputs: Array, unroll: bool | None, remat: str) -> Array:
    """Feed `x` through the layers of a `stack` or of several; see `fold_stack`."""
    return fold_stack(lambda layer, x, *row: (layer(x, *row), None), module, x, *inputs, unroll=unroll, remat=remat)[0]


def fold_stack(
    call: Callable[..., tuple[Any, Any]],
    module: nnx.Module,
    carry: Any,
    *inputs: Array,
    unroll: bool | None,
    remat: str,
) -> tuple[Any, Any]:
    """Carry a tree of arrays through the layers of a `stack` or of several, by scan or unrolled: the same numbers.

    `call(layer, carry, *row)` returns the carry of the next layer and what this one reports, a tree; the reports come
    back stacked over layers. Each of `inputs` has a leading layer axis, and `row` is a layer's part of it.
    `unroll` None unrolls on a CPU (1.2x faster steps there, at the price of compile time) and scans elsewhere.
    `remat` says what the backward pass computes again: "none" nothing, "dots" all but matmuls, "attention" all but what
    attention gives (models/families/dense.py names it), "full" everything from the layer's input, and "offload" the same from
    inputs that wait in the host's memory.
    """
    if isinstance(module, nnx.Dict):
        reports, start = [], 0
        for name in sorted(module):
            stop = start + jax.tree.leaves(nnx.state(module[name]))[0].shape[0]
            rows = (x[start:stop] for x in inputs)
            carry, report = fold_stack(call, module[name], carry, *rows, unroll=unroll, remat=remat)
            reports, start = [*reports, report], stop
        return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *reports)
    graphdef, layers = nnx.split(module)
    depth = jax.tree.leaves(layers)[0].shape[0]
    unroll = backend() == "cpu" and depth <= 16 if unroll is None else unroll

    def body(carry: Any, rows: tuple[Any, ...]) -> tuple[Any, Any]:
        layer, *row = rows
        if remat == "offload":
            carry = jax.tree.map(lambda x: checkpoint_name(x, "layer"), carry)
        return call(nnx.merge(graphdef, layer), carry, *row)

    if remat != "none":
        body = jax.checkpoint(body, policy=_POLICIES[remat], prevent_cse=unroll)
    return jax.lax.scan(body, carry, (layers, *inputs), unroll=depth if unroll else 1)


def round_up(value: float, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return multiple * math.ceil(value / multiple)
