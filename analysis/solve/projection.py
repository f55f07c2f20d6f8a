"""Descend over the exponents of a sum of monomials alone: its prefactors are solved for at each step.

At given exponents a sum is linear in its prefactors, so that they are found at once and only the exponents are searched
(variable projection: Golub & Pereyra 1973). A valley in which an exponent and its prefactor trade against each other is
long and bent in all parameters, and short in the exponents. The step over the exponents is that of Newton for all
parameters, which is the same thing where the prefactors are best (Ruhe & Wedin 1980).
Axes: batch b, rows r, terms k, exponents e, parameters p (log terms first, then exponents).
"""

import dataclasses
from typing import Protocol

import numpy as np

from analysis.solve import newton
from analysis.solve.least_squares import non_negative
from analysis.solve.objective import sided
from analysis.solve.problem import Local, Problem
from analysis.solve.starting import slices

FIRST_DAMPING = 1e-3
STUCK = 1e2  # damping from which on steps in all parameters are the better way
LITTLE = 1e-5  # share of the objective by which a step has to change it for another one
LARGEST_LOG = 50.0  # of a term over the data


class Sum(Problem, Protocol):
    """A fit of a sum of monomials, whose parameters are logarithms of its prefactors and then its exponents."""

    @property
    def terms(self) -> int:
        """Count the monomials."""
        ...

    @property
    def raw(self) -> bool:
        """Whether residuals are differences, and not logarithms."""
        ...

    def log_terms(self, theta: np.ndarray) -> np.ndarray:
        """Return the logarithm of each term of each row at each point [b, k, r]."""
        ...


def descend(
    problem: Sum,
    theta: np.ndarray,
    weight: np.ndarray,
    delta: float,
    steps: int,
) -> np.ndarray:
    """Come nearer to minima of a Huber loss from [b] points, in so many steps over the exponents: points [b, p].

    They need not be at a minimum in the end, and are nowhere higher than they were. weight [r].
    """
    result = np.clip(theta, *problem.bounds())
    rows = len(weight)
    for part in slices(len(result), max(1, newton.CHUNK_ELEMENTS // rows)):
        result[part] = _descend_chunk(problem, result[part], weight, delta, steps)
    return result


def _descend_chunk(
    problem: Sum,
    theta: np.ndarray,
    weight: np.ndarray,
    delta: float,
    steps: int,
) -> np.ndarray:
    """Take steps from [b] points that stay in cache; points that change little leave the batch."""
    bounds = problem.bounds()
    damping = np.full(len(theta), FIRST_DAMPING)
    active = np.arange(len(theta))
    local = _expand(problem, theta, weight, delta)
    for _ in range(steps):
        here = theta[active]
        free = newton.free_parameters(here, local.gradient, bounds)
        move = newton.step(_in_prefactors(problem, local), free, damping[active])
        there = _moved(problem, here, move, weight, delta)
        with np.errstate(all="ignore"):
            trial = _expand(problem, there, weight, delta)

        better = trial.value < local.value
        theta[active[better]] = there[better]
        damping[active] = newton.next_damping(damping[active], better)
        is_done = np.abs(local.value - trial.value) < LITTLE * local.value
        is_done |= local.value <= newton.EXACT * weight.sum()
        going = ~is_done & (damping[active] <= STUCK)
        if not going.any():
            break
        active = active[going]
        local = local.updated(trial, better, going)
    return theta


def _expand(problem: Sum, theta: np.ndarray, weight: np.ndarray, delta: float) -> Local:
    """Expand the objective around [b] points that share rows and weights."""
    rows = (len(theta), len(weight))
    target = np.broadcast_to(problem.target, rows)
    return problem.expand(theta, np.broadcast_to(weight, rows), target, delta)


def _in_prefactors(problem: Sum, local: Local) -> Local:
    """Return an expansion in the prefactors, over their size, in place of their logarithms: the sum is linear in them."""
    terms = np.arange(problem.terms)
    curvature = local.curvature.copy()
    curvature[:, terms, terms] -= local.gradient[:, terms]
    return dataclasses.replace(local, curvature=curvature)


def _moved(
    problem: Sum,
    here: np.ndarray,
    move: np.ndarray,
    weight: np.ndarray,
    delta: float,
) -> np.ndarray:
    """Return points [b, p] with the exponents moved and their prefactors solved for, by one step of reweighted squares."""
    low, high = problem.bounds()
    terms = problem.terms
    steps = newton.shortened(move[:, terms:], problem.limit[terms:])
    exponents = np.clip(here[:, terms:] + steps, low[terms:], high[terms:])

    trust = np.broadcast_to(weight, (len(here), len(weight)))
    if np.isfinite(delta) or problem.above is not None:
        residual = problem.residuals(here)
        size = np.maximum(np.abs(residual), 1e-300)
        trust = sided(weight, residual, problem.above) * np.minimum(1.0, delta / size)
    if problem.raw:
        trust = trust * np.exp(2 * problem.target)  # relative residuals are solved for
    logs = problem.log_terms(np.hstack([np.zeros((len(here), terms)), exponents]))
    basis = np.exp(np.minimum(logs - problem.target, LARGEST_LOG))
    prefactors = non_negative(basis.transpose(1, 0, 2), trust)
    log_terms = np.log(np.maximum(prefactors, 1e-300))
    return np.clip(np.hstack([log_terms, exponents]), low, high)
