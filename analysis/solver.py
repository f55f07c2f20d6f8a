"""Damped Newton steps for sums of monomials under a robust loss, over many starts or bootstrap replicates at once.

ln L = logsumexp_k(t_k + z_k . e): t are log terms at the middle of the data, e the exponents. Everything is float64
numpy with a leading batch axis. Axes: batch b, rows r, terms k, parameters p (terms first, then exponents).
Each step solves in the metric of iteratively reweighted least squares, where a step of length one never overshoots a
Huber loss, with the curvature of the true objective, so that it ends at a stationary point to machine precision.
"""

import dataclasses
import functools
import itertools

import numpy as np

from analysis.objective import slope, smooth

LOG_VANISHED = 30.0  # a term e^-30 below the loss is zero in float64
EXPONENT_BOUNDS = (0.0, 4.0)
MAX_STEPS = 300
RESOLUTION = 1e-13  # a step that promises less than this share of the objective ends the search
CHUNK_ELEMENTS = 40_000  # batch x rows that stay in cache


@dataclasses.dataclass(frozen=True)
class Problem:
    """Columns of one fit. `slopes` [k, r, e] are centred over rows; `target` is ln loss [r] or [b, r]."""

    slopes: np.ndarray
    centre: np.ndarray  # [k, e], what was taken off the slopes
    target: np.ndarray
    raw: bool = False  # residuals predicted - observed instead of their logarithms

    @classmethod
    def create(cls, slopes: np.ndarray, loss: np.ndarray, raw: bool = False) -> "Problem":
        centre = slopes.mean(axis=1)
        centred = slopes - centre[:, None]
        flat = np.abs(centred).max(axis=1, keepdims=True) <= 1e-12 * np.abs(centre[:, None])
        return cls(np.where(flat, 0.0, centred), centre, np.log(loss), raw)  # one N only is no slope at all

    @property
    def terms(self) -> int:
        return self.slopes.shape[0]

    @property
    def size(self) -> int:
        return self.slopes.shape[0] + self.slopes.shape[2]

    @functools.cached_property
    def products(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each term the pairs of parameters that it depends on, and the products of its slopes by them [r, pairs]."""
        found = []
        for k in range(self.terms):
            slope = np.zeros((self.slopes.shape[1], self.size))
            slope[:, k] = 1.0
            slope[:, self.terms :] = self.slopes[k]
            used = np.flatnonzero(slope.any(axis=0))
            first, second = (used[at] for at in np.triu_indices(len(used)))
            found.append((first, second, slope[:, first] * slope[:, second]))
        return found

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest parameters [p]."""
        exponents = self.slopes.shape[2]
        low = np.r_[np.full(self.terms, self.target.min() - LOG_VANISHED), np.full(exponents, EXPONENT_BOUNDS[0])]
        high = np.r_[np.full(self.terms, self.target.max() + 5.0), np.full(exponents, EXPONENT_BOUNDS[1])]
        constant = np.flatnonzero(~self.slopes.any(axis=(1, 2)))
        high[constant[1:]] = low[constant[1:]]  # of terms that are constant over the rows, the first stands for all
        return low, high

    def coefficients(self, theta: np.ndarray) -> np.ndarray:
        """Prefactors and exponents [b, p] in the law's own units; a term that vanished has prefactor 0."""
        low, _ = self.bounds()
        terms, exponents = theta[:, : self.terms], theta[:, self.terms :]
        with np.errstate(over="ignore"):
            prefactors = np.exp(terms - exponents @ self.centre.T)
        return np.hstack([np.where(terms <= low[: self.terms], 0.0, prefactors), exponents])

    def log_terms(self, theta: np.ndarray) -> np.ndarray:
        """ln of every term: [k, b, r]."""
        exponents = theta[:, self.terms :]
        return np.stack([theta[:, k, None] + exponents @ self.slopes[k].T for k in range(self.terms)])

    def residuals(self, theta: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
        """[b, r]."""
        logs = self.log_terms(theta)
        top = logs.max(axis=0)
        predicted = top + np.log(np.exp(logs - top).sum(axis=0))
        target = self.target if target is None else target
        return np.exp(predicted) - np.exp(target) if self.raw else predicted - target


@dataclasses.dataclass(frozen=True)
class Local:
    """The objective around [b] points: value, slope, curvature, the metric of reweighted least squares."""

    value: np.ndarray  # [b]
    gradient: np.ndarray  # [b, p]
    gradient_size: np.ndarray  # [b, p] the same sum with absolute summands, to judge how far it cancels
    curvature: np.ndarray  # [b, p, p]
    metric: np.ndarray  # [b, p, p]


def linearise(problem: Problem, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln of the prediction [b, r], each term's share of it [k, b, r], and the slopes of the former [b, p, r]."""
    logs = problem.log_terms(theta)
    top = logs.max(axis=0)
    shares = np.exp(logs - top)
    total = shares.sum(axis=0)
    shares /= total
    jacobian = np.empty((len(theta), problem.size, problem.slopes.shape[1]))
    jacobian[:, : problem.terms] = shares.transpose(1, 0, 2)
    for e in range(problem.slopes.shape[2]):
        used = [k for k in range(problem.terms) if problem.slopes[k, :, e].any()]
        jacobian[:, problem.terms + e] = sum(shares[k] * problem.slopes[k, :, e] for k in used)
    return top + np.log(total), shares, jacobian


def expand(problem: Problem, theta: np.ndarray, weight: np.ndarray, target: np.ndarray, delta: float) -> Local:
    """Second-order expansion of sum_r weight * huber_delta(residual)."""
    predicted, shares, jacobian = linearise(problem, theta)
    scale = np.exp(predicted) if problem.raw else 1.0
    r = scale - np.exp(target) if problem.raw else predicted - target
    pull = weight * slope(r, delta) * scale
    inside = weight * (np.abs(r) <= delta) * scale**2
    reweighted = weight * np.minimum(1.0, delta / np.maximum(np.abs(r), 1e-300)) * scale**2
    rows = jacobian.transpose(0, 2, 1)
    curvature = (jacobian * (inside if problem.raw else inside - pull)[:, None]) @ rows
    for k, (first, second, products) in enumerate(problem.products):
        bend = (pull * shares[k]) @ products
        curvature[:, first, second] += bend
        curvature[:, second, first] += np.where(first == second, 0.0, bend)
    return Local(
        value=(weight * smooth(r, delta)).sum(axis=1),
        gradient=(jacobian @ pull[:, :, None])[:, :, 0],
        gradient_size=(np.abs(jacobian) @ np.abs(pull)[:, :, None])[:, :, 0],
        curvature=curvature,
        metric=(jacobian * reweighted[:, None]) @ rows,
    )


def value(problem: Problem, theta: np.ndarray, weight: np.ndarray, target: np.ndarray, delta: float) -> np.ndarray:
    """The objective at [b] points."""
    return (weight * smooth(problem.residuals(theta, target), delta)).sum(axis=1)


def step(local: Local, free: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """Newton steps [b, p]; directions that the data do not determine are left alone, `free` [b, p] masks bounds."""
    gradient = np.where(free, local.gradient, 0.0)
    both = free[:, :, None] & free[:, None, :]
    metric, curvature = np.where(both, local.metric, 0.0), np.where(both, local.curvature, 0.0)
    size = np.sqrt(np.einsum("bpp->bp", metric))
    size = np.where(size > 0, size, 1.0)
    spread, vectors = np.linalg.eigh(metric / size[:, :, None] / size[:, None, :])
    known = spread > 1e-14 * spread[:, -1:]
    inverse = np.where(known, 1.0 / np.sqrt(np.where(known, spread, 1.0)), 0.0)
    basis = vectors * inverse[:, None] / size[:, :, None]
    curved, turn = np.linalg.eigh(basis.transpose(0, 2, 1) @ curvature @ basis)
    basis = basis @ turn
    along = (basis.transpose(0, 2, 1) @ gradient[:, :, None])[:, :, 0]
    length = along / (np.maximum(np.abs(curved), 1e-7) + damping[:, None])
    return -(basis @ length[:, :, None])[:, :, 0]


def cancellation(local: Local, free: np.ndarray) -> np.ndarray:
    """Scaled gradient [b]: |sum| over sum of |summands|, worst parameter; 0 at a stationary point, 1 far from one."""
    floor = 1e-300 + 1e-14 * np.max(local.gradient_size, axis=1, keepdims=True)
    return np.max(np.where(free, np.abs(local.gradient) / (local.gradient_size + floor), 0.0), axis=1)


def free_parameters(theta: np.ndarray, gradient: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Parameters [b, p] that are not held by a bound."""
    low, high = bounds
    return ~(((theta <= low) & (gradient >= 0)) | ((theta >= high) & (gradient <= 0)))


def minimise(
    problem: Problem,
    theta: np.ndarray,
    weight: np.ndarray,
    deltas: tuple[float, ...],
    tolerance: float = 1e-9,
    max_steps: int = MAX_STEPS,
) -> np.ndarray:
    """Local minima [b, p] from starts `theta`; `weight` is [r] or [b, r]; `deltas` are Huber deltas to go through."""
    result = np.array(theta, dtype=np.float64)
    rows = problem.slopes.shape[1]
    chunk = max(1, CHUNK_ELEMENTS // rows)
    for first in range(0, len(result), chunk):
        part = slice(first, first + chunk)
        local_weight = np.broadcast_to(weight, (len(result), rows))[part]
        target = np.broadcast_to(problem.target, (len(result), rows))[part]
        for delta in deltas:
            result[part] = _minimise_chunk(problem, result[part], local_weight, target, delta, tolerance, max_steps)
    return result


def _minimise_chunk(
    problem: Problem,
    theta: np.ndarray,
    weight: np.ndarray,
    target: np.ndarray,
    delta: float,
    tolerance: float,
    max_steps: int,
) -> np.ndarray:
    low, high = bounds = problem.bounds()
    theta = np.clip(theta, low, high)
    damping = np.full(len(theta), 1e-2)
    active = np.arange(len(theta))
    limit = np.where(np.arange(problem.size) < problem.terms, 3.0, 0.5)
    for _ in range(max_steps):
        here, w, y = theta[active], weight[active], target[active]
        local = expand(problem, here, w, y, delta)
        free = free_parameters(here, local.gradient, bounds)
        move = step(local, free, damping[active])
        move /= np.maximum(1.0, np.max(np.abs(move) / limit, axis=1, keepdims=True))
        there = np.clip(here + move, low, high)
        new = value(problem, there, w, y, delta)
        better = new < local.value
        theta[active[better]] = there[better]
        damping[active] = np.where(better, damping[active] / 8, np.maximum(damping[active], 1e-4) * 6)
        promise = np.abs(np.sum(np.where(free, local.gradient, 0.0) * move, axis=1)) <= RESOLUTION * local.value
        settled = (promise | ~better) & (cancellation(local, free) <= tolerance)
        exact = local.value <= 1e-29 * w.sum(axis=1)
        stuck = damping[active] > 1e8
        active = active[~(settled | exact | stuck)]
        if not len(active):
            break
    return theta


def start_points(problem: Problem, weight: np.ndarray, keep: int) -> np.ndarray:
    """Starts [keep, p]: an exhaustive grid of exponents, prefactors solved for (variable projection), the best kept.

    At each grid point the prefactors are the non-negative least-absolute-deviation solution of the linear problem
    that remains, by reweighted least squares on relative residuals. A quarter of the starts is taken from the rest of
    the grid, so that agreement between starts means something.
    """
    exponents = problem.slopes.shape[2]
    per_axis = {0: 1, 1: 96, 2: 28, 3: 11}.get(exponents, 6)
    axis = np.geomspace(0.015, 2.2, per_axis)
    grid = np.array(list(itertools.product(axis, repeat=exponents))).reshape(-1, exponents)
    best = np.empty((len(grid), problem.size))
    score = np.empty(len(grid))
    chunk = max(1, 16 * CHUNK_ELEMENTS // problem.slopes.shape[1])
    for first in range(0, len(grid), chunk):
        part = slice(first, first + chunk)
        best[part], score[part] = _project(problem, grid[part], weight)
    order = np.argsort(score, kind="stable")
    near, far = order[: keep - keep // 4], order[keep - keep // 4 :]
    spread = far[np.linspace(0, len(far) - 1, keep // 4).astype(int)] if len(far) else far
    return best[np.unique(np.r_[near, spread])]


def _project(problem: Problem, exponents: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logs = np.stack([exponents @ problem.slopes[k].T for k in range(problem.terms)], axis=2)  # [g, r, k]
    basis = np.exp(logs - problem.target[:, None])
    trust = np.broadcast_to(weight, basis.shape[:2])
    solution = np.zeros((len(exponents), problem.terms))
    score = np.zeros(len(exponents))
    for _ in range(4):
        solution = _non_negative(basis, trust)
        misfit = np.abs((basis @ solution[:, :, None])[:, :, 0] - 1.0)
        score = (weight * misfit).sum(axis=1)
        floor = 1e-6 + 0.1 * np.mean(misfit, axis=1, keepdims=True)
        trust = weight / np.maximum(misfit, floor)
    smallest = np.exp(np.median(problem.target)) * 1e-4
    return np.hstack([np.log(np.maximum(solution, smallest)), exponents]), score


def _non_negative(basis: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted least squares basis @ c = 1 with c >= 0, by trying every set of terms: [g, k]."""
    groups, _, terms = basis.shape
    weighted = basis * weight[:, :, None]
    gram, moment = weighted.transpose(0, 2, 1) @ basis, weighted.sum(axis=1)
    gain, solution = np.full(groups, -np.inf), np.zeros((groups, terms))
    for size in range(terms, 0, -1):
        for chosen in itertools.combinations(range(terms), size):
            at = np.array(chosen)
            block = gram[:, at[:, None], at]
            block = block + 1e-12 * np.einsum("gkk->gk", block)[:, :, None] * np.eye(size)
            part = np.linalg.solve(block, moment[:, at][:, :, None])[:, :, 0]
            fitted = (part * moment[:, at]).sum(axis=1)
            use = (part >= 0).all(axis=1) & (fitted > gain)
            gain[use] = fitted[use]
            solution[np.ix_(use, at)] = part[use]
            solution[np.ix_(use, np.setdiff1d(np.arange(terms), at))] = 0.0
    return solution
