"""Damped Newton steps for sums of monomials under a robust loss, over many starts or bootstrap replicates at once.

ln L = logsumexp_k(t_k + z_k . e): t are log terms at the middle of the data, e the exponents. Everything is float64
numpy with a leading batch axis. Axes: batch b, rows r, terms k, parameters p (terms first, then exponents).
Each step solves in the metric of iteratively reweighted least squares, where a step of length one never overshoots a
Huber loss, with the curvature of the true objective, so that it ends at a stationary point to machine precision.
"""

from contextlib import AbstractContextManager
import dataclasses
import functools
import itertools
import math
from typing import Any

import numpy as np

from analysis.solve.objective import sided, slope, smooth

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


@dataclasses.dataclass(frozen=True)
class Problem:
    """Columns of one fit. `slopes` [k, r, e] are centred over rows; `target` is ln loss [r] or [b, r]."""

    slopes: np.ndarray
    centre: np.ndarray  # [k, e], what was taken off the slopes
    target: np.ndarray
    raw: bool = False  # residuals predicted - observed instead of their logarithms
    order: tuple[int, ...] | None = None  # of the parameters, as the law names its coefficients
    above: np.ndarray | float | None = None  # [r], see Objective.shares

    @classmethod
    def create(
        cls,
        slopes: np.ndarray,
        loss: np.ndarray,
        raw: bool = False,
        order: tuple[int, ...] | None = None,
        above: np.ndarray | float | None = None,
    ) -> "Problem":
        centre = slopes.mean(axis=1)
        centred = slopes - centre[:, None]
        flat = np.abs(centred).max(axis=1, keepdims=True) <= 1e-12 * np.abs(centre[:, None])
        # One N only is no slope at all.
        return cls(np.where(flat, 0.0, centred), centre, np.log(loss), raw, order, above)

    @property
    def terms(self) -> int:
        return self.slopes.shape[0]

    @property
    def size(self) -> int:
        return self.slopes.shape[0] + self.slopes.shape[2]

    @property
    def limit(self) -> np.ndarray:
        """Longest step [p]."""
        return np.where(np.arange(self.size) < self.terms, 3.0, 0.5)

    @property
    def unit(self) -> float:
        """A typical size of what residuals are differences of."""
        return float(np.exp(self.target.max())) if self.raw else 1.0

    def complexity(self, theta: np.ndarray) -> np.ndarray:
        """Which of equal fits to prefer [b]: the smallest exponents."""
        return (theta[:, self.terms :] ** 2).sum(axis=1)

    def small_terms(self, theta: np.ndarray) -> np.ndarray:
        """Terms of [p] that are a small part of every row and may tend to zero."""
        logs = self.log_terms(theta[None])[:, 0]
        share = np.exp(logs - logs.max(axis=0)).max(axis=1)
        return np.flatnonzero((share < 0.2) & (theta[: self.terms] > self.bounds()[0][: self.terms]))

    def sensitivity(self, theta: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Weighted slopes [r, p], each over the size that it would have alone, so that a column of zeros shows."""
        logs = self.log_terms(theta[None])[:, 0]
        shares = np.exp(logs - logs.max(axis=0))
        shares /= shares.sum(axis=0)
        root = np.sqrt(weight)
        columns = [share * root for share in shares]
        sizes = [np.linalg.norm(column) for column in columns]
        for e in range(self.slopes.shape[2]):
            columns.append((shares * self.slopes[:, :, e]).sum(axis=0) * root)
            used = np.abs(self.centre[:, e]) > 0
            sizes.append(np.linalg.norm(shares[used].sum(axis=0) * root))
        return np.array(columns).T / np.maximum(np.array(sizes), 1e-300)

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

    @functools.cached_property
    def design(self) -> np.ndarray:
        """d ln(term) / d parameter: [k, p, r]."""
        own = np.broadcast_to(np.eye(self.terms)[:, :, None], (self.terms, self.terms, self.slopes.shape[1]))
        return np.concatenate([own, self.slopes.transpose(0, 2, 1)], axis=1)

    @functools.cached_property
    def terms_of(self) -> list[list[int]]:
        """The terms that each exponent is in."""
        used = self.slopes.any(axis=1)  # [k, e]
        return [np.flatnonzero(used[:, e]).tolist() for e in range(used.shape[1])]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest parameters [p]."""
        exponents = self.slopes.shape[2]
        reach = np.abs(self.slopes.mean(axis=1)).sum(axis=1) * EXPONENT_BOUNDS[1]
        reach = np.where(reach > 1e-6, reach, 0.0)  # none, where the slopes are centred
        low = np.r_[self.target.min() - LOG_VANISHED - reach, np.full(exponents, EXPONENT_BOUNDS[0])]
        high = np.r_[self.target.max() + 5.0 + reach, np.full(exponents, EXPONENT_BOUNDS[1])]
        constant = np.flatnonzero(~self.slopes.any(axis=(1, 2)))
        high[constant[1:]] = low[constant[1:]]  # of terms that are constant over the rows, the first stands for all
        return low, high

    def coefficients(self, theta: np.ndarray) -> np.ndarray:
        """Coefficients [b, p] in the law's units and order; a term that vanished has prefactor 0."""
        low, _ = self.bounds()
        terms, exponents = theta[:, : self.terms], theta[:, self.terms :]
        with np.errstate(over="ignore"):
            prefactors = np.exp(terms - exponents @ self.centre.T)
        found = np.hstack([np.where(terms <= low[: self.terms], 0.0, prefactors), exponents])
        return found if self.order is None else found[:, self.order]

    def log_terms(self, theta: np.ndarray) -> np.ndarray:
        """ln of every term: [k, b, r]."""
        return theta @ self.design

    def residuals(self, theta: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
        """[b, r]."""
        predicted = self.predicted(theta)
        target = self.target if target is None else target
        return np.exp(predicted) - np.exp(target) if self.raw else predicted - target

    def predicted(self, theta: np.ndarray) -> np.ndarray:
        """ln of the prediction [b, r]."""
        logs = self.log_terms(theta)
        top = logs.max(axis=0)
        return top + np.log(np.exp(logs - top).sum(axis=0))

    def linearise(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ln of the prediction [b, r], each term's share of it [k, b, r], and the slopes of the former [b, p, r]."""
        logs = self.log_terms(theta)
        top = logs.max(axis=0)
        shares = np.exp(logs - top)
        total = shares.sum(axis=0)
        shares /= total
        jacobian = np.empty((len(theta), self.size, self.slopes.shape[1]))
        jacobian[:, : self.terms] = shares.transpose(1, 0, 2)
        for e, used in enumerate(self.terms_of):
            jacobian[:, self.terms + e] = sum(shares[k] * self.slopes[k, :, e] for k in used)
        return top + np.log(total), shares, jacobian

    def expand(self, theta: np.ndarray, weight: np.ndarray, target: np.ndarray, delta: float) -> Local:
        """Second-order expansion of sum_r weight * huber_delta(residual)."""
        predicted, shares, jacobian = self.linearise(theta)
        scale = np.exp(predicted) if self.raw else 1.0
        r = scale - np.exp(target) if self.raw else predicted - target
        weight = sided(weight, r, self.above)
        pull = weight * slope(r, delta) * scale
        inside = weight * (np.abs(r) <= delta) * scale**2
        reweighted = weight * np.minimum(1.0, delta / np.maximum(np.abs(r), 1e-300)) * scale**2
        rows = jacobian.transpose(0, 2, 1)
        curvature = (jacobian * (inside if self.raw else inside - pull)[:, None]) @ rows
        for k, (first, second, products) in enumerate(self.products):
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

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """Slopes of the residuals [b, p, r]."""
        predicted, _, jacobian = self.linearise(theta)
        return jacobian * np.exp(predicted)[:, None] if self.raw else jacobian

    def starts(self, weight: np.ndarray, keep: int) -> np.ndarray:
        """Starts [keep, p]: an exhaustive grid of exponents, prefactors solved for (variable projection), the best kept.

        At each grid point the prefactors are the non-negative least-absolute-deviation solution of the linear problem
        that remains, by reweighted least squares on relative residuals. A quarter of the starts is taken from the rest of
        the grid, so that agreement between starts means something.
        """
        exponents = self.slopes.shape[2]
        per_axis = {0: 1, 1: 96, 2: 28, 3: 11}.get(exponents, 6)
        per_axis = max(per_axis, math.ceil(keep ** (1 / exponents))) if exponents else per_axis
        axis = np.geomspace(0.015, 2.2, per_axis)
        grid = np.array(list(itertools.product(axis, repeat=exponents))).reshape(-1, exponents)
        best = np.empty((len(grid), self.size))
        score = np.empty(len(grid))
        chunk = max(1, 4 * CHUNK_ELEMENTS // self.slopes.shape[1])
        for first in range(0, len(grid), chunk):
            part = slice(first, first + chunk)
            best[part], score[part] = self._project(grid[part], weight)
        order = np.argsort(score, kind="stable")
        near, far = order[: keep - keep // 4], order[keep - keep // 4 :]
        spread = far[np.linspace(0, len(far) - 1, keep // 4).astype(int)] if len(far) else far
        return best[np.unique(np.r_[near, spread])]

    def _project(self, exponents: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logs = np.stack([exponents @ self.slopes[k].T for k in range(self.terms)], axis=2)  # [g, r, k]
        basis = np.exp(logs - self.target[:, None])
        trust = np.broadcast_to(weight, basis.shape[:2])
        solution = np.zeros((len(exponents), self.terms))
        score = np.zeros(len(exponents))
        for _ in range(4):
            solution = non_negative(basis, trust)
            misfit = np.abs((basis @ solution[:, :, None])[:, :, 0] - 1.0)
            score = (weight * misfit).sum(axis=1)
            floor = 1e-6 + 0.1 * np.mean(misfit, axis=1, keepdims=True)
            trust = weight / np.maximum(misfit, floor)
        smallest = np.exp(np.median(self.target)) * 1e-4
        return np.hstack([np.log(np.maximum(solution, smallest)), exponents]), score


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
