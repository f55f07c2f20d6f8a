"""Put together the second-order expansion of a robust objective from what each row contributes.

Sums of monomials and other formulas differ in how they find slopes and bends; what a Huber loss makes of them is the same.
Axes: batch b, rows r, parameters p.
"""

import dataclasses

import numpy as np

from analysis.solve.objective import slope, smooth
from analysis.solve.problem import Local


@dataclasses.dataclass(frozen=True)
class RowTerms:
    """What every row adds to the objective and to its derivatives over what is predicted: [b, r] each.

    pull: slope of the loss; inside: its curvature, which is zero beyond Huber's delta; reweighted: the curvature that
    iteratively reweighted least squares takes, an upper bound, so that a step of length one never overshoots.
    """

    value: np.ndarray
    pull: np.ndarray
    inside: np.ndarray
    reweighted: np.ndarray


def row_terms(residual: np.ndarray, weight: np.ndarray, delta: float, scale: np.ndarray | float = 1.0) -> RowTerms:
    """Evaluate Huber's loss of residuals [b, r] with its derivatives; `scale` is d residual / d prediction."""
    size = np.abs(residual)
    shrink = np.minimum(1.0, delta / np.maximum(size, 1e-300))
    return RowTerms(
        value=weight * smooth(residual, delta),
        pull=weight * slope(residual, delta) * scale,
        inside=weight * (size <= delta) * scale**2,
        reweighted=weight * shrink * scale**2,
    )


def weighted_products(jacobian: np.ndarray, by_row: np.ndarray) -> np.ndarray:
    """Sum slopes times slopes over rows that count `by_row` [b, r]: [b, p, p] from a jacobian [b, p, r]."""
    return (jacobian * by_row[:, None]) @ jacobian.transpose(0, 2, 1)


def assemble(rows: RowTerms, jacobian: np.ndarray, curvature: np.ndarray) -> Local:
    """Sum the rows to an expansion; `curvature` [b, p, p] is the problem's own."""
    gradient = jacobian @ rows.pull[:, :, None]
    gradient_size = np.abs(jacobian) @ np.abs(rows.pull)[:, :, None]
    return Local(
        value=rows.value.sum(axis=1),
        gradient=gradient[:, :, 0],
        gradient_size=gradient_size[:, :, 0],
        curvature=curvature,
        metric=weighted_products(jacobian, rows.reweighted),
    )
