"""Save and restore the state of one trial with Orbax, beside the training and never losing what was saved.

A checkpoint holds three items: `state`, the arrays by name; `seals`, checksums of their pieces (seals.py); and `meta`: the
run's fingerprint, shapes and types, notes, and the versions of what wrote it. Orbax casts a changed type silently, so that
shapes and types are compared before anything is read.

Only arrays that are proven to differ from what was written make a checkpoint count as damaged; it is then renamed, and the
one before it is used. Everything else stops the run and changes nothing. Who only reads checkpoints: stored_state.py.
"""

from collections.abc import Callable, Mapping, Sequence
import concurrent.futures
import dataclasses
import functools
import importlib.metadata
import os
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments import files
from experiments.alive import hosts
from experiments.cli import InputError, WorkError
from experiments.objects.bucket import is_remote
from experiments.store import commits, seals
from experiments.store.faults import DAMAGED, explained, saving
from experiments.store.train_state import TrainState, named_leaves

SCHEMA = 2  # of meta; the first had one checksum of every whole array in it

Leaves = dict[str, Any]  # arrays by name
Shapes = dict[str, jax.ShapeDtypeStruct]  # of leaves, by name; with the sharding that they are to be restored into
Notes = dict[str, Any]  # JSON values that come back with a state
Meta = dict[str, Any]

_WRITERS = ("jax", "flax", "optax", "orbax-checkpoint")  # packages whose versions a checkpoint names


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which checkpoints are kept: Orbax asks `should_preserve` after every save.

    newest: so many of the last ones.
    every_steps: those at multiples of so many steps, for good.
    back_steps: the last one at a multiple of so many steps, to go back to after a loss spike.
    """

    newest: int
    every_steps: int | None = None
    back_steps: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any = None) -> list[bool]:
        """Return which checkpoints, of those that Orbax knows, are kept."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = set(sorted(steps)[-self.newest :])
        kept |= set(_multiples(steps, self.every_steps))
        kept |= set(_multiples(steps, self.back_steps)[-1:])
        return [step in kept for step in steps]


def _multiples(steps: Sequence[int], of: int | None) -> list[int]:
    """Return the steps that are multiples of a number, in order; none without the number."""
    return sorted(step for step in steps if of and step % of == 0)


class Checkpoints:
    """The checkpoints of one run under way: `directory`/<step>."""

    def __init__(self, directory: epath.Path, keep: Keep, fingerprint: str):
        if not is_remote(directory):
            directory = epath.Path(os.path.abspath(directory))  # Orbax takes no relative path
        self.directory = directory
        self.fingerprint = fingerprint
        self._keep = keep
        self._saving: list[int] = []  # steps of saves that are not known to be committed
        if hosts.first():
            _remove_unfinished(directory)
        self._manager = self._open()
        self._starting: concurrent.futures.Future[None] | None = None

    def _open(self) -> ocp.CheckpointManager:
        """Open Orbax's manager of the folder. It reads no statistics: a damaged file of them is in nobody's way."""
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._keep,
            enable_async_checkpointing=True,
            create=True,
            lightweight_initialize=True,
        )
        return ocp.CheckpointManager(self.directory, options=options)

    # --- save

    def save(self, state: TrainState, step: int, notes: Notes) -> None:
        """Start to save one trial's state (no trial axis); `notes` are JSON values that come back with it.

        All that takes time is done beside the training. The arrays may not be given away before `wait`. Raises what made
        the save before fail.
        """
        self._wait_for_start()
        if step in self._manager.all_steps():
            return
        leaves = named_leaves(state)
        meta = {
            "schema": SCHEMA,
            "fingerprint": self.fingerprint,
            "written_by": versions(),
            "leaves": {name: _description(leaf) for name, leaf in leaves.items()},
            "notes": notes,
        }
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves),
            seals=seals.Save(leaves),
            meta=ocp.args.JsonSave(meta),
        )
        start = functools.partial(self._start, step, items)
        if hosts.count() == 1:
            self._starting = _starter().submit(start)
        else:
            start()  # processes meet in it: all have to do so in one order with everything else

    def _start(self, step: int, items: ocp.args.Composite) -> None:
        """Hand a save to Orbax, which waits for the one before."""
        if hosts.first():
            commits.begin(self.directory, step)
        # Forced, or Orbax's own policy would leave out a step without a word.
        self._manager.save(step, args=items, force=True)
        self._note_committed()
        self._saving.append(step)

    def _note_committed(self) -> None:
        """Note that the saves before are committed."""
        while self._saving:
            step = self._saving.pop()
            if hosts.first():
                commits.end(self.directory, step)

    def _wait_for_start(self) -> None:
        """Return when Orbax has been handed the last save: one is committed while the next may wait, and no more."""
        if self._starting is not None:
            starting = self._starting
            self._starting = None
            with saving(self.directory):
                starting.result()

    def wait(self) -> None:
        """Return when all saves are committed. Raises what made one fail."""
        self._wait_for_start()
        with saving(self.directory):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            self._note_committed()

    def close(self) -> None:
        """Wait and let go of the directory."""
        self.wait()
        self._manager.close()

    # --- restore

    def has_any(self) -> bool:
        """Say, on all processes alike, whether something is there to go on from, sound or not."""
        steps = self._manager.all_steps()
        return hosts.told(bool(steps))

    def restore(
        self,
        parts: Sequence[Shapes],
        place: Callable[[Leaves], None],
        report: Callable[[str], None],
        until: int | None = None,
    ) -> tuple[int, Notes] | None:
        """Read the newest sound checkpoint, part by part into its place; return its step and notes.

        parts: shapes, types and shardings of the leaves, in the parts that are read at a time.
        place: what is done with the leaves of a part.
        report: is told of damaged ones, which are renamed.
        until: not one of a later step.

        None when there never was a checkpoint, or with `until` none of such a step. All processes read the same one: what
        one of them cannot read counts for all. Raises InputError when it belongs to another run, WorkError when it does not
        fit or none is left that is sound, AgainError when the disk does not answer.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        steps = hosts.told([step for step in steps if until is None or step <= until])
        for step in steps:
            try:
                return step, self._restore_surely(step, parts, place)
            except seals.Mismatch as error:
                report(f"checkpoint {self.directory}/{step} is damaged ({error}); trying an older one")
                self._set_aside(step)
        if until is None:
            self._check_never_saved()
        return None

    def _restore_surely(self, step: int, parts: Sequence[Shapes], place: Callable[[Leaves], None]) -> Notes:
        """Read one checkpoint. Raises seals.Mismatch where it is read twice, and is damaged both times."""
        try:
            return self._restore(step, parts, place)
        except seals.Mismatch:  # of the checkpoint, or of this one reading of it
            return self._restore(step, parts, place)

    def _restore(self, step: int, parts: Sequence[Shapes], place: Callable[[Leaves], None]) -> Notes:
        """Read one checkpoint. Raises seals.Mismatch where its arrays are not those that were written."""
        folder = self.directory / str(step)
        meta, sealed = hosts.together(lambda: self._read_meta(folder, parts), seals.Mismatch)
        for shapes in parts:
            # Nothing here may refer to the leaves of a part any longer when the next is read.
            place(_read_sound(folder, shapes, sealed))
        return meta["notes"]

    def _read_meta(self, folder: epath.Path, parts: Sequence[Shapes]) -> tuple[Meta, seals.Seals]:
        """Read what is kept beside the arrays, and compare it with what is expected."""
        meta = read_meta(folder)
        if meta["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{folder} is a checkpoint of run {meta['fingerprint']}; expected one of this run, {self.fingerprint}"
            )
        for shapes in parts:
            check_shapes(folder, meta, shapes)
        return meta, read_seals(folder, meta)

    def _set_aside(self, step: int) -> None:
        """Rename a damaged checkpoint, so that nobody takes it for a sound one and all of it is still there."""
        self._manager.close()
        folder = self.directory / str(step)
        hosts.together(lambda: _rename(folder) if hosts.first() else None)
        self._manager = self._open()

    def _check_never_saved(self) -> None:
        """Check that no checkpoint was set aside. Raises WorkError: a run does not begin again by itself."""

        def look() -> None:
            if list(self.directory.glob(f"*{DAMAGED}*")):
                raise WorkError(
                    f"{self.directory} has damaged checkpoints only (*{DAMAGED}); "
                    "expected a sound one. To begin the run again, remove that folder"
                )

        hosts.together(look)

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints of later steps: a run that went back to `step` takes those steps anew."""
        self.wait()
        for later in self._manager.all_steps():
            if later > step:
                if hosts.first():
                    commits.begin(self.directory, later)
                self._manager.delete(later)
                self._saving.append(later)
        self._note_committed()


@functools.cache
def _starter() -> concurrent.futures.Executor:
    """Return the thread that hands saves to Orbax: it makes folders and threads first, and that takes its time."""
    return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="starts saves")


def _read_sound(folder: epath.Path, shapes: Shapes, sealed: seals.Seals) -> Leaves:
    """Read some leaves on all processes. Raises, on all of them, seals.Mismatch where they are damaged on any."""

    def read() -> Leaves:
        return read_leaves(folder, shapes)

    leaves = hosts.together(read, seals.Mismatch)
    hosts.together(lambda: seals.verify(leaves, sealed), seals.Mismatch)
    return leaves


def _remove_unfinished(directory: epath.Path) -> None:
    """Remove what saves have left that were killed: at a step that the clock chose, no other save takes its place.

    By name: Orbax would also remove what it takes for unfinished on an object store, such as a copy of a checkpoint.
    """
    commits.settle(directory)
    for path in directory.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}"):
        path.rmtree()


def _rename(folder: epath.Path) -> None:
    """Give the folder of a damaged checkpoint a name that says it."""
    name = f"{folder.name}{DAMAGED}"
    taken = len(list(folder.parent.glob(f"{name}*")))
    folder.rename(folder.parent / (f"{name}{taken}" if taken else name))


# --- what is kept beside the arrays


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of the packages that have a say in what a checkpoint holds."""
    return {name: importlib.metadata.version(name) for name in _WRITERS}


def _description(leaf: Any) -> dict[str, Any]:
    """Return the shape and the type of an array, as JSON."""
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def read_meta(folder: epath.Path) -> Meta:
    """Read what is kept beside the arrays of a checkpoint. Raises WorkError or AgainError naming the folder."""
    with explained(folder):
        meta = files.read_json(folder / "meta" / "metadata")
    schema = meta.get("schema", 1) if isinstance(meta, dict) else None
    if not isinstance(schema, int) or schema > SCHEMA:
        raise WorkError(f"{folder} has schema {schema}; this program knows up to {SCHEMA}: update it")
    if missing := {"fingerprint", "leaves", "notes"} - meta.keys():
        raise WorkError(f"{folder}/meta lacks {min(missing)}; expected what every checkpoint has")
    if not isinstance(meta["notes"], dict) or not _are_descriptions(meta["leaves"]):
        raise WorkError(f"{folder}/meta is not what was written; expected notes, and a shape and type of every array")
    return meta


def _are_descriptions(leaves: Any) -> bool:
    """Tell whether these are arrays by name, each with its shape and type."""
    if not isinstance(leaves, dict):
        return False
    return all(isinstance(leaf, dict) and {"shape", "dtype"} <= leaf.keys() for leaf in leaves.values())


def read_seals(folder: epath.Path, meta: Meta) -> seals.Seals:
    """Read the seals of a checkpoint's arrays. Raises WorkError or AgainError naming the folder."""
    if meta.get("schema", 1) == 1:
        return {name: [_old_seal(leaf)] for name, leaf in meta["leaves"].items()}
    with explained(folder):
        found = seals.read(folder / "seals")
    if missing := meta["leaves"].keys() - found.keys():
        raise WorkError(f"{folder}/seals lacks {min(missing)}; expected every array of the checkpoint")
    return found


def _old_seal(leaf: Mapping[str, Any]) -> seals.Piece:
    """Return the one seal of a whole array that a checkpoint of schema 1 has."""
    bounds = seals.whole(tuple(leaf["shape"]))
    return seals.Piece(bounds, leaf["crc32"])


def check_shapes(folder: epath.Path, meta: Meta, shapes: Shapes) -> None:
    """Check what was saved against what is expected. Raises WorkError naming the array that differs, and both versions."""
    for name, leaf in shapes.items():
        expected = _description(leaf)
        saved = meta["leaves"].get(name)
        found = saved and {key: saved[key] for key in expected}
        if found != expected:
            raise WorkError(
                f"{folder}: {name} is {_in_words(found)}; expected {_in_words(expected)}. It was written by "
                f"{_writer(meta)}; this is {_writer({'written_by': versions()})}. Nothing was changed"
            )


def _in_words(description: Mapping[str, Any] | None) -> str:
    if description is None:
        return "missing"
    return f"{description['dtype']}{description['shape']}"


def _writer(meta: Meta) -> str:
    """Return the packages that wrote a checkpoint, with their versions."""
    packages = meta.get("written_by", {})
    return ", ".join(f"{name} {version}" for name, version in packages.items()) or "an earlier version"


# --- the arrays


def read_leaves(folder: epath.Path, shapes: Shapes) -> Leaves:
    """Read arrays by name into the shardings of `shapes`, or as numpy arrays where they have none.

    Each process reads what its devices hold. Raises seals.Mismatch for what TensorStore finds damaged, WorkError or
    AgainError for what cannot be read.
    """
    how = {name: _restore_args(shape) for name, shape in shapes.items()}
    args = ocp.args.PyTreeRestore(item=dict(shapes), restore_args=how, partial_restore=True)
    # The handler alone: Orbax's readers wait for all processes, also for one that has failed.
    with explained(folder):
        leaves = ocp.PyTreeCheckpointHandler().restore(folder / "state", args=args)
        return jax.block_until_ready(leaves)


def _restore_args(shape: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
    if shape.sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=shape.sharding, global_shape=shape.shape, dtype=shape.dtype)
