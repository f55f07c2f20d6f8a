"""Say which mesh axes split which logical axis: the one table, and the layouts of arrays that follow from it.

Parameters and activations only carry the names of their logical axes; everything that knows about devices is in this
folder. models/mesh/current.py applies the table to the mesh that is being traced for.
"""

from collections.abc import Sequence
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
import numpy as np

from models.errors import InputError
from models.mesh.mesh import FSDP, mesh_names

# Logical axis -> mesh axes that split it, in an array where no axis before it has them. Names of parameters first, then of
# activations. None: never split.
RULES: dict[str, tuple[str, ...] | None] = {
    "trial": ("trial",),
    "layers": None,
    "vocab": ("tensor",),
    "embed": ("fsdp", "expert", "sequence"),  # no two chips of a replica need to hold the same parameters
    "rows": None,  # of a look-up table: XLA (0.10) aborts on a gather from split rows beside a manual trial axis
    "columns": ("fsdp", "expert", "sequence", "tensor"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "ff": ("tensor",),
    "pair": None,  # a gate and what it multiplies, side by side in one matrix
    "experts": ("expert",),
    "router": None,  # logits: the choice among experts looks at all of them
    "gates": None,  # of a recurrent router's cell, side by side
    "state": None,  # of a recurrent router
    "head_size": None,
    "norm": None,
    "batch": ("data", "fsdp", "expert"),
    "sequences": ("data", "fsdp"),  # of a batch that meets experts where these lie
    "position": ("sequence",),
    "width": None,
    "tokens": ("data", "fsdp", "expert", "sequence"),  # rows of B times L, as tokens.flatten_tokens orders them
    "slots": None,
    "parts": None,  # of a batch or of a sum, one after the other
    # Where positions meet each other sequences are whole, and heads or channels are split instead: see exchange.py.
    "attended": None,
    "heads_apart": ("tensor", "sequence"),
    "kv_heads_apart": ("tensor", "sequence"),
    "ff_apart": ("tensor", "sequence"),
    "tensor": ("tensor",),
    "batch_data": ("data",),  # sequences whose tokens are looked up in some columns of a table
}
# Where a size does not divide, the mesh axes go to this other axis of the same array. A tokenizer's vocabulary may have any
# size, and what is stored (parameters, checkpoints, counts) keeps it: exchange.divisible fills it up where it is multiplied.
INSTEAD = {"vocab": "embed"}
# What sets the size of a logical axis, where it is not the option of the model by that name.
_FIELDS = {
    "position": "seq_len",
    "embed": "model.width",
    "columns": "model.width",
    "heads": "model.heads; of a matrix, times model.head_size",
    "kv_heads": "model.kv_heads; of a matrix, times model.head_size",
    "ff_apart": "the recurrence's channels: model.state or model.width",
}


class NotDivisible(InputError):
    """A logical axis of an array does not divide over what splits it on a mesh."""

    def __init__(self, axis: str, size: int, names: Sequence[str], shards: int, field: str | None = None):
        """`field`: the option that sets the size, where the caller knows more than the name of the axis says."""
        self.found = (axis, size, names, shards)
        options = dict.fromkeys("fsdp" if name in FSDP else name for name in names)
        multiple = shards * -(-size // shards)
        field = field or _FIELDS.get(axis, f"model.{axis.removesuffix('_apart')}")
        super().__init__(
            f"axis {axis!r} of size {size} cannot be split over execution.mesh.{' x '.join(options)}={shards}; "
            f"expected a multiple, such as {multiple} ({field})"
        )

    def set_by(self, options: Any) -> "NotDivisible":
        """Return the same, naming those of a model's `options` that have the size, where an axis may be set by several."""
        axis, size, _, _ = self.found
        if axis in _FIELDS:
            return self
        equal = [f"model.{name}" for name, value in vars(options).items() if type(value) is int and value == size]
        return NotDivisible(*self.found, field=" or ".join(equal)) if equal else self


def split_by(axes: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the names in a jax mesh that split each logical axis of an array, whatever their sizes.

    What splits one axis does not split those after it. Raises KeyError for an unknown axis.
    """
    splits: list[tuple[str, ...]] = []
    taken: set[str] = set()
    for axis in axes:
        if axis not in RULES:
            raise KeyError(f"logical axis {axis!r} has no rule in models/mesh/rules.py; known: {', '.join(RULES)}")
        names: list[str] = []
        for mesh_axis in RULES[axis] or ():
            names += [name for name in mesh_names(mesh_axis) if name not in taken]
        splits.append(tuple(names))
        taken.update(names)
    return splits


def spec(
    axes: Sequence[str], sizes: Sequence[int], mesh: Mesh | AbstractMesh, without: Sequence[str] = ()
) -> PartitionSpec:
    """Say how an array of these logical axes and sizes is split, but for the mesh axes `without`.

    Axes that are manual are left out as well, inside a `shard_map`. Raises NotDivisible where a size does not.
    """
    hidden = {*without, *getattr(mesh, "manual_axes", ())}
    splits: list[tuple[str, ...]] = []
    for by in split_by(axes):
        names = tuple(name for name in by if mesh.shape[name] > 1 and name not in hidden)
        splits.append(names)
    _move_to_others(axes, sizes, splits, mesh)

    entries: list[str | tuple[str, ...] | None] = []
    for axis, size, names in zip(axes, sizes, splits, strict=True):
        shards = _shards(names, mesh)
        if size % shards:
            raise NotDivisible(axis, size, names, shards)
        entries.append(names[0] if len(names) == 1 else names or None)
    return PartitionSpec(*entries)


def _shards(names: Sequence[str], mesh: Mesh | AbstractMesh) -> int:
    """Return into how many shards these mesh axes split together."""
    return math.prod(mesh.shape[name] for name in names)


def _move_to_others(
    axes: Sequence[str], sizes: Sequence[int], splits: list[tuple[str, ...]], mesh: Mesh | AbstractMesh
) -> None:
    """Change `splits` where an axis does not divide and another one of the array is to be split instead."""
    for index, axis in enumerate(axes):
        other = INSTEAD.get(axis)
        if other not in axes or sizes[index] % _shards(splits[index], mesh) == 0:
            continue
        splits[axes.index(other)] += splits[index]
        splits[index] = ()


def is_axes(node: Any) -> bool:
    """Whether a node of a tree is the tuple of logical axis names of one leaf."""
    return type(node) is tuple and all(isinstance(name, str) for name in node)


def shardings(axes: Any, shapes: Any, mesh: Mesh) -> Any:
    """Return NamedShardings of a trial-stacked tree: `axes` holds a tuple of logical names per leaf of `shapes`.

    Leaves of `shapes` have the trial axis in front, which `axes` does not name.
    """

    def one(names: tuple[str, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, spec(("trial", *names), np.shape(leaf), mesh))

    return jax.tree.map(one, axes, shapes, is_leaf=is_axes)
