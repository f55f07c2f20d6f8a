"""Where a loss curve is going: a saturating power law of the steps, with an interval. Numpy only; touches no files.

    L(t) = E + A t^-alpha,  E and A >= 0

For a given alpha the two others are linear, so that alpha is searched over a grid and every alpha that the data cannot
tell from the best belongs to the interval (a profile likelihood). The form is that of learning curves in Hestness et al.
2017 and Kaplan et al. 2020 (eq. 1.6), and that of the law `plateau` of analysis/. A schedule that decays to its end pulls the
last part of a curve below the forecast; only curves of one schedule are therefore compared (sweeps/work/rivals.py), and
what the decay was worth is learned from those that are over (see `gain`).
"""

from collections.abc import Sequence
import dataclasses
import functools
import math

import numpy as np

ALPHAS = np.linspace(0.02, 1.5, 75)
BINS = 32  # of a curve, equally spaced in log steps
LEAST_BINS = 8  # with data, for a forecast
WARMUP = 0.15  # of what is known of the curve: left out, the power law has not begun
FREE_PARAMETERS = 3  # E, A and alpha
REMEMBERED = 1024  # forecasts, and levels, of curves that are looked at again and again
LEAST_VARIANCE = 1e-18  # of the noise: a curve without any has an interval all the same
NORMAL_MAD = 1.4826  # standard deviation of a normal variable in units of its median absolute deviation


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """The training loss (nats per token) of a run so far, steps ascending; NaN where it was no number.

    Never changed: what was computed of one is remembered as long as it is.
    """

    steps: Sequence[float] | np.ndarray
    losses: Sequence[float] | np.ndarray

    @property
    def last(self) -> float:
        """The newest step; 0 for an empty curve."""
        return float(self.steps[-1]) if len(self.steps) else 0

    def until(self, step: float) -> "Curve":
        """Return its part up to a step."""
        steps = np.asarray(self.steps)
        end = int(np.searchsorted(steps, step, "right"))
        return Curve(self.steps[:end], self.losses[:end])


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
class _Fits:
    """The best E and A for each of ALPHAS, and what they say about one step."""

    error: np.ndarray  # weighted and squared, over all bins
    floor: np.ndarray  # E
    scale: np.ndarray  # A, of steps in units of the first bin's
    value: np.ndarray  # loss at the step
    spread: np.ndarray  # standard error of the value, for a unit of noise


def _fit(bins: _Bins, at: float) -> _Fits:
    """Fit E and A by least squares for each of ALPHAS at once, each bin weighted by its number of points.

    The normal equations of two unknowns are solved as written out: arrays are [alphas] or [alphas, bins].
    """
    first = bins.steps[0]  # steps are counted in units of the first, so that the columns are of one size
    weight = bins.points
    loss = bins.losses
    power = (bins.steps / first) ** -ALPHAS[:, None]
    weighted_loss = weight * loss

    ones_ones = np.sum(weight)
    ones_power = power @ weight
    power_power = power**2 @ weight
    ones_loss = np.sum(weighted_loss)
    power_loss = power @ weighted_loss
    determinant = ones_ones * power_power - ones_power**2
    covariance = ones_ones * power_loss - ones_power * ones_loss
    scale = covariance / determinant
    floor = (ones_loss - scale * ones_power) / ones_ones

    rises = scale < 0  # the best curve that does not is flat
    mean = ones_loss / ones_ones
    scale = np.where(rises, 0.0, scale)
    floor = np.where(rises, mean, floor)
    through_zero = floor < 0
    alone = power_loss / power_power
    scale = np.where(through_zero, alone, scale)
    floor = np.where(through_zero, 0.0, floor)

    fitted = scale[:, None] * power
    fitted += floor[:, None]
    residual = fitted - loss
    error = residual**2 @ weight
    there = (at / first) ** -ALPHAS
    value = floor + scale * there
    variance = power_power - 2 * there * ones_power + there**2 * ones_ones
    variance = variance / determinant
    variance = np.maximum(variance, 0.0)
    spread = np.sqrt(variance)
    return _Fits(error, floor, scale, value, spread)


@functools.lru_cache(maxsize=256)
def _quantile(level: float, free: int) -> float:
    """Return how many standard errors either way hold `level` of Student's t with so many degrees of freedom."""
    from scipy import stats

    share = (1 + level) / 2
    quantile = stats.t.ppf(share, free)
    return float(quantile)


def power_law(curve: Curve) -> tuple[float, float, float] | None:
    """Return E, A and alpha of the best power law of the steps; None for a curve that is too short."""
    bins = _binned(curve)
    if len(bins.steps) < LEAST_BINS:
        return None
    fits = _fit(bins, curve.last)
    best = int(fits.error.argmin())
    alpha = float(ALPHAS[best])
    unit = bins.steps[0] ** alpha
    scale = fits.scale[best] * unit
    floor = fits.floor[best]
    return float(floor), float(scale), alpha


@functools.lru_cache(maxsize=REMEMBERED)
def forecast_from(curve: Curve, until: float, at: int) -> Forecast | None:
    """Forecast the loss at step `at` from a curve up to step `until`."""
    return forecast(curve if until >= curve.last else curve.until(until), at)


def forecast(curve: Curve, at: int, level: float = 0.9) -> Forecast | None:
    """Forecast the loss at step `at` from a curve up to now.

    None where the curve is too short or too few points are finite.
    """
    bins = _binned(curve)
    if len(bins.steps) < LEAST_BINS:
        return None
    fits = _fit(bins, at)
    best = int(fits.error.argmin())
    free = len(bins.steps) - FREE_PARAMETERS
    variance = max(fits.error[best] / free, LEAST_VARIANCE)
    quantile = _quantile(level, free)

    # The interval holds what any plausible alpha says, with the margin that is its own.
    plausible = fits.error <= fits.error[best] + variance * quantile**2
    margin = quantile * np.sqrt(variance) * fits.spread
    lows = fits.value - margin
    highs = fits.value + margin
    low = float(lows[plausible].min())
    high = float(highs[plausible].max())
    return Forecast(int(at), float(fits.value[best]), max(0.0, low), high, level)


# --- curves that have been where the forecast is for


def recent_level(curve: Curve, at: float) -> float | None:
    """Return what `level_of` does, of the fiftieth before: noisier, and true of a curve that falls fast."""
    return level_of(curve, at, share=0.02)


@functools.lru_cache(maxsize=REMEMBERED)
def level_of(curve: Curve, at: float, share: float = 0.1) -> float | None:
    """Return the smoothed loss of a curve around step `at`: the median of its points in the last `share` of these steps.

    None without any.
    """
    steps = np.asarray(curve.steps, float)
    losses = np.asarray(curve.losses, float)
    in_window = (steps >= (1 - share) * at) & (steps <= at)
    finite = np.isfinite(losses)
    near = losses[in_window & finite]
    if len(near) == 0:
        return None
    middle = np.median(near)
    return float(middle)


def gain(curve: Curve, until: float, at: int) -> float | None:
    """Return by how much a whole curve ended below what its part up to step `until` promised for step `at`.

    It is what the schedule's decay was worth after that step: the power law knows nothing of it. None where the part is too
    short to promise anything, or the curve does not reach `at`.
    """
    end = level_of(curve, at)
    promised = forecast_from(curve, until, at)
    if end is None or promised is None:
        return None
    return promised.value - end


# --- curves that rise


def _noise_of(log_loss: np.ndarray) -> float:
    """Return a curve's own noise, as a standard deviation: from the median difference between neighbours."""
    differences = np.abs(np.diff(log_loss))
    deviation = NORMAL_MAD * float(np.median(differences))
    return deviation / math.sqrt(2)  # a difference has the noise of two points


def _lowest_of(log_loss: np.ndarray, window: int) -> float:
    """Return the least median of so many neighbouring points, in windows that overlap by seven eighths."""
    stride = max(1, window // 8)
    windows = np.lib.stride_tricks.sliding_window_view(log_loss, window)[::stride]
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
