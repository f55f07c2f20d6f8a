"""Exchange positions for heads over a mesh axis, and look up embedding rows of a split table."""

import jax
from jaxtyping import Array, Float, Integer

from models.mesh.gather import _GATHERED, _mesh, _parts_of, _splits
from models.mesh.rules import constrain
from models.mesh.shards import on_shards


def exchange(x: Array, axis: str, *rest: str, back: bool = False) -> Array:
    """x [B, L, axis, ...] with whole sequences and `axis` split, where so far positions were; or `back`.

    The all-to-all form of sequence parallelism (DeepSpeed-Ulysses, Jacobs et al. 2023). Both layouts are stated, so that
    XLA moves these parts and does not gather what they are made of. Without a `sequence` axis: one `constrain`.
    """
    split, whole = ("batch", "position", axis, *rest), ("batch", "attended", f"{axis}_apart", *rest)
    if _parts_of("position") == 1:
        return x if back else constrain(x, *split)
    first, then = (whole, split) if back else (split, whole)
    return constrain(constrain(x, *first), *then)


def look_up(table_VD: Float[Array, "V D"], tokens_BL: Integer[Array, "B L"]) -> Float[Array, "B L D"]:
    """Rows of a table, whose columns may be split.

    Every device looks up its columns for all tokens that it shares them with, and then columns are traded for tokens: less
    than the table, where a device has fewer tokens than the vocabulary. By hand: XLA (0.10) gathers the whole batch, forward
    where columns are split, and for the gradient of the table also where they are not.
    """
    if not _splits(("batch", "position", "tensor")):
        return table_VD[tokens_BL]
    (B, L), D = tokens_BL.shape, table_VD.shape[1]
    across, along = tuple(n for n in _splits(("batch",)) if n in _GATHERED), _splits(("position",))

    def local(table: Array, tokens: Array) -> Array:
        x = table[tokens]
        if across:
            x = jax.lax.all_to_all(x, across, 0, 2, tiled=True)
        if along:  # columns of these lie between those of `across` and tensor
            x = jax.lax.all_to_all(x.reshape(*x.shape[:2], -1, table.shape[1]), along, 1, 3, tiled=True)
        return x.reshape(*x.shape[:2], -1, 1, table.shape[1])

    x = on_shards(
        local,
        (("rows", "columns"), ("batch_data", "attended")),
        ("batch", "position", "parts", "tensor", "width"),
        table_VD,
        tokens_BL,
        shape=(B, L, 1, _mesh().shape["tensor"], 1),
    )
    return constrain(x, "batch", "position", "parts", "parts", "width").reshape(B, L, D)
