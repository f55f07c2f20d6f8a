"""Run a function on each device's shard of a batch, and on the matrices that it needs.

For what XLA cannot split by itself, such as sorting and kernels. `per_shard` and `over_batch` gather matrices that lie
split, and scatter the sums of their gradients; `on_shards` hands over what each device has. Without a mesh of several
devices all three are ordinary calls.
"""

from collections.abc import Callable, Collection, Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Integer

from models.mesh.collectives import all_gather, reduce_scatter, sum_over_tensor
from models.mesh.current import active_axes, current_mesh, restrict
from models.mesh.rules import spec


def per_shard(
    function: Callable[..., Array],
    rows: Sequence[Array],
    matrices: Any,
    axes: Any,
    logical: Sequence[str] = ("tokens",),
    partial: bool = False,
) -> Array:
    """Call `function(*rows, matrices)` where the first axes of `rows` and of the result are the `logical` ones.

    Each shard calls it on its own rows and on whole matrices; `axes` has the logical axes of each of these. `partial`:
    matrices stay split over tensor, so that each device's result is its part of a sum; there every axis of the mesh is
    manual, as kernels want it.
    """
    mesh = current_mesh()
    manual = active_axes(logical)
    on_one_device = mesh.empty or math.prod(mesh.shape.values()) == 1
    if not manual and (not partial or on_one_device):
        return function(*rows, matrices)
    if partial:
        manual = tuple(name for name in mesh.axis_names if name not in mesh.manual_axes)

    def local(rows: Any, matrices: Any) -> Array:
        out = function(*rows, jax.tree.map(all_gather, matrices, axes))
        if partial and mesh.shape["tensor"] > 1:
            return sum_over_tensor(out)
        return out

    along = spec(logical, rows[0].shape[: len(logical)], mesh)
    mapped = jax.shard_map(
        local,
        in_specs=(along, _storage_specs(matrices, axes, manual)),
        out_specs=along,
        axis_names=set(manual),
        check_vma=False,
    )
    return mapped(tuple(rows), matrices)


def _storage_specs(matrices: Any, axes: Any, manual: Sequence[str]) -> Any:
    """Return the specs of matrices as they lie on the mesh, for a shard_map over `manual`; `axes` has the logical ones."""
    mesh = current_mesh()

    def one(matrix: Array, names: Sequence[str]) -> PartitionSpec:
        return restrict(spec(names, matrix.shape, mesh), manual)

    return jax.tree.map(one, matrices, axes)


def over_batch(
    function: Callable[..., tuple[Array, Array, Any, Array]],
    matrices: Any,
    axes: Any,
    x_BLD: Float[Array, "B L D"],
    targets_BL: Integer[Array, "B L"],
    *scalars: Array,
) -> tuple[Array, Array, Any, Array]:
    """Call `function(matrices, x [N, D], targets [N], *scalars)` by every shard of the batch, on its own rows.

    It returns two sums over rows, the sums over rows of the gradients of `matrices`, and a row [N, D] for each of x.
    Matrices are whole inside; their gradients come back laid out and cast as the matrices are.
    """
    manual = active_axes(("batch", "position"))

    def local(matrices: Any, x_BLD: Array, targets_BL: Array, *scalars: Array) -> tuple[Array, Array, Any, Array]:
        full = jax.tree.map(all_gather, matrices, axes) if manual else matrices
        x_ND = x_BLD.reshape(-1, x_BLD.shape[-1])
        first, second, gradients, d_x = function(full, x_ND, targets_BL.reshape(-1), *scalars)
        gradients = jax.tree.map(lambda gradient, matrix: gradient.astype(matrix.dtype), gradients, matrices)
        if manual:
            first, second = jax.lax.psum((first, second), manual)
            gradients = jax.tree.map(reduce_scatter, gradients, axes)
        return first, second, gradients, d_x.reshape(x_BLD.shape)

    if not manual:
        return local(matrices, x_BLD, targets_BL, *scalars)
    along = spec(("batch", "position"), targets_BL.shape, current_mesh())
    stored = _storage_specs(matrices, axes, manual)
    everywhere = PartitionSpec()
    mapped = jax.shard_map(
        local,
        in_specs=(stored, along, along, *[everywhere] * len(scalars)),
        out_specs=(everywhere, everywhere, stored, along),
        axis_names=set(manual),
        check_vma=False,
    )
    return mapped(matrices, x_BLD, targets_BL, *scalars)


def on_shards(
    function: Callable[..., Array],
    axes: Sequence[Sequence[str]],
    out: Sequence[str],
    *arrays: Array,
    shape: Sequence[int] | None = None,
) -> Array:
    """Call `function(*arrays)` by each device on its shards of `arrays` with the logical `axes`, for its shard of `out`.

    For a kernel that XLA cannot split: every axis of the mesh is manual inside. The result has the `shape`, or that of the
    first array.
    """
    mesh = current_mesh()
    if mesh.empty:
        return function(*arrays)
    in_specs = tuple(spec(names, x.shape, mesh) for names, x in zip(axes, arrays, strict=True))
    out_shape = arrays[0].shape if shape is None else shape
    mapped = jax.shard_map(
        function,
        in_specs=in_specs,
        out_specs=spec(out, out_shape, mesh),
        axis_names=set(mesh.axis_names) - set(mesh.manual_axes),
        check_vma=False,
    )
    return mapped(*arrays)


def per_matrix(
    function: Callable[..., Any],
    axes: Sequence[str],
    stacked: Collection[str],
    stacks: Sequence[Array],
    *scalars: Array,
) -> Any:
    """Call `function(*stacks, *scalars)`, which treats every matrix of its stacks by itself, with each whole on a device.

    axes: logical, of every stack, that of layers first; `stacked` are those along which matrices stand side by side.
        Results of a stack's shape lie as it does; others begin with the stacked axes, and every device has all layers.

    Devices that share matrices exchange them for whole layers, and back: none ever has all matrices. Of more devices than
    layers some work on nothing.
    """
    mesh = current_mesh()
    if mesh.empty or axes[0] != "layers":
        return function(*stacks, *scalars)
    stored = spec(axes, stacks[0].shape, mesh)
    # Of what is no stack, which has the stacked axes first.
    beside = PartitionSpec(*stored[: sum(axis in stacked for axis in axes)])
    # Mesh axes, and the axes of the array that they split, in the order of the exchange.
    exchanged: list[tuple[str, int]] = []
    for position, entry in enumerate(stored):
        if axes[position] not in stacked:
            names = (entry,) if isinstance(entry, str) else entry or ()
            exchanged += [(name, position) for name in reversed(names)]
    if not exchanged:
        return function(*stacks, *scalars)
    layers = stacks[0].shape[0]
    missing = -layers % math.prod(mesh.shape[name] for name, _ in exchanged)

    def local(*arrays: Array) -> Any:
        whole = [_for_layers(stack, missing, exchanged) for stack in arrays[: len(stacks)]]
        shape = whole[0].shape
        results = function(*whole, *arrays[len(stacks) :])
        return jax.tree.map(lambda result: _for_shards(result, shape, layers, exchanged), results)

    def lies(result: jax.ShapeDtypeStruct) -> PartitionSpec:
        return stored if result.shape == stacks[0].shape else beside

    mapped = jax.shard_map(
        local,
        in_specs=(*[stored] * len(stacks), *[PartitionSpec()] * len(scalars)),
        out_specs=jax.tree.map(lies, jax.eval_shape(function, *stacks, *scalars)),
        axis_names=set(mesh.axis_names) - set(mesh.manual_axes),
        check_vma=False,
    )
    return mapped(*stacks, *scalars)


def _for_layers(stack: Array, missing: int, exchanged: Sequence[tuple[str, int]]) -> Array:
    """Return whole matrices of some layers for shards of the matrices of all, filled up by `missing` layers."""
    filling = [(0, missing)] + [(0, 0)] * (stack.ndim - 1)
    filled = jnp.pad(stack, filling)
    for name, position in exchanged:
        filled = jax.lax.all_to_all(filled, name, split_axis=0, concat_axis=position, tiled=True)
    return filled


def _for_shards(result: Array, shape: tuple[int, ...], layers: int, exchanged: Sequence[tuple[str, int]]) -> Array:
    """Undo `_for_layers` for a result of a stack's `shape`; of another result, give every device all layers."""
    is_stack = result.shape == shape
    for name, position in reversed(exchanged):
        if is_stack:
            result = jax.lax.all_to_all(result, name, split_axis=position, concat_axis=0, tiled=True)
        else:
            result = jax.lax.all_gather(result, name, axis=0, tiled=True)
    return result[:layers]
