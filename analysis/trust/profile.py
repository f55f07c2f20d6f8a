"""Measure how much worse a law fits when one coefficient is held away from its estimate: profile likelihood.

Walk away from the estimate, refit at each step from the fits beside it (continuation), and find where the objective has
risen enough by a bracketed search, as MINUIT's MINOS does (James & Roos 1975). The objective is not a likelihood: a rise
of it is compared with what the scatter of the rows makes of it (Heritier & Ronchetti 1994). With least squares that is
the F test; with a robust loss and tails as heavy as Cauchy's such intervals hold the truth less often than they say.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np
from scipy.special import fdtri

from analysis.solve.objective import sided, slope
from analysis.solve.optimum import Optimum
from analysis.trust.held_fits import CLOSE, HeldFits
from analysis.trust.interval import Interval

FIRST_STEP = 0.4  # standard errors
WIDEN = 1.4  # by which each step is longer than the one before
SMALLEST_STEP = 1e-12
AT_ONCE = 4  # steps
MOST_ROUNDS = 25  # of so many steps
VANISHED_FROM = 0.003  # of the data's size: where the profile of a term that is zero begins
CLOSE_ENOUGH = 0.05  # of the threshold: how far the objective may rise over a bracket that is narrow
NARROWEST = 1e-6  # bracket of an end, of its distance from the estimate
DRAWN = 4  # points between the estimate and an end, at least
SAME_END = 0.02  # of the way to an end: how far it may move when all fits are tried again
MOST_REPAIRS = 5
EXACT = 1e-22  # of the weight: a threshold of rounding errors alone


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
    point = found.theta[None]
    delta = found.deltas[-1]
    residual = problem.residuals(point)[0]
    used = sided(found.weight, residual, problem.above)
    is_used = used > 0
    spare = max(np.count_nonzero(used) - problem.size, 1)
    squares = used**2 * slope(residual, delta) ** 2
    pull = float(squares.sum() / spare)
    curvature = _mean_curvature(residual[is_used], used[is_used], delta, problem.size)
    curvature = max(curvature, 1e-12)

    jacobian = problem.jacobian(point)[0]
    metric = (jacobian * used) @ jacobian.T * curvature
    variance = np.diag(_inverse(metric)) * pull
    errors = np.sqrt(np.maximum(variance, 0.0))
    return pull / curvature, errors


def _inverse(metric: np.ndarray) -> np.ndarray:
    """Invert a metric [p, p] in units of its own diagonal: parameters differ by many orders of magnitude."""
    diagonal = np.diag(metric)
    scale = np.sqrt(np.maximum(diagonal, 1e-300))
    scaled = metric / scale[:, None] / scale
    inverse = np.linalg.pinv(scaled, rcond=1e-12)
    return inverse / scale[:, None] / scale


def _mean_curvature(residual: np.ndarray, used: np.ndarray, delta: float, parameters: int) -> float:
    """Return the mean of psi' over rows that count `used`.

    A loss with a kink passes through about as many rows as there are parameters, whatever the noise: their residuals are
    no sign that rows are dense near the law, and that many are not counted.
    """
    mean = float(used.mean())
    if np.isinf(delta):
        return mean
    size = np.abs(residual)
    rows = len(size)
    enough = parameters + int(rows**0.8 / 2)
    enough = min(enough, rows - 1)
    reaches_enough = float(np.sort(size)[enough])
    window = max(delta, reaches_enough)
    is_near = size <= window
    near = float(used[is_near].sum())
    fitted_through = parameters * mean
    counted = max(near - fitted_through, mean)
    spare = max(rows - parameters, 1)
    return counted / spare * delta / window


def profiles(found: Optimum, level: float, by_run: Mapping[str, Interval | None] | None = None) -> dict[str, Profile]:
    """Profile every free coefficient around a fit, by its name.

    by_run: intervals of the coefficients from resampled runs, where runs have several rows. Rows of a run scatter
    together; a rise of the objective is then worth what makes an interval of the same width where it is quadratic.
    """
    worth, errors = spread(found)
    spare = max(len(found.weight) - found.problem.size, 1)
    of_independent_rows = float(fdtri(1, spare, level))
    intervals = by_run or {}
    profiled = {}
    for at, name in enumerate(found.problem.names):
        interval = intervals.get(name)
        squared_errors = of_independent_rows
        if interval is not None:
            squared_errors = _squared_reach(found, at, interval)
        threshold = 0.5 * worth * squared_errors
        fits = HeldFits(found, at, threshold)
        profiled[name] = profile(fits, errors[at], level)
    return profiled


def _squared_reach(found: Optimum, at: int, interval: Interval) -> float:
    """Return the square of half an interval's width, in standard errors that independent rows would make."""
    problem, theta = found.problem.in_units(found.theta, at)
    in_units = dataclasses.replace(found, problem=problem, theta=theta)
    _, errors = spread(in_units)
    error = max(errors[at], 1e-150)
    ends = np.array([interval.low, interval.high])
    if problem.logs[at]:
        positive = np.maximum(ends, 1e-300)
        ends = np.log(positive)
    low, high = ends
    half_width = (high - low) / 2
    return float(half_width / error) ** 2


def profile(fits: HeldFits, error: float, level: float) -> Profile:
    """Profile one parameter: find both ends, then draw through the points between; None is an end that is not there."""
    estimate = float(fits.minima[0, fits.at])
    low: float | None = estimate
    high: float | None = estimate
    weight = fits.found.weight.sum()
    exact = EXACT * weight * fits.problem.unit**2
    if fits.threshold > exact:  # rows that lie exactly on the law have no scatter to measure a rise by
        low, high = _settled_ends(fits, estimate, error)
    is_log = bool(fits.problem.logs[fits.at])
    return Profile(
        values=_in_units(fits.value, is_log),
        objective=fits.least + np.maximum(fits.rise, 0.0),
        threshold=fits.threshold,
        level=level,
        low=None if low is None else float(_in_units(low, is_log)),
        high=None if high is None else float(_in_units(high, is_log)),
    )


def _settled_ends(fits: HeldFits, estimate: float, error: float) -> tuple[float | None, float | None]:
    """Find both ends, and again with points drawn between them, until fits that start from these move no end."""
    low, high = _find_ends(fits, estimate, error)
    for _ in range(MOST_REPAIRS):
        more = _between(fits, estimate, low, high)
        if len(more):
            fits.add(more)
        fits.settle()
        before = (low, high)
        low, high = _find_ends(fits, estimate, error)
        if _are_same(before, (low, high), estimate):
            break
    fits.settle()
    return low, high


def _find_ends(fits: HeldFits, estimate: float, error: float) -> tuple[float | None, float | None]:
    """Find where the objective rises to the threshold on both sides; the searches take their steps together."""
    down = _Search(fits, estimate, -1, error)
    up = _Search(fits, estimate, 1, error)
    for _ in range(MOST_ROUNDS):
        new = np.unique(np.r_[down.next(), up.next()])
        if not len(new):
            break
        fits.add(new)
    return down.end(), up.end()


class _Search:
    """Look for the end on one side, -1 or 1, of the estimate: where the objective has risen to the threshold.

    Steps lead outwards until it has, then a bracket is narrowed. Of several such places the outermost one is the end: a
    second valley that fits as well belongs to the interval.
    """

    def __init__(self, fits: HeldFits, estimate: float, side: int, error: float):
        self.fits = fits
        self.estimate = estimate
        self.side = side
        first = FIRST_STEP * error if error > 0 else np.inf
        self.step = float(np.clip(first, SMALLEST_STEP, fits.problem.limit[fits.at]))

    def next(self) -> np.ndarray:
        """Return the values to refit at next; none where the end is found, or nothing is left to try."""
        fits = self.fits
        inner, outer = _bracket(fits, self.estimate, self.side)
        value = fits.value[inner]
        if outer is not None:
            if _is_narrow(fits, self.estimate, inner, outer):
                return np.empty(0)
            share = _share_of_bracket(fits, inner, outer)
            width = fits.value[outer] - value
            return value + _shares_to_try(share) * width
        longer = WIDEN ** np.arange(AT_ONCE)
        steps = self.step * longer
        self.step = WIDEN * steps[-1]
        outwards = self.side * np.cumsum(steps)
        new = np.clip(value + outwards, fits.low, fits.high)
        is_new = new != value
        return np.unique(new[is_new])

    def end(self) -> float | None:
        """Return the end, on the straight root of the rise over its bracket; None where it never comes to the threshold."""
        inner, outer = _bracket(self.fits, self.estimate, self.side)
        if outer is None:
            return None
        first, last = self.fits.value[[inner, outer]]
        share = _share_of_bracket(self.fits, inner, outer)
        return float(first + share * (last - first))


def _bracket(fits: HeldFits, estimate: float, side: int) -> tuple[int, int | None]:
    """Return the outermost known fit on one side that lies below the threshold, and the one beyond it, if there is one."""
    rounding = 4 * CLOSE * max(1.0, abs(estimate))
    on_side = np.flatnonzero(side * (fits.value - estimate) >= -rounding)
    outwards = on_side if side > 0 else on_side[::-1]
    is_below = fits.rise[outwards] <= fits.threshold
    last = int(np.flatnonzero(is_below)[-1])
    inner = int(outwards[last])
    beyond = outwards[last + 1 :]
    if not len(beyond):
        return inner, None
    return inner, int(beyond[0])


def _is_narrow(fits: HeldFits, estimate: float, inner: int, outer: int) -> bool:
    """Whether a bracket holds its end closely enough."""
    climb = fits.rise[outer] - fits.rise[inner]
    if climb <= CLOSE_ENOUGH * fits.threshold:
        return True
    reach = abs(fits.value[outer] - estimate)
    width = abs(fits.value[outer] - fits.value[inner])
    return bool(width <= NARROWEST * reach)


def _share_of_bracket(fits: HeldFits, inner: int, outer: int) -> float:
    """Return how far into a bracket its end is to be expected: the root of the rise is nearly straight."""
    root_inner = np.sqrt(max(fits.rise[inner], 0.0))
    root_outer = np.sqrt(fits.rise[outer])
    if not np.isfinite(root_outer):
        return 0.5
    wanted = np.sqrt(fits.threshold)
    return float((wanted - root_inner) / (root_outer - root_inner))


def _shares_to_try(share: float) -> np.ndarray:
    """Return how far into a bracket to refit: near where its end is expected, on both sides, and in the middle."""
    room = min(share, 1 - share)
    return np.array([share - 0.1 * room, share + 0.1 * room, 0.5])


def _are_same(
    ends: tuple[float | None, float | None], others: tuple[float | None, float | None], estimate: float
) -> bool:
    """Whether two pairs of ends are one."""
    for end, other in zip(ends, others, strict=True):
        if end is None or other is None:
            if end is not other:
                return False
        elif abs(end - other) > SAME_END * abs(other - estimate):
            return False
    return True


def _between(fits: HeldFits, estimate: float, low: float | None, high: float | None) -> np.ndarray:
    """Return values to draw a profile through: some on both sides of the estimate."""
    values = []
    for end, farthest in ((low, fits.value[0]), (high, fits.value[-1])):
        last = farthest if end is None else end
        first = estimate
        if _has_vanished(fits, estimate):  # in logarithms zero is far from everything
            first = max(estimate, last + np.log(VANISHED_FROM))
        left = min(first, last)
        right = max(first, last)
        is_between = (fits.value > left) & (fits.value < right)
        if np.count_nonzero(is_between) < DRAWN:
            shares = np.arange(1, DRAWN + 1) / (DRAWN + 1)
            values.append(first + shares * (last - first))
    if not values:
        return np.empty(0)
    within = np.clip(np.concatenate(values), fits.low, fits.high)
    return np.unique(within)


def _has_vanished(fits: HeldFits, estimate: float) -> bool:
    """Whether the estimate is a term that is zero."""
    return bool(fits.problem.logs[fits.at]) and estimate <= fits.low


def _in_units(values: np.ndarray | float, is_log: bool) -> np.ndarray:
    """Return parameters in the units of the coefficient."""
    with np.errstate(over="ignore"):
        return np.exp(values) if is_log else np.asarray(values)
