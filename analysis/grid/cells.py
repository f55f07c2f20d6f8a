"""Find the cells of a sweep: rows that differ in nothing but what was tuned, and the best row of each.

A learning-rate or batch sweep makes several runs of one (N, D). The best of them is the one that a law of loss over N and
D speaks of; the others are no noise of it.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from analysis.grid.resolve import RoleFinder
from analysis.grid.roles import ROLES, usual_names
from experiments.cli import InputError, nearest

SAME = 5e-3  # of logarithms: sizes and tokens of one cell, which steps and batches round
TUNED = ("lr", "batch", "weight_decay", "wd", "warmup", "warmup_steps", "beta1", "beta2", "dropout")
NOT_OF_A_CELL = {"weight", "run", "censored", "hours"}  # beside the target
SIZES = ("N", "D", "C")  # runs of other sizes are of other cells, whatever the law takes


@dataclasses.dataclass(frozen=True)
class Tuned:
    """Columns that vary inside cells, by name, with their values [rows], and the cell of each row [rows]."""

    values: dict[str, np.ndarray]
    cell: np.ndarray
    cells: int


def levels(values: np.ndarray, same: float = SAME) -> np.ndarray:
    """Number the different values [rows], smallest first; positive values within `same` of a neighbour are one."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    is_positive = (values > 0).all()
    if is_positive:
        logs = np.log(ordered)
        is_new = np.diff(logs) > same
    else:
        is_new = np.diff(ordered) != 0
    number = np.cumsum(is_new)
    level = np.empty(len(values), dtype=int)
    level[order] = np.r_[0, number]
    return level


def cells_by(arrays: Sequence[np.ndarray], rows: int, same: float = SAME) -> np.ndarray:
    """Return the cell of each row [rows], counted from 0: rows that agree in all arrays (numbers [rows] or labels)."""
    cell = np.zeros(rows, dtype=int)
    for values in arrays:
        is_number = values.dtype.kind == "f"
        own = levels(values, same) if is_number else label_numbers(values)
        pair = cell * (rows + 1) + own
        cell = label_numbers(pair)
    return cell


def label_numbers(labels: np.ndarray) -> np.ndarray:
    """Number the different labels [rows]."""
    comparable = labels.astype(str) if labels.dtype.kind == "O" else labels
    _, number = np.unique(comparable, return_inverse=True)
    return number


def cells_beside(
    finder: RoleFinder, values: dict[str, np.ndarray], rows: np.ndarray, tuned: Sequence[str]
) -> np.ndarray:
    """Return the cell of each of the `rows` (positions): equal in every role but the loss and those `tuned`."""
    arrays = []
    ignored = NOT_OF_A_CELL | {"loss", *tuned}
    for role, value in values.items():
        if role in ignored:
            continue
        here = value[rows]
        if here.ndim > 1:
            arrays += list(here.T)
        else:
            arrays.append(here)
    for role in SIZES:
        if role not in values:
            arrays += _size_beside(finder, role, rows)
    if tuned:
        arrays += _tuned_beside(finder, rows, tuned)
    return cells_by(arrays, len(rows))


def _size_beside(finder: RoleFinder, role: str, rows: np.ndarray) -> list[np.ndarray]:
    """Return the size that a column gives though no role takes it, where all rows have it."""
    name = column_of(finder, role)
    if name is None or name in finder.grid.repeated:
        return []
    column = finder.grid.numbers(name, name)
    value = column[rows]
    is_size = np.isfinite(value) & (value > 0)
    return [value] if is_size.all() else []


def _tuned_beside(finder: RoleFinder, rows: np.ndarray, tuned: Sequence[str]) -> list[np.ndarray]:
    """Return what else is usually tuned, as labels: runs that differ in it too are of other cells."""
    named = {column_of(finder, name) for name in tuned}
    arrays = []
    for name in TUNED:
        column = column_of(finder, name)
        if column is None or column in named or column in finder.sources.values():
            continue
        words = finder.grid.words(column)
        arrays.append(words[rows])
    return arrays


def column_of(finder: RoleFinder, name: str) -> str | None:
    """Return the column that a role or a column's own name stands for; None where the grid has none."""
    candidates = [name]
    if name in ROLES:
        candidates += usual_names(name)
    if name in finder.given:
        candidates.insert(0, finder.given[name])
    for one in candidates:
        found = finder.grid.find(one)
        if found is not None:
            return found
    return None


def find_tuned(finder: RoleFinder, values: dict[str, np.ndarray], keep: np.ndarray) -> Tuned | None:
    """Find tuned quantities, which the law does not take, that vary among rows of one cell; None where there are none."""
    rows = np.flatnonzero(keep)
    if "loss" not in values or len(rows) < 2:
        return None
    cell = cells_beside(finder, values, rows, ())
    found = {}
    for name in TUNED:
        column = column_of(finder, name)
        if name in values or column is None or column in finder.sources.values():
            continue
        whole = finder.grid.numbers(column, column)
        value = whole[rows]
        is_known = np.isfinite(value).all()
        if is_known and _varies(value, cell):
            found[name] = value
    if not found:
        return None
    return Tuned(found, cell, count(cell))


def _varies(value: np.ndarray, cell: np.ndarray) -> bool:
    """Say whether a quantity [rows] has two values in some cell."""
    lowest = np.full(count(cell), np.inf)
    highest = np.full(len(lowest), -np.inf)
    np.minimum.at(lowest, cell, value)
    np.maximum.at(highest, cell, value)
    return bool((highest > lowest).any())


def count(cell: np.ndarray) -> int:
    """Return the number of cells."""
    return int(cell.max()) + 1


@dataclasses.dataclass(frozen=True)
class Best:
    """The best row of each cell. best [rows]: positions in the grid, of the best of each row's cell; notes."""

    rows: np.ndarray
    best: np.ndarray
    notes: list[str]


def best_of_cells(finder: RoleFinder, values: dict[str, np.ndarray], keep: np.ndarray, names: Sequence[str]) -> Best:
    """Find, for every row that is kept, the row of least loss in its cell; `names` are what was tuned.

    A run that was stopped early is the best only where the whole cell was. Raises InputError for names that are no
    columns, that the law itself takes, or for a law without a loss.
    """
    if "loss" not in values:
        raise InputError("--best_of: takes the run of least loss, and this law has no role loss")
    columns = {name: _tuned_column(finder, values, name) for name in names}
    rows = np.flatnonzero(keep)
    cell = cells_beside(finder, values, rows, names)
    loss = values["loss"][rows]
    is_bound = np.zeros(len(rows), dtype=bool)
    if "censored" in values:
        is_bound = values["censored"][rows] > 0
    order = np.lexsort((loss, is_bound, cell))
    ordered = cell[order]
    is_first = np.r_[True, np.diff(ordered) > 0]
    best_of_cell = order[is_first]
    best = best_of_cell[cell]

    cells = len(best_of_cell)
    tuned = ", ".join(names)
    notes = [f"the best of each of {cells} cells is used, of {len(rows)} rows that differ in {tuned}"]
    for name, column in columns.items():
        whole = finder.grid.numbers(column, column)
        notes += _edge_note(name, whole[rows], cell, best_of_cell)
    return Best(rows, rows[best], notes)


def _tuned_column(finder: RoleFinder, values: dict[str, np.ndarray], name: str) -> str:
    """Return the column of what was tuned. Raises InputError where there is none, or where the law itself takes it."""
    column = column_of(finder, name)
    if column is None:
        hint = nearest(name, finder.grid.names, "column")
        raise InputError(f"--best_of: {name!r} is not a column of {finder.grid.path}; {hint}")
    if name in values or column in finder.sources.values():
        raise InputError(f"--best_of: {name} is what the law depends on; expected what was tuned beside it")
    return column


def _edge_note(name: str, value: np.ndarray, cell: np.ndarray, best: np.ndarray) -> list[str]:
    """Say in how many cells the best value is the smallest or the largest that was tried: a better one may lie beyond."""
    if not np.isfinite(value).all():
        return []
    swept = 0
    on_edge = 0
    for at, row in enumerate(best):
        tried = value[cell == at]
        lowest = tried.min()
        highest = tried.max()
        if lowest == highest:
            continue
        swept += 1
        if value[row] in (lowest, highest):
            on_edge += 1
    if not on_edge:
        return []
    return [
        f"in {on_edge} of {swept} cells the best {name} is the smallest or largest tried: a better one may lie beyond"
    ]
