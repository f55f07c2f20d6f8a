"""Measure how much worse a law fits when one coefficient is held away from its estimate: profile likelihood.

The objective is not a likelihood: a rise of it is compared with what the scatter of the rows makes of it, so that the
intervals hold for robust losses too (Heritier & Ronchetti 1994; with least squares it is the F test).
"""

import dataclasses

import numpy as np

from analysis.solve import newton
from analysis.solve.objective import sided, slope
from analysis.solve.optimum import Optimum

POINTS = 6  # on either side of the estimate, in each round
ROUNDS = 3  # each reaches three times as far as the one before
WIDEN = 3.0
REACH = 2.5  # standard errors that the first round reaches
SMALLEST_STEP = 1e-9
VANISHED_FROM = 0.003  # of the data's size: where the profile of a term that is zero begins
MOST_STEPS = 60
TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Profile:
    """Hold values [k] of one coefficient, in its units and in order, and the least objective [k] with it held there.

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
    """Return what a rise of the objective by half a chi-square is worth, and standard errors of the parameters [p].

    Of an objective sum rho(r): mean psi^2 / mean psi', psi = rho', and the sandwich of both. Where rho has a kink the mean
    of psi' is the density of residuals there, taken over a window that holds enough rows.
    """
    problem = found.problem
    delta = found.deltas[-1]
    residual = problem.residuals(found.theta[None])[0]
    used = sided(found.weight, residual, problem.above)
    spare = max(np.count_nonzero(used) - problem.size, 1)
    pull = float((used**2 * slope(residual, delta) ** 2).sum() / spare)
    inside = max(_mean_curvature(residual[used > 0], used[used > 0], delta, problem.size), 1e-12)

    # The metric's own scale is taken out before it is inverted: parameters differ by many orders of magnitude.
    jacobian = problem.jacobian(found.theta[None])[0]
    metric = (jacobian * used) @ jacobian.T * inside
    scale = np.sqrt(np.maximum(np.diag(metric), 1e-300))
    scaled = metric / scale[:, None] / scale
    covariance = np.linalg.pinv(scaled, rcond=1e-12) / scale[:, None] / scale
    errors = np.sqrt(np.maximum(np.diag(covariance) * pull, 0.0))
    return pull / inside, errors


def _mean_curvature(residual: np.ndarray, used: np.ndarray, delta: float, parameters: int) -> float:
    """Return the mean of psi' over rows that count `used`.

    A loss with a kink passes through about as many rows as there are parameters, whatever the noise: their residuals are
    no sign that rows are dense near the law, and that many are not counted.
    """
    if np.isinf(delta):
        return float(used.mean())
    size = np.abs(residual)
    rows = len(size)
    enough = min(parameters + int(rows**0.8 / 2), rows - 1)
    window = max(delta, float(np.sort(size)[enough]))
    near = float(used[size <= window].sum())
    fitted_through = parameters * float(used.mean())
    spare = max(rows - parameters, 1)
    return max(near - fitted_through, float(used.mean())) / spare * delta / window


def profiles(found: Optimum, level: float) -> dict[str, Profile]:
    """Profile every free coefficient around a fit, by its name."""
    profiled = {}
    for at, name in enumerate(found.problem.names):
        problem, theta = found.problem.in_units(found.theta, at)
        in_units = dataclasses.replace(found, problem=problem, theta=theta)
        profiled[name] = _profile(in_units, at, level)
    return profiled


def _profile(found: Optimum, at: int, level: float) -> Profile:
    """Profile parameter `at`: walk away from the estimate on either side until the objective has risen enough."""
    from scipy.stats import f

    problem = found.problem
    worth, errors = spread(found)
    freedom = max(len(found.weight) - problem.size, 1)
    threshold = 0.5 * worth * float(f.ppf(level, 1, freedom))
    delta = found.deltas[-1]
    least = float(newton.values_at(problem, found.theta[None], found.weight, delta)[0])

    points = np.array([found.theta[at]])
    rises = np.array([0.0])
    for side in (-1.0, 1.0):
        walked, rising = _walk(found, at, side, errors[at], threshold, least)
        points = np.r_[points, walked]
        rises = np.r_[rises, rising]
    order = np.argsort(points, kind="stable")
    points = points[order]
    rises = rises[order]

    middle = int(np.searchsorted(points, found.theta[at]))
    down = slice(middle, None, -1)
    up = slice(middle, None)
    low = _crossing(points[down], rises[down], threshold)
    high = _crossing(points[up], rises[up], threshold)
    is_log = bool(problem.logs[at])
    return Profile(
        values=_in_units(points, is_log),
        objective=least + rises,
        threshold=threshold,
        level=level,
        low=None if low is None else float(_in_units(low, is_log)),
        high=None if high is None else float(_in_units(high, is_log)),
    )


def _walk(
    found: Optimum,
    at: int,
    side: float,
    error: float,
    threshold: float,
    least: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise with parameter `at` held at points on one side, -1 or 1: the points and the rises of the objective there.

    Each round starts from the end of the one before and reaches WIDEN times as far.
    """
    problem = found.problem
    theta = found.theta
    delta = found.deltas[-1]
    low, high = problem.bounds()
    bound = low[at] if side < 0 else high[at]
    held = np.arange(len(theta)) == at
    step = float(np.clip(error if error > 0 else np.inf, SMALLEST_STEP, problem.limit[at]))
    vanished = bool(problem.logs[at]) and theta[at] <= low[at]
    if vanished and side < 0:
        return np.empty(0), np.empty(0)

    points = []
    rises = []
    last = theta
    for turn in range(1 if vanished else ROUNDS):
        if vanished:  # there is no step in logarithms from zero; the term grows to the size of the data
            sizes = np.geomspace(VANISHED_FROM, 1.0, 2 * POINTS)
            new = float(np.median(problem.target)) + np.log(sizes)
        else:
            reach = WIDEN**turn * step * np.arange(1, POINTS + 1) * REACH / POINTS
            new = np.unique(np.clip(theta[at] + side * reach, low[at], high[at]))
        starts = np.repeat(last[None], len(new), axis=0)
        starts[:, at] = new
        ends = newton.minimise(
            problem, starts, found.weight, (delta,), tolerance=TOLERANCE, max_steps=MOST_STEPS, held=held
        )
        rise = np.maximum(newton.values_at(problem, ends, found.weight, delta) - least, 0.0)
        points.append(new)
        rises.append(rise)
        farthest = -1 if side > 0 else 0
        last = ends[farthest]
        if rise[farthest] > threshold or np.isin(bound, new):
            break
    return np.concatenate(points), np.concatenate(rises)


def _in_units(values: np.ndarray | float, is_log: bool) -> np.ndarray:
    """Return parameters in the units of the coefficient."""
    with np.errstate(over="ignore"):
        return np.exp(values) if is_log else np.asarray(values)


def _crossing(points: np.ndarray, rises: np.ndarray, threshold: float) -> float | None:
    """Return where the rise, going away from the estimate, first passes the threshold; its root is nearly straight."""
    over = np.flatnonzero(rises > threshold)
    if not len(over) or over[0] == 0:
        return None
    after = over[0]
    before = after - 1
    root_before = np.sqrt(rises[before])
    root_after = np.sqrt(rises[after])
    share = (np.sqrt(threshold) - root_before) / (root_after - root_before)
    return float(points[before] + share * (points[after] - points[before]))
