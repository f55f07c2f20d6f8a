"""Run a function on each device's shard of the batch and of the matrices that it needs."""

from collections.abc import Callable, Sequence
import math
from typing import Any

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Integer

from models.mesh.gather import _mesh, _only, _splits, _summed, scattered, whole
from models.mesh.rules import spec


def per_shard(
    function: Callable[..., Array],
    rows: Sequence[Array],
    matrices: Any,
    axes: Any,
    logical: Sequence[str] = ("tokens",),
    partial: bool = False,
) -> Array:
    """`function(*rows, matrices)` where the first axes of `rows` and of the result are the `logical` ones.

    Each shard calls it on its own rows and on whole matrices; `axes` has the logical axes of each of these. For what XLA
    cannot split by itself, such as sorting. `partial`: matrices stay split over tensor, so that each device's result is its
    part of a sum; there every axis of the mesh is manual, as kernels want it. One device: an ordinary call.
    """
    mesh, manual = _mesh(), _splits(logical)
    if not manual and (not partial or mesh.empty or math.prod(mesh.shape.values()) == 1):
        return function(*rows, matrices)
    if partial:
        manual = tuple(name for name in mesh.axis_names if name not in mesh.manual_axes)
    along = spec(logical, rows[0].shape[: len(logical)], mesh)

    def local(rows: Any, matrices: Any) -> Array:
        out = function(*rows, jax.tree.map(whole, matrices, axes))
        return _summed(out) if partial and mesh.shape["tensor"] > 1 else out

    return jax.shard_map(
        local,
        in_specs=(along, _stored(matrices, axes, manual)),
        out_specs=along,
        axis_names=set(manual),
        check_vma=False,
    )(tuple(rows), matrices)


def _stored(matrices: Any, axes: Any, manual: Sequence[str]) -> Any:
    """Specs of matrices as they lie on the mesh, for a shard_map over `manual`; `axes` has the logical ones of each."""
    return jax.tree.map(lambda w, names: _only(spec(names, w.shape, _mesh()), manual), matrices, axes)


def over_batch(
    function: Callable[..., tuple[Array, Array, Any, Array]],
    matrices: Any,
    axes: Any,
    x_BLD: Float[Array, "B L D"],
    targets_BL: Integer[Array, "B L"],
    *scalars: Array,
) -> tuple[Array, Array, Any, Array]:
    """`function(matrices, x [N, D], targets [N], *scalars)`, by every shard of the batch on its own rows and whole matrices.

    It returns two sums over rows, the sums over rows of the gradients of `matrices`, and a row [N, D] for each of x. The
    gradients come back laid out and cast as the matrices are.
    """
    mesh, (B, L, D) = _mesh(), x_BLD.shape
    manual = _splits(("batch", "position"))

    def local(matrices: Any, x_BLD: Array, targets_BL: Array, *scalars: Array) -> tuple[Array, Array, Any, Array]:
        full = jax.tree.map(whole, matrices, axes) if manual else matrices
        first, second, sums, d_x = function(full, x_BLD.reshape(-1, D), targets_BL.reshape(-1), *scalars)
        sums = jax.tree.map(lambda one, matrix: one.astype(matrix.dtype), sums, matrices)
        if manual:
            first, second = jax.lax.psum((first, second), manual)
            sums = jax.tree.map(scattered, sums, axes)
        return first, second, sums, d_x.reshape(x_BLD.shape)

    if manual:
        along = spec(("batch", "position"), (B, L), mesh)
        split = _stored(matrices, axes, manual)
        local = jax.shard_map(
            local,
            in_specs=(split, along, along, *[P()] * len(scalars)),
            out_specs=(P(), P(), split, along),
            axis_names=set(manual),
            check_vma=False,
        )
    return local(matrices, x_BLD, targets_BL, *scalars)


def on_shards(
    function: Callable[..., Array],
    axes: Sequence[Sequence[str]],
    out: Sequence[str],
    *arrays: Array,
    shape: Sequence[int] | None = None,
) -> Array:
    """`function(*arrays)`, called by each device on its parts of `arrays` with the logical `axes`, for its part of `out`.

    For a kernel that XLA cannot split: every axis of the mesh is manual inside. The result has the `shape`, or that of the
    first array. No mesh: an ordinary call.
    """
    mesh = _mesh()
    if mesh.empty:
        return function(*arrays)
    specs = tuple(spec(names, x.shape, mesh) for names, x in zip(axes, arrays, strict=True))
    return jax.shard_map(
        function,
        in_specs=specs,
        out_specs=spec(out, arrays[0].shape if shape is None else shape, mesh),
        axis_names=set(mesh.axis_names) - set(mesh.manual_axes),
        check_vma=False,
    )(*arrays)
