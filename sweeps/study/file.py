"""A study file -> frozen, checked points. All of them are checked before anything is prepared or launched.

A study is a Python file with `get_study(arg) -> Grid` (sweeps/study/grid.py); its docstring says what question it answers.
"""

import collections
from collections.abc import Sequence
import dataclasses
import os
import traceback
from typing import Any
import warnings

from etils import epath

from experiments.cli import InputError
from experiments.run import config_file, identity
from experiments.run.freeze import freeze as freeze_
from experiments.run.schema import Execution, Run
from experiments.store import inherit, lineage, record
from sweeps.study.grid import Grid, Point

# Columns of the grid besides a run's options and counts: a tag of such a name would hide one.
RESERVED = ("fingerprint", "name", "status", "reason", "loss_nats", "loss_nats_sem", "bits_per_byte", "eval_tokens")
RESERVED += (
    "lineage_tokens",
    "flops_lineage",
    "steps_done",
    "censored",
    "wall_seconds",
    "packing",
    "packing_trials",
    "packing_mesh",
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A point of the grid, frozen. `run.parent` is a placeholder where `parent` is the cell of another point."""

    name: str
    run: Run
    execution: Execution
    tags: dict[str, Any]
    parent: "Cell | None" = None


@dataclasses.dataclass(frozen=True)
class Study:
    """A study as it was asked for. `notes` are remarks about rounding that its reader should see."""

    name: str
    spec: str
    doc: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cost:
    """What training all of some runs takes, by the ledger: nothing is compiled. A run that occurs twice counts once."""

    runs: int
    tokens: int
    flops: float


def cost(grid: Grid) -> Cost:
    """Of a grid's runs, without the runs outside of it that they start from. Raises InputError like `freeze`."""
    runs = {identity.fingerprint(cell.run, (str(cell.run.data),)): cell.run for cell in freeze(grid)}.values()
    flops = sum(record.ledger(run)["flops_total"] for run in runs)
    return Cost(len(runs), sum(run.steps * run.batch_tokens for run in runs), flops)


def _where(error: BaseException, path: str) -> str:
    """File and line of an exception inside the study file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{path}, line {lines[-1]}" if lines else path


def _call(path: str, arg: str | None) -> tuple[Any, str]:
    """What get_study returns, and the study's docstring."""
    get_study = config_file.load_module(path, "get_study", "--study")
    try:
        grid = get_study() if arg is None else get_study(arg)
    except Exception as error:  # a study is the user's code: whatever it raises is reported with its place
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise InputError(f"--study={_where(error, path)}: {kind}{text}") from error
    return grid, (get_study.__globals__.get("__doc__") or get_study.__doc__ or "").strip()


def split(spec: str) -> tuple[str, str | None]:
    """FILE.py[:ARG] as file and argument."""
    file, colon, arg = spec.partition(".py:")
    return (file + ".py", arg) if colon else (spec, None)


def load(spec: str, data_root: str | None = None) -> Study:
    """The study of a file, frozen. Raises InputError naming the file, and the point for what a point has wrong.

    `data_root` replaces that of every point's execution.
    """
    path, arg = split(spec)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        grid, doc = _call(path, arg)
    if not isinstance(grid, tuple | list) or not all(isinstance(point, Point) for point in grid):
        raise InputError(
            f"--study={path}: get_study returned {type(grid).__name__}; expected a Grid (see sweeps/study/grid.py)"
        )
    if not grid:
        raise InputError(f"--study={path}: the grid is empty; expected at least one point")
    notes = {str(w.message): None for w in caught if issubclass(w.category, UserWarning)}
    cells = freeze(tuple(grid), f"--study={spec}", data_root)
    for cell in cells:
        taken = cell.run.steps * cell.run.batch_tokens
        if abs(taken / cell.run.tokens - 1) > 0.1:
            notes[f"{cell.name}: tokens={cell.run.tokens} become {taken} in whole steps"] = None
    stem = os.path.splitext(os.path.basename(path))[0]
    return Study(stem if arg is None else f"{stem}:{arg}", spec, doc, cells, tuple(notes))


def freeze(grid: Grid, where: str = "study", data_root: str | None = None) -> tuple[Cell, ...]:
    """Every point as a validated run. Raises InputError that names the point, for the first that cannot be."""
    names = _names(grid)
    cells = []
    for number, (point, name) in enumerate(zip(grid, names, strict=True), start=1):
        try:
            cells.append(_cell(point, name, data_root))
        except InputError as error:
            raise InputError(f"{where}: point {number} of {len(grid)} ({name}): {error}") from error
        _check_tags(point, cells[-1].run, f"{where}: point {number} of {len(grid)}")
    return tuple(cells)


def _cell(point: Point, name: str, data_root: str | None) -> Cell:
    """A point and its ancestors, frozen. Raises InputError, also where a parent's model cannot become its child's."""
    run, execution = freeze_(point.config)
    if data_root is not None:
        execution = dataclasses.replace(execution, data_root=data_root)
    parent = point.values.get("parent")
    if isinstance(parent, Point):
        parent = _cell(parent, f"parent of {name}", data_root)
        inherit.check(parent.run.family, parent.run.model, run)
    return Cell(name, run, execution, dict(point.tags), parent if isinstance(parent, Cell) else None)


def _check_tags(point: Point, run: Run, where: str) -> None:
    taken = {*RESERVED, *record.columns(run), *record.ledger(run)}
    for name, value in point.tags.items():
        if name in taken or not name.isidentifier():
            raise InputError(f"{where}: tag {name!r} is not a name or is a column of every grid; choose another")
        if not isinstance(value, str | int | float | bool):
            raise InputError(f"{where}: tag {name}={value!r} must be text, a number or a truth value")


def _names(grid: Sequence[Point]) -> list[str]:
    """A label per point: its group, the tags and keys in which it differs from others, and what is not left to a rule.

    A label that is not unique gets a number.
    """
    rows = []
    for point in grid:
        ruled = {name.removeprefix("rule_") for name, rule in point.tags.items() if " x " not in str(rule)}
        keys = {k: v for k, v in point.values.items() if k.rpartition(".")[2] not in ruled}
        if isinstance(parent := keys.get("parent"), Point):  # by what it has not in common with its child
            own = {k: v for k, v in parent.values.items() if k != "parent" and point.values.get(k) != v}
            keys["parent"] = f"({Point(own)})"
        rows.append(keys | {k: v for k, v in point.tags.items() if k != "group" and not k.startswith("rule_")})
    seen: dict[str, set[str]] = {}
    for row in rows:
        for key, value in row.items():
            seen.setdefault(key, set()).add(repr(value))
    vary = {key for key, values in seen.items() if len(values) > 1 or not all(key in row for row in rows)}
    names, count = [], collections.Counter()
    for point, row in zip(grid, rows, strict=True):
        label = str(Point({key: value for key, value in row.items() if key in vary}))
        name = " ".join(filter(None, [str(point.tags.get("group", "")), label])) or "run"
        count[name] += 1
        names.append(name if count[name] == 1 else f"{name} ({count[name]})")
    return names


def manifests(study: Study, progress: bool = True) -> dict[Any, tuple[Any, ...]]:
    """Prepare what is missing of every corpus in the study: manifests by (data, data_root).

    Raises InputError, naming the point, when a corpus has too few tokens for a run.
    """
    from experiments import prepare
    from experiments.data import batches

    out: dict[Any, tuple[Any, ...]] = {}
    for cell in study.cells:
        for one in line(cell):
            key = (one.run.data, one.execution.data_root)
            if key not in out:
                out[key] = prepare.prepare(one.run.data, epath.Path(one.execution.data_root), progress)
        names = {key: tuple(m.fingerprint for m in of) for key, of in out.items()}
        key = (cell.run.data, cell.execution.data_root)
        try:
            read = read_by(cell, names)
            batches.check_enough(out[key], cell.run.data, read.sequences * read.seq_len, cell.run.seq_len)
        except InputError as error:
            raise InputError(f"{study.name}, {cell.name}: {error}") from error
    return out


def line(cell: Cell) -> list[Cell]:
    """A cell and its ancestors within the study, eldest first."""
    return [*(line(cell.parent) if cell.parent else []), cell]


def read_by(cell: Cell, names: dict[Any, tuple[str, ...]]) -> lineage.Read:
    """How far a run's line will have read its data when it is done. `names`: manifests by (data, data_root).

    Raises InputError where a child cannot go on in its parent's data.
    """
    before, key = None, ()
    for one in line(cell):
        key, how = names[one.run.data, one.execution.data_root], one.run.growth
        before = lineage.after(one.run, key, before, one.parent is not None and "learn" in (how.depth, how.width))
    return dict(before.reads)[lineage.data_key(cell.run, key)]
