"""Choose the rows that a back-test holds out: the larger runs of a grid, budget by budget."""

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.procedures.budgets import cluster
from analysis.procedures.cost import training_flops
from experiments.cli import InputError

LARGEST_SHARE = 0.2  # of the rows, when the grid has no budgets
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8)  # of the rows that are fitted, when the grid has no budgets
MOST_SPLITS = 8
FEWEST_IN_BUDGET = 3  # rows of the fullest cluster; below, clusters of C are chance


def effort(columns: Columns) -> Array:
    """Return what grows along the grid [rows]: training FLOPs, or what stands for them.

    Raises InputError without such a role.
    """
    flops = training_flops(columns)
    if flops is not None:
        return flops
    for role in ("D", "N", "S", "X"):
        if role in columns:
            return columns[role]
    raise InputError("GRID: a back-test needs a column that says which runs are larger (C, N, D, S or X)")


def budgets(columns: Columns) -> Array | None:
    """Return the rank of each row's FLOP budget [rows], 0 for the smallest; None when the grid has no clear budgets."""
    log_size = np.log(effort(columns))
    if "group" in columns:
        _, label = np.unique(columns["group"].astype(str), return_inverse=True)
    else:
        label, is_near = cluster(log_size)
        if not is_near.all() or np.bincount(label).max() < FEWEST_IN_BUDGET:
            return None
    middle = np.array([log_size[label == one].mean() for one in range(label.max() + 1)])
    rank = np.argsort(np.argsort(middle))
    return rank[label]


def largest_budget(columns: Columns) -> tuple[Array, float]:
    """Return the rows [booleans] of the largest FLOP budget, and its FLOPs.

    When the grid has no clear budgets: the rows with the largest fifth of C, and the largest C.
    """
    rank = budgets(columns)
    size = effort(columns)
    if rank is None:
        return size >= np.quantile(size, 1 - LARGEST_SHARE), float(size.max())
    is_largest = rank == rank.max()
    return is_largest, float(np.exp(np.log(size[is_largest]).mean()))


def held_out(columns: Columns, fewest: int) -> list[Array]:
    """Return rows [booleans] to hold out, split by split, the last one the largest budget; `fewest` rows are left."""
    rank = budgets(columns)
    if rank is None:
        size = effort(columns)
        splits = [size >= np.quantile(size, share) for share in SHARES]
    else:
        first = min(2, rank.max())  # one budget tells no exponent
        splits = [rank >= budget for budget in range(first, rank.max() + 1)]
    usable = []
    for held in splits:
        left = (~held).sum()
        if held.any() and left >= fewest:
            usable.append(held)
    return usable[-MOST_SPLITS:]
