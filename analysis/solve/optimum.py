"""From starts to the one optimum of a fit, and the proof that it is one. Knows no law and no bootstrap."""

import dataclasses
from typing import Any

import numpy as np

from analysis.solve import newton, sums
from analysis.solve.formula import FormulaProblem
from analysis.solve.objective import Objective, sided

STATIONARY = 2e-5  # largest scaled gradient of a fit that is reported
AGREE = 1e-6  # relative excess of the objective
ZERO_RESIDUAL = 1e-6
FINALISTS = 6
RACE, RACE_STEPS = 256, 2
DIFFERENT = 1e-2  # of log terms and exponents: two minima and not one
PATIENCE = 3000  # steps of a finalist; each may cross a single kink of the objective


@dataclasses.dataclass(frozen=True)
class Optimum:
    """A fit: parameters theta [p] at the least `value` of the objective of `problem`, with how it was reached.

    weight [rows] has mean 1; deltas are the Huber deltas that were gone through. agreeing: share of the starts that led
    here; gradient: the scaled one, 0 at a stationary point; rivals [k, p]: other parameters that fit as well; invariance:
    largest change of a parameter when the mean over rows is minimised and not the sum.
    """

    problem: Any
    theta: np.ndarray
    weight: np.ndarray
    deltas: tuple[float, ...]
    value: float
    agreeing: float
    gradient: float
    rivals: np.ndarray
    starts: int
    invariance: float


def find(
    problem: sums.Problem | FormulaProblem,
    weight: np.ndarray,
    objective: Objective,
    deltas: tuple[float, ...],
    most_starts: int,
) -> Optimum:
    """The best optimum from all starts. Whether it is one is for the caller to judge by `gradient`."""
    starts = problem.starts(weight, most_starts)
    ends, agreeing = search(problem, starts, weight, deltas)
    best, rivals = choose(problem, ends, weight, objective)
    theta, value = drop_vanished(problem, best, weight, objective, deltas)
    again = newton.minimise(problem, ends, weight / len(weight), deltas[-1:])
    mean = again[np.argmin(total(problem, again, weight, objective))]
    one, other = (problem.coefficients(point[None])[0] for point in (theta, mean))
    return Optimum(
        problem=problem,
        theta=theta,
        weight=weight,
        deltas=deltas,
        value=value,
        agreeing=agreeing,
        gradient=stationarity(problem, theta, weight, deltas[-1], objective.loss == "lad"),
        rivals=rivals,
        starts=len(starts),
        invariance=float(np.max(np.abs(other[one != 0] / one[one != 0] - 1), initial=0.0)),
    )


def total(
    problem: sums.Problem | FormulaProblem, theta: np.ndarray, weight: np.ndarray, objective: Objective
) -> np.ndarray:
    """The objective itself at [b] points: a sum over rows."""
    r = problem.residuals(theta)
    return (sided(weight, r, problem.above) * objective.value(r)).sum(axis=1)


def search(
    problem: sums.Problem | FormulaProblem, starts: np.ndarray, weight: np.ndarray, deltas: tuple[float, ...]
) -> tuple[np.ndarray, float]:
    """The best few local minima from all starts, and the share of the starts that lead to the best one.

    All starts are brought to the first of `deltas`; those that end at different minima and lie lowest go on. Of very many
    starts all make a few steps, and the best of them, with some from all over the rest, are brought there.
    """
    if len(starts) > 2 * RACE:
        starts = newton.minimise(problem, starts, weight, deltas[:1], tolerance=1e-7, max_steps=RACE_STEPS)
        target = np.broadcast_to(problem.target, (len(starts), len(weight)))
        values = newton.value(problem, starts, np.broadcast_to(weight, target.shape), target, deltas[0])
        order = np.argsort(values, kind="stable")
        rest = order[RACE - RACE // 4 :]
        starts = starts[np.r_[order[: RACE - RACE // 4], rest[np.linspace(0, len(rest) - 1, RACE // 4).astype(int)]]]
    ends = newton.minimise(problem, starts, weight, deltas[:1], tolerance=1e-7, max_steps=100)
    target = np.broadcast_to(problem.target, (len(ends), len(weight)))
    values = newton.value(problem, ends, np.broadcast_to(weight, target.shape), target, deltas[0])
    order = np.argsort(values, kind="stable")
    agree = values <= values[order[0]] * (1 + AGREE) + 1e-20 * weight.sum()
    chosen = [int(order[0])]
    for at in map(int, order):
        if len(chosen) < FINALISTS and np.abs(ends[at] - ends[chosen]).max(axis=1).min() > DIFFERENT:
            chosen.append(at)
    return newton.minimise(problem, ends[chosen], weight, deltas, max_steps=PATIENCE), float(agree.mean())


def choose(
    problem: sums.Problem | FormulaProblem, ends: np.ndarray, weight: np.ndarray, objective: Objective
) -> tuple[np.ndarray, np.ndarray]:
    """The best end [p], and the other ends [rivals, p] that fit as well with other parameters.

    Among equals (as many rows as coefficients can be fitted exactly in several ways) the smallest exponents win.
    """
    values = total(problem, ends, weight, objective)
    equal = np.flatnonzero(values <= values.min() * (1 + AGREE) + 1e-20 * weight.sum())
    best = int(equal[np.argmin(problem.complexity(ends[equal]))])
    apart = np.abs(ends[equal] - ends[best]).max(axis=1) > DIFFERENT
    return ends[best], ends[equal[apart]]


def drop_vanished(
    problem: sums.Problem | FormulaProblem,
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
    for k in problem.small_terms(theta):
        without = theta.copy()
        without[k] = problem.bounds()[0][k]
        without = newton.minimise(problem, without[None], weight, deltas)[0]
        if value_at(without) <= value * (1 + 1e-9) + 1e-21 * weight.sum():
            theta, value = without, value_at(without)
    return theta, value


def stationarity(
    problem: sums.Problem | FormulaProblem, theta: np.ndarray, weight: np.ndarray, delta: float, lad: bool
) -> float:
    """Scaled gradient at `theta`; 0 where every residual is zero to rounding.

    Least absolute deviations have a slope that jumps at rows with zero residual. There, what counts is the smallest
    element of the subdifferential: those rows may pull with any weight up to their own.
    """
    rows = (1, len(weight))
    residual = problem.residuals(theta[None])[0]
    scale = problem.unit
    counts = sided(weight, residual, problem.above) > 0
    if np.max(np.abs(residual[counts]), initial=0.0) < 1e-10 * scale:
        return 0.0
    local = problem.expand(theta[None], np.broadcast_to(weight, rows), np.broadcast_to(problem.target, rows), delta)
    free = newton.free_parameters(theta[None], local.gradient, problem.bounds())
    smooth = float(newton.cancellation(local, free, problem.limit)[0])
    zero = np.abs(residual) < ZERO_RESIDUAL * scale
    if not lad or smooth <= STATIONARY or not zero.any():
        return smooth
    from scipy.optimize import lsq_linear

    weight = sided(weight, residual, problem.above)
    slopes = (weight * problem.jacobian(theta[None])[0])[free[0]]
    slopes = slopes / np.maximum(np.abs(slopes).sum(axis=1, keepdims=True), 1e-300)
    pull = slopes[:, ~zero] @ np.sign(residual[~zero])
    answer = lsq_linear(slopes[:, zero], -pull, bounds=(-1.0, 1.0), tol=1e-14)
    return float(np.abs(pull + slopes[:, zero] @ answer.x).max())
