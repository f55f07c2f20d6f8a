"""Seal the arrays of a checkpoint: checksums of their pieces, written beside them as part of the same checkpoint.

TensorStore checks what it keeps about arrays, but hands out a flipped byte of their data as if it were right. So every
process adds a checksum of each piece that it writes: the part of an array that one device holds. That is done by the
threads that commit the checkpoint, while training goes on, and no array is ever gathered for it.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import json
from typing import Any, NamedTuple
import zlib

from etils import epath
import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import future

from experiments import files

Bounds = tuple[tuple[int, int], ...]  # of a piece: first and last but one index along every axis


class Piece(NamedTuple):
    """A part of an array, and the checksum of its bytes."""

    bounds: Bounds
    crc32: int


Seals = dict[str, list[Piece]]  # of every array, by its name


class Mismatch(Exception):
    """Bytes that were read are not those that were written."""


def checksum(piece: np.ndarray) -> int:
    """Return the CRC-32 of an array's bytes, in row-major order."""
    values = np.ascontiguousarray(piece).reshape(-1)
    # As bytes: Python knows no bfloat16.
    return zlib.crc32(values.view(np.uint8).data)


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> Bounds:
    """Return the bounds of a piece, from its index into an array of that shape."""
    bounds = []
    for part, size in zip(index, shape, strict=True):
        start, stop, _ = part.indices(size)
        bounds.append((start, stop))
    return tuple(bounds)


def whole(shape: tuple[int, ...]) -> Bounds:
    """Return the bounds of all of an array."""
    return tuple((0, size) for size in shape)


# --- write


def seal(leaves: Mapping[str, jax.Array]) -> Seals:
    """Return the seals of what this process writes of some arrays: of each piece, that of its first replica."""
    seals: Seals = {}
    for name, leaf in leaves.items():
        seals[name] = []
        for shard in leaf.addressable_shards:
            if shard.replica_id == 0:
                bounds = _bounds(shard.index, leaf.shape)
                piece = np.asarray(shard.data)
                seals[name].append(Piece(bounds, checksum(piece)))
    return seals


class Handler(ocp.AsyncCheckpointHandler):
    """Writes the seals of arrays as an item of an Orbax checkpoint, a file for each process."""

    async def async_save(self, directory: epath.Path, args: "Save") -> list[future.Future]:  # pyright: ignore[reportIncompatibleMethodOverride] (Orbax's own handlers narrow it as well)
        """Return what seals the arrays, for the threads that commit the checkpoint."""
        work = self._write(directory, args.leaves)
        return [future.CommitFutureAwaitingContractedSignals(work, name="seals")]

    async def _write(self, directory: epath.Path, leaves: Mapping[str, jax.Array]) -> None:
        path = directory / f"{jax.process_index()}.json"
        path.write_text(json.dumps(seal(leaves)))

    def save(self, directory: epath.Path, args: "Save") -> None:  # pyright: ignore[reportIncompatibleMethodOverride] (as above)
        """Refuse: checkpoints are saved beside the training."""
        raise NotImplementedError("seals are saved asynchronously")

    def restore(self, directory: epath.Path, args: Any = None) -> Seals:  # pyright: ignore[reportIncompatibleMethodOverride] (as above)
        """Return the seals of all processes."""
        del args
        return read(directory)


@ocp.args.register_with_handler(Handler, for_save=True)
@dataclasses.dataclass
class Save(ocp.args.CheckpointArgs):
    """Arrays to be sealed, by name."""

    leaves: Mapping[str, jax.Array]


@ocp.args.register_with_handler(Handler, for_restore=True)
@dataclasses.dataclass
class Restore(ocp.args.CheckpointArgs):
    """Asks Orbax for the seals of a checkpoint."""


# --- read and compare


def read(directory: epath.Path) -> Seals:
    """Read the seals that all processes have written. Raises OSError or ValueError for files that cannot be read."""
    seals: Seals = {}
    for path in sorted(directory.glob("*.json")):
        for name, pieces in files.read_json(path).items():
            of_leaf = seals.setdefault(name, [])
            for bounds, crc32 in pieces:
                pairs = tuple((start, stop) for start, stop in bounds)
                of_leaf.append(Piece(pairs, crc32))
    return seals


def verify(leaves: Mapping[str, Any], seals: Seals) -> None:
    """Compare arrays with their seals; with several processes all have to come here. Raises Mismatch naming an array.

    The arrays may lie on other devices than those that they were saved from, or be numpy arrays.
    """
    # All arrays are looked at, also after one that differs: another process may wait to look at one of them together.
    faults = []
    for name, leaf in leaves.items():
        covered = 0
        for piece, found in _pieces(leaf, seals[name]):
            covered += _size(piece.bounds)
            if found is not None and checksum(found) != piece.crc32:
                faults.append(f"checksum of {name} differs")
        if covered != np.size(leaf):
            faults.append(f"the seals of {name} cover {covered} of its {np.size(leaf)} values")
    if faults:
        raise Mismatch(faults[0])


def _size(bounds: Bounds) -> int:
    size = 1
    for start, stop in bounds:
        size *= stop - start
    return size


def _pieces(leaf: Any, pieces: list[Piece]) -> Iterator[tuple[Piece, np.ndarray | None]]:
    """Yield every sealed piece of an array with its values; None where another process has them and compares them."""
    if not isinstance(leaf, jax.Array):
        for piece in pieces:
            yield piece, leaf[_slices(piece.bounds)]
        return
    here = {_bounds(shard.index, leaf.shape): shard.data for shard in leaf.addressable_shards}
    index_of = leaf.sharding.devices_indices_map(leaf.shape)
    somewhere = {_bounds(index, leaf.shape) for index in index_of.values()}
    for piece in pieces:
        if piece.bounds in here:
            yield piece, np.asarray(here[piece.bounds])
        elif piece.bounds in somewhere:
            yield piece, None
        else:
            yield piece, _fetch(leaf, piece.bounds)


def _slices(bounds: Bounds) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in bounds)


def _fetch(leaf: jax.Array, bounds: Bounds) -> np.ndarray:
    """Return a piece that no single device holds: it was saved from another mesh."""
    if leaf.is_fully_addressable:
        return np.asarray(leaf)[_slices(bounds)]
    assert isinstance(leaf.sharding, NamedSharding)
    sizes = [stop - start for start, stop in bounds]
    starts = [start for start, _ in bounds]
    everywhere = NamedSharding(leaf.sharding.mesh, P())
    take = jax.jit(lambda x, at: jax.lax.dynamic_slice(x, at, sizes), out_shardings=everywhere)
    return np.asarray(take(leaf, starts))
