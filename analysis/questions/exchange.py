"""Say what one family's compute is worth in another's, and where that turns over.

Pure functions of fitted families (analysis/questions/family.py); nothing here fits a law. Who wins at equal accelerator
hours is the affair of equal_hours.py.
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from analysis.laws.base import Array
from analysis.questions.family import Family
from analysis.trust.interval import Interval
from analysis.trust.region import Region
from analysis.trust.verdict import Judged, judge_over_region
from experiments.cli import InputError

WIDEST = 1e6  # a factor of compute beyond this is reported as this
HALVINGS = 60
BEYOND = 10.0  # how far past the data a crossing is looked for
POINTS = 241
LOOKED_AT = 13  # computes at which it is asked whether the losses are known


@dataclasses.dataclass(frozen=True)
class ExchangeRate:
    """One unit of compute of `family` buys the loss that `multiplier` units of `baseline` buy.

    All arrays are [points]. compute: the baseline's, training FLOPs. loss: the baseline's there. multiplier is NaN
    where the family does not reach that loss within a factor of a million; low and high are NaN without replicates.
    extrapolated: where either family would need more compute than its largest run had. why: why there is no number at a
    point, which the rows do not tell; empty where there is one.
    """

    family: str
    baseline: str
    compute: Array
    loss: Array
    multiplier: Array
    low: Array
    high: Array
    extrapolated: Array
    why: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Where the better of two becomes the worse one.

    status: `found` when one is better before and the other after, both by more than the band of `simultaneous`;
    `uncertain` when the curves cross but within it; `none in range`; `not known` for the reason `why`, where the rows do
    not tell the losses. low, high: the range that was looked at. at: compute or hours, None for none; interval: of
    `at`, an end of the range where replicates do not cross within it. share: of the
    replicates that cross in this direction.
    """

    status: str
    at: float | None
    interval: Interval | None
    share: float
    better_after: str | None
    extrapolated: bool
    low: float
    high: float
    why: str = ""


def compute_for(family: Family, loss: Array, around: Array) -> Array:
    """Return the compute [points] at which a family reaches losses [points]; NaN beyond a factor of a million."""
    loss = np.asarray(loss, dtype=np.float64)
    around = np.asarray(around, dtype=np.float64)
    found = _invert(family.loss, loss, around)
    log_factor = np.abs(np.log(found / around))
    # The search ends at WIDEST where it finds nothing.
    is_found = log_factor < np.log(WIDEST) - 1e-6
    return np.where(is_found, found, np.nan)


def _invert(curve: Callable[[Array], Array], loss: Array, around: Array) -> Array:
    """Return C with curve(C) = loss by bisection of ln C; the ends of the search where there is none."""
    middle = np.broadcast_to(np.log(around), loss.shape)
    low = middle - np.log(WIDEST)
    high = middle + np.log(WIDEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_enough = curve(np.exp(middle)) <= loss
        low = np.where(is_enough, low, middle)
        high = np.where(is_enough, middle, high)
    return np.exp(high)


def exchange_rate(a: Family, b: Family, compute: Array | float, level: float = 0.9) -> ExchangeRate:
    """Say what the compute of `a` is worth in that of `b`, at the losses that `b` reaches with `compute` FLOPs."""
    C = np.atleast_1d(np.asarray(compute, dtype=np.float64))
    is_compute = np.isfinite(C) & (C > 0)
    if not is_compute.all():
        wrong = C[~is_compute]
        raise InputError(f"compute: {wrong[0]} is not a positive number of FLOPs")
    loss = b.loss(C)
    needed = compute_for(a, loss, C)
    is_beyond_a = a.C[1] < needed
    is_beyond_b = b.C[1] < C
    multiplier = C / needed
    low = np.full(len(C), np.nan)
    high = np.full(len(C), np.nan)
    reasons = []
    for at, judged in enumerate(_judged_rates(a, b, C, needed, level)):
        reasons.append(judged.why)
        if judged.interval is not None:
            low[at] = judged.interval.low
            high[at] = judged.interval.high
        if judged.why:
            multiplier[at] = np.nan
            loss[at] = np.nan
    return ExchangeRate(
        family=a.name,
        baseline=b.name,
        compute=C,
        loss=loss,
        multiplier=multiplier,
        low=low,
        high=high,
        extrapolated=is_beyond_b | is_beyond_a,
        why=tuple(reasons),
    )


def _judged_rates(a: Family, b: Family, C: Array, needed: Array, level: float) -> list[Judged]:
    """Return the interval of the multiplier at every compute [points], or why the rows do not tell it.

    A rate needs both losses, and that it ranges no farther over the region of a joint fit than its interval says.
    """
    multipliers = exchange_draws(a, b, C, a.draws, b.draws)
    regions = common_region(a, b)
    over_region = None
    if regions is not None and len(multipliers):
        of_a, of_b = regions
        over_region = exchange_draws(a, b, C, of_a.coefficients, of_b.coefficients)
    found = []
    for at, draws in enumerate(multipliers.T):
        why = why_not_compared(a, b, float(needed[at]), float(C[at]), level)
        interval = Interval.of(draws, level)
        if why:
            found.append(Judged(None, why, is_known=False))
        elif interval is None or regions is None or over_region is None:
            found.append(Judged(interval))
        else:
            found.append(judge_over_region(over_region[:, at], interval, regions[0]))
    return found


def why_not_compared(a: Family, b: Family, of_a: float, of_b: float, level: float) -> str:
    """Say why the losses of two families, at a compute of each, are not known; empty where they are."""
    for family, compute in ((b, of_b), (a, of_a)):
        why = family.why_no_loss(compute, level) if np.isfinite(compute) else ""
        if why:
            return f"{family.name}: {why}"
    return ""


def common_region(a: Family, b: Family) -> tuple[Region, Region] | None:
    """Return the regions of two families of a joint fit, whose points belong together; None of two fits."""
    if a.verdict is None or b.verdict is None:
        return None
    of_a = a.verdict.region
    of_b = b.verdict.region
    if of_a is None or of_b is None or of_a.rise is not of_b.rise:
        return None
    return of_a, of_b


def exchange_draws(a: Family, b: Family, C: Array, of_a: Array, of_b: Array) -> Array:
    """Return multipliers [replicates, points] at coefficients of both families [replicates, coefficients]."""
    count = min(len(of_a), len(of_b))
    if not count:
        return np.empty((0, len(C)))
    a = dataclasses.replace(a, draws=of_a[:count])
    b = dataclasses.replace(b, draws=of_b[:count])
    loss = b.losses(C)
    around = np.broadcast_to(C, loss.shape)
    needed = _invert(a.losses, loss, around)
    return C / needed


def exchange_at_loss(a: Family, b: Family, loss: float, level: float = 0.9) -> ExchangeRate:
    """Return the exchange rate where `b` reaches a loss."""
    middle = np.sqrt(b.C[0] * b.C[1])
    compute = compute_for(b, np.array([loss]), np.array([middle]))
    return exchange_rate(a, b, compute, level)


def window(a: Family, b: Family) -> tuple[float, float, float]:
    """Return the compute from which, and up to which, both families have runs, and ten times the most that either has."""
    least_a, most_a = a.C
    least_b, most_b = b.C
    low = max(least_a, least_b)
    high = min(most_a, most_b)
    most = max(most_a, most_b)
    if low >= most:
        low = min(least_a, least_b)
    return low, high, BEYOND * most


def crossing(a: Family, b: Family, level: float = 0.9) -> Crossing:
    """Find the compute at which the better of two families turns into the worse one, at equal compute."""
    low, end, high = window(a, b)
    told = []
    why = ""
    for C in np.geomspace(low, high, LOOKED_AT):
        reason = why_not_compared(a, b, float(C), float(C), level)
        why = why or reason
        if not reason:
            told.append(C)
    if not told:
        return Crossing("not known", None, None, 0.0, None, False, low, high, why)
    C = np.geomspace(told[0], told[-1], POINTS)
    count = min(len(a.draws), len(b.draws))
    with np.errstate(all="ignore"):
        point = np.log(a.loss(C)) - np.log(b.loss(C))
        draws = np.log(a.losses(C)[:count]) - np.log(b.losses(C)[:count])
    return turn(C, point, draws, (a.name, b.name), end, level)


@dataclasses.dataclass(frozen=True)
class _SignChange:
    """Where a difference changes sign: at x, falling or rising, and whether the bands on both sides are sure of it."""

    at: float
    falls: bool
    is_sure: bool


def turn(x: Array, point: Array, draws: Array, names: tuple[str, str], end: float, level: float) -> Crossing:
    """Find where a difference `point` [points] (of the first minus the second) changes sign.

    Where it is negative, the first is better. draws [replicates, points] are its replicates; beyond `end` is
    extrapolation. Of several changes the first sure one counts, else the first.
    """
    changes = _sign_changes(x, point, draws, level)
    low = float(x[0])
    high = float(x[-1])
    if not changes:
        return Crossing("none in range", None, None, 0.0, None, False, low, high)
    best = next((change for change in changes if change.is_sure), changes[0])
    share = 0.0
    interval = None
    if len(draws) > 1:
        places = np.array([_crosses(x, one, best.falls) for one in draws])
        is_inside = (places > low) & (places < high)
        share = float(is_inside.mean())
        interval = Interval.of(places, level)
    return Crossing(
        status="found" if best.is_sure else "uncertain",
        at=best.at,
        interval=interval,
        share=share,
        better_after=names[0] if best.falls else names[1],
        extrapolated=best.at > end,
        low=low,
        high=high,
    )


def _sign_changes(x: Array, point: Array, draws: Array, level: float) -> list[_SignChange]:
    """Return every change of sign of a difference [points], from left to right."""
    sign = np.sign(point)
    flips = np.flatnonzero(sign[:-1] * sign[1:] < 0)
    if not len(flips):
        return []
    low, high = simultaneous(point, draws, level)
    is_above = low > 0  # surely: the first is worse
    is_below = high < 0
    changes = []
    for flip in flips.tolist():
        falls = bool(point[flip] > 0)
        before = is_above if falls else is_below
        after = is_below if falls else is_above
        is_sure_before = before[: flip + 1].any()
        is_sure_after = after[flip + 1 :].any()
        is_sure = bool(is_sure_before and is_sure_after)
        at = _root(x, point, flip)
        changes.append(_SignChange(at, falls, is_sure))
    return changes


def simultaneous(point: Array, draws: Array, level: float) -> tuple[Array, Array]:
    """Return the lower and upper edge [points] of a band that holds the whole curve with probability `level`.

    A search for a crossing looks at every point, so a band for one point at a time would find too many. Its width, in
    standard errors, is the largest deviation of a replicate; infinite without replicates.
    """
    is_finite = np.isfinite(draws).all(axis=1)
    finite = draws[is_finite]
    if len(finite) < 2:
        unbounded = np.full_like(point, np.inf)
        return -unbounded, unbounded
    error = np.maximum(finite.std(axis=0, ddof=1), 1e-15)
    largest_deviation = np.abs((finite - point) / error).max(axis=1)
    reach = np.quantile(largest_deviation, level)
    return point - reach * error, point + reach * error


def _root(x: Array, y: Array, flip: int) -> float:
    """Return where a line in ln x through two neighbours is zero."""
    left = np.log(x[flip])
    right = np.log(x[flip + 1])
    share = y[flip] / (y[flip] - y[flip + 1])
    log_root = left + (right - left) * share
    return float(np.exp(log_root))


def _crosses(x: Array, y: Array, falls: bool) -> float:
    """Return the first crossing in a direction; without one, the end of the range on whose far side it must be."""
    start = 1 if falls else -1
    before = start * y[:-1]
    after = start * y[1:]
    flips = np.flatnonzero((before > 0) & (after <= 0))
    if len(flips):
        return _root(x, y, int(flips[0]))
    return float(x[0] if start * y[-1] < 0 else x[-1])
