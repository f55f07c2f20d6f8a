"""Measure how much cheaper a grown run reached its loss than runs from scratch do, and which growth was best."""

from collections.abc import Sequence

from jaxtyping import Float
import numpy as np

from analysis.grid.table import Columns, Dropped
from analysis.laws.base import Array, Law
from analysis.procedures.parabola import vertex
from experiments.cli import InputError

SAME = 0.01  # of ln N and ln C: runs that differ in the growth alone


def speedup(
    flops_grown: float, loss_grown: float, flops_scratch: Sequence[float] | Array, loss_scratch: Sequence[float] | Array
) -> Float[np.ndarray, ""]:
    """Return FLOPs_scratch / FLOPs_grown - 1 at equal loss (Du et al. 2024, eq. 48): 0.546 is "54.6% faster".

    `flops_grown` counts all ancestors (the column flops_lineage). The FLOPs from scratch are interpolated between runs
    of several budgets, straight in log FLOPs over loss; a run that another one matches for less is no reference. nan where
    the loss lies outside of theirs: nothing is extrapolated.
    """
    cheapest = _frontier(flops_scratch, loss_scratch)
    loss = np.asarray(loss_scratch, float)[cheapest]
    flops = np.asarray(flops_scratch, float)[cheapest]
    log_flops = np.log(flops)
    # np.nan on both sides: a loss that no run from scratch has bracketed is not extrapolated.
    log_flops_needed = np.interp(loss_grown, loss, log_flops, left=np.nan, right=np.nan)
    flops_needed = np.exp(log_flops_needed)
    return np.asarray(flops_needed / flops_grown - 1)


def _frontier(flops: Sequence[float] | Array, loss: Sequence[float] | Array) -> Array:
    """Return the rows of runs that reach a loss which no run reaches for less, from the lowest loss to the highest."""
    dear_last = np.lexsort((np.asarray(loss, float), np.asarray(flops, float)))
    loss_by_cost = np.asarray(loss, float)[dear_last]
    best_so_far = np.minimum.accumulate(loss_by_cost)
    best_before = np.r_[np.inf, best_so_far[:-1]]
    is_best = loss_by_cost < best_before
    return dear_last[is_best][::-1]


def speedup_rows(
    flops_grown: Sequence[float],
    loss_grown: Sequence[float],
    flops_scratch: Sequence[float],
    loss_scratch: Sequence[float],
) -> Columns:
    """Return rows (C, speedup) for GrowthSpeedup: every grown run against the runs from scratch of equal loss.

    FLOPs include all ancestors (flops_lineage). Grown runs whose loss lies outside of those from scratch are dropped with
    that reason. Raises InputError when none is left.
    """
    flops = np.asarray(flops_grown, dtype=np.float64)
    loss = np.asarray(loss_grown, dtype=np.float64)
    found = []
    for cost, end in zip(flops, loss, strict=True):
        saved = speedup(cost, end, flops_scratch, loss_scratch)
        found.append(float(saved))
    speedups = np.array(found)
    is_known = np.isfinite(speedups)
    if not is_known.any():
        least = np.min(loss_scratch)
        most = np.max(loss_scratch)
        raise InputError(
            f"loss_grown: {loss.min():.4g} to {loss.max():.4g} lies outside of the losses from scratch, "
            f"{least:.4g} to {most:.4g}; expected runs from scratch on both sides"
        )
    values = {"C": flops, "speedup": speedups}
    sources = {role: role for role in values}
    rows = Columns(values, np.arange(len(flops)), sources, ())
    return rows.take(is_known, "its loss is outside of the losses from scratch")


def best_choices(columns: Columns, role: str) -> Columns:
    """Return rows (N, C, best value of `role`) for StackTiming or StackFactor, from runs that differ in that role alone.

    `columns` has roles N, C, loss and `role` (growth_tokens or growth_factor). Runs with N and C equal to 1% belong
    together; the best value is the vertex of the parabola in its logarithm through the lowest run and its neighbours.
    Where the lowest is on the edge there is no vertex, and the group is dropped with that reason. Raises InputError when
    no group has one.
    """
    found: dict[str, list[float]] = {"N": [], "C": [], role: []}
    first_rows: list[int] = []
    dropped = list(columns.dropped)
    for rows in _groups(columns):
        best = _best_value(columns[role][rows], columns["loss"][rows])
        if best is None:
            reason = f"the best {role} of its N and C is on the edge"
            for row in columns.row[rows]:
                dropped.append(Dropped(int(row), reason))
            continue
        for name in ("N", "C"):
            own = columns[name][rows]
            found[name].append(_geometric_mean(own))
        found[role].append(best)
        first_rows.append(int(columns.row[rows[0]]))
    if not first_rows:
        raise InputError(
            f"GRID: no N and C have runs on both sides of their best {role}; expected three or more values"
        )
    values = {name: np.array(column) for name, column in found.items()}
    sources = {name: name for name in values}
    return Columns(values, np.array(first_rows), sources, tuple(dropped))


def best_of_runs(columns: Columns, law: type[Law]) -> Columns:
    """Return the best choices of a sweep as rows for the law of them; a table of choices, one for an N and C, as it is."""
    if "loss" not in columns:
        return columns
    most_tried = max(len(rows) for rows in _groups(columns))
    if most_tried == 1:
        return columns
    return best_choices(columns, law.TARGET)


def _groups(columns: Columns) -> list[Array]:
    """Return the rows of runs with equal N and C, up to 1% from one to the next."""
    size = _level(columns["N"])
    cost = _level(columns["C"])
    pair = np.stack([size, cost], axis=1)
    _, member = np.unique(pair, axis=0, return_inverse=True)
    member = member.ravel()
    groups = int(member.max()) + 1
    return [np.flatnonzero(member == group) for group in range(groups)]


def _level(values: Array) -> Array:
    """Number the levels of a quantity: a new one begins where the next larger value is more than 1% away."""
    order = np.argsort(values)
    logs = np.log(values[order])
    begins = np.diff(logs, prepend=logs[0]) > SAME
    level = np.empty(len(values), dtype=int)
    level[order] = np.cumsum(begins)
    return level


def _best_value(values: Array, losses: Array) -> float | None:
    """Return where a parabola through the lowest run and its neighbours is lowest; None where that run is on the edge."""
    log_value, member = np.unique(np.log(values), return_inverse=True)
    total = np.bincount(member, weights=losses)
    repeats = np.bincount(member)
    loss = total / repeats
    lowest = int(np.argmin(loss))
    last = len(loss) - 1
    if not 0 < lowest < last:
        return None
    # Measured from the lowest run, the parabola's coefficients are of moderate size.
    middle = log_value[lowest]
    around = slice(lowest - 1, lowest + 2)
    from_middle = log_value[around] - middle
    bend, tilt, _ = np.polyfit(from_middle, loss[around], 2)
    log_best = middle + vertex(bend, tilt)
    return float(np.exp(log_best))


def _geometric_mean(values: Array) -> float:
    """Return the mean of positive numbers on a logarithmic scale."""
    log_mean = np.log(values).mean()
    return float(np.exp(log_mean))
