"""Pose the fit of a sum of monomials."""

import dataclasses
import functools
import itertools
import math

import numpy as np

from analysis.solve.newton import CHUNK_ELEMENTS, EXPONENT_BOUNDS, LOG_VANISHED, Local, non_negative
from analysis.solve.objective import sided, slope, smooth


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
