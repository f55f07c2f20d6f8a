"""Where a loss curve is going: a saturating power law of the steps, with an interval. Numpy only; touches no files.

    L(t) = E + A t^-alpha,  E and A >= 0

For a given alpha the two others are linear, so that alpha is searched over a grid and every alpha that the data cannot
tell from the best belongs to the interval (a profile likelihood). The form is that of learning curves in Hestness et al.
2017 and Kaplan et al. 2020 (eq. 1.6). A schedule that decays to its end pulls the last part of a curve below the
forecast; curves of one schedule are therefore compared with each other (see `shift`), not with a number.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

ALPHAS = np.linspace(0.02, 1.5, 75)
BINS, LEAST = 32, 8  # bins of a curve, equally spaced in log steps; how many with data a forecast needs
WARMUP = 0.15  # of what is known of the curve: left out, the power law has not begun


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The smoothed training loss (nats per token) expected at `step`, and an interval of the stated level for it."""

    step: int
    value: float
    low: float
    high: float
    level: float


def binned(steps: Sequence[float], losses: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of a curve in bins of equal width in log steps: steps, losses, number of points of each bin."""
    at, loss = np.asarray(steps, float), np.asarray(losses, float)
    keep = np.isfinite(loss) & (at > WARMUP * at.max(initial=0)) & (at > 0)
    at, loss = at[keep], loss[keep]
    if not len(at):
        return at, loss, at
    edges = np.geomspace(at.min(), at.max() * (1 + 1e-9), BINS + 1)
    index = np.clip(np.searchsorted(edges, at, "right") - 1, 0, BINS - 1)
    count = np.bincount(index, minlength=BINS)
    used = count > 0
    mean = [np.bincount(index, values, BINS)[used] / count[used] for values in (at, loss)]
    return mean[0], mean[1], count[used]


def forecast(steps: Sequence[float], losses: Sequence[float], at: int, level: float = 0.9) -> Forecast | None:
    """The loss at step `at`, from a curve up to now. None where the curve is too short or too few points are finite."""
    from scipy import stats

    t, loss, count = binned(steps, losses)
    if len(t) < LEAST:
        return None
    weight = np.sqrt(count)
    fits = [_fit(t, loss, weight, alpha, at) for alpha in ALPHAS]
    error = np.array([fit[0] for fit in fits])
    value, spread = np.array([fit[1] for fit in fits]), np.array([fit[2] for fit in fits])
    best, free = int(error.argmin()), len(t) - 3
    sigma2 = max(error[best] / free, 1e-18)
    quantile = stats.t.ppf((1 + level) / 2, free)
    plausible = error <= error[best] + sigma2 * quantile**2
    margin = quantile * np.sqrt(sigma2) * spread
    low, high = (value - margin)[plausible].min(), (value + margin)[plausible].max()
    return Forecast(int(at), float(value[best]), max(0.0, float(low)), float(high), level)


def _fit(t: np.ndarray, loss: np.ndarray, weight: np.ndarray, alpha: float, at: float) -> tuple[float, float, float]:
    """For one alpha: weighted squared error, loss at step `at`, and its standard error for a unit of noise."""
    base = t[0]  # in units of the first step, so that the columns are of one size
    design = np.stack([np.ones_like(t), (t / base) ** -alpha], axis=1) * weight[:, None]
    row = np.array([1.0, (at / base) ** -alpha])
    solved, *_ = np.linalg.lstsq(design, loss * weight, rcond=None)
    if solved[1] < 0:  # a loss that rises: the best curve that does not is flat
        solved = np.array([np.average(loss, weights=weight**2), 0.0])
    elif solved[0] < 0:
        column = design[:, 1]
        solved = np.array([0.0, column @ (loss * weight) / (column @ column)])
    error = float(np.sum((design @ solved - loss * weight) ** 2))
    spread = float(np.sqrt(row @ np.linalg.pinv(design.T @ design) @ row))
    return error, float(row @ solved), spread


def level_of(steps: Sequence[float], losses: Sequence[float], at: int) -> float | None:
    """The smoothed loss of a curve around step `at`: the median of its points in the tenth before. None without any."""
    near = [loss for step, loss in zip(steps, losses, strict=True) if 0.9 * at <= step <= at and math.isfinite(loss)]
    return float(np.median(near)) if near else None


def shift(steps: Sequence[float], losses: Sequence[float], until: int, at: int) -> float | None:
    """How far a whole curve ended from what its part up to step `until` promised for step `at`.

    Runs of one schedule share most of it, so that it corrects the forecasts of those that are still under way.
    """
    part = [(s, x) for s, x in zip(steps, losses, strict=True) if s <= until]
    end = level_of(steps, losses, at)
    found = forecast([s for s, _ in part], [x for _, x in part], at) if part else None
    return None if found is None or end is None else end - found.value


def diverging(steps: Sequence[float], losses: Sequence[float], patience: float = 0.1) -> str | None:
    """Why a curve counts as diverging, or None: its last tenth lies above where it began, or far above its best.

    Above is by 3 of the curve's own noise (median absolute deviation of neighbours), or a run that learns nothing more
    would sooner or later be there; far is 20 of it and a fifth of what was learned. All of logarithms: a loss that has
    blown up is as noisy as it is large.
    """
    nats = np.asarray(losses, float)
    count = max(5, int(patience * len(nats)))
    if len(nats) < 4 * count or not np.isfinite(nats).all():
        return None
    loss = np.log(np.maximum(nats, np.finfo(float).tiny))
    first, last = float(np.median(loss[:count])), float(np.median(loss[-count:]))
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(loss, count), axis=1)
    best = float(smooth.min())
    noise = 1.4826 * float(np.median(np.abs(np.diff(loss)))) / math.sqrt(2)
    lowest = float(np.median(loss[-count:][: count // 2])) if count >= 10 else last
    said = f"the loss of its last {count} points, {math.exp(last):.3g},"
    if min(last, lowest) > first + 3 * noise:
        return f"{said} is above that of its first, {math.exp(first):.3g}"
    if last - best > max(20 * noise, 0.2 * (first - best)) and lowest - best > 0.2 * (first - best):
        return f"{said} is far above its best, {math.exp(best):.3g}"
    return None
