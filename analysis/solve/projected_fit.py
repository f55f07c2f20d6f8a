"""Fit approach 3 by the published method of the package vpnls: a stand-in for the package, to compare ours with.

Czech et al. 2026 (arXiv 2603.22339) search the two exponents alone, and solve for E, A and B by linear least squares at
each pair (variable projection): first on a grid of step 0.01, then by L-BFGS-B with the slope along the solved prefactors.
Residuals are predicted minus observed; with Huber's loss each solution is reweighted ten times. This is written from that
description in numpy and scipy. The package's grid is compiled, and with Huber's loss it reweights at each place; here the
grid is ranked by plain least squares, which takes less time, so that the stand-in is no slower than what it stands for.
"""

import numpy as np

STEP = 0.01  # of the grid, which is also its smallest exponent
LARGEST = 0.99
REWEIGHTED = 10  # times, at most
SETTLED = 1e-14  # change of a prefactor
OPTIONS = {"ftol": 1e-15, "gtol": 1e-15, "maxiter": 10_000}


class ProjectedFit:
    """Fit E + A/N^alpha + B/D^beta to rows by variable projection; delta of Huber's loss is infinite for least squares."""

    def __init__(self, N: np.ndarray, D: np.ndarray, loss: np.ndarray, delta: float = np.inf):
        self.log_N = np.log(N)
        self.log_D = np.log(D)
        self.loss = loss
        self.delta = delta

    def fit(self) -> tuple[float, np.ndarray]:
        """Return the objective, summed over rows, and (A, B, E, alpha, beta)."""
        from scipy.optimize import minimize

        bounds = [(STEP, LARGEST)] * 2
        end = minimize(self, self.best_of_grid(), jac=True, method="L-BFGS-B", bounds=bounds, options=OPTIONS)
        E, A, B = self.solve(end.x)[0]
        return float(end.fun), np.array([A, B, E, *end.x])

    def best_of_grid(self) -> np.ndarray:
        """Return the exponents of the grid with the least squares, of those whose prefactors are positive."""
        exponents = np.arange(STEP, LARGEST + STEP / 2, STEP)
        count = len(exponents)
        of_N = np.exp(-np.outer(exponents, self.log_N - self.log_N.mean()))
        of_D = np.exp(-np.outer(exponents, self.log_D - self.log_D.mean()))
        ones = np.ones_like(self.loss)
        columns = np.vstack([ones, of_N, of_D, self.loss])

        # Every pair of exponents has three of these columns; all normal equations are made of one product of matrices.
        products = columns @ columns.T
        first, second = np.indices((count, count)).reshape(2, -1)
        places = np.stack([np.zeros_like(first), 1 + first, 1 + count + second], axis=1)
        gram = products[places[:, :, None], places[:, None]]
        moment = products[places, -1]
        solved = np.linalg.solve(gram, moment[:, :, None])
        solved = solved[:, :, 0]
        explained = (solved * moment).sum(axis=1)
        is_positive = (solved > 0).all(axis=1)
        best = np.where(is_positive, explained, -np.inf).argmax()
        return np.array([exponents[first[best]], exponents[second[best]]])

    def solve(self, exponents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (E, A, B) at given exponents, the terms [3, rows] and the residuals [rows]."""
        alpha, beta = exponents
        constant = np.ones_like(self.loss)
        of_N = np.exp(-alpha * self.log_N)
        of_D = np.exp(-beta * self.log_D)
        terms = np.stack([constant, of_N, of_D])
        solved = np.linalg.lstsq(terms.T, self.loss, rcond=None)[0]
        residual = solved @ terms - self.loss
        if np.isinf(self.delta):
            return solved, terms, residual
        for _ in range(REWEIGHTED):
            size = np.abs(residual)
            weight = self.delta / np.maximum(size, self.delta)
            weighted = terms * weight
            gram = weighted @ terms.T
            moment = weighted @ self.loss
            again = np.linalg.solve(gram, moment)
            change = np.abs(again - solved).max()
            solved = again
            residual = solved @ terms - self.loss
            if change < SETTLED:
                break
        return solved, terms, residual

    def __call__(self, exponents: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the objective at exponents with its slope, in which the prefactors do not count: they are solved for."""
        prefactors, terms, residual = self.solve(exponents)
        _, A, B = prefactors
        _, of_N, of_D = terms
        size = np.abs(residual)
        inside = np.minimum(size, self.delta)
        value = inside @ (size - inside / 2)
        pull = np.clip(residual, -self.delta, self.delta)
        slope_alpha = -A * (pull * of_N) @ self.log_N
        slope_beta = -B * (pull * of_D) @ self.log_D
        return float(value), np.array([slope_alpha, slope_beta])
