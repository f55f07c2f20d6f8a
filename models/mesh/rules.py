"""The mesh, and the one table from logical axis names to mesh axes.

Everything that knows about devices is here: parameters only carry the names of their axes.
"""

from collections.abc import Sequence
import math
from typing import Any

from flax import nnx
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from models.errors import InputError
from models.mesh.mesh import FSDP, parts

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
    "tokens": ("data", "fsdp", "expert", "sequence"),  # rows of B times L, as collectives.rows orders them
    "slots": None,
    "parts": None,  # of a batch or of a sum, one after the other
    # Where positions meet each other sequences are whole, and heads or channels are split instead: see collectives.exchange.
    "attended": None,
    "heads_apart": ("tensor", "sequence"),
    "kv_heads_apart": ("tensor", "sequence"),
    "ff_apart": ("tensor", "sequence"),
    "tensor": ("tensor",),
    "batch_data": ("data",),  # sequences whose tokens are looked up in some columns of a table
}
# What an error says of a logical axis that is not the option of the model by that name.
_FIELDS = {"position": "seq_len", "ff_apart": "the recurrence's channels"}


def split_by(axes: Sequence[str]) -> list[tuple[str, ...]]:
    """Names in a jax mesh of what splits each logical axis of an array, whatever their sizes. What splits one axis does not
    split those after it. Raises KeyError for an unknown axis."""
    out: list[tuple[str, ...]] = []
    for axis in axes:
        if axis not in RULES:
            raise KeyError(f"logical axis {axis!r} has no rule in models/mesh/rules.py; known: {', '.join(RULES)}")
        taken = {name for names in out for name in names}
        out.append(tuple(name for of in RULES[axis] or () for name in parts(of) if name not in taken))
    return out


def backend() -> str:
    """The kind of device that is being traced for: that of the mesh (also one that is elsewhere), or jax's default."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return getattr(device, "platform", None) or jax.default_backend()


def spec(axes: Sequence[str], sizes: Sequence[int], mesh: Any, without: Sequence[str] = ()) -> PartitionSpec:
    """How an array of these logical axes is split, but for the mesh axes `without` and those inside a `shard_map` of which
    this is called. Raises InputError where a size does not divide."""
    hidden = {*without, *getattr(mesh, "manual_axes", ())}
    entries = []
    for axis, size, by in zip(axes, sizes, split_by(axes), strict=True):
        names = tuple(name for name in by if mesh.shape[name] > 1 and name not in hidden)
        split = math.prod(mesh.shape[name] for name in names)
        if size % split:
            shown = " x ".join(dict.fromkeys("fsdp" if name in FSDP else name for name in names))
            field = _FIELDS.get(axis, f"model.{axis.removesuffix('_apart')}")
            raise InputError(
                f"axis {axis!r} of size {size} cannot be split over execution.mesh.{shown}={split}; "
                f"expected a multiple, such as {split * -(-size // split)} ({field})"
            )
        entries.append(names[0] if len(names) == 1 else names or None)
    return PartitionSpec(*entries)


def constrain(x: jax.Array, *axes: str, without: Sequence[str] = ()) -> jax.Array:
    """State how an activation is laid out (see `spec`); does nothing outside `jax.set_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or math.prod(size for name, size in mesh.shape.items() if name not in mesh.manual_axes) == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh, without))


def logical_axes(state: Any) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Logical axes of every parameter by path; a stacked one has the extra leading axis `layers`."""
    out = {}
    for path, variable in nnx.to_flat_state(state):
        axes = variable.get_metadata()["axes"]
        out[path] = ("layers",) * (len(variable.get_value().shape) - len(axes)) + tuple(axes)
    return out


def is_axes(node: Any) -> bool:
    """Whether a node of a tree is the tuple of logical axis names of one leaf."""
    return type(node) is tuple and all(isinstance(name, str) for name in node)


def shardings(axes: Any, shapes: Any, mesh: Mesh) -> Any:
    """NamedShardings of a trial-stacked tree: `axes` holds a tuple of logical names per leaf of `shapes`.

    Leaves of `shapes` have the trial axis in front, which `axes` does not name.
    """

    def one(names: tuple[str, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, spec(("trial", *names), np.shape(leaf), mesh))

    return jax.tree.map(one, axes, shapes, is_leaf=is_axes)
