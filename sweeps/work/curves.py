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
BINS = 32  # of a curve, equally spaced in log steps
LEAST_BINS = 8  # with data, for a forecast
WARMUP = 0.15  # of what is known of the curve: left out, the power law has not begun
FREE_PARAMETERS = 3  # E, A and alpha
LEAST_VARIANCE = 1e-18  # of the noise: a curve without any has an interval all the same
NORMAL_MAD = 1.4826  # standard deviation of a normal variable in units of its median absolute deviation


@dataclasses.dataclass(frozen=True)
class Curve:
    """The training loss (nats per token) of a run so far; NaN where it was no number."""

    steps: Sequence[float]
    losses: Sequence[float]

    @property
    def last(self) -> float:
        """The newest step; 0 for an empty curve."""
        return self.steps[-1] if len(self.steps) else 0

    def until(self, step: float) -> "Curve":
        """Return its part up to a step."""
        steps = []
        losses = []
        for at, loss in zip(self.steps, self.losses, strict=True):
            if at <= step:
                steps.append(at)
                losses.append(loss)
        return Curve(steps, losses)


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The smoothed training loss (nats per token) expected at `step`, and an interval of the stated level for it."""

    step: int
    value: float
    low: float
    high: float
    level: float


# --- the power law


@dataclasses.dataclass(frozen=True)
class _Bins:
    """Means of a curve in bins of equal width in log steps, empty ones left out; how many points are in each."""

    steps: np.ndarray
    losses: np.ndarray
    points: np.ndarray


def _binned(curve: Curve) -> _Bins:
    """Bin a curve without its warm-up and what is not finite."""
    step = np.asarray(curve.steps, float)
    loss = np.asarray(curve.losses, float)
    warmup = WARMUP * step.max(initial=0)
    kept = np.isfinite(loss) & (step > warmup) & (step > 0)
    step = step[kept]
    loss = loss[kept]
    if len(step) == 0:
        return _Bins(step, loss, step)
    last_edge = step.max() * (1 + 1e-9)  # so that the last step lies in the last bin
    edges = np.geomspace(step.min(), last_edge, BINS + 1)
    bin_of = np.searchsorted(edges, step, "right") - 1
    bin_of = np.clip(bin_of, 0, BINS - 1)

    points = np.bincount(bin_of, minlength=BINS)
    step_sum = np.bincount(bin_of, step, BINS)
    loss_sum = np.bincount(bin_of, loss, BINS)
    used = points > 0
    points = points[used]
    mean_step = step_sum[used] / points
    mean_loss = loss_sum[used] / points
    return _Bins(mean_step, mean_loss, points)


@dataclasses.dataclass(frozen=True)
class _Fit:
    """The best E and A for one alpha, and what they say about one step."""

    error: float  # weighted and squared, over all bins
    value: float  # loss at the step
    spread: float  # standard error of the value, for a unit of noise


def _fit(bins: _Bins, alpha: float, at: float) -> _Fit:
    """Fit E and A by least squares, each bin weighted by its number of points."""
    first = bins.steps[0]  # steps are counted in units of the first, so that the columns are of one size
    weight = np.sqrt(bins.points)
    power = (bins.steps / first) ** -alpha
    ones = np.ones_like(power)
    design = np.stack([ones, power], axis=1) * weight[:, None]
    target = bins.losses * weight

    solved, *_ = np.linalg.lstsq(design, target, rcond=None)
    floor, scale = solved
    if scale < 0:  # a loss that rises: the best curve that does not is flat
        mean = np.average(bins.losses, weights=weight**2)
        solved = np.array([mean, 0.0])
    elif floor < 0:  # through zero: A alone
        column = design[:, 1]
        scale = column @ target / (column @ column)
        solved = np.array([0.0, scale])

    residual = design @ solved - target
    row = np.array([1.0, (at / first) ** -alpha])
    covariance = np.linalg.pinv(design.T @ design)  # of E and A, for a unit of noise
    variance = row @ covariance @ row
    error = np.sum(residual**2)
    value = row @ solved
    return _Fit(float(error), float(value), float(np.sqrt(variance)))


def forecast(curve: Curve, at: int, level: float = 0.9) -> Forecast | None:
    """Forecast the loss at step `at` from a curve up to now.

    None where the curve is too short or too few points are finite.
    """
    from scipy import stats

    bins = _binned(curve)
    if len(bins.steps) < LEAST_BINS:
        return None
    fits = [_fit(bins, alpha, at) for alpha in ALPHAS]
    error = np.array([fit.error for fit in fits])
    value = np.array([fit.value for fit in fits])
    spread = np.array([fit.spread for fit in fits])
    best = int(error.argmin())
    free = len(bins.steps) - FREE_PARAMETERS
    variance = max(error[best] / free, LEAST_VARIANCE)
    quantile = stats.t.ppf((1 + level) / 2, free)

    # The interval holds what any plausible alpha says, with the margin that is its own.
    plausible = error <= error[best] + variance * quantile**2
    margin = quantile * np.sqrt(variance) * spread
    lows = value - margin
    highs = value + margin
    low = float(lows[plausible].min())
    high = float(highs[plausible].max())
    return Forecast(int(at), float(value[best]), max(0.0, low), high, level)


# --- curves that have been where the forecast is for


def level_of(curve: Curve, at: int) -> float | None:
    """Return the smoothed loss of a curve around step `at`: the median of its points in the tenth before.

    None without any.
    """
    near = []
    for step, loss in zip(curve.steps, curve.losses, strict=True):
        if 0.9 * at <= step <= at and math.isfinite(loss):
            near.append(loss)
    return float(np.median(near)) if near else None


def shift(curve: Curve, until: float, at: int) -> float | None:
    """Return how far a whole curve ended from what its part up to step `until` promised for step `at`.

    Runs of one schedule share most of it, so that it corrects the forecasts of those that are still under way.
    None where the part is too short to promise anything, or the curve does not reach `at`.
    """
    end = level_of(curve, at)
    promised = forecast(curve.until(until), at)
    if end is None or promised is None:
        return None
    return end - promised.value


# --- curves that rise


def _noise_of(log_loss: np.ndarray) -> float:
    """Return a curve's own noise, as a standard deviation: from the median difference between neighbours."""
    differences = np.abs(np.diff(log_loss))
    deviation = NORMAL_MAD * float(np.median(differences))
    return deviation / math.sqrt(2)  # a difference has the noise of two points


def _lowest_of(log_loss: np.ndarray, window: int) -> float:
    """Return the least median of so many neighbouring points."""
    windows = np.lib.stride_tricks.sliding_window_view(log_loss, window)
    medians = np.median(windows, axis=1)
    return float(medians.min())


def diverging(curve: Curve, patience: float = 0.1) -> str | None:
    """Return why a curve counts as diverging: its last tenth lies above where it began, or far above its best.

    Above is by 3 of the curve's own noise (median absolute deviation of neighbours), or a run that learns nothing more
    would sooner or later be there; far is 20 of it and a fifth of what was learned. All of logarithms: a loss that has
    blown up is as noisy as it is large. None for a curve that does not diverge, is too short, or is not finite.
    """
    nats = np.asarray(curve.losses, float)
    window = max(5, int(patience * len(nats)))
    if len(nats) < 4 * window or not np.isfinite(nats).all():
        return None
    tiny = np.finfo(float).tiny
    loss = np.log(np.maximum(nats, tiny))
    first_window = loss[:window]
    last_window = loss[-window:]
    first = float(np.median(first_window))
    last = float(np.median(last_window))
    best = _lowest_of(loss, window)
    noise = _noise_of(loss)

    # A spike at the very end is no rise: the first half of the last window has to lie as high.
    earlier = last
    if window >= 10:
        half = last_window[: window // 2]
        earlier = float(np.median(half))
    said = f"the loss of its last {window} points, {math.exp(last):.3g},"
    if min(last, earlier) > first + 3 * noise:
        return f"{said} is above that of its first, {math.exp(first):.3g}"
    fifth = 0.2 * (first - best)  # of what was learned
    far_above = last - best > max(20 * noise, fifth)
    if far_above and earlier - best > fifth:
        return f"{said} is far above its best, {math.exp(best):.3g}"
    return None
