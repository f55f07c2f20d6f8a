"""Check that a formula has the slopes that its jets carry (analysis/solve/jet.py), before anything is fitted with them.

A formula that takes the value of a jet (np.real) and goes on with it loses a slope without a sign of it.
"""

from typing import Any

import numpy as np

from experiments.cli import InputError

STEP = 1e-6  # of the differences, of a parameter's scale
CLOSE = 1e-3  # of the larger slope: how near the two have to be
ROUNDING = 1e-7  # of the values: differences are not more exact than that
FEW = 0.05  # of the rows may lie beside a kink, where a difference is wrong
EXPECTED = (
    "expected functions that carry slopes (exp, log, powers, np.where, np.minimum, np.maximum, abs; not np.real, float)"
)


def check_slopes(problem: Any, theta: np.ndarray) -> None:
    """Compare slopes of jets with differences at points [n, p] of a FormulaProblem.

    Raises InputError that names the law and the coefficient where they disagree at every point.
    """
    law = problem.law.NAME
    try:
        slopes = problem.jacobian(theta)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{law}: its formula has no slopes ({error}); {EXPECTED}") from error
    here = problem.predicted(theta)
    scale = problem.scale
    for at, name in enumerate(problem.names):
        step = STEP * scale[at]
        move = np.where(np.arange(problem.size) == at, step, 0.0)
        ahead = (problem.predicted(theta + move) - here) / step
        behind = (here - problem.predicted(theta - move)) / step
        if _disagree(slopes[:, at], ahead, behind, here, scale[at]):
            difference = (ahead + behind) / 2
            row = np.nanargmax(np.abs(slopes[0, at] - difference[0]))
            raise InputError(
                f"{law}: the slope of its formula over {name} is {slopes[0, at, row]:.3g} by its jet and "
                f"{difference[0, row]:.3g} by a difference; {EXPECTED}"
            )


def _disagree(slope: np.ndarray, ahead: np.ndarray, behind: np.ndarray, here: np.ndarray, scale: float) -> bool:
    """Whether slopes [n, r] are neither the differences on one side nor their mean, in more than few rows at every point."""
    size = np.maximum(np.abs(slope), np.maximum(np.abs(ahead), np.abs(behind)))
    largest = np.abs(here).max(axis=1, keepdims=True)
    allowed = CLOSE * size + ROUNDING * largest / scale
    wrong = np.ones(slope.shape, dtype=bool)
    with np.errstate(invalid="ignore"):
        for difference in (ahead, behind, (ahead + behind) / 2):
            agrees = np.abs(slope - difference) <= allowed
            wrong &= ~agrees & np.isfinite(difference)  # false where there is no value
    return bool((wrong.mean(axis=1) > FEW).all())
