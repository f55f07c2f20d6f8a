"""Choose the rows that a back-test holds out: the larger runs of a grid, budget by budget, and whole runs always."""

import numpy as np

from analysis.grid.cost import training_flops
from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.procedures.budgets import cluster
from analysis.trust.bootstrap import units
from experiments.cli import InputError

ROUNDING = 1e-9  # relative: twice as large is still twice
LARGEST_SHARE = 0.2  # of the runs, when the grid has no budgets
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8)  # of the runs that are fitted, when the grid has no budgets
MOST_SPLITS = 8
FEWEST_IN_BUDGET = 3  # runs of the fullest cluster; below, clusters of C are chance
FEWEST_RUNS = 4  # of several rows each, that are left to fit


def effort(columns: Columns) -> Array:
    """Return what grows along the grid [rows]: training FLOPs, or what stands for them.

    Raises InputError without such a role.
    """
    flops = training_flops(columns)
    if flops is not None:
        return flops
    for role in ("D", "N", "S", "S_min", "X"):
        if role in columns:
            return columns[role]
    raise InputError("GRID: a back-test needs a column that says which runs are larger (C, N, D, S, S_min or X)")


def run_of(columns: Columns) -> Array:
    """Return to which run each row belongs [rows], counted from 0; each row is one where no column names runs."""
    return units(len(columns), columns.values.get("run"))


def largest_of_runs(values: Array, run: Array) -> Array:
    """Return the largest value of each run [runs]."""
    largest = np.full(int(run.max()) + 1, -np.inf)
    np.maximum.at(largest, run, values)
    return largest


def budgets(columns: Columns) -> Array | None:
    """Return the rank of each run's FLOP budget [runs], 0 for the smallest; None when the grid has no clear budgets."""
    run = run_of(columns)
    log_size = np.log(largest_of_runs(effort(columns), run))
    if "group" in columns:
        _, of_row = np.unique(columns["group"].astype(str), return_inverse=True)
        label = largest_of_runs(of_row.astype(np.float64), run).astype(int)
        _, label = np.unique(label, return_inverse=True)
    else:
        label, is_near = cluster(log_size)
        if not is_near.all() or np.bincount(label).max() < FEWEST_IN_BUDGET:
            return None
    middle = np.array([log_size[label == one].mean() for one in range(label.max() + 1)])
    rank = np.argsort(np.argsort(middle))
    return rank[label]


def largest_budget(columns: Columns) -> tuple[Array, float]:
    """Return the rows [booleans] of the runs of the largest FLOP budget, and its FLOPs.

    When the grid has no clear budgets: the fifth of the runs with the largest C, and the largest C.
    """
    run = run_of(columns)
    rank = budgets(columns)
    size = largest_of_runs(effort(columns), run)
    if rank is None:
        is_large = size >= np.quantile(size, 1 - LARGEST_SHARE)
        return is_large[run], float(size.max())
    is_largest = rank == rank.max()
    return is_largest[run], float(np.exp(np.log(size[is_largest]).mean()))


def held_out(columns: Columns, fewest: int) -> list[Array]:
    """Return rows [booleans] to hold out, split by split, the last one the largest budget; `fewest` rows are left.

    A run is held out with all its rows, or not at all.
    """
    run = run_of(columns)
    rank = budgets(columns)
    if rank is None or rank.max() == 0:  # one budget, or one group: its larger runs are held out
        size = largest_of_runs(effort(columns), run)
        splits = [size >= np.quantile(size, share) for share in SHARES]
    else:
        first = min(2, rank.max())  # one budget tells no exponent
        splits = [rank >= budget for budget in range(first, rank.max() + 1)]
    usable = []
    for held_runs in splits:
        held = held_runs[run]
        rows_left = (~held).sum()
        runs_left = (~held_runs).sum()
        if held.any() and rows_left >= fewest and runs_left >= min(fewest, FEWEST_RUNS):
            usable.append(held)
    return usable[-MOST_SPLITS:]


def beyond(rows: Columns, fitted: Columns) -> Columns:
    """Leave out rows that lie below what was fitted, early ones of held-out runs or of a group: that is no reach.

    Raises InputError where none lies beyond.
    """
    largest = float(effort(fitted).max())
    is_beyond = effort(rows) > largest * (1 + ROUNDING)
    if not is_beyond.any():
        raise InputError(f"GRID: no row that is held out is larger than those that are fitted ({largest:.3g})")
    return rows if is_beyond.all() else rows.take(is_beyond)
