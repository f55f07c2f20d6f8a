"""What do others pay for the loss of these runs? See analysis/procedures/growth.py."""

import dataclasses
from typing import Any

import numpy as np

from analysis.grid import roles
from analysis.grid.resolve import parse_roles
from analysis.grid.roles import Role
from analysis.grid.selection import select
from analysis.grid.table import Columns, Grid
from analysis.laws.base import Law
from analysis.procedures.growth import speedup
from analysis.trust.interval import Interval
from analysis.writing.numbers import number, share, span
from experiments.cli import InputError

ROLES = ("C", "loss")
OPTIONAL = ("loss_error",)
OF_ALL_ANCESTORS = "flops_lineage"
SPEEDUP = "speedup"
LEVERAGE = "leverage"
DRAWS = 1_000
FEWEST_SHARE = 0.5  # of the draws that have to lie within the others' losses for an interval

roles.declare({"loss_error": Role("standard error of the loss", ("loss_error", "loss_nats_sem", "loss_sem"))})


@dataclasses.dataclass(frozen=True)
class Answer:
    """The speed-up of each row, nan where its loss lies outside of the others'; intervals where losses have errors."""

    row: np.ndarray  # in the file
    cost: np.ndarray
    loss: np.ndarray
    speedup: np.ndarray
    intervals: tuple[Interval | None, ...]


def with_cost(grid: Grid, columns: str | None) -> str | None:
    """Return --columns with the cost of all ancestors where it names none: a grown run has paid for its parents."""
    if OF_ALL_ANCESTORS not in grid or "C" in parse_roles(columns):
        return columns
    return ",".join([*([columns] if columns else []), f"C={OF_ALL_ANCESTORS}"])


def check_used(law: type[Law], columns: str | None) -> None:
    """Raise InputError for a law that takes neither column of `with_leverage`, or whose costs nobody has named."""
    given = parse_roles(columns)
    named = {*law.ROLES, *given.values()}
    if not named & {LEVERAGE, SPEEDUP}:
        raise InputError(
            f"--over: {law.NAME} has no use for it; expected it to be left out, or a law of {LEVERAGE} or {SPEEDUP}"
        )
    if "C" in law.ROLES and "C" not in given:
        raise InputError(
            f"--over: what a run has cost with its ancestors, or without, is C of {law.NAME} too; "
            "expected --columns=C=flops_lineage or another column"
        )


def with_leverage(grid: Grid, over: str, columns: str | None) -> Grid:
    """Return the grid with two columns more: how much the rows where `over` holds would pay for each row's loss.

    leverage: their cost over the row's own; speedup: that minus 1. Both are empty in the rows compared with, and where the
    loss lies outside of theirs. Raises InputError for a column that the grid has already, and where none can be told.
    """
    for name in (LEVERAGE, SPEEDUP):
        if name in grid:
            raise InputError(f"--over: {grid.path} has a column {name} already; expected it, or --over, and not both")
    given = parse_roles(columns)
    named = ",".join(f"{role}={source}" for role, source in given.items())
    asked = with_cost(grid, named or None)
    runs = select(grid, ROLES, columns=asked)
    others = select(grid, ROLES, columns=asked, where=over)
    is_own = ~np.isin(runs.row, others.row)
    if not is_own.any():
        raise InputError(f"--over={over}: it holds in all rows; expected rows to compare with them")
    own = runs.take(is_own)
    answer = ask(own, others)
    saved = np.full(len(grid), np.nan)
    saved[own.row] = answer.speedup
    frame = grid.frame.assign(**{SPEEDUP: saved, LEVERAGE: 1 + saved})
    return dataclasses.replace(grid, frame=frame)


def ask(
    of: Columns, over: Columns, level: float = 0.9, seed: int = 0, groups: tuple[np.ndarray, np.ndarray] | None = None
) -> Answer:
    """Return the speed-up of the rows of one set over those of another. Raises InputError where none can be told.

    groups: labels of both sets' rows, of which only equal ones are compared.
    """
    if len(over) < 2:
        raise InputError(f"--over: {len(over)} row; expected two or more, of several costs")
    mine, others = groups or (np.zeros(len(of)), np.zeros(len(over)))
    found = np.full(len(of), np.nan)
    intervals: list[Interval | None] = [None] * len(of)
    for label in dict.fromkeys(mine.tolist()):
        is_own = mine == label
        own = of.take(is_own)
        there = over.take(others == label)
        if len(there) < 2:
            continue
        found[is_own] = _speedups(own["C"], own["loss"], there["C"], there["loss"])
        places = np.flatnonzero(is_own)
        for place, interval in zip(places, _intervals(own, there, level, seed), strict=True):
            intervals[place] = interval
    if not np.isfinite(found).any():
        asked = _reach(of["loss"])
        there = _reach(over["loss"])
        raise InputError(f"loss: {asked} lies outside of those compared with, {there}; expected runs on both sides")
    return Answer(of.row, of["C"], of["loss"], found, tuple(intervals))


def _reach(loss: np.ndarray) -> str:
    """Return the ends of some losses, in words."""
    least = loss.min()
    most = loss.max()
    return f"{least:.4g} to {most:.4g}"


def _speedups(cost: np.ndarray, loss: np.ndarray, others_cost: np.ndarray, others_loss: np.ndarray) -> np.ndarray:
    found = []
    for own, end in zip(cost, loss, strict=True):
        saved = speedup(own, end, others_cost, others_loss)
        found.append(float(saved))
    return np.array(found)


def _intervals(of: Columns, over: Columns, level: float, seed: int) -> tuple[Interval | None, ...]:
    """Return the interval of each row from the errors of all losses, drawn as independent ones; None without errors."""
    if "loss_error" not in of or "loss_error" not in over:
        return (None,) * len(of)
    stream = np.random.default_rng(seed)
    cost = of["C"]
    others_cost = over["C"]
    draws = []
    for _ in range(DRAWS):
        loss = _drawn(of, stream)
        others_loss = _drawn(over, stream)
        drawn = _speedups(cost, loss, others_cost, others_loss)
        draws.append(drawn)
    by_row = np.array(draws).T
    intervals = []
    for values in by_row:
        is_known = np.isfinite(values)
        enough = is_known.mean() >= FEWEST_SHARE
        interval = Interval.of(values[is_known], level) if enough else None
        intervals.append(interval)
    return tuple(intervals)


def _drawn(rows: Columns, stream: np.random.Generator) -> np.ndarray:
    """Return the losses of some rows, each moved by an error of its own."""
    noise = stream.standard_normal(len(rows))
    return rows["loss"] + noise * rows["loss_error"]


def lines(answer: Answer) -> list[str]:
    """Return the answer for people."""
    is_known = np.isfinite(answer.speedup)
    middle = float(np.median(answer.speedup[is_known]))
    told = [f"speed-up at equal loss: {share(middle)} in the middle of {is_known.sum()} rows"]
    rows = zip(answer.row, answer.cost, answer.loss, answer.speedup, answer.intervals, strict=True)
    for row, cost, loss, value, interval in rows:
        said = "its loss is outside of those compared with"
        if np.isfinite(value):
            said = f"{share(value)} ({span(interval)})"
        told.append(f"row {row}: cost {number(cost)}, loss {number(loss)}: {said}")
    return told


def to_json(answer: Answer) -> dict[str, Any]:
    """Return the answer for JSON."""
    intervals = [None if one is None else dataclasses.asdict(one) for one in answer.intervals]
    return {
        "rows": answer.row.tolist(),
        "cost": answer.cost.tolist(),
        "loss": answer.loss.tolist(),
        "speedup": answer.speedup.tolist(),
        "intervals": intervals,
    }
