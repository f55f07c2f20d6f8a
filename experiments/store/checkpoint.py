"""Save and restore the state of one trial with Orbax: asynchronous, atomic, with a checksum per leaf.

Orbax restores a flipped byte silently and casts a changed type silently, so shapes, types and checksums are kept
beside the arrays and compared. A damaged step is reported and the one before it used.
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
from experiments.store.train_state import TrainState


def _flat(state: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def _seal(array: Any) -> dict[str, Any]:
    array = hosts.whole(array)  # not ascontiguousarray, which gives a scalar an axis
    return {"crc32": zlib.crc32(array.tobytes()), "shape": list(array.shape), "dtype": str(array.dtype)}


class Checkpoints:
    """The checkpoints of one run: `directory`/<step>."""

    def __init__(self, directory: epath.Path, keep: int, fingerprint: str):
        if "://" not in os.fspath(directory):
            directory = epath.Path(os.path.abspath(directory))  # Orbax takes no relative path
        self.directory, self.fingerprint = directory, fingerprint
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True, create=True)
        try:
            self._manager = ocp.CheckpointManager(directory, options=options)
        except Exception:  # whatever Orbax makes of a damaged file of times and statistics, which nobody here needs
            for path in directory.glob("*/_CHECKPOINT_METADATA"):
                path.unlink(missing_ok=True)
            self._manager = ocp.CheckpointManager(directory, options=options)

    def save(self, state: TrainState, step: int, notes: dict[str, Any]) -> None:
        """Start to save one trial's state (no trial axis); `notes` are JSON values that come back with it."""
        if step in self._manager.all_steps():
            return
        flat = _flat(state)
        sealed = {name: _seal(leaf) for name, leaf in flat.items()}
        meta = {"fingerprint": self.fingerprint, "leaves": sealed, "notes": notes}
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(flat), meta=ocp.args.JsonSave(meta))
        )

    def wait(self) -> None:
        """Return when all saves are committed. Raises what made one fail."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def restore(
        self, like: TrainState, report: Callable[[str], None], until: int | None = None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest sound state and its notes, or None when there is none. `like` gives shapes and types.

        `until`: not one of a later step.

        Raises InputError when the checkpoint belongs to another run.
        """
        self._manager.reload()
        steps = [step for step in self._manager.all_steps() if until is None or step <= until]
        for step in sorted(steps, reverse=True):
            try:
                return self._restore(like, step)
            except InputError:
                raise
            except Exception as error:  # whatever a damaged file makes the reader raise
                text = " ".join(str(error).split())[:200]
                report(
                    f"checkpoint {self.directory}/{step} is damaged ({type(error).__name__}: {text}); trying an older one"
                )
                self._manager.delete(step)
        return None

    def _restore(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        flat = _flat(like)
        abstract = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in flat.items()}
        meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        if meta["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{self.directory} holds a checkpoint of run {meta['fingerprint']}; this run is {self.fingerprint}"
            )
        for name, leaf in flat.items():
            sealed = meta["leaves"].get(name)
            if sealed is None or sealed["shape"] != list(leaf.shape) or sealed["dtype"] != str(leaf.dtype):
                raise ValueError(f"{name} is {sealed}; expected shape {list(leaf.shape)} and dtype {leaf.dtype}")
        cpu = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=cpu) for name, a in abstract.items()}
        state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]
        for name, leaf in state.items():
            if _seal(leaf) != meta["leaves"][name]:
                raise ValueError(f"checksum of {name} differs")
        treedef = jax.tree_util.tree_structure(like)
        return jax.tree_util.tree_unflatten(treedef, [state[name] for name in flat]), meta["notes"]

    def close(self) -> None:
        """Wait and let go of the directory."""
        self.wait()
        self._manager.close()


def read_params(directory: epath.PathLike, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, np.ndarray], int]:
    """Parameters of the newest checkpoint, and its step; see `read_state`."""
    like = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes.items()}
    state, step = read_state(directory, TrainState(like, None, None))
    return state.params, step


def read_state(directory: epath.PathLike, like: TrainState) -> tuple[TrainState, int]:
    """The newest checkpoint as numpy arrays, and its step. Reads no more than `like` has (opt and step may be None).

    Leaves the folder as it is. Raises InputError when there is no checkpoint, or it is damaged, or has not the
    parameters, shapes and types of `like`.
    """
    directory = epath.Path(directory if "://" in os.fspath(directory) else os.path.abspath(directory))
    steps = [int(path.name) for path in directory.iterdir() if path.name.isdigit()] if directory.exists() else []
    if not steps:
        raise InputError(f"{directory} holds no checkpoint; train the run first")
    folder = directory / str(max(steps))
    names = _flat(like)
    try:
        sealed = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(folder / "meta")["leaves"]
        wanted, saved = ({n for n in of if n.startswith(".params[")} for of in (names, sealed))
        if differ := wanted ^ saved:
            raise InputError(f"{folder}: {min(differ)} is missing, or is none of the model's parameters")
        if unsaved := names.keys() - sealed.keys():
            raise InputError(f"{folder}: {min(unsaved)} is missing; the run had another optimizer")
        host = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
        item = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in names.items()}
        restore = ocp.args.PyTreeRestore(item=item, restore_args=host, partial_restore=True)
        leaves = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(folder / "state", args=restore)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise InputError(
            f"{folder} is damaged ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from error
    for name, leaf in names.items():
        expected = _seal(leaves[name]) | {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        if sealed[name] != expected:
            raise InputError(f"{folder}: {name} is damaged; expected {expected}, found {sealed[name]}")
    treedef = jax.tree_util.tree_structure(like)
    return jax.tree_util.tree_unflatten(treedef, [np.asarray(leaves[name]) for name in names]), max(steps)


def digests(directory: epath.PathLike, step: int) -> dict[str, str]:
    """SHA-256 of every leaf of a checkpoint, by name, as its bytes are read back and agree with their checksums.

    Raises InputError when it is missing or damaged.
    """
    folder = epath.Path(os.path.abspath(directory)) / str(step)
    try:
        sealed = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(folder / "meta")["leaves"]
        item = {name: jax.ShapeDtypeStruct(tuple(seal["shape"]), seal["dtype"]) for name, seal in sealed.items()}
        host = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in sealed}
        leaves = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(
            folder / "state", args=ocp.args.PyTreeRestore(item=item, restore_args=host)
        )
    except Exception as error:  # whatever a damaged file makes the reader raise
        text = " ".join(str(error).split())[:200]
        raise InputError(f"{folder} is missing or damaged ({type(error).__name__}: {text})") from error
    for name, leaf in leaves.items():
        if _seal(leaf) != sealed[name]:
            raise InputError(f"{folder}: checksum of {name} differs")
    return {name: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for name, leaf in sorted(leaves.items())}
