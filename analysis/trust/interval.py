"""Turn bootstrap draws into intervals."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval of bootstrap replicates and their standard deviation."""

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
        """From draws [replicates], those that are not finite left out; None when there are too few.

        Percentiles; with the `estimate` and its jackknife `left_out` [refits] bias-corrected and accelerated ones (BCa,
        Efron 1987), with quantiles of Student's distribution of `freedom` degrees in place of the normal ones (Hesterberg
        2015), which covers better where rows are few.
        """
        draws = np.asarray(draws, dtype=np.float64)
        draws = draws[np.isfinite(draws)]
        if len(draws) < 2:
            return None
        with np.errstate(all="ignore"):  # replicates that ran away
            low, high = np.quantile(draws, _ends(draws, level, float(estimate), left_out, freedom))
        with np.errstate(over="ignore"):
            se = float(draws.std(ddof=1))
        return cls(level, float(low), float(high), se if math.isfinite(se) else float(np.finfo(float).max))


def _ends(
    draws: np.ndarray, level: float, estimate: float, left_out: np.ndarray | None, freedom: int | None
) -> tuple[float, float]:
    """Which quantiles of the draws are the ends of the interval."""
    plain = 0.5 * (1 - level), 0.5 * (1 + level)
    if left_out is None or not math.isfinite(estimate):
        return plain
    left_out = left_out[np.isfinite(left_out)]
    if len(left_out) < 2:
        return plain
    from scipy.stats import norm, t

    below = (np.mean(draws < estimate) + np.mean(draws <= estimate)) / 2
    bias = norm.ppf(np.clip(below, 1 / len(draws), 1 - 1 / len(draws)))
    pulls = left_out.mean() - left_out
    skew = (pulls**3).sum() / (6 * (pulls**2).sum() ** 1.5) if (pulls != 0).any() else 0.0
    reach = bias + (t.ppf(plain, freedom) if freedom and freedom > 0 else norm.ppf(plain))
    with np.errstate(divide="ignore"):
        low, high = norm.cdf(bias + reach / np.maximum(1 - skew * reach, 1e-3))
    return float(low), float(high)


def interval_of(
    quantity: Callable[[Any], Any],
    law: Any,
    draws: np.ndarray,
    left_out: np.ndarray | None,
    level: float,
    freedom: int | None,
) -> Interval | None:
    """Interval of a function of a law from its bootstrap refits and jackknife; None without refits."""
    if not len(draws):
        return None
    with np.errstate(all="ignore"):
        spread = np.asarray(quantity(type(law).stack(draws)), dtype=np.float64)
        if left_out is None or not len(left_out):
            return Interval.of(spread, level)
        without = np.asarray(quantity(type(law).stack(left_out)), dtype=np.float64)
        return Interval.of(spread, level, float(quantity(law)), without, freedom)
