"""Take damped Newton steps under a robust loss, from many starts or for many bootstrap replicates at once.

Everything is float64 numpy with a leading batch axis. Axes: batch b, rows r, parameters p. Each step solves in the metric
of iteratively reweighted least squares, where a step of length one never overshoots a Huber loss, with the curvature of
the true objective, so that it ends at a stationary point to machine precision. Knows no law: see
analysis/solve/problem.py for what it asks of one.
"""

import contextlib
from contextlib import AbstractContextManager

import numpy as np

from analysis.solve.objective import sided, smooth
from analysis.solve.problem import Local, Problem
from analysis.solve.starting import slices

MAX_STEPS = 300
RESOLUTION = 1e-13  # a step that promises less than this share of the objective ends the search
CHUNK_ELEMENTS = 40_000  # batch x rows that stay in cache
CURVED = 1e-7  # least curvature along an axis, of the metric's
SAFE_PIVOT = 1e-9

FIRST_DAMPING = 1e-2
LEAST_DAMPING = 1e-4  # after a step that was not taken
MOST_DAMPING = 1e8  # a search that needs more is stuck
RELAX = 8  # by which damping falls after a step that was taken
TIGHTEN = 6  # by which it rises after one that was not
EXACT = 1e-29  # of the weight: an objective of rounding errors alone


def one_thread() -> AbstractContextManager[object]:
    """Hold BLAS to one thread: the matrices of a fit are small, and threads that wait for each other cost tenfold.

    Where threadpoolctl is not installed (requirements-lab.txt), fits are the same and take longer.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        return contextlib.nullcontext()
    return threadpool_limits(1, "blas")


def value(
    problem: Problem,
    theta: np.ndarray,
    weight: np.ndarray,
    target: np.ndarray,
    delta: float,
) -> np.ndarray:
    """Return the objective at [b] points."""
    residual = problem.residuals(theta, target)
    counted = sided(weight, residual, problem.above)
    return (counted * smooth(residual, delta)).sum(axis=1)


def values_at(problem: Problem, theta: np.ndarray, weight: np.ndarray, delta: float) -> np.ndarray:
    """Return the objective at [b] points of a problem whose rows [r] are the same for all of them."""
    rows = (len(theta), len(weight))
    target = np.broadcast_to(problem.target, rows)
    return value(problem, theta, np.broadcast_to(weight, rows), target, delta)


def step(local: Local, free: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """Return Newton steps [b, p]; `free` [b, p] masks bounds, and what the data do not determine is left alone."""
    free = free & _is_finite(local)[:, None]  # where the formula has no slope, nothing moves
    both_free = free[:, :, None] & free[:, None, :]
    gradient = np.where(free, local.gradient, 0.0)
    metric = np.where(both_free, local.metric, 0.0)
    curvature = np.where(both_free, local.curvature, 0.0)

    # In units of `size` the metric has ones on its diagonal, so that tolerances mean the same for every parameter. Where
    # the metric is rounding the size is infinite: such a parameter is dead, drops out of the system, and takes no step.
    size = _sizes(metric)
    gradient = gradient / size
    metric = _in_sizes(metric, size)
    curvature = _in_sizes(curvature, size)
    dead = np.isinf(size) | ~free
    diagonal = np.arange(free.shape[1])
    metric[:, diagonal, diagonal] += dead
    curvature[:, diagonal, diagonal] += dead

    move = _solve_damped(metric, curvature, gradient, damping)
    return np.where(dead, 0.0, move) / size


def _is_finite(local: Local) -> np.ndarray:
    """Whether an expansion can be stepped from [b]."""
    sound = np.isfinite(local.gradient).all(axis=1)
    for matrix in (local.metric, local.curvature):
        sound &= np.isfinite(matrix).all(axis=(1, 2))
    return np.asarray(sound)


def _sizes(metric: np.ndarray) -> np.ndarray:
    """Scale of each parameter [b, p] by the metric [b, p, p]; infinite where its diagonal is rounding."""
    size = np.sqrt(np.einsum("bpp->bp", metric))
    largest = size.max(axis=1, keepdims=True)
    return np.where(size > 1e-10 * largest, size, np.inf)


def _in_sizes(matrix: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Divide a matrix [b, p, p] by the sizes of both of its axes."""
    return matrix / size[:, :, None] / size[:, None, :]


def _solve_damped(
    metric: np.ndarray,
    curvature: np.ndarray,
    gradient: np.ndarray,
    damping: np.ndarray,
) -> np.ndarray:
    """Solve (curvature + damping metric) move = -gradient: [b, p].

    Most points have a positive curvature and take one plain solution; the few others take the dearer way by axes.
    """
    damped = curvature + damping[:, None, None] * metric
    curves_up = positive(curvature - CURVED * metric)
    is_solvable = positive(damped / (1 + damping)[:, None, None])
    easy = curves_up & is_solvable
    move = np.empty_like(gradient)
    if easy.any():
        answer = np.linalg.solve(damped[easy], gradient[easy][:, :, None])
        move[easy] = -answer[:, :, 0]
    if not easy.all():
        hard = ~easy
        move[hard] = indefinite_step(metric[hard], curvature[hard], gradient[hard], damping[hard])
    return move


def positive(matrices: np.ndarray) -> np.ndarray:
    """Return which of the matrices [b, p, p] are safely positive definite, by the pivots of an elimination.

    Their diagonals are near 1 or below. For batches of small matrices this is several times faster than eigenvalues.
    """
    rest = matrices.copy()
    found = np.ones(len(matrices), dtype=bool)
    with np.errstate(all="ignore"):  # of matrices that are found not to be
        for at in range(matrices.shape[1]):
            pivot = rest[:, at, at]
            found &= pivot > SAFE_PIVOT
            divisor = np.where(found, pivot, 1.0)
            column = rest[:, at + 1 :, at] / divisor[:, None]
            row = rest[:, at, None, at + 1 :]
            rest[:, at + 1 :, at + 1 :] -= column[:, :, None] * row
    return found


def indefinite_step(
    metric: np.ndarray,
    curvature: np.ndarray,
    gradient: np.ndarray,
    damping: np.ndarray,
) -> np.ndarray:
    """Return Newton steps [b, p] where the curvature is not positive: down along every axis of it, in the metric."""
    # `basis` holds the axes along which the metric is the identity; directions that it does not know get length zero.
    spread, vectors = np.linalg.eigh(metric)
    known = spread > 1e-14 * spread[:, -1:]
    root = np.sqrt(np.where(known, spread, 1.0))
    inverse = np.where(known, 1.0 / root, 0.0)
    basis = vectors * inverse[:, None]

    # Turned to the curvature's own axes, each axis is a problem of one number. Its curvature counts by its size: a step
    # along an axis that bends down goes downhill all the same (Nocedal & Wright 2006, section 3.4).
    curved, turn = np.linalg.eigh(basis.transpose(0, 2, 1) @ curvature @ basis)
    basis = basis @ turn
    along = (basis.transpose(0, 2, 1) @ gradient[:, :, None])[:, :, 0]
    stiffness = np.maximum(np.abs(curved), CURVED) + damping[:, None]
    length = along / stiffness
    return -(basis @ length[:, :, None])[:, :, 0]


def cancellation(local: Local, free: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Return the scaled gradient [b]: |sum| over sum of |summands|, worst parameter; 0 at a stationary point, 1 far off.

    A parameter does not count when moving it alone, by no more than `limit` [p], promises less than RESOLUTION of the
    objective: where it decides one row that fits to rounding, or tends to where no row depends on it.
    """
    size = np.abs(local.gradient)
    floor = 1e-300 + 1e-14 * np.max(local.gradient_size, axis=1, keepdims=True)
    metric = np.maximum(np.einsum("bpp->bp", local.metric), 1e-300)
    promise = size * np.minimum(limit, size / metric)
    matters = free & (promise > RESOLUTION * local.value[:, None])
    scaled = size / (local.gradient_size + floor)
    return np.max(np.where(matters, scaled, 0.0), axis=1)


def free_parameters(
    theta: np.ndarray,
    gradient: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Return the parameters [b, p] that are not held by a bound."""
    low, high = bounds
    at_low = (theta <= low) & (gradient >= 0)
    at_high = (theta >= high) & (gradient <= 0)
    return ~(at_low | at_high)


def minimise(
    problem: Problem,
    theta: np.ndarray,
    weight: np.ndarray,
    deltas: tuple[float, ...],
    tolerance: float = 1e-9,
    max_steps: int = MAX_STEPS,
    held: np.ndarray | None = None,
) -> np.ndarray:
    """Find local minima [b, p] from starts `theta`; `weight` is [r] or [b, r]; `deltas` are Huber deltas to go through.

    `held` [b, p] marks parameters that stay where they start.
    """
    result = np.array(theta, dtype=np.float64)
    starts = len(result)
    rows = problem.target.shape[-1]
    stays = np.zeros(result.shape, dtype=bool) if held is None else np.broadcast_to(held, result.shape)
    weights = np.broadcast_to(weight, (starts, rows))
    targets = np.broadcast_to(problem.target, (starts, rows))
    for part in slices(starts, max(1, CHUNK_ELEMENTS // rows)):
        for delta in deltas:
            result[part] = _minimise_chunk(
                problem,
                result[part],
                weights[part],
                targets[part],
                stays[part],
                delta,
                tolerance,
                max_steps,
            )
    return result


def _minimise_chunk(
    problem: Problem,
    theta: np.ndarray,
    weight: np.ndarray,
    target: np.ndarray,
    held: np.ndarray,
    delta: float,
    tolerance: float,
    max_steps: int,
) -> np.ndarray:
    """Find local minima [b, p] of one Huber loss. Points that are done leave the batch; `active` are the others."""
    low, high = problem.bounds()
    theta = np.where(held, theta, np.clip(theta, low, high))
    damping = np.full(len(theta), FIRST_DAMPING)
    active = np.arange(len(theta))
    local = problem.expand(theta, weight, target, delta)
    for _ in range(max_steps):
        here = theta[active]
        stays = held[active]
        free = free_parameters(here, local.gradient, (low, high)) & ~stays
        move = _shortened(step(local, free, damping[active]), problem.limit)
        there = np.where(stays, here, np.clip(here + move, low, high))
        with np.errstate(all="ignore"):
            trial = problem.expand(there, weight[active], target[active], delta)

        # Levenberg's rule: a step that lowers the objective is taken and the next one is bolder.
        better = trial.value < local.value
        theta[active[better]] = there[better]
        bolder = damping[active] / RELAX
        shyer = np.maximum(damping[active], LEAST_DAMPING) * TIGHTEN
        damping[active] = np.where(better, bolder, shyer)

        slope = np.where(free, local.gradient, 0.0)
        promise = np.abs(np.sum(slope * move, axis=1))
        worthless = promise <= RESOLUTION * local.value
        stationary = cancellation(local, free, problem.limit) <= tolerance
        settled = (worthless | ~better) & stationary
        exact = local.value <= EXACT * weight[active].sum(axis=1)
        stuck = damping[active] > MOST_DAMPING
        going = ~(settled | exact | stuck)
        if not going.any():
            break
        active = active[going]
        local = local.updated(trial, better, going)
    return theta


def _shortened(move: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Shorten steps [b, p] that exceed the longest allowed one [p] in any parameter."""
    excess = np.max(np.abs(move) / limit, axis=1, keepdims=True)
    return move / np.maximum(1.0, excess)
