"""Turn bootstrap draws into intervals."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import numpy as np

FEWEST_SPARE = 2  # independent units beside one for each coefficient: fewer measure no scatter
REFERENCE = 0.9  # level at which the spread of draws is read
WIDEST = 4.0  # times the spread of the draws that a jackknife may ask for, or a part of it


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
    ) -> "Interval | None":
        """Build an interval from draws [replicates], those that are not finite left out; None when there are too few.

        Percentiles. With the `estimate` and its jackknife `left_out` [refits] they are moved out or in, so that the
        interval's width is the geometric mean of theirs and of Student's interval with the jackknife's standard error and
        as many degrees as there are refits less one (Hesterberg 2015, MacKinnon, Nielsen & Webb 2023). The draws give the
        shape; where units are few, resampling them gets the width wrong: replicates lack some of them, and what only few
        units tell is taken for surer than it is.
        """
        draws = np.asarray(draws, dtype=np.float64)
        draws = draws[np.isfinite(draws)]
        if len(draws) < 2:
            return None
        upper = 0.5 * (1 + level)
        with np.errstate(all="ignore"):  # replicates that ran away
            if left_out is not None and math.isfinite(estimate):
                upper = _upper_share(draws, level, float(estimate), left_out)
            low, high = np.quantile(draws, (1 - upper, upper))
        with np.errstate(over="ignore"):
            se = float(draws.std(ddof=1))
        if not math.isfinite(se):
            se = float(np.finfo(float).max)
        return cls(level, float(low), float(high), se)


def _upper_share(draws: np.ndarray, level: float, estimate: float, left_out: np.ndarray) -> float:
    """Return which quantile of the draws is the upper end of the interval; the lower end is as far from the other side."""
    from scipy.special import ndtr, ndtri, stdtrit

    plain = 0.5 * (1 + level)
    left_out = left_out[np.isfinite(left_out)]
    refits = len(left_out)
    if refits < 2:
        return plain
    # What is positive varies by factors: a prefactor or an optimum by many, and the rest by little, where it is the same.
    if estimate > 0 and (draws > 0).all() and (left_out > 0).all():
        draws = np.log(draws)
        left_out = np.log(left_out)
        estimate = math.log(estimate)
    error = math.sqrt((refits - 1) / refits * float(((left_out - estimate) ** 2).sum()))
    reference = 0.5 * (1 + REFERENCE)
    low, high = np.quantile(draws, (1 - reference, reference))
    spread = float(high - low) / 2 / ndtri(reference)
    if not (spread > 0 and math.isfinite(error)):
        return plain
    # In standard errors of a normal distribution: what the level asks for by the draws, and by the jackknife.
    by_draws = float(ndtri(plain))
    by_jackknife = float(stdtrit(refits - 1, plain)) * error / spread
    by_jackknife = float(np.clip(by_jackknife, by_draws / WIDEST, by_draws * WIDEST))
    return float(ndtr(math.sqrt(by_draws * by_jackknife)))


def interval_of(
    quantity: Callable[[Any], Any],
    law: Any,
    draws: np.ndarray,
    left_out: np.ndarray | None,
    level: float,
    freedom: int | None,
) -> Interval | None:
    """Build the interval of a function of a law from its bootstrap refits and jackknife.

    None without refits, and where fewer than FEWEST_SPARE units are left when each coefficient takes one (`freedom`; None
    where that is not known).
    """
    has_few = freedom is not None and freedom < FEWEST_SPARE
    if has_few or not len(draws):
        return None
    stack = type(law).stack
    with np.errstate(all="ignore"):
        spread = np.asarray(quantity(stack(draws)), dtype=np.float64)
        if left_out is None or not len(left_out):
            return Interval.of(spread, level)
        without = np.asarray(quantity(stack(left_out)), dtype=np.float64)
        return Interval.of(spread, level, float(quantity(law)), without)
