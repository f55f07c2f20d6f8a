"""Read a study file: its points, frozen and checked, and its docstring. Nothing is prepared or launched here.

A study is a Python file with `get_study(arg) -> Grid` (sweeps/study/grid.py); its docstring says what question it answers.
"""

import dataclasses
import os
import traceback
from typing import Any
import warnings

from experiments.cli import InputError
from experiments.run import config_file
from sweeps.study.cells import Cell, freeze_points
from sweeps.study.grid import Grid, Point


@dataclasses.dataclass(frozen=True)
class Study:
    """A study as it was asked for. `notes` are remarks about rounding that its reader should see."""

    name: str
    spec: str
    doc: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()


def load(spec: str, data_root: str | None = None) -> Study:
    """Read the study FILE.py[:ARG]. Raises InputError naming the file, and the point for what a point has wrong.

    `data_root` replaces that of every point's execution.
    """
    path, arg = split_spec(spec)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        returned, doc = _call(path, arg)
    grid = _check_grid(returned, path)
    cells = freeze_points(grid, f"--study={spec}", data_root)
    said = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    notes = dict.fromkeys([*said, *_notes_on_tokens(cells)])  # each once, in order
    stem = os.path.splitext(os.path.basename(path))[0]
    return Study(stem if arg is None else f"{stem}:{arg}", spec, doc, cells, tuple(notes))


def split_spec(spec: str) -> tuple[str, str | None]:
    """Split FILE.py[:ARG] into file and argument."""
    file, colon, arg = spec.partition(".py:")
    return (file + ".py", arg) if colon else (spec, None)


def _call(path: str, arg: str | None) -> tuple[Any, str]:
    """Return what get_study returns, and the study's docstring."""
    get_study = config_file.load_module(path, "get_study", "--study")
    try:
        grid = get_study() if arg is None else get_study(arg)
    except Exception as error:  # a study is the user's code: whatever it raises is reported with its place
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise InputError(f"--study={_where(error, path)}: {kind}{text}") from error
    doc = get_study.__globals__.get("__doc__") or get_study.__doc__ or ""
    return grid, doc.strip()


def _where(error: BaseException, path: str) -> str:
    """Return file and line of an exception inside the study file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    return f"{path}, line {lines[-1]}" if lines else path


def _check_grid(returned: Any, path: str) -> Grid:
    """Raise InputError for what is not a grid with at least one point."""
    if not isinstance(returned, tuple | list) or not all(isinstance(point, Point) for point in returned):
        raise InputError(
            f"--study={path}: get_study returned {type(returned).__name__}; expected a Grid (see sweeps/study/grid.py)"
        )
    if not returned:
        raise InputError(f"--study={path}: the grid is empty; expected at least one point")
    return tuple(returned)


def _notes_on_tokens(cells: tuple[Cell, ...]) -> list[str]:
    """Say which points train on more than a tenth fewer or more tokens than they ask for."""
    notes = []
    for cell in cells:
        taken = cell.run.steps * cell.run.batch_tokens
        if abs(taken - cell.run.tokens) > 0.1 * cell.run.tokens:
            notes.append(f"{cell.name}: tokens={cell.run.tokens} become {taken} in whole steps")
    return notes
