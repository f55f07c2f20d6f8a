"""How much worse a law fits when one coefficient is held away from its estimate: profile likelihood.

The objective is not a likelihood: a rise of it is compared with what the scatter of the rows makes of it, so that the
intervals hold for robust losses too (Heritier & Ronchetti 1994; with least squares it is the F test).
"""

import dataclasses
from typing import Any

import numpy as np

from analysis.solve import newton, sums
from analysis.solve.objective import sided, slope
from analysis.solve.optimum import Optimum

POINTS = 6  # on either side of the estimate, in each round
ROUNDS = 3  # each reaches three times as far as the one before
SMALL = 1e-9  # of the objective: a rise below it is rounding


@dataclasses.dataclass(frozen=True)
class Profile:
    """Values [k] of one coefficient, in its units and in order, and the least objective [k] with it held there.

    low, high: where the objective has risen to `threshold` above its least; None where it does not within the points:
    the rows do not bound the coefficient on that side.
    """

    values: np.ndarray
    objective: np.ndarray
    threshold: float
    level: float
    low: float | None
    high: float | None


def spread(found: Optimum) -> tuple[float, np.ndarray]:
    """What a rise of the objective by half a chi-square is worth, and standard errors of the parameters [p].

    Of an objective sum rho(r): mean psi^2 / mean psi', psi = rho', and the sandwich of both. Where rho has a kink the mean
    of psi' is the density of residuals there, taken over a window that holds enough rows.
    """
    problem, theta, weight, delta = found.problem, found.theta, found.weight, found.deltas[-1]
    r = problem.residuals(theta[None])[0]
    used = sided(weight, r, problem.above)
    count = max(len(weight) - problem.size, 1)
    pull = float((used**2 * slope(r, delta) ** 2).sum() / count)
    if np.isinf(delta):
        inside = float(used.mean())
    else:
        size = np.sort(np.abs(r))
        window = max(delta, float(size[min(problem.size + int(len(r) ** 0.8 / 2), len(r) - 1)]))
        inside = float((used * (np.abs(r) <= window)).mean()) * delta / window
    jacobian = problem.jacobian(theta[None])[0]
    metric = (jacobian * used) @ jacobian.T * max(inside, 1e-12)
    scale = np.sqrt(np.maximum(np.diag(metric), 1e-300))
    covariance = np.linalg.pinv(metric / scale[:, None] / scale, rcond=1e-12) / scale[:, None] / scale
    return pull / max(inside, 1e-12), np.sqrt(np.maximum(np.diag(covariance) * pull, 0.0))


def profiles(found: Optimum, names: tuple[str, ...], level: float) -> dict[str, Profile]:
    """The profile of every free coefficient around a fit; names as the problem's parameters."""
    return {name: _profile(_in_units(found, at), at, level) for at, name in enumerate(names)}


def _in_units(found: Optimum, at: int) -> Optimum:
    """The same fit with parameter `at` the logarithm of its coefficient, not of the term at the middle of the data."""
    problem, theta = found.problem, found.theta
    if not isinstance(problem, sums.Problem) or at >= problem.terms or theta[at] <= problem.bounds()[0][at]:
        return found
    centre = np.zeros_like(problem.centre)
    centre[at] = problem.centre[at]
    moved = theta.copy()
    moved[at] -= float(problem.centre[at] @ theta[problem.terms :])
    slopes = problem.slopes + centre[:, None]
    other = dataclasses.replace(problem, slopes=slopes, centre=problem.centre - centre)
    return dataclasses.replace(found, problem=other, theta=moved)


def _profile(found: Optimum, at: int, level: float) -> Profile:
    from scipy.stats import f

    problem, theta, weight, deltas = found.problem, found.theta, found.weight, found.deltas
    worth, errors = spread(found)
    threshold = 0.5 * worth * float(f.ppf(level, 1, max(len(weight) - problem.size, 1)))
    low, high = (np.broadcast_to(bound, theta.shape)[at] for bound in problem.bounds())
    held = np.arange(len(theta)) == at
    target = np.broadcast_to(problem.target, (1, len(weight)))
    least = float(newton.value(problem, theta[None], np.broadcast_to(weight, target.shape), target, deltas[-1])[0])
    points, rises = np.array([theta[at]]), np.array([0.0])
    step = float(np.clip(errors[at] if errors[at] > 0 else np.inf, 1e-9, problem.limit[at]))
    vanished = _is_log(problem, at) and theta[at] <= low
    for side, bound in ((-1.0, low), (1.0, high)):
        last = theta
        for turn in range(ROUNDS):
            if vanished:  # there is no step in logarithms from zero; the term grows to the size of the data
                new = float(np.median(problem.target)) + np.log(np.geomspace(0.003, 1.0, 2 * POINTS))
            else:
                reach = 3.0**turn * step * np.arange(1, POINTS + 1) * 2.5 / POINTS
                new = np.unique(np.clip(theta[at] + side * reach, low, high))
            if vanished and (side < 0 or turn):
                break
            starts = np.repeat(last[None], len(new), axis=0)
            starts[:, at] = new
            ends = newton.minimise(problem, starts, weight, deltas[-1:], tolerance=1e-6, max_steps=60, held=held)
            wide = (len(new), len(weight))
            value = newton.value(
                problem, ends, np.broadcast_to(weight, wide), np.broadcast_to(target, wide), deltas[-1]
            )
            points, rises = np.r_[points, new], np.r_[rises, np.maximum(value - least, 0.0)]
            last = ends[-1 if side > 0 else 0]
            if rises[-1 if side > 0 else -len(new)] > threshold or np.isin(bound, new):
                break
    order = np.argsort(points, kind="stable")
    points, rises = points[order], rises[order]
    middle = int(np.searchsorted(points, theta[at]))
    ends_of = [_crossing(points[part], rises[part], threshold)
               for part in (slice(middle, None, -1), slice(middle, None))]  # fmt: skip
    units = _exp if _is_log(problem, at) else np.asarray
    return Profile(
        values=units(points),
        objective=least + rises,
        threshold=threshold,
        level=level,
        low=None if ends_of[0] is None else float(units(ends_of[0])),
        high=None if ends_of[1] is None else float(units(ends_of[1])),
    )


def _is_log(problem: Any, at: int) -> bool:
    return at < problem.terms if isinstance(problem, sums.Problem) else bool(problem.logs[at])


def _exp(logs: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.exp(logs)


def _crossing(points: np.ndarray, rises: np.ndarray, threshold: float) -> float | None:
    """Where the rise, going away from the estimate, first passes the threshold; its root is nearly straight."""
    over = np.flatnonzero(rises > threshold)
    if not len(over) or over[0] == 0:
        return None
    roots, goal = np.sqrt(rises[[over[0] - 1, over[0]]]), np.sqrt(threshold)
    share = (goal - roots[0]) / (roots[1] - roots[0])
    return float(points[over[0] - 1] + share * (points[over[0]] - points[over[0] - 1]))
