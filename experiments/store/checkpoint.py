"""Save and restore the state of one trial with Orbax: asynchronous, atomic, with a checksum per leaf.

Orbax restores a flipped byte silently and casts a changed type silently, so shapes, types and checksums are kept
beside the arrays (in `meta`) and compared. A damaged step is reported and the one before it used.
"""

from collections.abc import Callable, Mapping
import hashlib
import os
from typing import Any
import zlib

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.alive import hosts
from experiments.cli import InputError
from experiments.store.train_state import TrainState, from_names, named_leaves

Seal = dict[str, Any]  # of one leaf: its checksum, shape and type
Shapes = dict[str, jax.ShapeDtypeStruct]  # of leaves, by name
Notes = dict[str, Any]  # JSON values that come back with a state
Meta = dict[str, Any]

_SHOWN = 200  # characters of a reader's error


def _seal(array: Any) -> Seal:
    """Return what is compared after reading."""
    array = hosts.whole(array)  # not ascontiguousarray, which gives a scalar an axis
    return {
        "crc32": zlib.crc32(array.tobytes()),
        "shape": list(array.shape),
        "dtype": str(array.dtype),
    }


def _shapes(leaves: Mapping[str, Any]) -> Shapes:
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}


def _shapes_of_seals(seals: Mapping[str, Seal]) -> Shapes:
    """Return shapes and types of the arrays that a checkpoint's seals describe."""
    shapes = {}
    for name, seal in seals.items():
        shape = tuple(seal["shape"])
        shapes[name] = jax.ShapeDtypeStruct(shape, seal["dtype"])
    return shapes


def _on_one_device(shapes: Shapes) -> Shapes:
    """Return the shapes of leaves that are to be restored onto the first device of this process."""
    device = jax.local_devices()[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    placed = {}
    for name, leaf in shapes.items():
        placed[name] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return placed


def _one_line(error: Exception) -> str:
    """Return the kind and the text of an error."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_SHOWN]}"


# --- of a run under way


class Checkpoints:
    """The checkpoints of one run: `directory`/<step>."""

    def __init__(self, directory: epath.Path, keep: int, fingerprint: str):
        if "://" not in os.fspath(directory):
            directory = epath.Path(os.path.abspath(directory))  # Orbax takes no relative path
        self.directory = directory
        self.fingerprint = fingerprint
        self._manager = _manager(directory, keep)

    def save(self, state: TrainState, step: int, notes: Notes) -> None:
        """Start to save one trial's state (no trial axis); `notes` are JSON values that come back with it."""
        if step in self._manager.all_steps():
            return
        leaves = named_leaves(state)
        meta = {
            "fingerprint": self.fingerprint,
            "leaves": {name: _seal(leaf) for name, leaf in leaves.items()},
            "notes": notes,
        }
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves),
            meta=ocp.args.JsonSave(meta),
        )
        self._manager.save(step, args=items)

    def wait(self) -> None:
        """Return when all saves are committed. Raises what made one fail."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def restore(
        self, like: TrainState, report: Callable[[str], None], until: int | None = None
    ) -> tuple[TrainState, Notes] | None:
        """Return the newest sound state and its notes, or None when there is none. `like` gives shapes and types.

        `until`: not one of a later step. `report` is told of damaged ones, which are deleted.

        Raises InputError when the checkpoint belongs to another run.
        """
        self._manager.reload()
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            if until is not None and step > until:
                continue
            try:
                return self._restore(like, step)
            except InputError:
                raise
            except Exception as error:  # whatever a damaged file makes the reader raise
                report(f"checkpoint {self.directory}/{step} is damaged ({_one_line(error)}); trying an older one")
                self._manager.delete(step)
        return None

    def _restore(self, like: TrainState, step: int) -> tuple[TrainState, Notes]:
        """Read one step. Raises InputError for another run's, and anything else for a damaged one."""
        shapes = _shapes(named_leaves(like))
        meta = self._restore_item(step, "meta", ocp.args.JsonRestore())
        if meta["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{self.directory} holds a checkpoint of run {meta['fingerprint']}; this run is {self.fingerprint}"
            )
        seals = meta["leaves"]
        _check_shapes(seals, shapes)
        leaves = self._restore_item(step, "state", ocp.args.StandardRestore(_on_one_device(shapes)))
        for name, leaf in leaves.items():
            if _seal(leaf) != seals[name]:
                raise ValueError(f"checksum of {name} differs")
        return from_names(like, leaves), meta["notes"]

    def _restore_item(self, step: int, name: str, how: Any) -> Any:
        items = self._manager.restore(step, args=ocp.args.Composite(**{name: how}))
        return items[name]

    def close(self) -> None:
        """Wait and let go of the directory."""
        self.wait()
        self._manager.close()


def _manager(directory: epath.Path, keep: int) -> ocp.CheckpointManager:
    """Open Orbax's manager of a folder, also where a checkpoint in it is damaged."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True, create=True)
    try:
        return ocp.CheckpointManager(directory, options=options)
    except Exception:  # whatever Orbax makes of a damaged file of times and statistics, which nobody here needs
        for path in directory.glob("*/_CHECKPOINT_METADATA"):
            path.unlink(missing_ok=True)
        return ocp.CheckpointManager(directory, options=options)


def _check_shapes(seals: Mapping[str, Seal], shapes: Shapes) -> None:
    """Check what was saved against what is expected. Raises ValueError naming the leaf that differs."""
    for name, leaf in shapes.items():
        shape = list(leaf.shape)
        dtype = str(leaf.dtype)
        seal = seals.get(name)
        if seal is None or seal["shape"] != shape or seal["dtype"] != dtype:
            raise ValueError(f"{name} is {seal}; expected shape {shape} and dtype {dtype}")


# --- of a run that has ended, without touching its folder


def read_params(directory: epath.PathLike, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, np.ndarray], int]:
    """Read the parameters of the newest checkpoint, and its step; see `read_state`."""
    like = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes.items()}
    state, step = read_state(directory, TrainState(like, None, None))
    return state.params, step


def read_state(directory: epath.PathLike, like: TrainState) -> tuple[TrainState, int]:
    """Read the newest checkpoint as numpy arrays, and its step. No more is read than `like` has.

    Leaves the folder as it is. Raises InputError when there is no checkpoint, or it is damaged, or has not the
    parameters, shapes and types of `like`.
    """
    directory = epath.Path(directory if "://" in os.fspath(directory) else os.path.abspath(directory))
    steps = _steps(directory)
    if not steps:
        raise InputError(f"{directory} holds no checkpoint; train the run first")
    newest = max(steps)
    folder = directory / str(newest)
    shapes = _shapes(named_leaves(like))
    try:
        seals = _read_meta(folder)["leaves"]
        _check_names(folder, shapes, seals)
        leaves = _read_leaves(folder, shapes, partial_restore=True)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise InputError(f"{folder} is damaged ({_one_line(error)})") from error
    for name, leaf in shapes.items():
        expected = _seal(leaves[name])
        expected |= {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        if seals[name] != expected:
            raise InputError(f"{folder}: {name} is damaged; expected {expected}, found {seals[name]}")
    arrays = {name: np.asarray(leaves[name]) for name in shapes}
    return from_names(like, arrays), newest


def _steps(directory: epath.Path) -> list[int]:
    if not directory.exists():
        return []
    return [int(path.name) for path in directory.iterdir() if path.name.isdigit()]


def _check_names(folder: epath.Path, shapes: Shapes, seals: Mapping[str, Seal]) -> None:
    """Check that the parameters are those expected, and that all else that is asked for was saved.

    Raises InputError naming a leaf that differs.
    """
    wanted = {name for name in shapes if name.startswith(".params[")}
    saved = {name for name in seals if name.startswith(".params[")}
    if differ := wanted ^ saved:
        raise InputError(f"{folder}: {min(differ)} is missing, or is none of the model's parameters")
    if unsaved := shapes.keys() - seals.keys():
        raise InputError(f"{folder}: {min(unsaved)} is missing; the run had another optimizer")


def _read_meta(folder: epath.Path) -> Meta:
    reader = ocp.Checkpointer(ocp.JsonCheckpointHandler())
    return reader.restore(folder / "meta")


def _read_leaves(folder: epath.Path, shapes: Shapes, partial_restore: bool = False) -> dict[str, Any]:
    """Read leaves by name as numpy arrays; with `partial_restore` there may be others beside them."""
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in shapes}
    how = ocp.args.PyTreeRestore(item=shapes, restore_args=as_numpy, partial_restore=partial_restore)
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    return reader.restore(folder / "state", args=how)


def digests(directory: epath.PathLike, step: int) -> dict[str, str]:
    """Return the SHA-256 of every leaf of a checkpoint, by name, as its bytes are read back and agree with their checksums.

    Raises InputError when it is missing or damaged.
    """
    folder = epath.Path(os.path.abspath(directory)) / str(step)
    try:
        seals = _read_meta(folder)["leaves"]
        leaves = _read_leaves(folder, _shapes_of_seals(seals))
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise InputError(f"{folder} is missing or damaged ({_one_line(error)})") from error
    out = {}
    for name, leaf in sorted(leaves.items()):
        if _seal(leaf) != seals[name]:
            raise InputError(f"{folder}: checksum of {name} differs")
        content = np.asarray(leaf).tobytes()
        out[name] = hashlib.sha256(content).hexdigest()
    return out
