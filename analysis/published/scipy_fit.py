"""Chinchilla's approach 3 the way it was published: one point at a time, by scipy. What ours is compared with.

Besiroglu et al. 2024 (arXiv 2404.10102) fit from 4500 starts and bootstrap with BFGS from one start; not every one of those
4000 refits ends at its optimum, so that their standard errors can be had to all digits only by doing the same.
"""

import itertools

import numpy as np

DELTA = 1e-3
GRID = ((0, 5, 10, 15, 20, 25), (0, 5, 10, 15, 20, 25), (-1, -0.5, 0, 0.5, 1), (0, 0.5, 1, 1.5, 2), (0, 0.5, 1, 1.5, 2))
HOFFMANN = np.array([6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083])  # ln A, ln B, ln E, alpha, beta


class ScipyFit:
    """The objective and its gradient as one writes them for scipy: parameters ln A, ln B, ln E, alpha, beta."""

    def __init__(self, N: np.ndarray, D: np.ndarray, loss: np.ndarray):
        self.log_n, self.log_d, self.log_loss = np.log(N), np.log(D), np.log(loss)

    def __call__(self, at: np.ndarray, rows: np.ndarray | slice = slice(None)) -> tuple[float, np.ndarray]:
        """Sum of Huber losses over `rows`, and its gradient [5]."""
        a, b, e, alpha, beta = at
        log_n, log_d = self.log_n[rows], self.log_d[rows]
        terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full(len(log_n), e)])
        top = terms.max(axis=0)
        weights = np.exp(terms - top)
        total = weights.sum(axis=0)
        r = top + np.log(total) - self.log_loss[rows]
        weights /= total
        size = np.abs(r)
        value = np.where(size <= DELTA, 0.5 * r * r, DELTA * (size - 0.5 * DELTA)).sum()
        pull = np.clip(r, -DELTA, DELTA) * weights
        sums = pull.sum(axis=1)
        return float(value), np.array([*sums, -(pull[0] @ log_n), -(pull[1] @ log_d)])

    def fit(self) -> tuple[float, np.ndarray, float]:
        """Lowest objective over the 4500 starts by L-BFGS-B, (A, B, E, alpha, beta) there, and the share of starts that end
        within 1e-6 of it.
        """
        from scipy.optimize import minimize

        ends = [minimize(self, start, jac=True, method="L-BFGS-B") for start in itertools.product(*GRID)]
        values = np.array([end.fun for end in ends])
        best = int(np.nanargmin(values))
        return float(values[best]), natural(ends[best].x[None])[0], float(np.mean(values <= values[best] * (1 + 1e-6)))

    def bootstrap(self, picks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(A, B, E, alpha, beta) and objective of every replicate by BFGS from the constants of Hoffmann et al.

        `picks` [replicates, rows] are row numbers.
        """
        from scipy.optimize import minimize

        ends = [minimize(self, HOFFMANN, args=(rows,), jac=True, method="BFGS") for rows in picks]
        return natural(np.array([end.x for end in ends])), np.array([end.fun for end in ends])


def natural(points: np.ndarray) -> np.ndarray:
    """(A, B, E, alpha, beta) [points, 5] from points whose first three are logarithms."""
    return np.hstack([np.exp(points[:, :3]), points[:, 3:]])


def resampled(rows: int, replicates: int, seed: int = 42) -> np.ndarray:
    """Row numbers of bootstrap replicates [replicates, rows], the stream of np.random.seed(seed); np.random.choice."""
    stream = np.random.RandomState(seed)
    return np.stack([stream.randint(0, rows, size=rows) for _ in range(replicates)])
