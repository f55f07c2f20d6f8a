"""Turn optima of compute budgets (C, N*, D*, L*) into the coefficients of an allocation law.

All is done for many copies at once: a bootstrap gives thousands of sets of optima. Where the optima come from is the
affair of the callers (IsoFLOP curves, or the lower hull of all runs).
"""

import dataclasses

import numpy as np

from analysis.laws.base import Array

EXPONENTS = np.geomspace(0.003, 1.0, 160)  # of the loss at the optimum; published values lie between 0.04 and 0.2
GOLDEN_RATIO = 0.6180339887498949
GOLDEN_STEPS = 60  # each shrinks the bracket of the exponent to 0.62 of its width
FEWEST_FOR_FLOOR = 4  # optima; a curve with a floor has three coefficients
TINY = 1e-300


@dataclasses.dataclass(frozen=True)
class Lines:
    """Straight lines y = slope x + intercept with the sum of squares that they leave: [copies] each."""

    slope: Array
    intercept: Array
    squares: Array


@dataclasses.dataclass(frozen=True)
class LossCurves:
    """Curves L* = E + K C^-gamma: [copies] each."""

    E: Array
    K: Array
    gamma: Array


def regress(log_c: Array, minima: Array, trust: Array | float = 1.0) -> tuple[Array, Array]:
    """Regress the optima of budgets on their compute.

    minima [copies, budgets, 3] are ln N*, ln D*, ln L*; NaN marks a minimum on the edge, which is left out. trust
    [budgets] weights the lines of ln N* and ln D*. Returns the coefficients [copies, 7] (a, b, k_N, k_D, E, K, gamma)
    and the sum of squares of ln N* and ln D* [copies].
    """
    log_n = minima[:, :, 0]
    log_d = minima[:, :, 1]
    is_inside = np.isfinite(log_n)
    with np.errstate(all="ignore"):  # copies whose minima ran away
        loss = np.exp(np.where(is_inside, minima[:, :, 2], 0.0))
        weight = is_inside * trust
        params = fit_lines(log_c, log_n, weight)
        tokens = fit_lines(log_c, log_d, weight)
        curves = fit_loss_curves(log_c, loss, is_inside)
        coefficients = [
            params.slope,
            tokens.slope,
            np.exp(params.intercept),
            np.exp(tokens.intercept),
            curves.E,
            curves.K,
            curves.gamma,
        ]
    return np.stack(coefficients, axis=1), params.squares + tokens.squares


def fit_lines(x: Array, y: Array, weight: Array) -> Lines:
    """Fit straight lines by least squares to y [copies, points] over x [points]; weight 0 marks a missing point."""
    total = weight.sum(axis=1)
    y = np.where(weight > 0, y, 0.0)
    sum_x = (weight * x).sum(axis=1)
    sum_y = (weight * y).sum(axis=1)
    mean_x = sum_x / total
    mean_y = sum_y / total
    from_x = x - mean_x[:, None]
    from_y = y - mean_y[:, None]
    covariance = (weight * from_x * from_y).sum(axis=1)
    variance = (weight * from_x * from_x).sum(axis=1)
    slope = covariance / variance
    residual = from_y - slope[:, None] * from_x
    return Lines(
        slope=slope,
        intercept=mean_y - slope * mean_x,
        squares=(weight * residual**2).sum(axis=1),
    )


def fit_loss_curves(log_c: Array, loss: Array, is_inside: Array) -> LossCurves:
    """Fit L* = E + K C^-gamma, E >= 0, to losses [copies, budgets] by least squares of relative residuals.

    The exponent is searched for, and E and K follow from it. With fewer than 4 points, or where the best floor is 0,
    the curve is the straight line of ln L* over ln C.
    """
    middle = log_c.mean()
    weight = np.where(is_inside, 1.0 / loss**2, 0.0)
    problem = _SeparableFit(log_c - middle, loss, weight)
    low, high = _bracket(problem)
    gamma = _golden_section(problem, low, high)
    E, K, _ = problem.solve(gamma)
    # K is that at the middle of ln C; the law's stands at C = 1.
    log_k_at_middle = np.log(np.maximum(K, TINY))
    log_k = log_k_at_middle + gamma * middle

    line = fit_lines(log_c, np.log(loss), is_inside)
    points = is_inside.sum(axis=1)
    has_no_floor = (points < FEWEST_FOR_FLOOR) | (E <= 0)
    return LossCurves(
        E=np.where(has_no_floor, 0.0, E),
        K=np.exp(np.where(has_no_floor, line.intercept, log_k)),
        gamma=np.where(has_no_floor, -line.slope, gamma),
    )


@dataclasses.dataclass(frozen=True)
class _SeparableFit:
    """A least-squares fit of E + K exp(-gamma x) in which E and K are solved for, given gamma.

    x [budgets] is ln C from its mean; loss and weight are [copies, budgets].
    """

    x: Array
    loss: Array
    weight: Array

    def solve(self, gamma: Array) -> tuple[Array, Array, Array]:
        """Return the best E and K and the misfit that they leave, [copies] each, for gamma [copies]."""
        power = np.exp(-gamma[:, None] * self.x)
        # The normal equations of two coefficients: s_1 E + s_p K = s_l and s_p E + s_pp K = s_lp.
        s_1 = self.weight.sum(axis=1)
        s_p = (self.weight * power).sum(axis=1)
        s_pp = (self.weight * power**2).sum(axis=1)
        s_l = (self.weight * self.loss).sum(axis=1)
        s_lp = (self.weight * (self.loss * power)).sum(axis=1)
        determinant = np.maximum(s_1 * s_pp - s_p**2, TINY)
        E = (s_pp * s_l - s_p * s_lp) / determinant
        K = (s_1 * s_lp - s_p * s_l) / determinant
        # Where the floor would be negative it is held at 0, and the other coefficient is solved for alone.
        is_below_zero = E < 0
        E = np.where(is_below_zero, 0.0, E)
        K = np.where(is_below_zero, s_lp / s_pp, K)
        residual = E[:, None] + K[:, None] * power - self.loss
        misfit = (self.weight * residual**2).sum(axis=1)
        return E, K, misfit


def _bracket(problem: _SeparableFit) -> tuple[Array, Array]:
    """Return ln gamma on either side of the best of EXPONENTS, [copies] each."""
    copies = len(problem.loss)
    misfits = []
    for gamma in EXPONENTS:
        _, _, misfit = problem.solve(np.full(copies, gamma))
        misfits.append(misfit)
    misfit_of = np.stack(misfits, axis=1)
    best = np.argmin(misfit_of, axis=1)
    best = np.clip(best, 1, len(EXPONENTS) - 2)  # with a neighbour on either side
    low = np.log(EXPONENTS[best - 1])
    high = np.log(EXPONENTS[best + 1])
    return low, high


def _golden_section(problem: _SeparableFit, low: Array, high: Array) -> Array:
    """Return the gamma [copies] of least misfit between ln gamma `low` and `high`, all copies together."""
    for _ in range(GOLDEN_STEPS):
        reach = GOLDEN_RATIO * (high - low)
        left = high - reach
        right = low + reach
        _, _, misfit_left = problem.solve(np.exp(left))
        _, _, misfit_right = problem.solve(np.exp(right))
        left_is_better = misfit_left < misfit_right
        high = np.where(left_is_better, right, high)
        low = np.where(left_is_better, low, left)
    return np.exp(0.5 * (low + high))
