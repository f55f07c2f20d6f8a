"""Make the mesh: its axes, their sizes, and how they lie on the chips."""

from collections.abc import Sequence
import contextlib
import dataclasses
import math
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from models.errors import InputError
from models.option import AT_LEAST_ONE, option

AXES = ("trial", "data", "fsdp", "expert", "sequence", "tensor")


# The axis fsdp is laid along up to three dimensions of a TPU's torus, each a mesh axis by itself: see make_mesh.
FSDP = ("fsdp", "fsdp_y", "fsdp_z")


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """How many devices stand along each axis. None: as many as are left over (see `fill`)."""

    trial: int | None = option(None, valid=AT_LEAST_ONE, help="runs of a population side by side; none: by devices")
    data: int | None = option(None, valid=AT_LEAST_ONE, help="parts of the batch; none: by the devices left over")
    fsdp: int = option(1, valid=AT_LEAST_ONE, help="parts of the batch, of every weight and of the optimizer's state")
    expert: int = option(1, valid=AT_LEAST_ONE, help="parts of the batch, and of a mixture's experts at rest")
    sequence: int = option(1, valid=AT_LEAST_ONE, help="parts of every sequence")
    tensor: int = option(1, valid=AT_LEAST_ONE, help="parts of heads, feed-forward layers and vocabulary")


def fill(
    shape: MeshShape, devices: int, trials: int, batch: int, backend: str, microbatches: int = 1
) -> tuple[int, ...]:
    """Sizes of all six axes for `devices` devices: what the config leaves open goes to trials first, then to data.

    On a CPU a population uses one device per trial; a single run splits its batch, or each of its `microbatches` equal
    parts. Raises InputError when the sizes cannot be met.
    """
    rows = shape.fsdp * shape.expert
    fixed = rows * shape.sequence * shape.tensor
    wanted = fixed * (shape.trial or 1) * (shape.data or 1)
    if wanted > devices:
        raise InputError(f"execution.mesh asks for {wanted} devices; there are {devices}")
    free = devices // fixed
    trial = shape.trial or min(trials, free // (shape.data or 1))
    data = shape.data
    if data is None:
        most = free // trial if trials == 1 or backend != "cpu" else 1
        data = max((d for d in range(1, most + 1) if batch % (d * rows * microbatches) == 0), default=1)
    if batch % (data * rows * microbatches):
        parts = f" x execution.mesh.expert={shape.expert}" if shape.expert > 1 else ""
        parts += f" x execution.microbatches={microbatches}" if microbatches > 1 else ""
        raise InputError(
            f"batch_tokens / seq_len = {batch} sequences do not divide over execution.mesh.data={data} x "
            f"execution.mesh.fsdp={shape.fsdp}{parts}; expected a multiple of {data * rows * microbatches}"
        )
    return (trial, data, shape.fsdp, shape.expert, shape.sequence, shape.tensor)


def make_mesh(sizes: Sequence[int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of the sizes of AXES over the first devices, all of automatic type.

    On a TPU slice that is used whole, fsdp is split along the dimensions of the torus: libtpu scatters a sum over one ring
    of chips, but over a plane it sends the whole sum everywhere, which is twice as much. Elsewhere the second and third
    part of fsdp have size 1.
    """
    devices = list(devices if devices is not None else jax.devices())[: math.prod(sizes)]
    named = dict(zip(AXES, sizes, strict=True))
    rings = _rings(named["fsdp"], devices)
    names = tuple(name for axis in AXES for name in parts(axis))
    shape = tuple(size for axis in AXES for size in (rings if axis == "fsdp" else (named[axis],)))
    types = (AxisType.Auto,) * len(names)
    if rings[1] == 1:
        with contextlib.suppress(NotImplementedError):  # an axis that is a part of a dimension of the torus
            return jax.make_mesh(shape, names, axis_types=types, devices=devices)
    return Mesh(mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True), names, axis_types=types)


def _rings(size: int, devices: Sequence[Any]) -> tuple[int, int, int]:
    """`size` devices as sizes along up to three dimensions of the torus that `devices` fill; (size, 1, 1) elsewhere."""
    places = [getattr(device, "coords", None) for device in devices]
    if devices[0].platform != "tpu" or None in places:
        return size, 1, 1
    torus = [len(set(along)) for along in zip(*places, strict=True)]
    if math.prod(torus) != len(devices):
        return size, 1, 1
    found, left = [], size
    for extent in sorted(torus, reverse=True):
        found.append(math.gcd(left, extent))
        left //= found[-1]
    return (found[0], found[1], found[2]) if left == 1 else (size, 1, 1)


def parts(axis: str) -> tuple[str, ...]:
    """Names in a jax mesh of one of AXES."""
    return FSDP if axis == "fsdp" else (axis,)
