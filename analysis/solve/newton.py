"""Damped Newton steps for sums of monomials under a robust loss, over many starts or bootstrap replicates at once.

ln L = logsumexp_k(t_k + z_k . e): t are log terms at the middle of the data, e the exponents. Everything is float64
numpy with a leading batch axis. Axes: batch b, rows r, terms k, parameters p (terms first, then exponents).
Each step solves in the metric of iteratively reweighted least squares, where a step of length one never overshoots a
Huber loss, with the curvature of the true objective, so that it ends at a stationary point to machine precision.
"""

from contextlib import AbstractContextManager
import dataclasses
import itertools
from typing import Any

import numpy as np

from analysis.solve.objective import sided, smooth

LOG_VANISHED = 30.0  # a term e^-30 below the loss is zero in float64
EXPONENT_BOUNDS = (0.0, 4.0)
MAX_STEPS = 300
RESOLUTION = 1e-13  # a step that promises less than this share of the objective ends the search
CHUNK_ELEMENTS = 40_000  # batch x rows that stay in cache
CURVED = 1e-7  # least curvature along an axis, of the metric's
SAFE_PIVOT = 1e-9


@dataclasses.dataclass(frozen=True)
class Local:
    """The objective around [b] points: value, slope, curvature, the metric of reweighted least squares."""

    value: np.ndarray  # [b]
    gradient: np.ndarray  # [b, p]
    gradient_size: np.ndarray  # [b, p] the same sum with absolute summands, to judge how far it cancels
    curvature: np.ndarray  # [b, p, p]
    metric: np.ndarray  # [b, p, p]

    def updated(self, other: "Local", rows: np.ndarray, keep: np.ndarray) -> "Local":
        """With `rows` [booleans] taken from another expansion of the same points; then only those in `keep`."""
        parts = []
        for field in dataclasses.fields(self):
            mine, new = getattr(self, field.name), getattr(other, field.name)
            parts.append(np.where(rows.reshape(-1, *[1] * (mine.ndim - 1)), new, mine)[keep])
        return Local(*parts)


def one_thread() -> AbstractContextManager[Any]:
    """BLAS in one thread: the matrices of a fit are small, and threads that wait for each other cost tenfold."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, "blas")


def value(problem: Any, theta: np.ndarray, weight: np.ndarray, target: np.ndarray, delta: float) -> np.ndarray:
    """The objective at [b] points."""
    r = problem.residuals(theta, target)
    return (sided(weight, r, problem.above) * smooth(r, delta)).sum(axis=1)


def step(local: Local, free: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """Newton steps [b, p]; directions that the data do not determine are left alone, `free` [b, p] masks bounds."""
    sound = np.isfinite(local.gradient).all(axis=1)
    for matrix in (local.metric, local.curvature):
        sound &= np.isfinite(matrix).all(axis=(1, 2))
    free = free & sound[:, None]  # where the formula has no slope, nothing moves
    gradient = np.where(free, local.gradient, 0.0)
    both = free[:, :, None] & free[:, None, :]
    metric, curvature = np.where(both, local.metric, 0.0), np.where(both, local.curvature, 0.0)
    size = np.sqrt(np.einsum("bpp->bp", metric))
    size = np.where(size > 1e-10 * size.max(axis=1, keepdims=True), size, np.inf)  # else its curvature is rounding
    metric, curvature = (matrix / size[:, :, None] / size[:, None, :] for matrix in (metric, curvature))
    gradient, dead = gradient / size, np.isinf(size) | ~free
    at = np.arange(free.shape[1])
    metric[:, at, at] += dead
    curvature[:, at, at] += dead
    move = np.empty_like(gradient)
    damped = curvature + damping[:, None, None] * metric
    easy = positive(curvature - CURVED * metric) & positive(damped / (1 + damping)[:, None, None])
    if easy.any():
        move[easy] = -np.linalg.solve(damped[easy], gradient[easy][:, :, None])[:, :, 0]
    if not easy.all():
        hard = ~easy
        move[hard] = indefinite_step(metric[hard], curvature[hard], gradient[hard], damping[hard])
    return np.where(dead, 0.0, move) / size


def positive(matrices: np.ndarray) -> np.ndarray:
    """Which of the matrices [b, p, p], of diagonals near 1 or below, are safely positive definite, by their pivots."""
    rest, found = matrices.copy(), np.ones(len(matrices), dtype=bool)
    with np.errstate(all="ignore"):  # of matrices that are found not to be
        for at in range(matrices.shape[1]):
            pivot = rest[:, at, at]
            found &= pivot > SAFE_PIVOT
            column = rest[:, at + 1 :, at] / np.where(found, pivot, 1.0)[:, None]
            rest[:, at + 1 :, at + 1 :] -= column[:, :, None] * rest[:, at, None, at + 1 :]
    return found


def indefinite_step(metric: np.ndarray, curvature: np.ndarray, gradient: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """Newton steps [b, p] where the curvature is not positive: down along every axis of it, in the metric."""
    spread, vectors = np.linalg.eigh(metric)
    known = spread > 1e-14 * spread[:, -1:]
    inverse = np.where(known, 1.0 / np.sqrt(np.where(known, spread, 1.0)), 0.0)
    basis = vectors * inverse[:, None]
    curved, turn = np.linalg.eigh(basis.transpose(0, 2, 1) @ curvature @ basis)
    basis = basis @ turn
    along = (basis.transpose(0, 2, 1) @ gradient[:, :, None])[:, :, 0]
    length = along / (np.maximum(np.abs(curved), CURVED) + damping[:, None])
    return -(basis @ length[:, :, None])[:, :, 0]


def cancellation(local: Local, free: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Scaled gradient [b]: |sum| over sum of |summands|, worst parameter; 0 at a stationary point, 1 far from one.

    A parameter does not count when moving it alone, by no more than `limit` [p], promises less than RESOLUTION of the
    objective: where it decides one row that fits to rounding, or tends to where no row depends on it.
    """
    floor = 1e-300 + 1e-14 * np.max(local.gradient_size, axis=1, keepdims=True)
    metric = np.maximum(np.einsum("bpp->bp", local.metric), 1e-300)
    promise = np.abs(local.gradient) * np.minimum(limit, np.abs(local.gradient) / metric)
    counts = free & (promise > RESOLUTION * local.value[:, None])
    return np.max(np.where(counts, np.abs(local.gradient) / (local.gradient_size + floor), 0.0), axis=1)


def free_parameters(theta: np.ndarray, gradient: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Parameters [b, p] that are not held by a bound."""
    low, high = bounds
    return ~(((theta <= low) & (gradient >= 0)) | ((theta >= high) & (gradient <= 0)))


def minimise(
    problem: Any,
    theta: np.ndarray,
    weight: np.ndarray,
    deltas: tuple[float, ...],
    tolerance: float = 1e-9,
    max_steps: int = MAX_STEPS,
    held: np.ndarray | None = None,
) -> np.ndarray:
    """Local minima [b, p] from starts `theta`; `weight` is [r] or [b, r]; `deltas` are Huber deltas to go through.

    `held` [b, p] marks parameters that stay where they start.
    """
    held = np.broadcast_to(False if held is None else held, np.shape(theta))
    result = np.array(theta, dtype=np.float64)
    rows = problem.target.shape[-1]
    chunk = max(1, CHUNK_ELEMENTS // rows)
    for first in range(0, len(result), chunk):
        part = slice(first, first + chunk)
        local_weight = np.broadcast_to(weight, (len(result), rows))[part]
        target = np.broadcast_to(problem.target, (len(result), rows))[part]
        for delta in deltas:
            result[part] = _minimise_chunk(
                problem, result[part], local_weight, target, held[part], delta, tolerance, max_steps
            )
    return result


def _minimise_chunk(
    problem: Any,
    theta: np.ndarray,
    weight: np.ndarray,
    target: np.ndarray,
    held: np.ndarray,
    delta: float,
    tolerance: float,
    max_steps: int,
) -> np.ndarray:
    low, high = bounds = problem.bounds()
    theta = np.where(held, theta, np.clip(theta, low, high))
    damping = np.full(len(theta), 1e-2)
    active = np.arange(len(theta))
    local = problem.expand(theta, weight, target, delta)
    for _ in range(max_steps):
        here, w, y = theta[active], weight[active], target[active]
        free = free_parameters(here, local.gradient, bounds) & ~held[active]
        move = step(local, free, damping[active])
        move /= np.maximum(1.0, np.max(np.abs(move) / problem.limit, axis=1, keepdims=True))
        there = np.where(held[active], here, np.clip(here + move, low, high))
        with np.errstate(all="ignore"):
            trial = problem.expand(there, w, y, delta)
        better = trial.value < local.value
        theta[active[better]] = there[better]
        damping[active] = np.where(better, damping[active] / 8, np.maximum(damping[active], 1e-4) * 6)
        promise = np.abs(np.sum(np.where(free, local.gradient, 0.0) * move, axis=1)) <= RESOLUTION * local.value
        settled = (promise | ~better) & (cancellation(local, free, problem.limit) <= tolerance)
        exact = local.value <= 1e-29 * w.sum(axis=1)
        stuck = damping[active] > 1e8
        going = ~(settled | exact | stuck)
        if not going.any():
            break
        active, local = active[going], local.updated(trial, better, going)
    return theta


def non_negative(
    basis: np.ndarray, weight: np.ndarray, goal: np.ndarray | None = None, positive: np.ndarray | None = None
) -> np.ndarray:
    """Weighted least squares basis @ c = goal (default 1), c >= 0 where `positive` (default all): [g, k].

    Every set of the positive terms is tried. basis [g, r, k], weight and goal [g, r].
    """
    groups, _, terms = basis.shape
    weighted = basis * weight[:, :, None]
    gram = weighted.transpose(0, 2, 1) @ basis
    moment = weighted.sum(axis=1) if goal is None else (weighted * goal[:, :, None]).sum(axis=1)
    gain, solution = np.full(groups, -np.inf), np.zeros((groups, terms))
    always = [] if positive is None else [k for k in range(terms) if not positive[k]]
    choice = [k for k in range(terms) if k not in always]
    for size in range(len(choice), -1, -1):
        for some in itertools.combinations(choice, size):
            at = np.array(sorted([*always, *some]), dtype=int)
            if not len(at):
                continue
            block = gram[:, at[:, None], at]
            ridge = 1e-12 * np.einsum("gkk->gk", block)[:, :, None] + 1e-290
            part = np.linalg.solve(block + ridge * np.eye(len(at)), moment[:, at][:, :, None])[:, :, 0]
            fitted = (part * moment[:, at]).sum(axis=1)
            allowed = part[:, np.isin(at, choice)]
            use = (allowed >= 0).all(axis=1) & (fitted > gain)
            gain[use] = fitted[use]
            solution[np.ix_(use, at)] = part[use]
            solution[np.ix_(use, np.setdiff1d(np.arange(terms), at))] = 0.0
    return solution
