"""From (C, N*, D*, L*) to the coefficients of an allocation law, many copies at once."""

import numpy as np

EXPONENTS = np.geomspace(0.003, 1.0, 160)  # of the loss at the optimum; published values lie between 0.04 and 0.2


def regress(log_c: np.ndarray, minima: np.ndarray, trust: np.ndarray | float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients [copies, 7] (a, b, k_N, k_D, E, K, gamma) and the sum of squares of ln N* and ln D* [copies].

    `minima` [copies, budgets, 3] are ln N*, ln D*, ln L*; NaN marks a minimum on the edge, which is left out.
    `trust` [budgets] weights the lines of ln N* and ln D*.
    """
    have = np.isfinite(minima[:, :, 0])
    with np.errstate(all="ignore"):  # copies whose minima ran away
        return _regress(log_c, minima, have, trust)


def _regress(
    log_c: np.ndarray, minima: np.ndarray, have: np.ndarray, trust: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    a, log_k_n, miss_n = _line(log_c, minima[:, :, 0], have * trust)
    b, log_k_d, miss_d = _line(log_c, minima[:, :, 1], have * trust)
    E, K, gamma = _floor_and_power(log_c, np.exp(np.where(have, minima[:, :, 2], 0.0)), have)
    with np.errstate(over="ignore", under="ignore"):
        return np.stack([a, b, np.exp(log_k_n), np.exp(log_k_d), E, K, gamma], axis=1), miss_n + miss_d


def _line(x: np.ndarray, y: np.ndarray, have: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares y = slope x + intercept, weighted by `have`, 0 for missing points; slope, intercept, squares."""
    count = have.sum(axis=1)
    y = np.where(have > 0, y, 0.0)
    mean_x, mean_y = (have * x).sum(axis=1) / count, y.sum(axis=1) / count
    dx, dy = x - mean_x[:, None], y - mean_y[:, None]
    slope = (have * dx * dy).sum(axis=1) / (have * dx * dx).sum(axis=1)
    return slope, mean_y - slope * mean_x, (have * (dy - slope[:, None] * dx) ** 2).sum(axis=1)


def _floor_and_power(
    log_c: np.ndarray, loss: np.ndarray, have: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares of relative residuals of L* = E + K C^-gamma, E >= 0; with fewer than 4 points E = 0.

    The exponent is found on a grid with the linear coefficients solved for, then between grid points by a parabola.
    """
    middle = log_c.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        slope, intercept, _ = _line(log_c, np.log(loss), have)
    weight = np.where(have, 1.0 / loss**2, 0.0)

    def solve(gamma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        power = np.exp(-gamma[:, None] * (log_c - middle))
        sums = [(weight * term).sum(axis=1) for term in (np.ones_like(power), power, power**2, loss, loss * power)]
        s1, sp, spp, sl, slp = sums
        determinant = np.maximum(s1 * spp - sp**2, 1e-300)
        E, K = (spp * sl - sp * slp) / determinant, (s1 * slp - sp * sl) / determinant
        lost = E < 0
        E, K = np.where(lost, 0.0, E), np.where(lost, slp / spp, K)
        misfit = (weight * (E[:, None] + K[:, None] * power - loss) ** 2).sum(axis=1)
        return E, K, misfit

    misfit = np.stack([solve(np.full(len(loss), gamma))[2] for gamma in EXPONENTS], axis=1)
    at = np.clip(np.argmin(misfit, axis=1), 1, len(EXPONENTS) - 2)
    low, high = np.log(EXPONENTS[at - 1]), np.log(EXPONENTS[at + 1])
    for _ in range(60):  # golden section, all copies together
        left, right = high - 0.6180339887498949 * (high - low), low + 0.6180339887498949 * (high - low)
        less = solve(np.exp(left))[2] < solve(np.exp(right))[2]
        high, low = np.where(less, right, high), np.where(less, low, left)
    gamma = np.exp(0.5 * (low + high))
    E, K, _ = solve(gamma)
    plain = (have.sum(axis=1) < 4) | (E <= 0)
    gamma = np.where(plain, -slope, gamma)
    with np.errstate(over="ignore", under="ignore"):
        return (
            np.where(plain, 0.0, E),
            np.exp(np.where(plain, intercept, np.log(np.maximum(K, 1e-300)) + gamma * middle)),
            gamma,
        )
