"""Trade one split of an array for another between devices: positions for heads, columns of a table for tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from models.mesh.current import active_axes, constrain, current_mesh, shard_count
from models.mesh.mesh import STORAGE_AXES
from models.mesh.rules import INSTEAD
from models.mesh.shards import on_shards


def exchange(x: Array, axis: str, *rest: str, back: bool = False) -> Array:
    """Lay out x [B, L, axis, ...] with whole sequences and `axis` split, where so far positions were; or `back`.

    The all-to-all form of sequence parallelism (DeepSpeed-Ulysses, Jacobs et al. 2023). Both layouts are stated, so that
    XLA moves these shards and does not gather what they are made of. Without a `sequence` axis: one `constrain`.
    """
    positions_split = ("batch", "position", axis, *rest)
    heads_split = ("batch", "attended", f"{axis}_apart", *rest)
    if shard_count("position") == 1:
        return x if back else constrain(x, *positions_split)
    if back:
        return constrain(constrain(x, *heads_split), *positions_split)
    return constrain(constrain(x, *positions_split), *heads_split)


def divisible(matrix: Array, *axes: str) -> Array:
    """Fill a matrix up with zeros until its axes divide over the mesh, and lay it out as a product wants it.

    Only axes of rules.INSTEAD may need it: as such a matrix is stored, another axis is split for them. Devices trade rows
    for columns then, and back for the gradient, which loses what was filled up. Else the matrix stays as it is.
    """
    filling = []
    for axis, size in zip(axes, matrix.shape, strict=True):
        missing = -size % shard_count(axis) if axis in INSTEAD else 0
        filling.append((0, missing))
    if not any(missing for _, missing in filling):
        return matrix
    return constrain(jnp.pad(matrix, filling), *axes)


def look_up(table_VD: Float[Array, "V D"], tokens_BL: Integer[Array, "B L"]) -> Float[Array, "B L D"]:
    """Look up rows of a table, whose columns may be split.

    Every device looks up its columns for all tokens that it shares them with, and then columns are traded for tokens: less
    than the table, where a device has fewer tokens than the vocabulary. By hand: XLA (0.10) gathers the whole batch, forward
    where columns are split, and for the gradient of the table also where they are not.
    """
    if not active_axes(("batch", "position", "tensor")):
        return table_VD[tokens_BL]
    B, L = tokens_BL.shape
    D = table_VD.shape[1]
    over_sequences = tuple(name for name in active_axes(("batch",)) if name in STORAGE_AXES)
    over_positions = active_axes(("position",))

    def local(table: Array, tokens: Array) -> Array:
        columns = table.shape[1]
        x = table[tokens]
        if over_sequences:
            x = jax.lax.all_to_all(x, over_sequences, 0, 2, tiled=True)
        if over_positions:
            # The columns that come from here lie between those of `over_sequences` and of tensor: an axis of their own.
            pieces = x.reshape(*x.shape[:2], -1, columns)
            x = jax.lax.all_to_all(pieces, over_positions, 1, 3, tiled=True)
        return x.reshape(*x.shape[:2], -1, 1, columns)

    x = on_shards(
        local,
        (("rows", "columns"), ("batch_data", "attended")),
        ("batch", "position", "parts", "tensor", "width"),
        table_VD,
        tokens_BL,
        shape=(B, L, 1, current_mesh().shape["tensor"], 1),
    )
    x = constrain(x, "batch", "position", "parts", "parts", "width")
    return x.reshape(B, L, D)
