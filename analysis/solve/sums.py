"""Pose the fit of a sum of monomials.

ln L = logsumexp_k(t_k + z_k . e): t are log terms at the middle of the data, e the exponents, z the slopes of each term.
Axes: batch b, rows r, terms k, exponents e, parameters p (log terms first, then exponents).
"""

import dataclasses
import itertools
import math

import numpy as np

from analysis.solve import projection
from analysis.solve.expansion import assemble, row_terms, weighted_products
from analysis.solve.least_squares import non_negative
from analysis.solve.newton import CHUNK_ELEMENTS
from analysis.solve.objective import sided
from analysis.solve.problem import Local, worked_out_once
from analysis.solve.starting import best_and_spread, slices

LOG_VANISHED = 30.0  # a term e^-30 below the loss is zero in float64
EXPONENT_BOUNDS = (0.0, 4.0)
EXPONENT_RANGE = (0.015, 2.2)  # of the grid of starts
POINTS_PER_AXIS = {0: 1, 1: 96, 2: 28, 3: 11}  # of that grid, by the number of exponents
FEWEST_PER_AXIS = 6  # for more exponents than that
TERM_STEP = 3.0  # longest step of a log term
EXPONENT_STEP = 0.5  # longest step of an exponent
SMALL_SHARE = 0.2  # a term that is less of every row may vanish
ROUNDS = 4  # of reweighting towards least absolute deviations
GRID_ROWS = 64  # that are looked at there, at most
REFINED = 2  # times as many places of the grid as starts are reweighted


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The pairs of parameters that a term depends on, and the products of its slopes by them [r, pairs]."""

    first: np.ndarray
    second: np.ndarray
    products: np.ndarray


@dataclasses.dataclass(frozen=True)
class SumProblem:
    """Hold the columns of one fit. `slopes` [k, r, e] are centred over rows; `target` is ln loss [r] or [b, r].

    A `Problem` (analysis/solve/problem.py), whose members are described there.
    """

    slopes: np.ndarray
    centre: np.ndarray  # [k, e], what was taken off the slopes
    target: np.ndarray
    raw: bool = False  # residuals predicted - observed instead of their logarithms
    order: tuple[int, ...] | None = None  # of the parameters, as the law names its coefficients
    above: np.ndarray | float | None = None  # [r], see Objective.shares
    names: tuple[str, ...] = ()
    exponent_bounds: tuple[tuple[float, float], ...] | None = (
        None  # lowest and highest of each; EXPONENT_BOUNDS if None
    )

    @classmethod
    def create(
        cls,
        slopes: np.ndarray,
        loss: np.ndarray,
        raw: bool = False,
        order: tuple[int, ...] | None = None,
        above: np.ndarray | float | None = None,
        names: tuple[str, ...] = (),
        exponent_bounds: tuple[tuple[float, float], ...] | None = None,
    ) -> "SumProblem":
        """Centre the slopes, so that log terms are those at the middle of the data and hardly depend on exponents."""
        centre = slopes.mean(axis=1)
        centred = slopes - centre[:, None]
        widest = np.abs(centred).max(axis=1, keepdims=True)
        is_flat = widest <= 1e-12 * np.abs(centre[:, None])  # one N only is no slope at all
        slopes = np.where(is_flat, 0.0, centred)
        return cls(slopes, centre, np.log(loss), raw, order, above, names, exponent_bounds)

    @property
    def terms(self) -> int:
        """Number of terms."""
        return self.slopes.shape[0]

    @property
    def exponents(self) -> int:
        """Number of exponents."""
        return self.slopes.shape[2]

    @property
    def size(self) -> int:
        """Number of free parameters."""
        return self.terms + self.exponents

    @worked_out_once
    def logs(self) -> np.ndarray:
        """Which parameters are logarithms [p]: the terms."""
        return np.arange(self.size) < self.terms

    @worked_out_once
    def limit(self) -> np.ndarray:
        """Longest step [p]."""
        return np.where(self.logs, TERM_STEP, EXPONENT_STEP)

    @worked_out_once
    def unit(self) -> float:
        """A typical size of what residuals are differences of."""
        return float(np.exp(self.target.max())) if self.raw else 1.0

    @worked_out_once
    def pairs(self) -> list[Pairs]:
        """What the curvature of each term needs."""
        found = []
        for k in range(self.terms):
            slope = np.zeros((self.slopes.shape[1], self.size))
            slope[:, k] = 1.0
            slope[:, self.terms :] = self.slopes[k]
            used = np.flatnonzero(slope.any(axis=0))
            upper_row, upper_column = np.triu_indices(len(used))
            first = used[upper_row]
            second = used[upper_column]
            found.append(Pairs(first, second, slope[:, first] * slope[:, second]))
        return found

    @worked_out_once
    def design(self) -> np.ndarray:
        """d ln(term) / d parameter: [k, p, r]."""
        rows = self.slopes.shape[1]
        own = np.broadcast_to(np.eye(self.terms)[:, :, None], (self.terms, self.terms, rows))
        return np.concatenate([own, self.slopes.transpose(0, 2, 1)], axis=1)

    @worked_out_once
    def terms_of(self) -> list[list[int]]:
        """The terms that each exponent is in."""
        used = np.asarray(self.slopes.any(axis=1))  # [k, e]
        return [np.flatnonzero(used[:, e]).tolist() for e in range(self.exponents)]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest parameters [p]."""
        low, high = self.own_bounds
        return low.copy(), high.copy()

    @worked_out_once
    def own_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and highest parameters [p]."""
        lowest, highest = np.array(self.exponent_bounds or [EXPONENT_BOUNDS] * self.exponents).reshape(-1, 2).T
        reach = np.abs(self.slopes.mean(axis=1)) @ np.maximum(np.abs(lowest), np.abs(highest))
        reach = np.where(reach > 1e-6, reach, 0.0)  # none, where the slopes are centred
        low_terms = self.target.min() - LOG_VANISHED - reach
        high_terms = self.target.max() + 5.0 + reach
        low = np.r_[low_terms, lowest]
        high = np.r_[high_terms, highest]
        constant = np.flatnonzero(~self.slopes.any(axis=(1, 2)))
        high[constant[1:]] = low[constant[1:]]  # of terms that are constant over the rows, the first stands for all
        return low, high

    def coefficients(self, theta: np.ndarray) -> np.ndarray:
        """Return coefficients [b, p] in the law's units and order; a term that vanished has prefactor 0."""
        low, _ = self.bounds()
        log_terms = theta[:, : self.terms]
        exponents = theta[:, self.terms :]
        with np.errstate(over="ignore"):
            prefactors = np.exp(log_terms - exponents @ self.centre.T)
        vanished = log_terms <= low[: self.terms]
        found = np.hstack([np.where(vanished, 0.0, prefactors), exponents])
        return found if self.order is None else found[:, self.order]

    def log_terms(self, theta: np.ndarray) -> np.ndarray:
        """Return ln of every term: [k, b, r]."""
        return theta @ self.design

    def predicted(self, theta: np.ndarray) -> np.ndarray:
        """Return ln of the prediction [b, r]."""
        logs = self.log_terms(theta)
        top = logs.max(axis=0)
        return top + np.log(np.exp(logs - top).sum(axis=0))

    def residuals(self, theta: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
        """Return predicted minus observed [b, r], or the difference of their logarithms."""
        predicted = self.predicted(theta)
        observed = self.target if target is None else target
        if self.raw:
            return np.exp(predicted) - np.exp(observed)
        return predicted - observed

    def linearise(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ln of the prediction [b, r], each term's share of it [k, b, r], and the former's slopes [b, p, r]."""
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

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """Return the slopes of the residuals [b, p, r]."""
        predicted, _, jacobian = self.linearise(theta)
        return jacobian * np.exp(predicted)[:, None] if self.raw else jacobian

    def expand(self, theta: np.ndarray, weight: np.ndarray, target: np.ndarray, delta: float) -> Local:
        """Expand sum_r weight * huber_delta(residual) to second order around [b] points."""
        predicted, shares, jacobian = self.linearise(theta)
        scale: np.ndarray | float = 1.0
        residual = predicted - target
        if self.raw:
            scale = np.exp(predicted)
            residual = scale - np.exp(target)
        rows = row_terms(residual, sided(weight, residual, self.above), delta, scale)

        # The second slopes of ln L are sum_k share_k z_k z_k^T - j j^T, with j its first ones; those of L itself, over L,
        # are the sum alone. So j j^T counts less by the pull where residuals are logarithms.
        curvature = weighted_products(jacobian, rows.inside if self.raw else rows.inside - rows.pull)
        for share, pairs in zip(shares, self.pairs, strict=True):
            bend = (rows.pull * share) @ pairs.products
            mirrored = np.where(pairs.first == pairs.second, 0.0, bend)
            curvature[:, pairs.first, pairs.second] += bend
            curvature[:, pairs.second, pairs.first] += mirrored
        return assemble(rows, jacobian, curvature)

    def complexity(self, theta: np.ndarray) -> np.ndarray:
        """Say which of equal fits to prefer [b]: the smallest exponents."""
        return (theta[:, self.terms :] ** 2).sum(axis=1)

    def small_terms(self, theta: np.ndarray) -> np.ndarray:
        """Return the terms of [p] that are a small part of every row and may tend to zero."""
        logs = self.log_terms(theta[None])[:, 0]
        share = np.exp(logs - logs.max(axis=0)).max(axis=1)
        low = self.bounds()[0][: self.terms]
        return np.flatnonzero((share < SMALL_SHARE) & (theta[: self.terms] > low))

    def sensitivity(self, theta: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return weighted slopes [r, p], each over the size that it would have alone, so that a zero column shows."""
        logs = self.log_terms(theta[None])[:, 0]
        shares = np.exp(logs - logs.max(axis=0))
        shares /= shares.sum(axis=0)
        root = np.sqrt(weight)
        columns = [share * root for share in shares]
        sizes = [np.linalg.norm(column) for column in columns]
        for e in range(self.exponents):
            slope = (shares * self.slopes[:, :, e]).sum(axis=0)
            has_exponent = np.abs(self.centre[:, e]) > 0
            columns.append(slope * root)
            sizes.append(np.linalg.norm(shares[has_exponent].sum(axis=0) * root))
        return np.array(columns).T / np.maximum(np.array(sizes), 1e-300)

    def with_target(self, target: np.ndarray) -> "SumProblem":
        """Return the same rows with other observations."""
        return dataclasses.replace(self, target=target)

    def in_units(self, theta: np.ndarray, at: int) -> tuple["SumProblem", np.ndarray]:
        """Return problem and parameters in which term `at` is the log of its coefficient, not of its middle."""
        if at >= self.terms:
            return self, theta
        shift = np.zeros_like(self.centre)
        shift[at] = self.centre[at]
        slopes = self.slopes + shift[:, None]
        other = dataclasses.replace(self, slopes=slopes, centre=self.centre - shift)
        moved = theta.copy()
        moved[at] -= float(self.centre[at] @ theta[self.terms :])
        if theta[at] <= self.bounds()[0][at]:
            moved[at] = other.bounds()[0][at]  # zero stays zero
        return other, moved

    def starts(self, weight: np.ndarray, keep: int) -> np.ndarray:
        """Return starts [keep, p]: a grid of exponents, prefactors solved for, the best of it and some of the rest."""
        return grid_starts(self, weight, keep)

    def approach(
        self, theta: np.ndarray, weight: np.ndarray, delta: float, steps: int, rows: int | None = None
    ) -> np.ndarray:
        """Bring points [b, p] nearer to minima, over the exponents alone; see Problem."""
        problem = self
        if rows is not None:
            some = _some_rows(weight, rows)
            problem = self.with_rows(some)
            weight = weight[some]
        nearer = projection.descend(problem, theta, weight, delta, steps)
        return np.clip(nearer, *self.bounds())

    def with_rows(self, some: np.ndarray) -> "SumProblem":
        """Return the same problem for some of the rows; parameters mean the same."""
        above = self.above
        if isinstance(above, np.ndarray):
            above = above[some]
        return dataclasses.replace(self, slopes=self.slopes[:, some], target=self.target[some], above=above)


def grid_starts(problem: SumProblem, weight: np.ndarray, keep: int) -> np.ndarray:
    """Try an exhaustive grid of exponents with the best prefactors at each point (variable projection): [keep, p].

    A quarter of the starts is taken from the rest of the grid, so that agreement between starts means something.
    """
    exponents = problem.exponents
    per_axis = POINTS_PER_AXIS.get(exponents, FEWEST_PER_AXIS)
    if exponents:
        per_axis = max(per_axis, math.ceil(keep ** (1 / exponents)))
    low, high = problem.bounds()
    axes = [_start_values(low[at], high[at], per_axis) for at in range(problem.terms, problem.size)]
    grid = np.array(list(itertools.product(*axes)))
    grid = grid.reshape(-1, exponents)

    some = _some_rows(weight, GRID_ROWS)
    problem = problem.with_rows(some)
    weight = weight[some]
    points = np.empty((len(grid), problem.size))
    score = np.empty(len(grid))

    def project(which: np.ndarray, rounds: int) -> None:
        """Solve for the prefactors at some places of the grid, so many at a time that they stay in cache."""
        at_once = max(1, 4 * CHUNK_ELEMENTS // problem.slopes.shape[1])
        for part in slices(len(which), at_once):
            some = which[part]
            points[some], score[some] = _project(problem, grid[some], weight, rounds)

    project(np.arange(len(grid)), 1)
    order = np.argsort(score, kind="stable")
    better = order[: REFINED * keep]
    project(better, ROUNDS)
    order = np.r_[better[np.argsort(score[better], kind="stable")], order[len(better) :]]
    return points[np.unique(best_and_spread(order, keep))]


def _some_rows(weight: np.ndarray, most: int) -> np.ndarray:
    """Return places of at most so many rows that count, drawn at random and in order."""
    counting = np.flatnonzero(weight > 0)
    if len(counting) <= most:
        return counting
    drawn = np.random.default_rng(0).permutation(counting)[:most]
    return np.sort(drawn)


def _start_values(low: float, high: float, count: int) -> np.ndarray:
    """Return values of an exponent to start from: over the usual range, of either sign, within its bounds."""
    usual = np.geomspace(*EXPONENT_RANGE, count)
    both = np.r_[-usual[::-1], usual]
    inside = both[(both >= low) & (both <= high)]
    return inside if len(inside) else np.linspace(low, high, min(count, 5))


def _project(
    problem: SumProblem, exponents: np.ndarray, weight: np.ndarray, rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Solve for the prefactors at given exponents [g, e]: points [g, p] and their misfit [g].

    What remains is linear: non-negative least absolute deviations of relative residuals, by so many rounds of reweighted
    least squares.
    """
    basis = np.empty((len(exponents), problem.terms, len(problem.target)))
    for k in range(problem.terms):
        # Points of a grid share exponents: each value of those that are in this term counts once.
        used = problem.slopes[k].any(axis=0)
        if not used.any():
            basis[:, k] = np.exp(-problem.target)
            continue
        different, places = np.unique(exponents[:, used], axis=0, return_inverse=True)
        term = np.exp(different @ problem.slopes[k][:, used].T - problem.target)
        basis[:, k] = term[places.ravel()]
    trust = np.broadcast_to(weight, basis[:, 0].shape)
    solution = np.zeros((len(exponents), problem.terms))
    score = np.zeros(len(exponents))
    for _ in range(rounds):
        solution = non_negative(basis, trust)
        relative = (solution[:, None] @ basis)[:, 0]
        misfit = np.abs(relative - 1.0)
        score = (weight * misfit).sum(axis=1)
        floor = 1e-6 + 0.1 * np.mean(misfit, axis=1, keepdims=True)
        trust = weight / np.maximum(misfit, floor)
    smallest = np.exp(np.median(problem.target)) * 1e-4
    log_terms = np.log(np.maximum(solution, smallest))
    return np.hstack([log_terms, exponents]), score
