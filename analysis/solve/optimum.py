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
FINALISTS = 6
RACE = 256  # of more than twice as many starts, so many are chosen after a few steps
RACE_STEPS = 2
ROUGH_STEPS = 100
ROUGH_TOLERANCE = 1e-7
DIFFERENT = 1e-2  # of log terms and exponents: two minima and not one
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


def find(
    problem: Problem,
    weight: np.ndarray,
    objective: Objective,
    deltas: tuple[float, ...],
    most_starts: int,
) -> Optimum:
    """Find the best optimum from all starts. Whether it is one is for the caller to judge by `gradient`."""
    starts = problem.starts(weight, most_starts)
    ends, agreeing = search(problem, starts, weight, deltas)
    best, rivals = choose(problem, ends, weight, objective)
    theta, value = drop_vanished(problem, best, weight, objective, deltas)
    is_lad = objective.loss == "lad"
    return Optimum(
        problem=problem,
        theta=theta,
        weight=weight,
        deltas=deltas,
        value=value,
        agreeing=agreeing,
        gradient=stationarity(problem, theta, weight, deltas[-1], is_lad),
        rivals=rivals,
        minima=ends,
        starts=starts,
        invariance=change_with_mean(problem, theta, ends, weight, objective, deltas[-1]),
    )


def total(problem: Problem, theta: np.ndarray, weight: np.ndarray, objective: Objective) -> np.ndarray:
    """Return the objective itself at [b] points: a sum over rows."""
    residual = problem.residuals(theta)
    counted = sided(weight, residual, problem.above)
    return (counted * objective.value(residual)).sum(axis=1)


def search(
    problem: Problem,
    starts: np.ndarray,
    weight: np.ndarray,
    deltas: tuple[float, ...],
) -> tuple[np.ndarray, float]:
    """Return the best few local minima from all starts, and the share of the starts that lead to the best one.

    All starts are brought to the first of `deltas`; those that end at different minima and lie lowest go on. Of very many
    starts all make a few steps, and the best of them, with some from all over the rest, are brought there.
    """
    rough = deltas[:1]
    if len(starts) > 2 * RACE:
        starts = newton.minimise(problem, starts, weight, rough, tolerance=ROUGH_TOLERANCE, max_steps=RACE_STEPS)
        order = np.argsort(newton.values_at(problem, starts, weight, deltas[0]), kind="stable")
        starts = starts[best_and_spread(order, RACE)]
    ends = newton.minimise(problem, starts, weight, rough, tolerance=ROUGH_TOLERANCE, max_steps=ROUGH_STEPS)
    values = newton.values_at(problem, ends, weight, deltas[0])
    order = np.argsort(values, kind="stable")
    agrees = values <= values[order[0]] * (1 + AGREE) + 1e-20 * weight.sum()

    finalists = [int(order[0])]
    for at in order.tolist():
        distance = np.abs(ends[at] - ends[finalists]).max(axis=1).min()
        if len(finalists) < FINALISTS and distance > DIFFERENT:
            finalists.append(at)
    minima = newton.minimise(problem, ends[finalists], weight, deltas, max_steps=PATIENCE)
    return minima, float(agrees.mean())


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


def change_with_mean(
    problem: Problem,
    theta: np.ndarray,
    ends: np.ndarray,
    weight: np.ndarray,
    objective: Objective,
    delta: float,
) -> float:
    """Return the largest relative change of a coefficient when the mean over rows is minimised and not their sum.

    It is zero but for rounding in a sound minimiser; one that stops by absolute tolerances stops early on a mean.
    """
    again = newton.minimise(problem, ends, weight / len(weight), (delta,))
    best = np.argmin(total(problem, again, weight, objective))
    of_sum = problem.coefficients(theta[None])[0]
    of_mean = problem.coefficients(again[best][None])[0]
    known = of_sum != 0
    change = np.abs(of_mean[known] / of_sum[known] - 1)
    return float(np.max(change, initial=0.0))


def stationarity(problem: Problem, theta: np.ndarray, weight: np.ndarray, delta: float, lad: bool) -> float:
    """Return the scaled gradient at `theta`; 0 where every residual is zero to rounding.

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
