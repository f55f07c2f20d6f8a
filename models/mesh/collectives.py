"""Exchange shards of a matrix inside a `shard_map`: gather one whole, sum what devices have and keep a part of it.

XLA writes collectives by itself from the layouts that are stated; here are those that it writes with twice the bytes
(models/mesh/gather.py says which and why). Everything here is to be called where the mesh axes of the batch are manual.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from models.mesh.current import backend, constrain, current_mesh, restrict
from models.mesh.rules import spec, split_by


def as_summed(partial: Array) -> Array:
    """Return an array in the type in which devices add it up: its own, but on a CPU at least float32.

    XLA (0.10) aborts on a CPU's sums in bfloat16 that are stated here, and would do them in float32 as well.
    """
    if backend() != "cpu":
        return partial
    wide = jnp.promote_types(partial.dtype, jnp.float32)
    return partial.astype(wide)


def sum_over(partial: Array, names: Sequence[str]) -> Array:
    """Sum what the devices along some mesh axes have; every one of them gets the sum, in the type of `partial`."""
    total = jax.lax.psum(as_summed(partial), tuple(names))
    return total.astype(partial.dtype)


def reduce_scatter(partial: Array, axes: Sequence[str], rest: bool = True) -> Array:
    """Sum every device's `partial` matrix of these logical axes; each device keeps the shard that is its own.

    `rest`: sum also over devices that keep the same shard. Not over trials and tensor: those lie side by side all the way.
    """
    mesh = current_mesh()
    summed = [name for name in mesh.manual_axes if name not in ("trial", "tensor") and mesh.shape[name] > 1]

    def local(partial: Array) -> Array:
        left = list(summed)
        for dimension, names in enumerate(split_by(axes)):
            for name in names:
                if name in left:
                    partial = _scatter_one_ring(partial, name, dimension)
                    left.remove(name)
        return sum_over(partial, left) if rest and left else partial

    return _beside_automatic(local, constrain(partial, *axes), axes)


def _scatter_one_ring(partial: Array, name: str, dimension: int) -> Array:
    """Do `psum_scatter` over one mesh axis along one dimension, in a form that libtpu does not turn into a whole sum.

    libtpu sums whole arrays where a shard has few lanes, or dimensions before or behind the scattered one. So shards come
    first, each as a matrix, and those of trials that are mapped are joined into one.
    """
    shape = partial.shape
    count = current_mesh().shape[name]
    cut = (count, shape[dimension] // count)
    shards = partial.reshape(*shape[:dimension], *cut, *shape[dimension + 1 :])
    shards = jnp.moveaxis(shards, dimension, 0)
    matrices = shards.reshape(count, -1, shards.shape[-1])
    return _scatter_matrices(name)(matrices).reshape(shards.shape[1:])


def _scatter_matrices(name: str) -> Callable[[Array], Array]:
    """Make the scatter of [count, rows, columns] over one mesh axis, with its own rule for trials under vmap."""

    @jax.custom_batching.custom_vmap
    def scatter(matrices: Array) -> Array:
        return jax.lax.psum_scatter(as_summed(matrices), name, scatter_dimension=0).astype(matrices.dtype)

    @scatter.def_vmap
    def _(trials: int, _: Any, matrices: Array) -> tuple[Array, bool]:
        count, *matrix = matrices.shape[1:]
        joined = matrices.swapaxes(0, 1).reshape(count, -1, matrix[-1])
        return scatter(joined).reshape(trials, *matrix), True

    return scatter


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def all_gather(shard: Array, axes: tuple[str, ...]) -> Array:
    """Gather a matrix of these logical axes, of which every device has a shard; its gradient is a `reduce_scatter`.

    It stays split over tensor, and over mesh axes that are not manual here.
    """
    mesh = current_mesh()
    gathered = [name for name in mesh.manual_axes if name != "tensor" and mesh.shape[name] > 1]

    def local(shard: Array) -> Array:
        for dimension, names in enumerate(split_by(axes)):
            for name in reversed(names):
                if name in gathered:
                    shard = jax.lax.all_gather(shard, name, axis=dimension, tiled=True)
        return shard

    return _beside_automatic(local, shard, axes)


def _all_gather_forward(shard: Array, axes: tuple[str, ...]) -> tuple[Array, None]:
    return all_gather(shard, axes), None


def _all_gather_backward(axes: tuple[str, ...], _: None, gradient: Array) -> tuple[Array]:
    # What remains to be summed is what shard_map sums for an argument that all devices have alike.
    return (reduce_scatter(gradient, axes, rest=False),)


all_gather.defvjp(_all_gather_forward, _all_gather_backward)


@jax.custom_vjp
def sum_over_tensor(partial: Array) -> Array:
    """Sum over the mesh axis tensor, in a way that the gradient is not summed as well.

    All devices have the same gradient, of which shard_map has given each its share; jax would add up the shares again.
    """
    return sum_over(partial, ("tensor",))


def _sum_forward(partial: Array) -> tuple[Array, None]:
    return sum_over_tensor(partial), None


def _sum_backward(_: None, gradient: Array) -> tuple[Array]:
    return (gradient * current_mesh().shape["tensor"],)


sum_over_tensor.defvjp(_sum_forward, _sum_backward)


def _beside_automatic(function: Callable[[Array], Array], matrix: Array, axes: Sequence[str]) -> Array:
    """Call `function(matrix)` so that it stays split where XLA splits it by itself: over tensor, or by experts.

    Without a shard_map over those mesh axes as well, XLA would gather the matrix before a collective over others. Raises
    ValueError for an axis that is split over tensor and others at once (`columns`): its shards would change their order.
    """
    for names in split_by(axes):
        if "tensor" in names and len(names) > 1:
            raise ValueError(f"axes {axes} of a matrix are split over tensor and others at once")
    mesh = current_mesh()
    automatic = [name for name in ("tensor", "expert") if mesh.shape[name] > 1 and name not in mesh.manual_axes]
    if not automatic:
        return function(matrix)
    along = restrict(spec(axes, matrix.shape, mesh), automatic)
    mapped = jax.shard_map(function, in_specs=(along,), out_specs=along, axis_names=set(automatic), check_vma=False)
    return mapped(matrix)
