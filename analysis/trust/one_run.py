"""Say where one more run may lie: where the law may lie, and how far runs lie from it.

The two are joined by the method of variance estimates recovery (MOVER; Zou & Donner 2008, Statistics in Medicine 27,
1693): each end lies as far from the estimate as the root of the summed squares of its two parts. For normal parts that is
the usual prediction interval, and whatever their shape, the interval of a run holds that of the law.
"""

from collections.abc import Callable
import dataclasses
import math

import numpy as np

from analysis.trust.interval import Interval
from analysis.trust.residuals import Residuals


@dataclasses.dataclass(frozen=True)
class Noise:
    """Say how far single runs lie from a law: observed over predicted, in logarithms, or their difference (`additive`).

    value [n] are what rows have, weight [n] what each counts, spare the independent runs beyond one for each
    coefficient. No values: normal noise of deviation `sd`.
    """

    value: np.ndarray
    weight: np.ndarray
    spare: int
    sd: float
    additive: bool = False

    @classmethod
    def of(cls, residuals: Residuals, coefficients: int) -> "Noise":
        """Take the residuals of a fit, enlarged by what its coefficients have taken out of them."""
        runs = max(residuals.units, 1)
        spare = max(runs - coefficients, 1)
        enlarged = math.sqrt(runs / spare)
        rms = residuals.rms or 0.0
        return cls(
            value=-enlarged * residuals.counted,
            weight=residuals.weight,
            spare=spare,
            sd=enlarged * rms,
            additive=residuals.additive,
        )

    @classmethod
    def normal(cls, sd: float) -> "Noise":
        """Build normal noise of ln loss, where its deviation is all that is known."""
        empty = np.empty(0)
        return cls(empty, empty, 0, sd)

    def quantile(self, share: np.ndarray | float) -> np.ndarray:
        """Return the quantiles at `share` of all runs.

        They are those of the rows (at k/(n + 1) of them for the k-th); beyond the first and the last row, of Student's
        distribution of the spare runs, and never less than that row.
        """
        from scipy.stats import norm, t

        share = np.asarray(share, dtype=np.float64)
        distribution = t(self.spare) if self.spare > 0 else norm()
        tail = self.sd * distribution.ppf(share)
        if not len(self.value):
            return tail
        order = np.argsort(self.value)
        ranked = self.value[order]
        weight = self.weight[order]
        whole = weight.sum() + weight.mean()
        place = np.cumsum(weight) / whole
        inside = np.interp(share, place, ranked)
        below = np.minimum(tail, ranked[0])
        above = np.maximum(tail, ranked[-1])
        inside = np.where(share < place[0], below, inside)
        return np.where(share > place[-1], above, inside)


def widen(
    middle: np.ndarray | float,
    low: np.ndarray | float,
    high: np.ndarray | float,
    noise: Noise,
    level: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Widen intervals of a law around `middle` by the noise of one run; arrays of any one shape.

    Positive quantities are taken as logarithms, as their noise is, unless it is additive.
    """
    if not noise.additive:
        with np.errstate(all="ignore"):
            log_low, log_high = _add_noise(np.log(middle), np.log(low), np.log(high), noise, level)
            return np.exp(log_low), np.exp(log_high)
    return _add_noise(middle, low, high, noise, level)


def _add_noise(
    middle: np.ndarray | float, low: np.ndarray | float, high: np.ndarray | float, noise: Noise, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Widen intervals on the scale of the noise."""
    shares = np.array([0.5 - level / 2, 0.5 + level / 2])
    lowest, highest = noise.quantile(shares)
    below = min(lowest, 0.0)
    above = max(highest, 0.0)
    centre = np.clip(middle, low, high)
    reach_down = np.hypot(centre - low, below)
    reach_up = np.hypot(high - centre, above)
    return centre - reach_down, centre + reach_up


def interval_of_run(estimate: float, of_law: Interval | None, noise: Noise) -> Interval | None:
    """Return the interval of one more run where that of the law is known; it holds the law's."""
    if of_law is None:
        return None
    low, high = widen(estimate, of_law.low, of_law.high, noise, of_law.level)
    spread = noise.sd if noise.additive else noise.sd * abs(estimate)
    return Interval(of_law.level, float(low), float(high), math.hypot(of_law.se, spread))


def quantiles_of_run(
    estimate: float, law_interval: Callable[[float], Interval | None], noise: Noise, shares: np.ndarray
) -> np.ndarray:
    """Return quantiles of one more run at increasing `shares`: the ends of its intervals of every level.

    law_interval gives the interval of the law at a level. NaN where the law has none.
    """
    found = np.full(len(shares), np.nan)
    for at, share in enumerate(shares):
        level = abs(2 * share - 1)
        interval = interval_of_run(estimate, law_interval(level), noise)
        if interval is not None:
            found[at] = interval.low if share < 0.5 else interval.high
    return np.maximum.accumulate(found)
