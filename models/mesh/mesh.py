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
# Matrices are split over these only to be stored: they are gathered before they are multiplied.
STORAGE_AXES = (*FSDP, "expert", "sequence")


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
    """Return the sizes of all six axes for `devices` devices: what is left open goes to trials first, then to data.

    On a CPU a population uses one device per trial; a single run splits its batch, or each of its `microbatches` equal
    parts. Raises InputError when the sizes cannot be met.
    """
    check_devices(shape, devices)
    batch_split = shape.fsdp * shape.expert
    fixed = batch_split * shape.sequence * shape.tensor
    free = devices // fixed
    trial = shape.trial or min(trials, free // (shape.data or 1))
    data = shape.data
    if data is None:
        most = free // trial if trials == 1 or backend != "cpu" else 1
        data = _most_data(most, batch, batch_split * microbatches)
    _check_batch(shape, data, batch, microbatches)
    return (trial, data, shape.fsdp, shape.expert, shape.sequence, shape.tensor)


def check_devices(shape: MeshShape, devices: int) -> None:
    """Raise InputError where the sizes that are given ask for more devices than there are."""
    sizes = [size for size in dataclasses.astuple(shape) if size is not None]
    wanted = math.prod(sizes)
    if wanted > devices:
        raise InputError(
            f"execution.mesh.{_given(shape)} asks for {wanted} devices; there are {devices}: expected sizes whose product is "
            f"at most {devices}"
        )


def _given(shape: MeshShape) -> str:
    """Name the axes that are longer than one device, with their sizes."""
    sizes = dataclasses.asdict(shape)
    given = [f"{axis}={size}" for axis, size in sizes.items() if size is not None and size > 1]
    return " x ".join(given)


def _most_data(most: int, batch: int, others: int) -> int:
    """Return the largest size of data, up to `most`, over which the batch divides together with `others`."""
    for data in range(most, 0, -1):
        if batch % (data * others) == 0:
            return data
    return 1


def _check_batch(shape: MeshShape, data: int, batch: int, microbatches: int) -> None:
    """Raise InputError where the sequences of a batch do not divide over what splits them."""
    divisor = data * shape.fsdp * shape.expert * microbatches
    if batch % divisor == 0:
        return
    others = ""
    if shape.expert > 1:
        others += f" x execution.mesh.expert={shape.expert}"
    if microbatches > 1:
        others += f" x execution.microbatches={microbatches}"
    raise InputError(
        f"batch_tokens / seq_len = {batch} sequences do not divide over execution.mesh.data={data} x "
        f"execution.mesh.fsdp={shape.fsdp}{others}; expected a multiple of {divisor}"
    )


def make_mesh(sizes: Sequence[int], devices: Sequence[Any] | None = None) -> Mesh:
    """Make a mesh of the sizes of AXES over the first devices, all of automatic type.

    Of several TPU slices each has all of a mesh but a part of its trials, or else of its data: only these axes speak through
    the data center's network. Raises InputError where neither divides by the slices.

    On a TPU slice that is used whole, fsdp is split along the dimensions of the torus: libtpu scatters a sum over one ring
    of chips, but over a plane it sends the whole sum everywhere, which is twice as much. Elsewhere the second and third
    part of fsdp have size 1.
    """
    devices = jax.devices() if devices is None else devices
    used = list(devices)[: math.prod(sizes)]
    named = dict(zip(AXES, sizes, strict=True))
    slices = _slices(used)
    rings = _rings(named["fsdp"], slices[0])
    names: list[str] = []
    shape: list[int] = []
    for axis in AXES:
        names += mesh_names(axis)
        shape += rings if axis == "fsdp" else (named[axis],)
    types = (AxisType.Auto,) * len(names)
    if len(slices) > 1:
        between = _between_slices(shape, names, len(slices))
        within = [size // parts for size, parts in zip(shape, between, strict=True)]
        grid = mesh_utils.create_hybrid_device_mesh(within, between, used, allow_split_physical_axes=True)
        return Mesh(grid, tuple(names), axis_types=types)
    if rings[1] == 1:
        # jax refuses an axis that is a part of a dimension of the torus: then the mesh is made below.
        with contextlib.suppress(NotImplementedError):
            return jax.make_mesh(tuple(shape), tuple(names), axis_types=types, devices=used)
    grid = mesh_utils.create_device_mesh(tuple(shape), used, allow_split_physical_axes=True)
    return Mesh(grid, tuple(names), axis_types=types)


def _slices(devices: Sequence[Any]) -> list[list[Any]]:
    """Return the devices of each TPU slice; all together elsewhere, where jax calls the GPUs of a host a slice."""
    if devices[0].platform != "tpu":
        return [list(devices)]
    by_slice: dict[int, list[Any]] = {}
    for device in devices:
        number = getattr(device, "slice_index", None) or 0
        by_slice.setdefault(number, []).append(device)
    slices = list(by_slice.values())
    sizes = [len(members) for members in slices]
    if len(set(sizes)) > 1:
        raise InputError(f"execution.mesh takes {sizes} devices of {len(slices)} slices; expected as many of each")
    return slices


def _between_slices(shape: Sequence[int], names: Sequence[str], slices: int) -> list[int]:
    """Return into how many parts each axis of a mesh is split by slices: the first of trial and data that divides is."""
    for axis in ("trial", "data"):
        size = shape[names.index(axis)]
        if size % slices == 0:
            return [slices if name == axis else 1 for name in names]
    raise InputError(
        f"execution.mesh: trial={shape[names.index('trial')]} and data={shape[names.index('data')]} on {slices} slices; "
        f"expected a multiple of {slices} of one of them, the only axes that may cross slices"
    )


def _rings(size: int, devices: Sequence[Any]) -> tuple[int, int, int]:
    """Split `size` devices along up to three dimensions of the torus that `devices` fill; (size, 1, 1) elsewhere."""
    whole = (size, 1, 1)
    places = [getattr(device, "coords", None) for device in devices]
    if devices[0].platform != "tpu" or None in places:
        return whole
    torus = [len(set(along)) for along in zip(*places, strict=True)]
    if math.prod(torus) != len(devices):
        return whole
    found = []
    left = size
    for extent in sorted(torus, reverse=True):
        found.append(math.gcd(left, extent))
        left //= found[-1]
    return (found[0], found[1], found[2]) if left == 1 else whole


def mesh_names(axis: str) -> tuple[str, ...]:
    """Return the names that one of AXES has in a jax mesh."""
    return FSDP if axis == "fsdp" else (axis,)
