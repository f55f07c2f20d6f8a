"""Read which runs could be made and what each costs, and say what a grid's own rows leave open."""

from collections.abc import Sequence

import numpy as np

from analysis.grid.selection import select
from analysis.grid.table import Columns, Grid
from analysis.laws.base import Array, FormulaLaw

ONE_LINE = 0.3  # spread of ln D beside its line in ln N, below which the two cannot be told apart
SAME = 1e-6  # relative difference of inputs that are the same run


def line_of(columns: Columns) -> str:
    """Say that the rows lie along one line of N and D, so that they do not tell the two apart; empty where they do not."""
    if "N" not in columns or "D" not in columns:
        return ""
    N = columns["N"]
    D = columns["D"]
    log_N = np.log(N)
    log_D = np.log(D)
    if np.ptp(log_N) == 0 or np.ptp(log_D) == 0:
        return "N or D is the same in every row: runs that change it tell what it does"
    line = np.polyfit(log_N, log_D, 1)
    beside = float(np.std(log_D - np.polyval(line, log_N)))
    spread = float(log_N.std())
    if beside >= ONE_LINE * min(1.0, spread):
        return ""
    ratio = D / N
    least = ratio.min()
    most = ratio.max()
    return (
        f"the rows lie along one line of N and D (D/N {least:.3g} to {most:.3g}, D within "
        f"{np.expm1(beside):.1%} of the line): runs beside it tell the two apart"
    )


def read(grid: Grid, laws: Sequence[type[FormulaLaw]], text: str | None, columns: Columns) -> Columns:
    """Return the candidates of a table that are not rows of the grid already.

    A row of the grid takes away one candidate with its inputs, so that repeats of a run stay candidates until all are
    made. What a run costs is the role `cost`, by default C. Raises InputError where neither is there.
    """
    inputs: list[str] = []
    for law in laws:
        inputs += law.inputs()
    inputs = list(dict.fromkeys(inputs))
    found = select(grid, inputs, optional=("cost",), columns=text)
    if "cost" not in found:
        found = select(grid, (*inputs, "C"), columns=text)
    could_be = _as_rows(found, inputs)
    is_left = np.ones(len(found), bool)
    for made in _as_rows(columns, inputs):
        is_same = np.isclose(could_be, made, rtol=SAME, atol=0).all(axis=1)
        again = np.flatnonzero(is_left & is_same)
        is_left[again[:1]] = False
    return found.take(is_left)


def _as_rows(columns: Columns, roles: Sequence[str]) -> Array:
    """Return the values of several roles [rows, values]."""
    values = [columns[role] for role in roles]
    return np.column_stack(values)


def cost_of(candidates: Columns) -> Array:
    """Return what each candidate costs: its own price where it has one, else FLOPs."""
    return candidates["cost"] if "cost" in candidates else candidates["C"]
