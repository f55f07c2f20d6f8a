"""Judge whether the end of a search is an optimum, which a fit must be to have numbers."""

import dataclasses

from analysis.fitting.result import FitError
from analysis.laws.base import FormulaLaw
from analysis.solve import corner, optimum
from analysis.solve.objective import Objective
from analysis.solve.optimum import Optimum

AT_CORNER = (
    "the optimum lies at a corner of min, max or abs, where the gradient does not vanish; no point near is lower"
)
IN_VALLEY = "the objective is flat along coefficients that stand for each other, and the search stopped on the way"


def stationary(found: Optimum, law: type[FormulaLaw], objective: Objective) -> tuple[Optimum, tuple[str, ...]]:
    """Return the optimum, and a warning where it lies at a corner of the formula, or on the floor of a valley.

    On such a floor the rows leave coefficients open together, as they do in a formula with too many of them: the search
    goes on along it, and where it stops all that the rows tell is told. Raises FitError where there is no optimum.
    """
    if found.gradient <= optimum.STATIONARY:
        return found, ()
    valley = optimum.in_valley(found)
    if valley:
        return dataclasses.replace(found, valley=valley), (f"{IN_VALLEY}: {', '.join(valley)}",)
    if not law.HAS_CORNERS:
        starts = len(found.starts)
        raise FitError(
            f"{law.NAME}: the best of {starts} starts is not at a stationary point (scaled gradient "
            f"{found.gradient:.1e}); no coefficients are reported"
        )
    theta, is_least = corner.settle(found.problem, found.theta, found.weight, objective)
    if not is_least:
        raise FitError(f"{law.NAME}: no optimum is found where its min, max or abs turn; no coefficients are reported")
    value = optimum.total(found.problem, theta[None], found.weight, objective)
    settled = dataclasses.replace(found, theta=theta, value=float(value[0]))
    return settled, (AT_CORNER,)
