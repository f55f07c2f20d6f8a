"""Fit Chinchilla's approach 3 the way it was published: one point at a time, by scipy. Ours is compared with it.

Besiroglu et al. 2024 (arXiv 2404.10102) fit from 4500 starts and bootstrap with BFGS from one start; not every one of those
4000 refits ends at its optimum, so that their standard errors can be had to all digits only by doing the same.
"""

import itertools

import numpy as np

DELTA = 1e-3
LOG_PREFACTORS = (0, 5, 10, 15, 20, 25)
LOG_FLOORS = (-1, -0.5, 0, 0.5, 1)
EXPONENTS = (0, 0.5, 1, 1.5, 2)
STARTS = (LOG_PREFACTORS, LOG_PREFACTORS, LOG_FLOORS, EXPONENTS, EXPONENTS)
HOFFMANN = np.array([6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083])  # ln A, ln B, ln E, alpha, beta
SAME = 1e-6  # relative: starts that end within this of the lowest objective have found it


class ScipyFit:
    """The objective and its gradient as one writes them for scipy: parameters ln A, ln B, ln E, alpha, beta."""

    def __init__(self, N: np.ndarray, D: np.ndarray, loss: np.ndarray):
        self.log_n = np.log(N)
        self.log_d = np.log(D)
        self.log_loss = np.log(loss)

    def __call__(self, at: np.ndarray, rows: np.ndarray | slice = slice(None)) -> tuple[float, np.ndarray]:
        """Return the sum of Huber losses over `rows`, and its gradient [5]."""
        a, b, e, alpha, beta = at
        log_n = self.log_n[rows]
        log_d = self.log_d[rows]
        size_term = a - alpha * log_n
        data_term = b - beta * log_d
        floor = np.full(len(log_n), e)
        terms = np.stack([size_term, data_term, floor])

        # ln of a sum of exponentials, with the largest taken out so that none overflows.
        top = terms.max(axis=0)
        weights = np.exp(terms - top)
        total = weights.sum(axis=0)
        weights /= total
        residual = top + np.log(total) - self.log_loss[rows]

        # Huber's loss is quadratic within DELTA of zero and linear beyond.
        size = np.abs(residual)
        quadratic = 0.5 * residual * residual
        linear = DELTA * (size - 0.5 * DELTA)
        value = np.where(size <= DELTA, quadratic, linear).sum()

        pull = np.clip(residual, -DELTA, DELTA) * weights
        pull_size, pull_data, _ = pull
        slope_alpha = -(pull_size @ log_n)
        slope_beta = -(pull_data @ log_d)
        gradient = np.array([*pull.sum(axis=1), slope_alpha, slope_beta])
        return float(value), gradient

    def fit(self) -> tuple[float, np.ndarray, float]:
        """Fit from 4500 starts by L-BFGS-B.

        Returns the lowest objective, (A, B, E, alpha, beta) there, and the share of starts that end within 1e-6 of it.
        """
        from scipy.optimize import minimize

        ends = []
        for start in itertools.product(*STARTS):
            end = minimize(self, start, jac=True, method="L-BFGS-B")
            ends.append(end)
        values = np.array([end.fun for end in ends])
        best = int(np.nanargmin(values))
        lowest = values[best]
        agreeing = np.mean(values <= lowest * (1 + SAME))
        coefficients = natural(ends[best].x[None])[0]
        return float(lowest), coefficients, float(agreeing)

    def bootstrap(self, picks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (A, B, E, alpha, beta) and objective of every replicate by BFGS from the constants of Hoffmann et al.

        `picks` [replicates, rows] are row numbers.
        """
        from scipy.optimize import minimize

        points = []
        values = []
        for rows in picks:
            end = minimize(self, HOFFMANN, args=(rows,), jac=True, method="BFGS")
            points.append(end.x)
            values.append(end.fun)
        return natural(np.array(points)), np.array(values)


def natural(points: np.ndarray) -> np.ndarray:
    """Return (A, B, E, alpha, beta) [points, 5] of points whose first three are logarithms."""
    return np.hstack([np.exp(points[:, :3]), points[:, 3:]])


def resampled(rows: int, replicates: int, seed: int = 42) -> np.ndarray:
    """Draw row numbers of bootstrap replicates [replicates, rows].

    The stream is that of np.random.seed(seed) and np.random.choice, with which the published refits were drawn.
    """
    stream = np.random.RandomState(seed)
    picks = []
    for _ in range(replicates):
        picks.append(stream.randint(0, rows, size=rows))
    return np.stack(picks)
