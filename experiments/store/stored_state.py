"""Read the checkpoints of a run that has ended, without touching its folder. checkpoint.py says what they hold."""

from collections.abc import Mapping
import hashlib
import os

from etils import epath
import jax
import numpy as np

from experiments.cli import InputError
from experiments.objects.bucket import is_remote
from experiments.store import checkpoint, commits, seals
from experiments.store.checkpoint import Leaves, Meta, Shapes
from experiments.store.train_state import TrainState, from_names, named_leaves


def read_params(directory: epath.PathLike, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, np.ndarray], int]:
    """Read the parameters of the newest checkpoint, and its step; see `read_state`."""
    like = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes.items()}
    state, step = read_state(directory, TrainState(like, None, None))
    return state.params, step


def read_state(directory: epath.PathLike, like: TrainState) -> tuple[TrainState, int]:
    """Read the newest checkpoint as numpy arrays, and its step. No more is read than `like` has.

    Raises InputError when there is no checkpoint, or it is damaged, or has not the parameters, shapes and types of `like`;
    WorkError or AgainError when it cannot be read.
    """
    directory = _absolute(directory)
    steps = commits.steps(directory)
    if not steps:
        raise InputError(f"{directory} holds no checkpoint; train the run first")
    newest = max(steps)
    folder = directory / str(newest)
    shapes = {}
    for name, leaf in named_leaves(like).items():
        shapes[name] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    meta = checkpoint.read_meta(folder)
    _check_names(folder, shapes, meta)
    checkpoint.check_shapes(folder, meta, shapes)
    leaves = _read_sound(folder, shapes, meta)
    return from_names(like, leaves), newest


def digests(directory: epath.PathLike, step: int) -> dict[str, str]:
    """Return the SHA-256 of every array of a checkpoint, by name, as read back and in agreement with its seals.

    Raises InputError when it is damaged, WorkError or AgainError when it cannot be read.
    """
    folder = _absolute(directory) / str(step)
    meta = checkpoint.read_meta(folder)
    shapes = {}
    for name, leaf in meta["leaves"].items():
        shapes[name] = jax.ShapeDtypeStruct(tuple(leaf["shape"]), leaf["dtype"])
    out = {}
    for name, leaf in sorted(_read_sound(folder, shapes, meta).items()):
        out[name] = hashlib.sha256(leaf.tobytes()).hexdigest()
    return out


def _absolute(directory: epath.PathLike) -> epath.Path:
    """Return a folder as Orbax takes it."""
    return epath.Path(directory if is_remote(directory) else os.path.abspath(directory))


def _read_sound(folder: epath.Path, shapes: Shapes, meta: Meta) -> Leaves:
    """Read arrays and compare them with their seals. Raises InputError for a damaged one."""
    sealed = checkpoint.read_seals(folder, meta)
    try:
        leaves = checkpoint.read_leaves(folder, shapes)
        seals.verify(leaves, sealed)
    except seals.Mismatch as error:
        raise InputError(f"{folder} is damaged ({error})") from error
    return {name: np.asarray(leaves[name]) for name in shapes}


def _check_names(folder: epath.Path, shapes: Shapes, meta: Meta) -> None:
    """Check that the parameters are those expected, and that all else that is asked for was saved.

    Raises InputError naming an array that differs.
    """
    saved = meta["leaves"].keys()
    wanted_params = {name for name in shapes if name.startswith(".params[")}
    saved_params = {name for name in saved if name.startswith(".params[")}
    if differ := wanted_params ^ saved_params:
        raise InputError(f"{folder}: {min(differ)} is missing, or is none of the model's parameters")
    if unsaved := shapes.keys() - saved:
        raise InputError(f"{folder}: {min(unsaved)} is missing; the run had another optimizer")
