"""Regress by ordinary least squares, with coefficients that may be held, and with bootstrap refits."""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import numpy as np

from analysis.laws.base import Array
from experiments.cli import InputError


@dataclasses.dataclass(frozen=True)
class Regression:
    """Coefficients (the constant first) with standard errors, R^2, residuals [points] and refits."""

    coefficients: Array
    errors: Array
    r_squared: float
    residual: Array
    draws: Array  # [replicates, coefficients]


def regress(
    goal: Array,
    inputs: Sequence[Array],
    names: Sequence[str],
    fixed: Mapping[str, float],
    counts: Array,
    cell: Array,
) -> Regression:
    """Fit `goal` [points] as a constant plus a multiple of each input [points]; coefficients in `fixed` keep their value.

    names: of the coefficients, the constant's first. counts [replicates, points] are bootstrap weights. cell
    [points]: points of one cell are not independent, and standard errors are those of clusters (Liang & Zeger 1986).
    Raises InputError where the points do not determine the coefficients that are free.
    """
    problem = _centred_problem(goal, inputs, names, fixed)
    if np.linalg.matrix_rank(problem.basis) < problem.basis.shape[1]:
        lost = ", ".join(name for name in names if name not in fixed)
        raise InputError(f"GRID: {len(goal)} near-optimal points do not determine {lost}; hold some with --fix")
    found = problem.solve(np.ones(len(goal)))
    residual = problem.design @ found - goal
    squares = float(residual @ residual)
    spread = float(np.sum((goal - goal.mean()) ** 2))
    draws = [problem.solve(count) for count in counts]
    return Regression(
        coefficients=found,
        errors=np.sqrt(np.diag(problem.covariance(residual, cell))),
        r_squared=1 - squares / spread if spread > 0 else math.nan,
        residual=residual,
        draws=np.array(draws).reshape(len(counts), len(names)),
    )


@dataclasses.dataclass(frozen=True)
class _CentredProblem:
    """A regression in inputs measured from their means.

    design [points, coefficients] is the uncentred one, held [coefficients] the coefficients that are not free (0 for
    the others), basis [points, free] the centred design, rest [points] what the free ones have to explain, and
    to_coefficients [coefficients, free] the way back to uncentred coefficients.
    """

    design: Array
    held: Array
    basis: Array
    rest: Array
    to_coefficients: Array

    def solve(self, weight: Array) -> Array:
        """Return the coefficients under weights [points]."""
        weighted = self.basis * weight[:, None]
        free, *_ = np.linalg.lstsq(weighted.T @ self.basis, weighted.T @ self.rest, rcond=None)
        return self.held + self.to_coefficients @ free

    def covariance(self, residual: Array, cell: Array) -> Array:
        """Return the covariance of the coefficients for residuals [points] that scatter from cell to cell.

        Where every point is a cell of its own, all are taken to scatter alike; NaN where none is left over.
        """
        _, label = np.unique(cell, return_inverse=True)
        cells = int(label.max()) + 1
        points, free = self.basis.shape
        spare = cells - free
        if spare <= 0:
            none = np.full(len(self.held), math.nan)
            return np.diag(none)
        squares = self.basis.T @ self.basis
        inverse = np.linalg.inv(squares)
        if cells == points:
            inner = inverse * (residual @ residual)
        else:
            pulls = np.zeros((cells, free))
            np.add.at(pulls, label, self.basis * residual[:, None])
            inner = inverse @ pulls.T @ pulls @ inverse * cells
        way = self.to_coefficients
        return way @ inner @ way.T / spare


def _centred_problem(
    goal: Array, inputs: Sequence[Array], names: Sequence[str], fixed: Mapping[str, float]
) -> _CentredProblem:
    """Set up the regression.

    ln N and ln D are large numbers that vary little, so they are centred, where the constant is free and can take up
    what that changes.
    """
    held = np.array([fixed.get(name, 0.0) for name in names])
    is_free = np.array([name not in fixed for name in names])
    middles = np.zeros(len(names))
    if is_free[0]:
        middles[1:] = [values.mean() for values in inputs]
    centred = np.stack([np.ones_like(goal), *inputs], axis=1) - middles
    design = centred + middles
    to_coefficients = np.eye(len(names))
    to_coefficients[0] -= middles
    return _CentredProblem(
        design=design,
        held=held,
        basis=centred[:, is_free],
        rest=goal - design @ held,
        to_coefficients=to_coefficients[:, is_free],
    )
