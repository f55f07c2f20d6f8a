"""Ask the mesh under which a function is traced, and state how an activation lies on it.

`jax.set_mesh` makes a mesh the current one; without it, every function here answers as for one device. Inside a
`shard_map` some mesh axes are manual: the function is given each device's shard, and these axes no longer split anything.
What a logical axis is split by stands in models/mesh/rules.py.
"""

from collections.abc import Sequence
import math

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from models.mesh.rules import spec, split_by


def current_mesh() -> AbstractMesh:
    """Return the mesh that is being traced for; an empty one without `jax.set_mesh`."""
    return jax.sharding.get_abstract_mesh()


def backend() -> str:
    """Return the kind of device that is traced for: that of the mesh (also one that is elsewhere), or jax's default."""
    device = getattr(current_mesh(), "abstract_device", None)
    return getattr(device, "platform", None) or jax.default_backend()


def active_axes(logical: Sequence[str]) -> tuple[str, ...]:
    """Return the mesh axes that split arrays of these logical axes here: of several devices, and not manual."""
    mesh = current_mesh()
    if mesh.empty:
        return ()
    active = []
    for names in split_by(logical):
        for name in names:
            if mesh.shape[name] > 1 and name not in mesh.manual_axes:
                active.append(name)
    return tuple(active)


def shard_count(axis: str) -> int:
    """Return into how many shards one logical axis is split here."""
    mesh = current_mesh()
    return math.prod(mesh.shape[name] for name in active_axes((axis,)))


def local_shape(shape: Sequence[int], axes: Sequence[str]) -> tuple[int, ...]:
    """Return the shape of the largest shard that one device has of an array of these logical axes."""
    local = []
    for size, axis in zip(shape, axes, strict=True):
        rounded_up = -(-size // shard_count(axis))
        local.append(rounded_up)
    return tuple(local)


def restrict(full: PartitionSpec, names: Sequence[str]) -> PartitionSpec:
    """Keep of a spec only these mesh axes: what a `shard_map` over them has to be told."""
    entries: list[str | tuple[str, ...] | None] = []
    for entry in full:
        by = (entry,) if isinstance(entry, str) else entry or ()
        kept = tuple(name for name in by if name in names)
        entries.append(kept[0] if len(kept) == 1 else kept or None)
    return PartitionSpec(*entries)


def constrain(x: jax.Array, *axes: str, without: Sequence[str] = ()) -> jax.Array:
    """State how an activation of these logical axes is laid out (see `rules.spec`); does nothing on one device."""
    mesh = current_mesh()
    if mesh.empty:
        return x
    automatic = [size for name, size in mesh.shape.items() if name not in mesh.manual_axes]
    if math.prod(automatic) == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh, without))
