"""Freeze the points of a grid: every point becomes a checked run with a name. Nothing is prepared or launched here."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from experiments.cli import InputError
from experiments.run import identity
from experiments.run.freeze import freeze
from experiments.run.schema import Execution, Run
from experiments.store import inherit, record
from sweeps.study.grid import Grid, Point
from sweeps.study.labels import point_labels

# Columns of the grid besides those of a run's record: a tag of such a name would hide one.
IDENTITY = ("fingerprint", "name", "status", "reason")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A point of the grid, frozen. `run.parent` is a placeholder where `parent` is the cell of another point."""

    name: str
    run: Run
    execution: Execution
    tags: dict[str, Any]
    parent: "Cell | None" = None

    @property
    def provisional_fingerprint(self) -> str:
        """Identify the run as far as that is possible without preparing its data."""
        return identity.fingerprint(self.run, (str(self.run.data),))


def ancestry(cell: Cell) -> list[Cell]:
    """Return a cell and its ancestors within the study, eldest first."""
    eldest_first = [cell]
    while cell.parent:
        cell = cell.parent
        eldest_first.insert(0, cell)
    return eldest_first


def freeze_points(grid: Grid, where: str = "study", data_root: str | None = None) -> tuple[Cell, ...]:
    """Freeze every point as a validated run. Raises InputError that names the point, for the first that cannot be.

    `where` stands at the beginning of the message; `data_root` replaces that of every point's execution.
    """
    names = point_labels(grid)
    known = _Known()
    for point, name in zip(grid, names, strict=True):
        known.names.setdefault(id(point), name)
    cells = []
    for number, (point, name) in enumerate(zip(grid, names, strict=True), start=1):
        place = f"{where}: point {number} of {len(grid)}"
        try:
            cell = _freeze_point(point, name, data_root, known)
        except InputError as error:
            raise InputError(f"{place} ({name}): {error}") from error
        _check_tags(point, cell.run, place)
        cells.append(cell if cell.name == name else dataclasses.replace(cell, name=name))  # a point may come twice
    return tuple(cells)


@dataclasses.dataclass
class _Known:
    """What is known of points by the identity of the object: many runs start from one, which is frozen once."""

    names: dict[int, str] = dataclasses.field(default_factory=dict)  # of the points of the grid
    cells: dict[int, Cell] = dataclasses.field(default_factory=dict)


def _freeze_point(point: Point, name: str, data_root: str | None, known: _Known) -> Cell:
    """Freeze a point and its ancestors. Raises InputError, also where a parent's model cannot become its child's."""
    if id(point) not in known.cells:
        known.cells[id(point)] = _freeze_anew(point, name, data_root, known)
    return known.cells[id(point)]


def _freeze_anew(point: Point, name: str, data_root: str | None, known: _Known) -> Cell:
    """Freeze a point that is not yet known."""
    run, execution = freeze(point.config)
    if data_root is not None:
        execution = dataclasses.replace(execution, data_root=data_root)
    parent_point = point.values.get("parent")
    if not isinstance(parent_point, Point):
        return Cell(name, run, execution, dict(point.tags))
    parent_name = known.names.get(id(parent_point), f"parent of {name}")
    parent = _freeze_point(parent_point, parent_name, data_root, known)
    inherit.check(parent.run.family, parent.run.model, run)
    return Cell(name, run, execution, dict(point.tags), parent)


def _check_tags(point: Point, run: Run, where: str) -> None:
    """Raise InputError for a tag that would hide a column of the grid, or cannot be one."""
    if not point.tags:
        return
    taken = {*IDENTITY, *record.columns(run), *record.ledger(run)}
    for name, value in point.tags.items():
        if name in taken or record.is_result(name) or not name.isidentifier():
            raise InputError(f"{where}: tag {name!r} is not a name or is a column of every grid; choose another")
        if name.endswith("_all"):
            raise InputError(f"{where}: tag {name!r} ends like the lists of a tag's values; choose another")
        if not isinstance(value, str | int | float | bool):
            raise InputError(f"{where}: tag {name}={value!r} must be text, a number or a truth value")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{where}: tag {name}={value!r} is no number that a table can hold")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What training all of some runs takes, by the ledger: nothing is compiled. A run that occurs twice counts once."""

    runs: int
    tokens: int
    flops: float


def cost(grid: Grid) -> Cost:
    """Count a grid's runs, without the runs outside of it that they start from. Raises InputError like `freeze_points`."""
    runs = [cell.run for cell in without_repeats(freeze_points(grid))]
    return Cost(
        runs=len(runs),
        tokens=sum(run.steps * run.batch_tokens for run in runs),
        flops=sum(record.ledger(run)["flops_total"] for run in runs),
    )


def without_repeats(cells: Sequence[Cell]) -> list[Cell]:
    """Return the last cell of each run, where the run came first: points that are one run are trained once."""
    return list({cell.provisional_fingerprint: cell for cell in cells}.values())
