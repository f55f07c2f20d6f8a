"""Measure how much single rows decide a fit."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw
from analysis.solve.objective import sided
from analysis.solve.optimum import Optimum
from analysis.trust import bootstrap
from analysis.trust.identification import RANK_TOLERANCE
from analysis.trust.interval import Interval

MOST_NAMED = 5  # influential rows in the certificate


def leverage(found: Optimum) -> np.ndarray:
    """Return how much of its own prediction each row decides [rows]: the diagonal of the hat matrix, 0 to 1."""
    problem = found.problem
    slopes = problem.jacobian(found.theta[None])[0]
    residual = problem.residuals(found.theta[None])[0]
    root = np.sqrt(sided(found.weight, residual, problem.above))
    design = (slopes * root).T
    size = np.linalg.norm(design, axis=0)
    scaled = design / np.where(size > 0, size, 1.0)
    basis, values, _ = np.linalg.svd(scaled, full_matrices=False)
    determined = values > RANK_TOLERANCE * values[0]
    return (basis[:, determined] ** 2).sum(axis=1)


def influential(
    law: FormulaLaw,
    columns: Columns,
    left_out: np.ndarray,
    intervals: Mapping[str, Interval],
    row_leverage: np.ndarray,
) -> tuple[dict[str, Any], ...]:
    """Return the rows (or runs) whose absence moves a coefficient most, in its standard errors.

    Needs the jackknife `left_out` [units, coefficients] that leaves one unit out at a time; empty otherwise.
    """
    member = bootstrap.units(len(columns), columns.values.get("run"))
    if not len(left_out) or len(left_out) != member.max() + 1:
        return ()
    names = law.names()
    moves = _standardised_moves(law, left_out, intervals)
    largest = np.abs(moves).max(axis=1)
    most = np.argsort(-largest, kind="stable")[:MOST_NAMED]
    found = []
    for unit in most.tolist():
        rows = np.flatnonzero(member == unit)
        at = int(np.argmax(np.abs(moves[unit])))
        found.append(
            {
                "rows": columns.row[rows].tolist(),
                "coefficient": names[at],
                "standard_errors": float(moves[unit, at]),
                "leverage": float(row_leverage[rows].sum()),
            }
        )
    return tuple(found)


def _standardised_moves(law: FormulaLaw, left_out: np.ndarray, intervals: Mapping[str, Interval]) -> np.ndarray:
    """Return how far each unit moves each coefficient, in its standard errors [units, coefficients]; 0 without one."""
    coefficients = law.coefficients()
    values = np.array([coefficients[name] for name in law.names()])
    errors = np.array([intervals[name].se if name in intervals else np.nan for name in law.names()])
    with np.errstate(divide="ignore", invalid="ignore"):
        has_error = errors > 1e-9 * np.abs(values)  # else it is rounding
        moves = (left_out - values) / np.where(has_error, errors, np.nan)
    return np.nan_to_num(moves)
