"""Take damped Newton steps under a robust loss, from many starts or for many bootstrap replicates at once.

Everything is float64 numpy with a leading batch axis. Axes: batch b, rows r, parameters p. Each step solves in the metric
of iteratively reweighted least squares, where a step of length one never overshoots a Huber loss, with the curvature of
the true objective, so that it ends at a stationary point to machine precision. Knows no law: see
analysis/solve/problem.py for what it asks of one.
"""

import contextlib
from contextlib import AbstractContextManager
import dataclasses

import numpy as np

from analysis.solve.objective import sided, slope, smooth
from analysis.solve.problem import Local, Problem
from analysis.solve.starting import slices

MAX_STEPS = 300
RESOLUTION = 1e-13  # a step that promises less than this share of the objective ends the search
CHUNK_ELEMENTS = 40_000  # batch x rows that stay in cache
CURVED = 1e-7  # least curvature along an axis, of the metric's
SAFE_PIVOT = 1e-9

MOST_POLISH = 8  # full steps after a search
POLISH = 0.01  # of the longest step: a longer one goes elsewhere, along what the rows leave open
CLOSER = 0.25  # by which each has to lower what is left to gain
NO_HIGHER = 1e-12  # rounding of an objective

FIRST_DAMPING = 1e-2
LEAST_DAMPING = 1e-4  # after a step that was not taken
MOST_DAMPING = 1e8  # a search that needs more is stuck
RELAX = 8  # by which damping falls after a step that was taken
TIGHTEN = 6  # by which it rises after one that was not
ASLEEP = 1e-6  # share of the data below which a term is too small for its logarithm to grow again by steps
AWAKE = 1e-4  # share of the data that such a term is raised to
UPHILL = 1e-6  # scaled gradient from which on it is sure that the term should grow
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
    easy = positive(curvature - CURVED * metric)
    move = np.empty_like(gradient)
    if easy.any():
        try:
            answer = np.linalg.solve(damped[easy], gradient[easy][:, :, None])
            move[easy] = -answer[:, :, 0]
        except np.linalg.LinAlgError:  # so much damping that nothing is left of the curvature beside a flat metric
            easy = np.zeros_like(easy)
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


def cancellation(local: Local, free: np.ndarray, limit: np.ndarray, resolution: float = RESOLUTION) -> np.ndarray:
    """Return the scaled gradient [b]: |sum| over sum of |summands|, worst parameter; 0 at a stationary point, 1 far off.

    A parameter does not count when moving it alone, by no more than `limit` [p], promises less than `resolution` of the
    objective: where it decides one row that fits to rounding, or tends to where no row depends on it.
    """
    size = np.abs(local.gradient)
    floor = 1e-300 + 1e-14 * np.max(local.gradient_size, axis=1, keepdims=True)
    metric = np.maximum(np.einsum("bpp->bp", local.metric), 1e-300)
    promise = size * np.minimum(limit, size / metric)
    matters = free & (promise > resolution * local.value[:, None])
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
    enough: float = 0.0,
) -> np.ndarray:
    """Find local minima [b, p] from starts `theta`; `weight` is [r] or [b, r]; `deltas` are Huber deltas to go through.

    `held` [b, p] marks parameters that stay where they start. A search also ends where a step promises to lower the
    objective by less than `enough`.
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
                enough,
            )
    return result


def polish(problem: Problem, theta: np.ndarray, weight: np.ndarray, delta: float) -> np.ndarray:
    """Take full Newton steps from the end of a search [p] for as long as they lead closer: what rounding allows.

    A search ends where the objective no longer falls; where it is flat, parameters are then right to half as many digits.
    """
    rows = (1, problem.target.shape[-1])
    weights = np.broadcast_to(weight, rows)
    target = np.broadcast_to(problem.target, rows)
    bounds = problem.bounds()
    here = theta[None]
    local = _expand_exactly(problem, here, weights, target, delta)
    move, left = _full_step(local, here, bounds)
    for _ in range(MOST_POLISH):
        if (np.abs(move[0]) > POLISH * problem.limit).any():
            break
        there = np.clip(here + move, *bounds)
        with np.errstate(all="ignore"):
            trial = _expand_exactly(problem, there, weights, target, delta)
        next_move, next_left = _full_step(trial, there, bounds)
        closer = next_left < CLOSER * left
        if not (closer and trial.value[0] <= local.value[0] * (1 + NO_HIGHER)):
            break
        here = there
        move = next_move
        left = next_left
    return here[0]


def left_to_gain(problem: Problem, theta: np.ndarray, weight: np.ndarray, delta: float) -> tuple[float, float]:
    """Return by how much a full Newton step at `theta` [p] promises to lower the objective, and the objective there."""
    rows = (1, problem.target.shape[-1])
    target = np.broadcast_to(problem.target, rows)
    local = _expand_exactly(problem, theta[None], np.broadcast_to(weight, rows), target, delta)
    _, left = _full_step(local, theta[None], problem.bounds())
    return left, float(local.value[0])


def _expand_exactly(problem: Problem, theta: np.ndarray, weight: np.ndarray, target: np.ndarray, delta: float) -> Local:
    """Expand the objective around one point [1, p], with the slopes of the jacobian in place of the quicker ones."""
    residual = problem.residuals(theta, target)
    pull = sided(weight, residual, problem.above) * slope(residual, delta)
    gradient = (problem.jacobian(theta) @ pull[:, :, None])[:, :, 0]
    local = problem.expand(theta, weight, target, delta)
    return dataclasses.replace(local, gradient=gradient)


def _full_step(local: Local, theta: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, float]:
    """Return an undamped step [1, p] and by how much it promises to lower the objective."""
    free = free_parameters(theta, local.gradient, bounds)
    move = step(local, free, np.zeros(1))
    return move, float(np.abs(np.where(free, local.gradient * move, 0.0).sum()))


@np.errstate(all="ignore")  # a start at which the formula has no value leads nowhere, and says so by being left behind
def _minimise_chunk(
    problem: Problem,
    theta: np.ndarray,
    weight: np.ndarray,
    target: np.ndarray,
    held: np.ndarray,
    delta: float,
    tolerance: float,
    max_steps: int,
    enough: float,
) -> np.ndarray:
    """Find local minima [b, p] of one Huber loss. Points that are done leave the batch; `active` are the others."""
    low, high = problem.bounds()
    theta = np.where(held, theta, np.clip(theta, low, high))
    damping = np.full(len(theta), FIRST_DAMPING)
    rested = np.ones(len(theta), dtype=bool)  # whether the last step that woke a term, if there was one, was taken
    active = np.arange(len(theta))
    local = problem.expand(theta, weight, target, delta)
    for _ in range(max_steps):
        here = theta[active]
        stays = held[active]
        free = free_parameters(here, local.gradient, (low, high)) & ~stays
        move = shortened(step(local, free, damping[active]), problem.limit)
        woken = _wake(problem, local, free & rested[active, None], weight[active])
        there = np.where(stays, here, np.clip(here + move + woken, low, high))
        trial = problem.expand(there, weight[active], target[active], delta)

        better = trial.value < local.value
        theta[active[better]] = there[better]
        damping[active] = next_damping(damping[active], better)
        wakes = woken.any(axis=1)
        rested[active] = better | ~wakes

        downhill = np.where(free, local.gradient, 0.0)
        promise = np.abs(np.sum(downhill * move, axis=1))
        worthless = promise <= RESOLUTION * local.value
        stationary = cancellation(local, free, problem.limit) <= tolerance
        settled = (worthless | ~better) & stationary
        settled |= promise * (1 + damping[active]) <= enough  # what is held back by damping counts
        exact = local.value <= EXACT * weight[active].sum(axis=1)
        stuck = damping[active] > MOST_DAMPING
        going = ~(settled | exact | stuck) | wakes & ~exact
        if not going.any():
            break
        active = active[going]
        local = local.updated(trial, better, going)
    return theta


def next_damping(damping: np.ndarray, better: np.ndarray) -> np.ndarray:
    """Return the damping of the next steps [b], by Levenberg's rule: after one that lowers the objective they are bolder."""
    bolder = damping / RELAX
    shyer = np.maximum(damping, LEAST_DAMPING) * TIGHTEN
    return np.where(better, bolder, shyer)


def _wake(problem: Problem, local: Local, free: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return by how much to raise logarithms [b, p] of terms that have all but vanished and should grow; 0 elsewhere.

    Steps of a logarithm gain next to nothing while its term is tiny: without this, zero would be an optimum of its own.
    """
    square = np.einsum("bpp->bp", local.metric) / weight.sum(axis=1, keepdims=True)
    effect = np.sqrt(np.maximum(square, 1e-300)) / problem.unit
    should_grow = local.gradient < -UPHILL * local.gradient_size
    asleep = free & problem.logs & (effect < ASLEEP) & should_grow
    return np.where(asleep, np.log(AWAKE / effect), 0.0)


def shortened(move: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Shorten steps [b, p] that exceed the longest allowed one [p] in any parameter."""
    excess = np.max(np.abs(move) / limit, axis=1, keepdims=True)
    return move / np.maximum(1.0, excess)
