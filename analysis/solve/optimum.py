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
    found = search(problem, problem.starts(weight, most_starts), weight, deltas)
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
        invariance=change_with_mean(problem, theta, found.starts[found.origin[is_best]], weight, objective, deltas),
    )


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


def search(problem: Problem, starts: np.ndarray, weight: np.ndarray, deltas: tuple[float, ...]) -> Search:
    """Follow all starts to the best few local minima.

    Starts that have come together go on as one: first after a few steps, then where the first of `deltas` has its minima.
    The lowest of these go through all deltas to their end. Of very many starts all make a few steps, and the best of
    them, with some from all over the rest, are followed.
    """
    rough = deltas[:1]
    if len(starts) > 2 * RACE:
        starts = newton.minimise(problem, starts, weight, rough, tolerance=ROUGH_TOLERANCE, max_steps=RACE_STEPS)
        order = np.argsort(newton.values_at(problem, starts, weight, deltas[0]), kind="stable")
        starts = starts[best_and_spread(order, RACE)]
    ends = starts
    leads_to = np.arange(len(starts))
    origin = leads_to
    for steps, apart in ((FIRST_STEPS, TOGETHER), (newton.MAX_STEPS, DIFFERENT)):
        ends = newton.minimise(problem, ends, weight, rough, tolerance=ROUGH_TOLERANCE, max_steps=steps)
        values = newton.values_at(problem, ends, weight, deltas[0])
        leaders, joined = _join(ends, values, apart)
        ends = ends[leaders]
        origin = origin[leaders]
        leads_to = joined[leads_to]
    minima = newton.minimise(problem, ends[:FINALISTS], weight, deltas, max_steps=PATIENCE)
    is_followed = leads_to < FINALISTS
    return Search(minima, starts, np.where(is_followed, leads_to, -1), origin[:FINALISTS])


def _join(points: np.ndarray, values: np.ndarray, apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Join points [n, p] that lie together: which is the best of each group, best first, and the group of each point [n]."""
    order = np.argsort(values, kind="stable")
    group = np.full(len(points), -1)
    leaders = []
    for at in order.tolist():
        if group[at] >= 0:
            continue
        near = np.abs(points - points[at]).max(axis=1) <= apart
        group[near & (group < 0)] = len(leaders)
        leaders.append(at)
    return np.array(leaders), group


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
) -> float:
    """Return the largest relative change of a coefficient when the mean over rows is minimised and not their sum.

    The mean is minimised on its own, from starts that led to the optimum of the sum. The change is zero but for rounding
    in a sound minimiser; one that stops by absolute tolerances stops early on a mean.
    """
    mean_weight = weight / len(weight)
    again = search(problem, starts[:OF_MEAN], mean_weight, deltas).ends
    best = again[np.argmin(total(problem, again, weight, objective))]
    best = newton.polish(problem, best, mean_weight, deltas[-1])
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
