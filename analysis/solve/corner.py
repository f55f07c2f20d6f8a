"""Settle a fit at a corner of its formula: min, max and abs have no slope where their parts cross.

An optimum may lie at such a corner. Newton's steps come close to it and stop, and the gradient does not vanish there; what
can be shown is that no point around it is lower.
"""

from collections.abc import Callable

import numpy as np

from analysis.solve.objective import Objective
from analysis.solve.optimum import total
from analysis.solve.problem import Problem

ROUNDS = 4  # of the simplex search (Nelder & Mead 1965), each from the end of the one before
EVALUATIONS = 4000  # of one round
TOLERANCE = 1e-11  # of parameters, over their longest step, and of the objective
DIRECTIONS = 200  # in which no point may be lower
DISTANCES = (1e-3, 1e-5)  # of these points, over the longest step
LOWER = 1e-9  # relative: by less a point is as high


def settle(problem: Problem, theta: np.ndarray, weight: np.ndarray, objective: Objective) -> tuple[np.ndarray, bool]:
    """Return the lowest point [p] that a simplex search finds from `theta`, and whether no point around it is lower."""
    from scipy.optimize import minimize

    low, high = problem.bounds()
    limit = problem.limit

    def value_at(place: np.ndarray) -> float:
        point = np.clip(place * limit, low, high)
        with np.errstate(all="ignore"):
            value = float(total(problem, point[None], weight, objective)[0])
        return value if np.isfinite(value) else np.inf

    best = theta / limit
    value = value_at(best)
    options = {"maxfev": EVALUATIONS, "xatol": TOLERANCE, "fatol": TOLERANCE * value, "adaptive": True}
    for _ in range(ROUNDS):
        found = minimize(value_at, best, method="Nelder-Mead", options=options)
        gain = value - found.fun
        if gain > 0:
            best = found.x
            value = float(found.fun)
        if gain <= TOLERANCE * value:
            break
    return np.clip(best * limit, low, high), _is_least(value_at, best, value)


def _is_least(value_at: Callable[[np.ndarray], float], best: np.ndarray, value: float) -> bool:
    """Say whether no point around the best one is lower, along the axes and in other directions."""
    size = len(best)
    draw = np.random.default_rng(0)
    others = draw.standard_normal((DIRECTIONS, size))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    axes = np.eye(size)
    least = value * (1 - LOWER)
    for direction in (*axes, *-axes, *others):
        for distance in DISTANCES:
            if value_at(best + distance * direction) < least:
                return False
    return True
