"""Split a sweep of learning rate and batch size into cells, and choose the optima of each.

A cell is the runs of one (N, D). Step Law (Li et al. 2025, arXiv 2503.04715) takes all rows within 0.25% of the cell's
least loss for optima.
"""

import dataclasses
import math

import numpy as np

from analysis.grid.cells import cells_by
from analysis.grid.cost import training_flops
from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.procedures.parabola import fit_paraboloid
from experiments.cli import InputError, nearest

NEAR_OPTIMUM = 0.0025  # relative excess of the loss over the cell's least one, in Step Law
CHOICES = ("near", "best", "vertex")
LEAST_SPREAD = 0.05  # of the logarithms of inputs over a replicate, in any direction
SAME = 1e-3  # of ln N and ln D: rows of one cell
CURVED_WITHIN = 0.01  # relative excess of the rows that a local parabola is put through
FEWEST_CURVED = 9  # of those rows


@dataclasses.dataclass(frozen=True)
class Optima:
    """Points that a law is regressed on: what it depends on, ln lr and ln batch, and the cell of each, [points]."""

    inputs: dict[str, Array]
    log_lr: Array
    log_batch: Array
    cell: Array

    def vary(self, count: Array) -> bool:
        """Say whether the points that count [points] vary in every input, apart from the others.

        A replicate of few cells may be all of one N.
        """
        counting = count > 0
        logs = []
        for values in self.inputs.values():
            log_value = np.log(values[counting])
            logs.append(log_value - log_value.mean())
        design = np.stack(logs, axis=1)
        return bool(np.linalg.matrix_rank(design, tol=LEAST_SPREAD) == len(logs))


def cells(columns: Columns) -> list[Array]:
    """Return the rows of each cell: of equal `group` where the grid names them, else of equal N and D (or C) up to 0.1%."""
    if "group" in columns:
        _, label = np.unique(columns["group"].astype(str), return_inverse=True)
    else:
        roles = [role for role in ("N", "D") if role in columns] or ["C"]
        label = cells_by([columns[role] for role in roles], len(columns), SAME)
    return [np.flatnonzero(label == one) for one in range(label.max() + 1)]


def excess_loss(columns: Columns, rows: Array) -> Array:
    """Return the relative excess of the loss over the least one of a cell [rows of the cell]."""
    loss = columns["loss"][rows]
    return loss / loss.min() - 1


def choice_of(text: str) -> tuple[str, float]:
    """Read --near_optimum: a number, `best` or `vertex`. Returns the way to choose and the relative excess.

    Raises InputError for anything else.
    """
    if text in ("best", "vertex"):
        return text, 0.0
    try:
        excess = float(text)
    except ValueError:
        excess = math.nan
    if not 0 < excess < math.inf:
        raise InputError(f"--near_optimum: {text!r} is not a positive number (a relative excess loss), best or vertex")
    return "near", excess


def optima(columns: Columns, roles: tuple[str, ...], choice: str = "near", excess: float = NEAR_OPTIMUM) -> Optima:
    """Choose the points to regress on.

    near: all rows of relative excess loss below `excess`; best: the best row of each cell; vertex: the minimum of a
    parabola in (ln lr, ln batch) through the cell's best rows, where it has one inside. Raises InputError when no cell
    has an optimum.
    """
    if choice not in CHOICES:
        raise InputError(f"choice: {choice!r} is not a way to choose optima; {nearest(choice, CHOICES, 'choice')}")
    log_lr = np.log(columns["lr"])
    log_batch = np.log(columns["batch"])
    of_row: list[int] = []  # a row whose inputs are those of the point
    of_cell: list[int] = []
    points: list[tuple[float, float]] = []  # ln lr, ln batch
    for cell, rows in enumerate(cells(columns)):
        over = excess_loss(columns, rows)
        if choice == "vertex":
            lowest = vertex_of_cell(log_lr[rows], log_batch[rows], over)
            chosen = rows[:1] if lowest else rows[:0]
            points += [lowest] if lowest else []
        else:
            chosen = rows[over < excess] if choice == "near" else rows[[np.argmin(over)]]
            points += zip(log_lr[chosen], log_batch[chosen], strict=True)
        of_row += chosen.tolist()
        of_cell += [cell] * len(chosen)
    if not points:
        raise InputError(f"GRID: no cell of {len(columns)} rows has a minimum inside its learning rates and batches")
    lr, batch = np.array(points, dtype=np.float64).T.copy()
    inputs = {role: value_of(columns, role)[of_row] for role in roles}
    return Optima(inputs, lr, batch, np.array(of_cell))


def value_of(columns: Columns, role: str) -> Array:
    """Return a role [rows]; C is 6 N D where no column gives it. Raises InputError for one that is not there."""
    value = training_flops(columns) if role == "C" else columns.values.get(role)
    if value is None:
        raise InputError(
            f"--columns: no column for {role}, which the law depends on; name it with --columns={role}=COLUMN"
        )
    return value


def vertex_of_cell(log_lr: Array, log_batch: Array, over: Array) -> tuple[float, float] | None:
    """Find the lowest point (ln lr, ln batch) of a parabola through the best rows of a cell.

    Returns None where there is none inside the sweep.
    """
    near = curved(over)
    surface = fit_paraboloid(log_lr[near], log_batch[near], over[near])
    lowest = surface.lowest_point() if surface else None
    if lowest is None:
        return None
    lr, batch = lowest
    is_inside = _within(lr, log_lr) and _within(batch, log_batch)
    return (float(lr), float(batch)) if is_inside else None


def _within(value: float, swept: Array) -> bool:
    """Say whether a value lies between the ends of what was swept."""
    return bool(swept.min() <= value <= swept.max())


def curved(over: Array) -> Array:
    """Choose the rows [booleans] that a local parabola is put through: within 1% of the best, and the nine best at least."""
    ninth = np.sort(over)[:FEWEST_CURVED][-1]
    return over <= max(CURVED_WITHIN, ninth)
