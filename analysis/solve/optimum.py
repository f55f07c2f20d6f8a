"""Go from starts to the one optimum of a fit, and measure that it is one. Knows no law and no bootstrap."""

import dataclasses

import numpy as np

from analysis.solve import newton
from analysis.solve.objective import Objective, sided
from analysis.solve.problem import Problem
from analysis.solve.starting import best_and_spread

STATIONARY = 2e-5  # largest scaled gradient of a fit that is reported
AGREE = 1e-6  # relative excess of the objective
ZERO_RESIDUAL = 1e-6
FINALISTS = 8
RACE = 256  # of more than twice as many starts, so many are chosen after a few steps
RACE_STEPS = 2
HASTY_STEPS = 4  # first steps of a quicker way, if the problem knows one
HASTY_ROWS = 64  # that they look at
SCATTER_OF = 128  # starts, at most
APPROACHES = (3, 6, 14)  # steps of it on all rows, after which starts are compared
FIRST_STEPS = 8
TOGETHER = 1e-3  # distance of log terms and exponents below which two searches go on as one
ROUGH_TOLERANCE = 1e-7
OF_MEAN = 2  # starts from which the mean is minimised
DIFFERENT = 1e-2  # of log terms and exponents: two minima and not one
FLAT = 1e-5  # share of the objective; what lies lower by less cannot be told from it by any rows
NARROW = 1e-3  # size of what the rows say along a direction, over what they say along the clearest
PART_OF_FLOOR = 0.05  # share of such a direction that makes a coefficient a part of it
PATIENCE = 3000  # steps of a finalist; each may cross a single kink of the objective


@dataclasses.dataclass(frozen=True)
class Optimum:
    """Hold a fit: parameters theta [p] at the least `value` of the objective of `problem`, and how it was reached.

    weight [rows] has mean 1; deltas are the Huber deltas that were gone through. agreeing: share of the starts that led
    here; gradient: the scaled one, 0 at a stationary point; rivals [k, p]: other parameters that fit as well; minima
    [k, p]: all that the search found and that lie apart, worse ones too; starts [s, p]: of the search; invariance:
    largest change of a parameter when the mean over rows is minimised and not the sum.
    """

    problem: Problem
    theta: np.ndarray
    weight: np.ndarray
    deltas: tuple[float, ...]
    value: float
    agreeing: float
    gradient: float
    rivals: np.ndarray
    minima: np.ndarray
    starts: np.ndarray
    invariance: float
    valley: tuple[str, ...] = ()  # coefficients along which the objective is so flat that no search ends


def find(
    problem: Problem,
    weight: np.ndarray,
    objective: Objective,
    deltas: tuple[float, ...],
    most_starts: int,
) -> Optimum:
    """Find the best optimum from all starts. Whether it is one is for the caller to judge by `gradient`."""
    starts = problem.starts(weight, most_starts)
    scatter = scatter_around(problem, starts)
    found = search(problem, starts, weight, deltas, scatter)
    ends = found.ends
    best, rivals = choose(problem, ends, weight, objective)
    values = total(problem, ends, weight, objective)
    is_best = values <= values.min() * (1 + AGREE) + 1e-20 * weight.sum()
    agrees = is_best[found.leads_to] & (found.leads_to >= 0)
    theta, value = drop_vanished(problem, best, weight, objective, deltas)
    theta = newton.polish(problem, theta, weight, deltas[-1])
    is_lad = objective.loss == "lad"
    return Optimum(
        problem=problem,
        theta=theta,
        weight=weight,
        deltas=deltas,
        value=value,
        agreeing=float(agrees.mean()),
        gradient=stationarity(problem, theta, weight, deltas[-1], is_lad),
        rivals=rivals,
        minima=ends,
        starts=found.starts,
        invariance=change_with_mean(
            problem, theta, found.starts[found.origin[is_best]], weight, objective, deltas, scatter
        ),
    )


def scatter_around(problem: Problem, points: np.ndarray) -> float:
    """Return the median size of residuals around the point [b, p] that is best in this."""
    few = points[:: max(1, len(points) // SCATTER_OF)]
    with np.errstate(all="ignore"):
        sizes = np.median(np.abs(problem.residuals(few)), axis=1)
    finite = sizes[np.isfinite(sizes)]
    return float(finite.min(initial=np.inf))


def total(problem: Problem, theta: np.ndarray, weight: np.ndarray, objective: Objective) -> np.ndarray:
    """Return the objective itself at [b] points: a sum over rows."""
    residual = problem.residuals(theta)
    counted = sided(weight, residual, problem.above)
    return (counted * objective.value(residual)).sum(axis=1)


@dataclasses.dataclass(frozen=True)
class Search:
    """Hold local minima `ends` [k, p] of the last objective, the starts [s, p], and to which end each leads [s].

    -1 stands for an end that lay too high to be followed to its minimum. origin [k]: the start from which each end was
    reached; others came together with it on the way.
    """

    ends: np.ndarray
    starts: np.ndarray
    leads_to: np.ndarray
    origin: np.ndarray


def search(
    problem: Problem,
    starts: np.ndarray,
    weight: np.ndarray,
    deltas: tuple[float, ...],
    scatter: float,
) -> Search:
    """Follow all starts to the best few local minima.

    Starts that have come together go on as one: on the way, and where the first of `deltas` has its minima. The lowest of
    these go through all deltas to their end. Of very many starts all make a few steps, and the best of them, with some
    from all over the rest, are followed. scatter: of the rows; far from all minima the kinks of a narrower loss are only
    in the way.
    """
    rough = deltas[0]
    points = problem.approach(starts, weight, max(rough, scatter), HASTY_STEPS, HASTY_ROWS)
    if len(starts) > 2 * RACE:
        points = newton.minimise(problem, points, weight, (rough,), tolerance=ROUGH_TOLERANCE, max_steps=RACE_STEPS)
        order = np.argsort(newton.values_at(problem, points, weight, rough), kind="stable")
        chosen = best_and_spread(order, RACE)
        starts = starts[chosen]
        points = points[chosen]
    everyone = np.arange(len(starts))
    followed = _Followed(points, everyone, everyone)

    def joined(points: np.ndarray, apart: float) -> _Followed:
        """Put points to where those that are followed have come, and let those that lie together go on as one."""
        return followed.come_to(points, newton.values_at(problem, points, weight, rough), apart)

    followed = joined(points, TOGETHER)
    for steps in APPROACHES:
        points = problem.approach(followed.points, weight, rough, steps)
        followed = joined(points, TOGETHER)
    for steps, apart in ((FIRST_STEPS, TOGETHER), (newton.MAX_STEPS, DIFFERENT)):
        points = newton.minimise(problem, followed.points, weight, (rough,), tolerance=ROUGH_TOLERANCE, max_steps=steps)
        followed = joined(points, apart)
    minima = newton.minimise(problem, followed.points[:FINALISTS], weight, deltas, max_steps=PATIENCE)
    is_final = followed.leads_to < FINALISTS
    finalists = _Followed(minima, followed.origin[:FINALISTS], np.where(is_final, followed.leads_to, 0))
    distinct = finalists.come_to(minima, newton.values_at(problem, minima, weight, deltas[-1]), DIFFERENT)
    return Search(distinct.points, starts, np.where(is_final, distinct.leads_to, -1), distinct.origin)


@dataclasses.dataclass(frozen=True)
class _Followed:
    """Hold points [n, p] of a search, the start that each comes from [n], and the point that each start leads to [s]."""

    points: np.ndarray
    origin: np.ndarray
    leads_to: np.ndarray

    def come_to(self, points: np.ndarray, values: np.ndarray, apart: float) -> "_Followed":
        """Take other points [n, p] in their place, and of those that lie together only the best; best first."""
        order = np.argsort(values, kind="stable")
        ranked = points[order]
        distance = np.abs(ranked[:, None] - ranked).max(axis=2)
        is_near = distance <= apart
        group = np.full(len(points), -1)
        leaders = []
        for at in range(len(points)):
            if group[at] >= 0:
                continue
            group[is_near[at] & (group < 0)] = len(leaders)
            leaders.append(at)
        group_of_each = np.empty_like(group)
        group_of_each[order] = group
        kept = order[leaders]
        return _Followed(points[kept], self.origin[kept], group_of_each[self.leads_to])


def choose(
    problem: Problem,
    ends: np.ndarray,
    weight: np.ndarray,
    objective: Objective,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best end [p], and the other ends [rivals, p] that fit as well with other parameters.

    Among equals (as many rows as coefficients can be fitted exactly in several ways) the smallest exponents win.
    """
    values = total(problem, ends, weight, objective)
    highest = values.min() * (1 + AGREE) + 1e-20 * weight.sum()
    equal = np.flatnonzero(values <= highest)
    simplest = np.argmin(problem.complexity(ends[equal]))
    best = ends[equal[simplest]]
    is_apart = np.abs(ends[equal] - best).max(axis=1) > DIFFERENT
    return best, ends[equal[is_apart]]


def drop_vanished(
    problem: Problem,
    theta: np.ndarray,
    weight: np.ndarray,
    objective: Objective,
    deltas: tuple[float, ...],
) -> tuple[np.ndarray, float]:
    """Set terms that tend to zero to zero, where that is no worse: parameters and objective.

    A prefactor of zero lies at minus infinity of its logarithm; steps towards it get lost in rounding before the end.
    """

    def value_at(point: np.ndarray) -> float:
        return float(total(problem, point[None], weight, objective)[0])

    value = value_at(theta)
    low, _ = problem.bounds()
    for k in problem.small_terms(theta):
        without = theta.copy()
        without[k] = low[k]
        without = newton.minimise(problem, without[None], weight, deltas)[0]
        value_without = value_at(without)
        if value_without <= value * (1 + 1e-9) + 1e-21 * weight.sum():
            theta = without
            value = value_without
    return theta, value


def in_valley(found: Optimum) -> tuple[str, ...]:
    """Return the coefficients along which an end that is not stationary lies on the flat floor of a valley.

    Empty where it does not: where a step still promises to lower the objective by what can be told.
    """
    left, value = newton.left_to_gain(found.problem, found.theta, found.weight, found.deltas[-1])
    if not left <= FLAT * value:
        return ()
    sensitivity = found.problem.sensitivity(found.theta, found.weight)
    _, sizes, directions = np.linalg.svd(sensitivity, full_matrices=False)
    is_floor = sizes <= max(NARROW * sizes[0], sizes[-1])
    involved = np.abs(directions[is_floor]).max(axis=0) > PART_OF_FLOOR
    return tuple(name for name, is_in in zip(found.problem.names, involved, strict=True) if is_in)


def change_with_mean(
    problem: Problem,
    theta: np.ndarray,
    starts: np.ndarray,
    weight: np.ndarray,
    objective: Objective,
    deltas: tuple[float, ...],
    scatter: float,
) -> float:
    """Return the largest relative change of a coefficient when the mean over rows is minimised and not their sum.

    The mean is minimised on its own, from starts that led to the optimum of the sum; of ends that are as low the nearest
    counts. The change is zero but for rounding in a sound minimiser; one that stops by absolute tolerances stops early on
    a mean.
    """
    mean_weight = weight / len(weight)
    again = search(problem, starts[:OF_MEAN], mean_weight, deltas, scatter).ends
    values = total(problem, again, weight, objective)
    equal = again[values <= values.min() * (1 + AGREE) + 1e-20 * weight.sum()]
    nearest = np.abs(equal - theta).max(axis=1).argmin()
    best = newton.polish(problem, equal[nearest], mean_weight, deltas[-1])
    of_sum = problem.coefficients(theta[None])[0]
    of_mean = problem.coefficients(best[None])[0]
    known = of_sum != 0
    change = np.abs(of_mean[known] / of_sum[known] - 1)
    return float(np.max(change, initial=0.0))


def stationarity(problem: Problem, theta: np.ndarray, weight: np.ndarray, delta: float, lad: bool) -> float:
    """Return the scaled gradient at `theta`; 0 where every residual is zero to rounding.

    Of all parameters; where that is not small, of those that matter, see newton.cancellation.

    Least absolute deviations have a slope that jumps at rows with zero residual. There, what counts is the smallest
    element of the subdifferential: those rows may pull with any weight up to their own.
    """
    rows = (1, len(weight))
    residual = problem.residuals(theta[None])[0]
    counted = sided(weight, residual, problem.above)
    size = np.abs(residual)
    if np.max(size[counted > 0], initial=0.0) < 1e-10 * problem.unit:
        return 0.0
    target = np.broadcast_to(problem.target, rows)
    local = problem.expand(theta[None], np.broadcast_to(weight, rows), target, delta)
    free = newton.free_parameters(theta[None], local.gradient, problem.bounds())
    scaled = float(newton.cancellation(local, free, problem.limit, 0.0)[0])
    if scaled > STATIONARY:
        scaled = float(newton.cancellation(local, free, problem.limit)[0])
    is_zero = size < ZERO_RESIDUAL * problem.unit
    if not lad or scaled <= STATIONARY or not is_zero.any():
        return scaled
    slopes = (counted * problem.jacobian(theta[None])[0])[free[0]]
    return _smallest_subgradient(slopes, np.sign(residual), is_zero)


def _smallest_subgradient(slopes: np.ndarray, sign: np.ndarray, is_zero: np.ndarray) -> float:
    """Return the size of the smallest subgradient of sum |residual|, from weighted slopes [p, r] and signs [r]."""
    from scipy.optimize import lsq_linear

    size = np.abs(slopes).sum(axis=1, keepdims=True)
    slopes = slopes / np.maximum(size, 1e-300)
    pull = slopes[:, ~is_zero] @ sign[~is_zero]
    answer = lsq_linear(slopes[:, is_zero], -pull, bounds=(-1.0, 1.0), tol=1e-14)
    return float(np.abs(pull + slopes[:, is_zero] @ answer.x).max())
