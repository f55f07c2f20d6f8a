"""What one family's compute is worth in another's, where that turns over, and who wins at equal accelerator hours.

Pure functions of fitted families (analysis/questions/families.py) and of rows; nothing here fits a law of compute.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from analysis.questions.families import Family
from analysis.trust.bootstrap import row_counts
from analysis.trust.interval import Interval
from experiments.cli import InputError

WIDEST = 1e6  # a factor of compute beyond this is reported as this
HALVINGS = 60
BEYOND = 10.0  # how far past the data a crossing is looked for
POINTS = 241


@dataclasses.dataclass(frozen=True)
class ExchangeRate:
    """One unit of compute of `family` buys the loss that `multiplier` units of `baseline` buy.

    All arrays are [points]. compute: the baseline's, training FLOPs. loss: the baseline's there. multiplier is NaN
    where the family does not reach that loss within a factor of a million; low and high are NaN without replicates.
    extrapolated: where either family would need more compute than its largest run had.
    """

    family: str
    baseline: str
    compute: np.ndarray
    loss: np.ndarray
    multiplier: np.ndarray
    low: np.ndarray
    high: np.ndarray
    extrapolated: np.ndarray


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Where the better of two becomes the worse one.

    status: `found` when one is better before and the other after, both by more than the band of `simultaneous`;
    `uncertain` when the curves cross but within it; `none in range`. at: compute or hours, None for none; interval: of
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


def compute_for(family: Family, loss: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Compute [points] at which a family reaches losses [points]; NaN beyond a factor of a million from `around`."""
    found = _invert(family.loss, np.asarray(loss, dtype=np.float64), np.asarray(around, dtype=np.float64))
    return np.where(np.abs(np.log(found / around)) < np.log(WIDEST) - 1e-6, found, np.nan)


def _invert(curve: object, loss: np.ndarray, around: np.ndarray) -> np.ndarray:
    """C with curve(C) = loss by bisection of ln C; the ends of the search where there is none."""
    low = np.broadcast_to(np.log(around) - np.log(WIDEST), loss.shape).copy()
    high = np.broadcast_to(np.log(around) + np.log(WIDEST), loss.shape).copy()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = np.asarray(curve(np.exp(middle))) <= loss
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.exp(high)


def exchange_rate(a: Family, b: Family, compute: np.ndarray | float, level: float = 0.9) -> ExchangeRate:
    """What the compute of `a` is worth in that of `b`, at the losses that `b` reaches with `compute` FLOPs."""
    C = np.atleast_1d(np.asarray(compute, dtype=np.float64))
    if not (np.isfinite(C) & (C > 0)).all():
        raise InputError(f"compute: {C[~(np.isfinite(C) & (C > 0))][0]} is not a positive number of FLOPs")
    loss = np.asarray(b.loss(C), dtype=np.float64)
    needed = compute_for(a, loss, C)
    draws = exchange_draws(a, b, C)
    band = [Interval.of(column, level) for column in draws.T] if len(draws) else [None] * len(C)
    return ExchangeRate(
        family=a.name,
        baseline=b.name,
        compute=C,
        loss=loss,
        multiplier=C / needed,
        low=np.array([np.nan if one is None else one.low for one in band]),
        high=np.array([np.nan if one is None else one.high for one in band]),
        extrapolated=(b.C[1] < C) | (a.C[1] < needed),
    )


def exchange_draws(a: Family, b: Family, C: np.ndarray) -> np.ndarray:
    """Multipliers [replicates, points]."""
    count = min(len(a.draws), len(b.draws))
    if not count:
        return np.empty((0, len(C)))
    a, b = (dataclasses.replace(one, draws=one.draws[:count]) for one in (a, b))
    loss = b.losses(C)
    return C / _invert(a.losses, loss, np.broadcast_to(C, loss.shape))


def exchange_at_loss(a: Family, b: Family, loss: float, level: float = 0.9) -> ExchangeRate:
    """The exchange rate where `b` reaches a loss."""
    middle = float(np.sqrt(b.C[0] * b.C[1]))
    return exchange_rate(a, b, compute_for(b, np.array([loss]), np.array([middle])), level)


def window(a: Family, b: Family) -> tuple[float, float, float]:
    """Compute from which, and up to which, both families have runs, and ten times the most that either has."""
    low, high = max(a.C[0], b.C[0]), min(a.C[1], b.C[1])
    most = max(a.C[1], b.C[1])
    return (low if low < most else min(a.C[0], b.C[0])), high, BEYOND * most


def crossing(a: Family, b: Family, level: float = 0.9) -> Crossing:
    """The compute at which the better of two families turns into the worse one, at equal compute."""
    low, end, high = window(a, b)
    C = np.geomspace(low, high, POINTS)
    with np.errstate(all="ignore"):
        point = np.log(np.asarray(a.loss(C))) - np.log(np.asarray(b.loss(C)))
        count = min(len(a.draws), len(b.draws))
        draws = np.log(a.losses(C)[:count]) - np.log(b.losses(C)[:count])
    return turn(C, point, draws, (a.name, b.name), end, level)


def turn(
    x: np.ndarray, point: np.ndarray, draws: np.ndarray, names: tuple[str, str], end: float, level: float
) -> Crossing:
    """Where a difference `point` [points] (of the first minus the second; negative: the first is better) changes sign.

    draws [replicates, points] are its replicates; beyond `end` is extrapolation.
    """
    share, interval = 0.0, None
    sign = np.sign(point)
    flips = np.flatnonzero(sign[:-1] * sign[1:] < 0)
    none = Crossing("none in range", None, None, share, None, False, float(x[0]), float(x[-1]))
    if not len(flips):
        return none
    low, high = simultaneous(point, draws, level)
    best = None
    for flip in flips:
        at = _root(x, point, flip)
        falls = point[flip] > 0  # the first is better after
        before, after = (low > 0, high < 0) if falls else (high < 0, low > 0)
        sure = bool(before[: flip + 1].any() and after[flip + 1 :].any())
        if best is None or (sure and not best[2]):
            best = at, falls, sure
    at, falls, sure = best
    if len(draws) > 1:
        places = np.array([_crosses(x, one, falls) for one in draws])
        share = float(((places > x[0]) & (places < x[-1])).mean())
        interval = Interval.of(places, level)
    return Crossing(
        status="found" if sure else "uncertain",
        at=at,
        interval=interval,
        share=share,
        better_after=names[0] if falls else names[1],
        extrapolated=at > end,
        low=float(x[0]),
        high=float(x[-1]),
    )


def simultaneous(point: np.ndarray, draws: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edge [points] of a band that holds the whole curve with probability `level`.

    A search for a crossing looks at every point, so a band for one point at a time would find too many. Its width, in
    standard errors, is the largest deviation of a replicate; infinite without replicates.
    """
    if len(draws) < 2:
        return np.full_like(point, -np.inf), np.full_like(point, np.inf)
    finite = draws[np.isfinite(draws).all(axis=1)]
    if len(finite) < 2:
        return np.full_like(point, -np.inf), np.full_like(point, np.inf)
    error = np.maximum(finite.std(axis=0, ddof=1), 1e-15)
    reach = np.quantile(np.abs((finite - point) / error).max(axis=1), level)
    return point - reach * error, point + reach * error


def _root(x: np.ndarray, y: np.ndarray, flip: int) -> float:
    """Where a line in ln x through two neighbours is zero."""
    u, v = np.log(x[flip]), np.log(x[flip + 1])
    return float(np.exp(u + (v - u) * y[flip] / (y[flip] - y[flip + 1])))


def _crosses(x: np.ndarray, y: np.ndarray, falls: bool) -> float:
    """The first crossing in a direction; without one, the end of the range on whose far side it must be."""
    start = 1 if falls else -1
    flips = np.flatnonzero((start * y[:-1] > 0) & (start * y[1:] <= 0))
    if len(flips):
        return _root(x, y, int(flips[0]))
    return float(x[0] if start * y[-1] < 0 else x[-1])


@dataclasses.dataclass(frozen=True)
class HoursClass:
    """Families at equal accelerator hours: their losses, the best one, and in what share of replicates it is that."""

    hours: float
    losses: dict[str, float]
    winner: str
    share: float


@dataclasses.dataclass(frozen=True)
class EqualHours:
    """A comparison at equal accelerator hours: per class of hours, and where pairs of families turn over."""

    method: str
    classes: tuple[HoursClass, ...]
    crossings: dict[str, Crossing]
    notes: tuple[str, ...] = ()


def loss_at_hours(hours: np.ndarray, loss: np.ndarray, at: np.ndarray, method: str = "isotonic") -> np.ndarray:
    """The best loss that runs of one family [runs] reach within `at` hours [points].

    isotonic: the best run so far, straight in ln hours between those that improve on it; NaN before the first run and
    after the last. power: E + K hours^-gamma through those runs (at least 4), and so beyond them too.
    """
    order = np.lexsort((loss, hours))
    h, value = np.asarray(hours, dtype=np.float64)[order], np.asarray(loss, dtype=np.float64)[order]
    best = np.r_[True, value[1:] < np.minimum.accumulate(value)[:-1]]
    front, least = h[best], value[best]
    if method == "isotonic":
        inside = (at >= h[0]) & (at <= h[-1])
        return np.where(inside, np.interp(np.log(at), np.log(front), least), np.nan)
    if method != "power":
        raise InputError(f"--hours_method: {method!r} is not a method; expected isotonic or power")
    from analysis.fitting.spec import FitSpec
    from analysis.grid.table import Columns
    from analysis.laws.one_quantity import Plateau
    from analysis.questions import fit as fitting

    columns = Columns({"X": front, "loss": least}, np.arange(len(front)), {}, ())
    return np.asarray(fitting.fit(columns, Plateau, FitSpec(bootstrap=0)).law.predict(at), dtype=np.float64)


def equal_hours(
    runs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    classes: Sequence[float] | None = None,
    *,
    method: str = "isotonic",
    baseline: str | None = None,
    draws: int = 1000,
    seed: int = 42,
    level: float = 0.9,
) -> EqualHours:
    """Families compared as in Languini (Stanic et al. 2023, arXiv 2309.11197): by what an hour of the accelerator buys.

    runs: per family its accelerator hours and losses [runs]. classes: hours to compare at; by default doublings over
    what all families cover. Raises InputError where the families' hours do not overlap.
    """
    low = max(float(hours.min()) for hours, _ in runs.values())
    high = min(float(hours.max()) for hours, _ in runs.values())
    if not 0 < low < high:
        spans = ", ".join(f"{name} {hours.min():.3g} to {hours.max():.3g}" for name, (hours, _) in runs.items())
        raise InputError(f"hours: the families' accelerator hours do not overlap ({spans})")
    doublings = low * 2.0 ** np.arange(0, np.log2(high / low) + 1e-9)
    at = np.asarray(classes if classes is not None else doublings, dtype=np.float64)
    names, notes = list(runs), []
    if not ((at > 0) & np.isfinite(at)).all():
        raise InputError("hours: classes must be positive numbers")
    grid = np.geomspace(low, high, POINTS)
    both = np.r_[at, grid]
    point = np.array([loss_at_hours(*runs[name], both, method) for name in names])
    replicates = _resampled(runs, both, draws, seed)
    if method == "power":
        notes.append("shares and intervals are those of the isotonic curves")
    found = [
        _class(float(hours), point[:, i], replicates[:, :, i], names)
        for i, hours in enumerate(at)
        if np.isfinite(point[:, i]).any()
    ]
    first = baseline if baseline in runs else names[0]
    k = names.index(first)
    crossings = {
        f"{name} against {first}": turn(
            grid,
            np.log(point[i, len(at) :] / point[k, len(at) :]),
            np.log(replicates[:, i, len(at) :] / replicates[:, k, len(at) :]),
            (name, first),
            high,
            level,
        )
        for i, name in enumerate(names)
        if name != first
    }
    return EqualHours(method, tuple(found), crossings, tuple(notes))


def _resampled(runs: Mapping[str, tuple[np.ndarray, np.ndarray]], at: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Losses at hours [points] of every family, with its runs drawn again: [replicates, families, points]."""
    stream = np.random.default_rng(seed)
    found = np.full((draws, len(runs), len(at)), np.nan)
    for i, (hours, loss) in enumerate(runs.values()):
        counts = row_counts(len(hours), draws, int(stream.integers(2**31)), None, 2)
        for replicate, count in enumerate(counts):
            h, value = hours[count > 0], loss[count > 0]
            # A resampled family has a smaller range; its best run keeps counting past its end.
            found[replicate, i] = loss_at_hours(h, value, np.clip(at, h.min(), h.max()))
    return found


def _class(hours: float, losses: np.ndarray, replicates: np.ndarray, names: list[str]) -> HoursClass:
    best = int(np.nanargmin(losses))
    known = np.isfinite(replicates).all(axis=1)
    share = float((replicates[known].argmin(axis=1) == best).mean()) if known.any() else float("nan")
    named = {name: float(value) for name, value in zip(names, losses, strict=True) if np.isfinite(value)}
    return HoursClass(hours, named, names[best], share)
