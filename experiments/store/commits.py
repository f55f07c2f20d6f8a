"""Tell whole checkpoints from what only looks like one. On a disk Orbax renames a folder when it is whole, and all is said.

In an object store nothing can be renamed: a checkpoint is whole once commit_success.txt is in it, and Orbax takes one
without that file for none. That would have a run begin again whose checkpoints were copied there from a disk, or whose
file somebody has deleted. So it is noted which save is under way, in saving/STEP.json beside the checkpoints: what such a
save has left is removed; of a folder without that note and without the file it is looked up whether it is whole.
"""

import os
import sys

from etils import epath

from experiments import files
from experiments.cli import WorkError
from experiments.objects.bucket import is_remote
from experiments.objects.path import MARKER, METADATA, ObjectPath

SAVING = "saving"


def steps(directory: epath.PathLike) -> list[int]:
    """Return the steps of the whole checkpoints in a folder, in order; none where there is no folder."""
    folder = epath.Path(directory)
    if isinstance(folder, ObjectPath):
        found = [step for step, names in _contents(folder).items() if MARKER in names]
        return sorted(found)
    if not folder.exists():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def _contents(folder: ObjectPath) -> dict[int, set[str]]:
    """Return what lies in each numbered folder of an object store, by one listing."""
    contents: dict[int, set[str]] = {}
    for name in folder.names_below():
        step, _, rest = name.partition("/")
        if step.isdigit():
            contents.setdefault(int(step), set()).add(rest)
    return contents


def _note(directory: epath.Path, step: int) -> epath.Path:
    return directory.parent / SAVING / f"{step}.json"


def begin(directory: epath.Path, step: int) -> None:
    """Note that a checkpoint is being saved or deleted. To be called before anything of it is written or deleted."""
    if is_remote(directory):
        files.write_json(_note(directory, step), {"step": step})


def end(directory: epath.Path, step: int) -> None:
    """Note that a checkpoint is whole, or gone."""
    if is_remote(directory):
        _note(directory, step).unlink(missing_ok=True)


def settle(directory: epath.Path) -> None:
    """Remove what saves have left that were killed, and have Orbax see whole checkpoints that it would not.

    Raises WorkError for a checkpoint that is not whole and that no save of ours has left: a run does not begin again, or
    further back, by itself.
    """
    if not isinstance(directory, ObjectPath):
        return
    notes = {path.name.removesuffix(".json") for path in (directory.parent / SAVING).iterdir()}
    contents = _contents(directory)
    newest = max((step for step, names in contents.items() if MARKER in names), default=-1)
    for step, names in contents.items():
        if MARKER in names:
            continue
        folder = directory / str(step)
        if str(step) in notes or step < newest:  # what is deleted when newer ones are there may be half deleted
            folder.rmtree(missing_ok=True)
        elif METADATA in names and _is_committed(folder):
            print(f"{folder} is whole and has no {MARKER}, as a copy of one on a disk; it is used", file=sys.stderr)
            (folder / MARKER).write_text("Found to be whole.")
        else:
            raise WorkError(
                f"{os.fspath(folder)} is no whole checkpoint, and no save that was killed has left it (a copy that was "
                "not finished?); nothing was changed. To go on without it, remove that folder"
            )
    for step in notes:
        _note(directory, int(step)).unlink(missing_ok=True)


def _is_committed(folder: epath.Path) -> bool:
    """Tell whether Orbax had written all of a checkpoint."""
    try:
        metadata = files.read_json(folder / METADATA)
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(metadata, dict) and bool(metadata.get("commit_timestamp_nsecs"))
