"""The mesh, and the one table from logical axis names to mesh axes.

Everything that knows about devices is here: parameters only carry the names of their axes.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any

from flax import nnx
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from experiments.cli import InputError

AXES = ("trial", "data", "fsdp", "expert", "tensor")

# Logical axis -> mesh axes that split it. Names of parameters first, then of activations. None: never split.
RULES: dict[str, tuple[str, ...] | None] = {
    "trial": ("trial",),
    "layers": None,
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "rows": None,  # of a look-up table: XLA (0.10) aborts on a gather from split rows beside a manual trial axis
    "columns": ("fsdp", "tensor"),
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
    "batch": ("data", "fsdp"),
    "position": None,
    "width": None,
    "tokens": ("data", "fsdp", "expert"),  # rows of B times L, where experts work on whole tokens
    "slots": None,
}


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """How many devices stand along each axis. None: as many as are left over (see `fill`)."""

    trial: int | None = None
    data: int | None = None
    fsdp: int = 1
    expert: int = 1
    tensor: int = 1


def fill(shape: MeshShape, devices: int, trials: int, batch: int, backend: str) -> tuple[int, ...]:
    """Sizes of all five axes for `devices` devices: what the config leaves open goes to trials first, then to data.

    On a CPU a population uses one device per trial; a single run splits its batch. Raises InputError when the sizes
    cannot be met.
    """
    fixed = shape.fsdp * shape.expert * shape.tensor
    wanted = fixed * (shape.trial or 1) * (shape.data or 1)
    if wanted > devices:
        raise InputError(f"execution.mesh asks for {wanted} devices; there are {devices}")
    free = devices // fixed
    trial = shape.trial or min(trials, free // (shape.data or 1))
    data = shape.data
    if data is None:
        most = free // trial if trials == 1 or backend != "cpu" else 1
        data = max((d for d in range(1, most + 1) if batch % (d * shape.fsdp) == 0), default=1)
    if batch % (data * shape.fsdp):
        raise InputError(
            f"batch_tokens / seq_len = {batch} sequences do not divide over execution.mesh.data={data} x "
            f"execution.mesh.fsdp={shape.fsdp}; expected a multiple of {data * shape.fsdp}"
        )
    return (trial, data, shape.fsdp, shape.expert, shape.tensor)


def make_mesh(sizes: Sequence[int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the five named axes over the first devices, all of automatic type."""
    devices = list(devices if devices is not None else jax.devices())[: math.prod(sizes)]
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def backend() -> str:
    """The kind of device that is being traced for: that of the mesh (also one that is elsewhere), or jax's default."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return getattr(device, "platform", None) or jax.default_backend()


def _spec(axes: Sequence[str], sizes: Sequence[int], mesh: Any, manual: bool) -> PartitionSpec:
    entries = []
    for axis, size in zip(axes, sizes, strict=True):
        if axis not in RULES:
            raise KeyError(f"logical axis {axis!r} has no rule in models/partition.py; known: {', '.join(RULES)}")
        names = tuple(n for n in RULES[axis] or () if mesh.shape[n] > 1 and not (manual and n == "trial"))
        split = math.prod(mesh.shape[n] for n in names)
        if size % split:
            raise InputError(
                f"axis {axis!r} of size {size} cannot be split over execution.mesh.{' x '.join(names)}={split}; "
                f"expected a multiple, such as {split * -(-size // split)} (model.{axis})"
            )
        entries.append(names[0] if len(names) == 1 else names or None)
    return PartitionSpec(*entries)


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """State how an activation is laid out; does nothing outside `jax.set_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or math.prod(mesh.shape[n] for n in AXES if n != "trial") == 1:
        return x
    return jax.lax.with_sharding_constraint(x, _spec(axes, x.shape, mesh, manual=True))


def per_shard(function: Callable[..., jax.Array], rows: Sequence[jax.Array], whole: Any) -> jax.Array:
    """`function(*rows, whole)` where the first axis of `rows` and of the result is the logical axis `tokens`.

    Each shard calls it on its own rows and on all of `whole`, whose parts are gathered over data, fsdp and expert; its
    gradients are summed back. For what XLA cannot split by itself, such as sorting. No shard: an ordinary call.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or (spec := _spec(("tokens",), rows[0].shape[:1], mesh, manual=True)) == PartitionSpec(None):
        return function(*rows, whole)
    names = (spec[0],) if isinstance(spec[0], str) else spec[0]
    return jax.shard_map(
        function,
        in_specs=(*[spec] * len(rows), PartitionSpec()),
        out_specs=spec,
        axis_names=set(names),
        check_vma=False,
    )(*rows, whole)


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
        return NamedSharding(mesh, _spec(("trial", *names), np.shape(leaf), mesh, manual=False))

    return jax.tree.map(one, axes, shapes, is_leaf=is_axes)
