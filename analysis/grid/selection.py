"""Choose the rows of a grid that a law can use, and say of every other one why it is left out."""

from collections.abc import Callable, Collection, Sequence
import re

import numpy as np

from analysis.grid import cells, condition, expression, hints, run_cost
from analysis.grid.resolve import FORMULAS, RoleFinder, parse_roles
from analysis.grid.roles import ROLES, usual_names
from analysis.grid.table import Columns, Dropped, Grid
from experiments.cli import InputError

SHARES_OFF = 0.05  # shares that add up to 1 within this are rounded ones
EXACT_SHARES = 1e-6
STATUSES = {"complete", "diverged", "failed", "running", "waiting", "lost"}
COLUMNS_NAMED = 40  # in the message about a missing one


class LeftOut:
    """Keep, for every row of a grid, the first reason that was found to leave it out."""

    def __init__(self, rows: int):
        self.reasons: list[str | None] = [None] * rows

    def mark(self, rows: np.ndarray, reason: str) -> None:
        """Leave out the rows where `rows` holds, all for one reason."""
        self.mark_each(rows, lambda _: reason)

    def mark_each(self, rows: np.ndarray, reason_of: Callable[[int], str]) -> None:
        """Leave out the rows where `rows` holds, for a reason that depends on the row's position."""
        for row in np.flatnonzero(rows).tolist():
            if self.reasons[row] is None:
                self.reasons[row] = reason_of(row)

    @property
    def kept(self) -> np.ndarray:
        """The rows that nothing speaks against (booleans)."""
        return np.array([reason is None for reason in self.reasons])

    @property
    def most_common(self) -> str | None:
        """The reason that most rows have."""
        return max(set(self.reasons), key=self.reasons.count)

    def dropped(self) -> tuple[Dropped, ...]:
        """Return the rows that are left out, in order."""
        found = []
        for row, reason in enumerate(self.reasons):
            if reason is not None:
                found.append(Dropped(row, reason))
        return tuple(found)


def select(
    grid: Grid,
    needed: Sequence[str],
    *,
    optional: Sequence[str] = (),
    columns: str | None = None,
    where: str | None = None,
    signed: Sequence[str] = (),
    gaps: Sequence[str] = (),
) -> Columns:
    """Return the usable rows of a grid as columns for a law.

    `needed` roles must be found, `optional` ones may be. `columns` and `where` are the command line's texts. Rows are
    dropped, with a reason, when the record is not complete, when they belong to another group than the IsoFLOP runs of
    our own grids, when `where` does not hold, and when a value is not finite and positive (`signed` roles: finite; of `gaps` any may be missing).
    Raises InputError when a column is missing or nothing is left.
    """
    finder = RoleFinder(grid, parse_roles(columns))
    values, notes = _find_roles(finder, needed, optional)
    notes += run_cost.find_cost(finder, values)
    left = LeftOut(len(grid))
    named_in_where = expression.names(condition.parse(where)) if where else set()
    if "status" not in named_in_where:
        _leave_out_unfinished(grid, left)
    if "group" not in named_in_where:
        notes += _leave_out_other_groups(grid, left)
    if "censored" not in values:
        _leave_out_censored(grid, left)
    absent = _leave_out_by_condition(grid, where, values, left) if where else []
    for role in values:
        if role in gaps:
            continue
        _leave_out_unusable(grid, finder.sources[role], role, values[role], left, role in signed)
        if ROLES[role].shares:
            values[role], note = _scale_shares(finder.sources[role], role, values[role], left)
            notes += note

    if grid.best_of:
        notes += _leave_out_worse(finder, values, left)
    keep = left.kept
    tuned = cells.find_tuned(finder, values, keep)
    notes += hints.look(finder, values, keep, tuned)
    if not keep.any():
        reasons = [f"most often: {left.most_common}", *absent]
        why = "; ".join(reasons)
        raise InputError(f"GRID: none of the {len(keep)} rows of {grid.path} can be used ({why})")
    used = {}
    for role, value in values.items():
        used[role] = value[keep]
    return Columns(
        values=used,
        row=np.flatnonzero(keep),
        sources=dict(finder.sources),
        dropped=left.dropped(),
        notes=(*grid.notes, *notes, *absent),
        parts=dict(finder.part_names),
        tuned=tuple(tuned.values) if tuned else (),
    )


def unused(grid: Grid, columns: str | None, where: str | None, used: Collection[str]) -> list[str]:
    """Return the roles that the user named and nothing uses.

    Neither is a role among `used`, nor does the formula of a role that is, nor `where` nor --best_of, name it.
    """
    given = parse_roles(columns)
    named = {*used, *grid.best_of}
    if where:
        named |= expression.names(condition.parse(where))
    under_way = [role for role in given if role in named]
    while under_way:
        role = under_way.pop()
        source = given[role]
        if source in grid or ROLES[role].many:  # a pattern names no roles
            continue
        for name in expression.names(expression.parse(source, "--columns")):
            if name in given and name not in named:
                named.add(name)
                under_way.append(name)
    return [role for role in given if role not in named]


def _find_roles(
    finder: RoleFinder, needed: Sequence[str], optional: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the values of all roles that are needed, optional or named, and notes on those that were derived."""
    values: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for role in dict.fromkeys([*needed, *optional, *finder.given]):
        found = finder.find(role)
        if found is None and role in needed and role in FORMULAS:
            found = finder.derive(role)
            if found is not None:
                notes.append(f"{role} = {FORMULAS[role]}: no column gives it")
        if found is not None:
            values[role] = found
        elif role in needed:
            usual = ", ".join(usual_names(role))
            there = ", ".join(finder.grid.names[:COLUMNS_NAMED])
            likely = _likely_column(finder.grid.names, role)
            raise InputError(
                f"--columns: no column for {role} ({ROLES[role].meaning}); looked for {usual} among {there}; "
                f"name it with --columns={role}={likely}"
            )
    return values, notes


def _likely_column(names: Sequence[str], role: str) -> str:
    """Return the one column whose name ends as a usual one does (train/params); COLUMN where there is none or several."""
    found = []
    for name in names:
        last = re.split("[/.]", name)[-1]
        if last in usual_names(role):
            found.append(name)
    return found[0] if len(found) == 1 else "COLUMN"


def _leave_out_unfinished(grid: Grid, left: LeftOut) -> None:
    """Leave out what our own records mark: runs that are not complete."""
    if "status" not in grid:
        return
    status = grid.words("status")
    if not set(status) <= STATUSES:  # the word means something else in this table
        return
    why = [""] * len(status)
    if "reason" in grid:
        told_reasons = grid.column("reason", "reason").fillna("")
        why = told_reasons.astype(str).tolist()

    def reason_of(row: int) -> str:
        told = f" ({why[row]})" if why[row] else ""
        return f"status is {status[row]}{told}"

    left.mark_each(status != "complete", reason_of)


def _leave_out_other_groups(grid: Grid, left: LeftOut) -> list[str]:
    """Leave out brackets of the learning rate where our own grids hold them beside IsoFLOP runs; notes."""
    if "group" not in grid:
        return []
    group = grid.words("group")
    is_other = group != "isoflop"
    if is_other.all() or not is_other.any():
        return []
    left.mark_each(is_other, lambda row: f"group is {group[row]}, not isoflop")
    return ["rows with group == 'isoflop' are fitted; name `group` in --where to choose others"]


def _leave_out_censored(grid: Grid, left: LeftOut) -> None:
    """Leave out runs that were stopped early, for a law that does not take the role `censored`."""
    if "censored" not in grid:
        return
    stopped = grid.numbers("censored", "censored") > 0
    left.mark(stopped, "the run was stopped early (censored), and this law has no use for a bound")


def _leave_out_worse(finder: RoleFinder, values: dict[str, np.ndarray], left: LeftOut) -> list[str]:
    """Leave out the rows that are not the best of their cell of a sweep; notes."""
    if not left.kept.any():
        return []
    found = cells.best_of_cells(finder, values, left.kept, finder.grid.best_of)
    own = np.arange(len(finder.grid))
    best = own.copy()
    best[found.rows] = found.best
    is_worse = best != own
    left.mark_each(is_worse, lambda row: f"row {best[row]} is the best of its cell (--best_of)")
    return found.notes


def _leave_out_by_condition(grid: Grid, where: str, values: dict[str, np.ndarray], left: LeftOut) -> list[str]:
    """Leave out the rows for which `--where` does not hold. It may name columns, and roles that are no columns.

    Returns notes on texts in it that no row has.
    """

    def look_up(name: str) -> np.ndarray:
        """Return a column by its name, or a role where no column has the name."""
        if name not in grid.names and name in values and values[name].ndim == 1:
            return values[name]
        column = grid.column(name, "--where")
        is_number = column.dtype.kind in "biuf"
        return column.to_numpy() if is_number else column.to_numpy(object)

    absent: list[str] = []
    found = condition.rows_where(where, look_up, grid.decimal, absent)
    holds = np.broadcast_to(found, len(grid))
    left.mark(~holds, f"--where {where} does not hold")
    return absent


def _leave_out_unusable(grid: Grid, source: str, role: str, value: np.ndarray, left: LeftOut, is_signed: bool) -> None:
    """Leave out rows whose value of a role is missing, not finite, or not positive where it has to be."""
    import pandas as pd

    label = role if role == source else f"{role} ({source})"
    if ROLES[role].label:
        left.mark(np.asarray(pd.isna(value)), f"{label} is empty")
        return
    is_finite = np.isfinite(value)
    if ROLES[role].many:
        left.mark(~np.asarray(is_finite.all(axis=1)), f"{label} has a part that is not a finite number")
        return
    as_written = grid.column(source, role).to_numpy() if source in grid else value
    left.mark_each(~is_finite, lambda row: f"{label} is not a finite number ({as_written[row]})")
    if ROLES[role].positive and not is_signed:
        with np.errstate(invalid="ignore"):
            is_low = value <= 0
        left.mark_each(is_low, lambda row: f"{label} is not positive ({value[row]:g})")


def _scale_shares(source: str, role: str, value: np.ndarray, left: LeftOut) -> tuple[np.ndarray, list[str]]:
    """Scale shares [rows, parts] to add up to 1, with a note where that changes them; rows that are far off are left out."""
    is_negative = np.asarray((value < 0).any(axis=1))
    left.mark(is_negative, f"{role} ({source}) has a negative part")
    total = value.sum(axis=1)
    with np.errstate(invalid="ignore"):
        is_near = np.abs(total - 1) <= SHARES_OFF
    left.mark_each(~is_near, lambda row: f"{role} ({source}) adds up to {total[row]:.4g}, not 1")
    used = total[left.kept]
    if not len(used):
        return value, []
    farthest = np.abs(used - 1).max()
    if farthest <= EXACT_SHARES:
        return value, []
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = value / total[:, None]
    reach = f"{used.min():.4g} .. {used.max():.4g}"
    return scaled, [f"{role} ({source}) adds up to {reach}; scaled to 1 in each row"]
