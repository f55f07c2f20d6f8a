"""Fit a straight line under any loss of residuals. Knows no law."""

import numpy as np

from analysis.fitting.result import FitError
from analysis.laws.base import Array
from analysis.solve.objective import Objective

STAGES = (1.0, 1e-1, 1e-2, 3e-3, 1e-3)  # Huber's delta on its way down
LAD_DELTA = 1e-9  # Huber's loss with this delta stands for |r|
TOLERANCE = 1e-15
MOST_EVALUATIONS = 5000


def line(x: Array, y: Array, objective: Objective, slope: float | None = None) -> tuple[float, float]:
    """Fit y on x, [points] each. Returns intercept and slope; a given slope is kept.

    Huber's loss is brought down to its delta in stages, each from the end of the one before. Raises FitError when scipy
    does not converge.
    """
    middle = x.mean()
    design = np.stack([np.ones_like(x), x - middle], axis=1)
    goal = y
    if slope is not None:
        design = design[:, :1]
        goal = y - slope * (x - middle)
    found, *_ = np.linalg.lstsq(design, goal, rcond=None)
    for delta in _stages(objective):
        found = _huber(design, goal, found, delta, objective.loss)
    tilt = float(found[1]) if slope is None else slope
    return float(found[0]) - tilt * middle, tilt


def _stages(objective: Objective) -> list[float]:
    """Return the deltas of Huber's loss to go through; none for least squares."""
    if objective.loss == "least_squares":
        return []
    last = LAD_DELTA if objective.loss == "lad" else objective.huber_delta
    return [*(stage for stage in STAGES if stage > last), last]


def _huber(design: Array, goal: Array, start: Array, delta: float, loss: str) -> Array:
    """Return the coefficients of least Huber loss, from a start; FitError where scipy does not get there."""
    from scipy.optimize import least_squares

    def residual(coefficients: Array) -> Array:
        return design @ coefficients - goal

    def jacobian(coefficients: Array) -> Array:
        del coefficients
        return design

    found = least_squares(
        residual,
        start,
        jacobian,  # pyright: ignore[reportArgumentType]  scipy's stubs know only the names of difference schemes
        loss="huber",
        f_scale=delta,
        xtol=TOLERANCE,
        ftol=TOLERANCE,
        gtol=TOLERANCE,
        max_nfev=MOST_EVALUATIONS,
    )
    if not found.success:
        raise FitError(f"a line under {loss} did not converge ({found.message})")
    return found.x
