"""Check that a formula has the slopes that complex numbers give it, before anything is fitted with them.

abs(z), np.real or float() are no analytic functions: complex steps through them are wrong without a sign of it.
"""

from typing import Any
import warnings

import numpy as np

from experiments.cli import InputError

STEP = 1e-6  # of the differences, of a parameter's scale
CLOSE = 1e-3  # of the larger slope: how near the two have to be
ROUNDING = 1e-7  # of the values: differences are not more exact than that
FEW = 0.05  # of the rows may lie beside a kink, where a difference is wrong
EXPECTED = "expected analytic functions (exp, log, powers, np.where, np.minimum, np.maximum; not abs, np.real, float)"


def check_slopes(problem: Any, theta: np.ndarray) -> None:
    """Compare slopes by complex steps with differences at points [n, p] of a FormulaProblem.

    Raises InputError that names the law and the coefficient where they disagree at every point.
    """
    law = problem.law.NAME
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
            slopes = problem.jacobian(theta)
    except TypeError as error:
        raise InputError(f"{law}: its formula has no value at complex coefficients ({error}); {EXPECTED}") from error
    here = np.real(problem.predicted(theta))
    scale = problem.scale
    for at, name in enumerate(problem.names):
        step = STEP * scale[at]
        move = np.where(np.arange(problem.size) == at, step, 0.0)
        ahead = (np.real(problem.predicted(theta + move)) - here) / step
        behind = (here - np.real(problem.predicted(theta - move))) / step
        if _disagree(slopes[:, at], ahead, behind, here, scale[at]):
            difference = (ahead + behind) / 2
            row = np.nanargmax(np.abs(slopes[0, at] - difference[0]))
            raise InputError(
                f"{law}: the slope of its formula over {name} is {slopes[0, at, row]:.3g} by complex numbers and "
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
            wrong &= np.abs(slope - difference) > allowed  # false where there is no value
    return bool((wrong.mean(axis=1) > FEW).all())
