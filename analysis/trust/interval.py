"""Turn bootstrap draws into intervals."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
    """Hold an interval of bootstrap replicates and their standard deviation."""

    level: float
    low: float
    high: float
    se: float

    @classmethod
    def of(
        cls,
        draws: np.ndarray,
        level: float,
        estimate: float = math.nan,
        left_out: np.ndarray | None = None,
        freedom: int | None = None,
    ) -> "Interval | None":
        """Build an interval from draws [replicates], those that are not finite left out; None when there are too few.

        Percentiles; with the `estimate` and its jackknife `left_out` [refits] bias-corrected and accelerated ones (BCa,
        Efron 1987), with quantiles of Student's distribution of `freedom` degrees in place of the normal ones (Hesterberg
        2015), which covers better where rows are few.
        """
        draws = np.asarray(draws, dtype=np.float64)
        draws = draws[np.isfinite(draws)]
        if len(draws) < 2:
            return None
        with np.errstate(all="ignore"):  # replicates that ran away
            ends = _ends(draws, level, float(estimate), left_out, freedom)
            low, high = np.quantile(draws, ends)
        with np.errstate(over="ignore"):
            se = float(draws.std(ddof=1))
        if not math.isfinite(se):
            se = float(np.finfo(float).max)
        return cls(level, float(low), float(high), se)


def _ends(
    draws: np.ndarray,
    level: float,
    estimate: float,
    left_out: np.ndarray | None,
    freedom: int | None,
) -> tuple[float, float]:
    """Return which quantiles of the draws are the ends of the interval."""
    plain = (0.5 * (1 - level), 0.5 * (1 + level))
    if left_out is None or not math.isfinite(estimate):
        return plain
    left_out = left_out[np.isfinite(left_out)]
    if len(left_out) < 2:
        return plain
    from scipy.stats import norm, t

    # Bias: how far the estimate is from the median of the draws, as a normal quantile; draws equal to it count half.
    below = (np.mean(draws < estimate) + np.mean(draws <= estimate)) / 2
    bias = norm.ppf(np.clip(below, 1 / len(draws), 1 - 1 / len(draws)))

    # Acceleration: how fast the standard deviation changes with the estimate, from the skewness of the jackknife.
    pulls = left_out.mean() - left_out
    acceleration = 0.0
    if (pulls != 0).any():
        acceleration = (pulls**3).sum() / (6 * (pulls**2).sum() ** 1.5)

    has_freedom = freedom is not None and freedom > 0
    quantiles = t.ppf(plain, freedom) if has_freedom else norm.ppf(plain)
    reach = bias + quantiles
    with np.errstate(divide="ignore"):
        low, high = norm.cdf(bias + reach / np.maximum(1 - acceleration * reach, 1e-3))
    return float(low), float(high)


def interval_of(
    quantity: Callable[[Any], Any],
    law: Any,
    draws: np.ndarray,
    left_out: np.ndarray | None,
    level: float,
    freedom: int | None,
) -> Interval | None:
    """Build the interval of a function of a law from its bootstrap refits and jackknife; None without refits."""
    if not len(draws):
        return None
    stack = type(law).stack
    with np.errstate(all="ignore"):
        spread = np.asarray(quantity(stack(draws)), dtype=np.float64)
        if left_out is None or not len(left_out):
            return Interval.of(spread, level)
        without = np.asarray(quantity(stack(left_out)), dtype=np.float64)
        return Interval.of(spread, level, float(quantity(law)), without, freedom)
