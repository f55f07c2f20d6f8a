"""What devices send each other where XLA by itself would send more, and how a part of the mesh is taken in hand.

Fully sharded (ZeRO-3, Rajbhandari et al. 2020): matrices lie split over fsdp, expert and sequence. Whoever multiplies one
gathers it first, in the type in which it is multiplied, and the sum of its gradient over the batch leaves each device with
its own part: per step and device twice a matrix and once its gradient, times (n - 1) / n for n devices. XLA gathers well,
from a constraint. The scattered sum it turns into a sum that every device gets whole, twice the bytes: so the product that
makes the gradient is done per device here, and summed along one ring of devices after the other.

Sequences split over devices are exchanged for heads or channels where positions meet (DeepSpeed-Ulysses, Jacobs et al.
2023). On one device everything here is the plain operation.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from models.mesh.mesh import FSDP
from models.mesh.rules import constrain, spec, split_by

_GATHERED = (*FSDP, "expert", "sequence")  # mesh axes over which matrices are split only to be stored


def _mesh() -> Any:
    return jax.sharding.get_abstract_mesh()


def _splits(logical: Sequence[str]) -> tuple[str, ...]:
    """Names in the mesh over which arrays of these axes are split, here."""
    mesh = _mesh()
    names = () if mesh.empty else (name for by in split_by(logical) for name in by)
    return tuple(n for n in names if mesh.shape[n] > 1 and n not in mesh.manual_axes)


def _only(whole: P, names: Sequence[str]) -> P:
    """The part of a spec that a shard_map over `names` has to be told."""

    def entry(of: Any) -> Any:
        kept = tuple(name for name in ((of,) if isinstance(of, str) else of or ()) if name in names)
        return kept[0] if len(kept) == 1 else kept or None

    return P(*map(entry, whole))


def local_shape(shape: Sequence[int], axes: Sequence[str]) -> tuple[int, ...]:
    """What one device has of an array of these logical axes."""
    return tuple(-(-size // _parts_of(axis)) for size, axis in zip(shape, axes, strict=True))


def _parts_of(axis: str) -> int:
    """Over how many devices a logical axis is split."""
    return math.prod(_mesh().shape[name] for name in _splits((axis,)))


# --- matrices that are split to be stored


def fully_sharded() -> bool:
    """Whether matrices are split to be stored, where this is traced, and not already in the hands of the caller."""
    return bool(_splits(("embed",)))


def gathered(weight: Array, *axes: str) -> Array:
    """A matrix as a product wants it: whole along fsdp, expert and sequence, still split along other mesh axes.

    To be called on what is multiplied, after its cast or rounding: that is what travels. Along one ring after the other: of
    a gather over a cube of chips libtpu makes a sum of zeros and parts, twice the bytes.
    """
    names = [name for name in _GATHERED if name in _splits(axes)]
    for first in reversed(range(len(names))):
        weight = constrain(weight, *axes, without=names[first:])
    return weight


def matmul(x: Float[Array, "*batch I"], weight: Float[Array, "I O"], axes: Sequence[str]) -> Float[Array, "*batch O"]:
    """x W over the last axis of x; `axes` are the logical ones of W."""
    return _matmul(x, weight, tuple(axes)) if fully_sharded() else _dot(x, weight)


def _dot(x: Array, weight: Array) -> Array:
    # Rows of flattened tokens: two-dimensional matmuls use all cores of a CPU, batched ones only one.
    return unrows(rows(x) @ weight, x.shape[:-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x: Array, weight: Array, axes: tuple[str, ...]) -> Array:
    return _dot(x, gathered(weight, *axes))


def _matmul_forward(x: Array, weight: Array, axes: tuple[str, ...]) -> tuple[Array, tuple[Array, Array]]:
    return _matmul(x, weight, axes), (x, weight)


def _matmul_backward(axes: tuple[str, ...], saved: tuple[Array, Array], d_out: Array) -> tuple[Array, Array]:
    x, weight = saved
    d_weight = weight_gradient(lambda x_NI, d_NO: x_NI.T @ d_NO, x, d_out, axes)
    return _dot(d_out, gathered(weight, *axes).T), d_weight.astype(weight.dtype)


_matmul.defvjp(_matmul_forward, _matmul_backward)


def weight_gradient(
    product: Callable[[Array, Array], Array],
    x: Float[Array, "*batch I"],
    d_out: Float[Array, "..."],
    axes: Sequence[str],
) -> Float[Array, "I *O"]:
    """The sum over the batch of `product(rows of x [N, I], rows of d_out [N, *O])`, laid out as the matrix is.

    The batch is B L, or the rows that `rows` makes of it. What travels has the type of `x`. No axes: XLA's own sum.
    """
    leading = ("batch", "position") if x.ndim == 3 else ("tokens",)
    lead, out = x.shape[:-1], d_out.shape[x.ndim - 1 :]

    def partial(x: Array, d_out: Array) -> Array:
        return product(x.reshape(-1, x.shape[-1]), d_out.reshape(-1, *out))

    if not axes or not fully_sharded():
        return partial(x, d_out)
    mesh, manual = _mesh(), _splits(leading)
    along = spec(leading, lead, mesh)
    return jax.shard_map(
        lambda x, d_out: scattered(partial(x, d_out).astype(x.dtype), axes),
        in_specs=(along, along),
        out_specs=_only(spec(axes, (x.shape[-1], *out), mesh), manual),
        axis_names=set(manual),
        check_vma=False,
    )(x, d_out)


def scattered(part: Array, axes: Sequence[str], rest: bool = True) -> Array:
    """Inside a shard_map over the batch: the sum of every device's `part`, of which each keeps what is its own.

    `rest`: also over devices that keep the same part. Not over trials and tensor: those lie side by side all the way.
    """
    mesh = _mesh()
    manual = [name for name in mesh.manual_axes if name not in ("trial", "tensor") and mesh.shape[name] > 1]

    def local(part: Array) -> Array:
        left = list(manual)
        for dimension, names in enumerate(split_by(axes)):
            for name in names:
                if name in left:
                    part = _scatter(part, name, dimension)
                    left.remove(name)
        return jax.lax.psum(part, tuple(left)) if rest and left else part

    return _beside(local, constrain(part, *axes), axes)


def _scatter(part: Array, name: str, dimension: int) -> Array:
    """psum_scatter along one dimension. Parts come first, each as a matrix, and those of trials that are mapped as one: libtpu
    sums whole arrays where a part has few lanes, or dimensions before or behind the scattered one."""
    shape, count = part.shape, _mesh().shape[name]
    parts = part.reshape(*shape[:dimension], count, shape[dimension] // count, *shape[dimension + 1 :])
    parts = jnp.moveaxis(parts, dimension, 0)

    @jax.custom_batching.custom_vmap
    def scatter(matrices: Array) -> Array:
        return jax.lax.psum_scatter(matrices, name, scatter_dimension=0)

    @scatter.def_vmap
    def _(trials: int, _: Any, matrices: Array) -> tuple[Array, bool]:
        joined = matrices.swapaxes(0, 1).reshape(count, -1, matrices.shape[-1])
        return scatter(joined).reshape(trials, *matrices.shape[2:]), True

    return scatter(parts.reshape(count, -1, parts.shape[-1])).reshape(parts.shape[1:])


def _beside(function: Callable[[Array], Array], part: Array, axes: Sequence[str]) -> Array:
    """`function(part)`, where it is split by XLA over tensor, or by experts: which would gather it before a collective over
    other axes.

    Not for an axis that is split over both (`columns`): its parts would lie in another order.
    """
    if any("tensor" in names and len(names) > 1 for names in split_by(axes)):
        raise ValueError(f"axes {axes} of a matrix are split over tensor and others at once")
    mesh = _mesh()
    names = [name for name in ("tensor", "expert") if mesh.shape[name] > 1 and name not in mesh.manual_axes]
    if not names:
        return function(part)
    along = _only(spec(axes, part.shape, mesh), names)
    return jax.shard_map(function, in_specs=(along,), out_specs=along, axis_names=set(names), check_vma=False)(part)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def whole(part: Array, axes: tuple[str, ...]) -> Array:
    """Inside a shard_map: a matrix of which every device has its own part; the gradient comes back `scattered`.

    What is split over tensor, or over axes that are not the shard_map's, stays so.
    """
    mesh = _mesh()
    manual = [name for name in mesh.manual_axes if name != "tensor" and mesh.shape[name] > 1]

    def local(part: Array) -> Array:
        for dimension, names in enumerate(split_by(axes)):
            for name in reversed(names):
                if name in manual:
                    part = jax.lax.all_gather(part, name, axis=dimension, tiled=True)
        return part

    return _beside(local, part, axes)


def _whole_forward(part: Array, axes: tuple[str, ...]) -> tuple[Array, None]:
    return whole(part, axes), None


def _whole_backward(axes: tuple[str, ...], _: None, gradient: Array) -> tuple[Array]:
    return (scattered(gradient, axes, rest=False),)  # the rest is what shard_map does with a replicated argument


whole.defvjp(_whole_forward, _whole_backward)


# --- by each device on its part


# --- sequences that are split


def rows(x: Array, features: int = 1) -> Array:
    """[B, L, ...] as the rows [B L, ...] of a matmul; in another order where positions are split, so that each device's
    rows lie together and none are gathered. `features`: axes that stay. Undone by `unrows`.
    """
    lead, rest = x.shape[: x.ndim - features], x.shape[x.ndim - features :]
    if (parts := _blocks(lead)) is None:
        return x.reshape(-1, *rest)
    (B, L), (b, s) = lead, parts
    return x.reshape(b, B // b, s, L // s, *rest).swapaxes(1, 2).reshape(B * L, *rest)


def unrows(x: Array, lead: tuple[int, ...]) -> Array:
    """Rows as they were before `rows`: `lead` are the axes that became one."""
    rest = x.shape[1:]
    if (parts := _blocks(lead)) is None:
        return x.reshape(*lead, *rest)
    (B, L), (b, s) = lead, parts
    return x.reshape(b, s, B // b, L // s, *rest).swapaxes(1, 2).reshape(B, L, *rest)


def _blocks(lead: tuple[int, ...]) -> tuple[int, int] | None:
    """Parts of B and L, where L is split."""
    s = _parts_of("position")
    if s == 1 or len(lead) != 2 or lead[1] % s:
        return None
    b = _parts_of("batch")
    return (b, s) if lead[0] % b == 0 else None


@jax.custom_vjp
def _summed(part: Array) -> Array:
    """Inside a shard_map: the sum over tensor. Its gradient needs none: all devices have the same, of which shard_map has
    given each its share, and jax would add the shares up again."""
    return jax.lax.psum(part, "tensor")


_summed.defvjp(lambda part: (_summed(part), None), lambda _, gradient: (gradient * _mesh().shape["tensor"],))
