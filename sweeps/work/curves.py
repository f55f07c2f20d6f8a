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
NORMAL_MAD = 1.4826  # standard deviation of a normal variable in units of its median absolute deviation


@dataclasses.dataclass(frozen=True)
class Curve:
    """The training loss (nats per token) of a run so far; NaN where it was no number."""

    steps: list[int]
    losses: list[float]

    @property
    def last(self) -> int:
        """The newest step; 0 for an empty curve."""
        return self.steps[-1] if self.steps else 0


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The smoothed training loss (nats per token) expected at `step`, and an interval of the stated level for it."""

    step: int
    value: float
    low: float
    high: float
    level: float


@dataclasses.dataclass(frozen=True)
class _Bins:
    """Means of a curve in bins of equal width in log steps, empty ones left out; how many points are in each."""

    steps: np.ndarray
    losses: np.ndarray
    points: np.ndarray

    @classmethod
    def of(cls, steps: Sequence[float], losses: Sequence[float]) -> "_Bins":
        """Bin a curve without its warm-up and what is not finite."""
        step = np.asarray(steps, float)
        loss = np.asarray(losses, float)
        begun = step > WARMUP * step.max(initial=0)
        kept = np.isfinite(loss) & begun & (step > 0)
        step = step[kept]
        loss = loss[kept]
        if len(step) == 0:
            return cls(step, loss, step)
        last_edge = step.max() * (1 + 1e-9)  # so that the last step lies in the last bin
        edges = np.geomspace(step.min(), last_edge, BINS + 1)
        bin_of = np.searchsorted(edges, step, "right") - 1
        bin_of = np.clip(bin_of, 0, BINS - 1)
        points = np.bincount(bin_of, minlength=BINS)
        used = points > 0
        step_sum = np.bincount(bin_of, step, BINS)[used]
        loss_sum = np.bincount(bin_of, loss, BINS)[used]
        return cls(step_sum / points[used], loss_sum / points[used], points[used])


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
    design = np.stack([np.ones_like(power), power], axis=1) * weight[:, None]
    target = bins.losses * weight
    solved, *_ = np.linalg.lstsq(design, target, rcond=None)
    floor, scale = solved
    if scale < 0:  # a loss that rises: the best curve that does not is flat
        solved = np.array([np.average(bins.losses, weights=weight**2), 0.0])
    elif floor < 0:
        column = design[:, 1]
        solved = np.array([0.0, column @ target / (column @ column)])
    residual = design @ solved - target
    row = np.array([1.0, (at / first) ** -alpha])
    covariance = np.linalg.pinv(design.T @ design)  # of E and A, for a unit of noise
    variance = row @ covariance @ row
    return _Fit(float(np.sum(residual**2)), float(row @ solved), float(np.sqrt(variance)))


def forecast(steps: Sequence[float], losses: Sequence[float], at: int, level: float = 0.9) -> Forecast | None:
    """Forecast the loss at step `at` from a curve up to now.

    None where the curve is too short or too few points are finite.
    """
    from scipy import stats

    bins = _Bins.of(steps, losses)
    if len(bins.steps) < LEAST_BINS:
        return None
    fits = [_fit(bins, alpha, at) for alpha in ALPHAS]
    error = np.array([fit.error for fit in fits])
    value = np.array([fit.value for fit in fits])
    spread = np.array([fit.spread for fit in fits])
    best = int(error.argmin())
    free = len(bins.steps) - FREE_PARAMETERS
    variance = max(error[best] / free, 1e-18)
    quantile = stats.t.ppf((1 + level) / 2, free)
    plausible = error <= error[best] + variance * quantile**2
    margin = quantile * np.sqrt(variance) * spread
    low = float((value - margin)[plausible].min())
    high = float((value + margin)[plausible].max())
    return Forecast(int(at), float(value[best]), max(0.0, low), high, level)


def level_of(steps: Sequence[float], losses: Sequence[float], at: int) -> float | None:
    """Return the smoothed loss of a curve around step `at`: the median of its points in the tenth before.

    None without any.
    """
    near = []
    for step, loss in zip(steps, losses, strict=True):
        if 0.9 * at <= step <= at and math.isfinite(loss):
            near.append(loss)
    return float(np.median(near)) if near else None


def shift(steps: Sequence[float], losses: Sequence[float], until: int, at: int) -> float | None:
    """Return how far a whole curve ended from what its part up to step `until` promised for step `at`.

    Runs of one schedule share most of it, so that it corrects the forecasts of those that are still under way.
    None where the part is too short to promise anything, or the curve does not reach `at`.
    """
    known = [(step, loss) for step, loss in zip(steps, losses, strict=True) if step <= until]
    end = level_of(steps, losses, at)
    if not known or end is None:
        return None
    known_steps = [step for step, _ in known]
    known_losses = [loss for _, loss in known]
    promised = forecast(known_steps, known_losses, at)
    return None if promised is None else end - promised.value


def _noise_of(log_loss: np.ndarray) -> float:
    """Return a curve's own noise, as a standard deviation: from the median difference between neighbours."""
    difference = float(np.median(np.abs(np.diff(log_loss))))
    return NORMAL_MAD * difference / math.sqrt(2)  # a difference has the noise of two points


def diverging(steps: Sequence[float], losses: Sequence[float], patience: float = 0.1) -> str | None:
    """Return why a curve counts as diverging: its last tenth lies above where it began, or far above its best.

    Above is by 3 of the curve's own noise (median absolute deviation of neighbours), or a run that learns nothing more
    would sooner or later be there; far is 20 of it and a fifth of what was learned. All of logarithms: a loss that has
    blown up is as noisy as it is large. None for a curve that does not diverge, is too short, or is not finite.
    """
    nats = np.asarray(losses, float)
    window = max(5, int(patience * len(nats)))
    if len(nats) < 4 * window or not np.isfinite(nats).all():
        return None
    loss = np.log(np.maximum(nats, np.finfo(float).tiny))
    first = float(np.median(loss[:window]))
    last = float(np.median(loss[-window:]))
    windows = np.lib.stride_tricks.sliding_window_view(loss, window)
    best = float(np.median(windows, axis=1).min())
    noise = _noise_of(loss)

    # A spike at the very end is no rise: the first half of the last window has to lie as high.
    earlier = last
    if window >= 10:
        earlier = float(np.median(loss[-window:][: window // 2]))
    learned = first - best
    said = f"the loss of its last {window} points, {math.exp(last):.3g},"
    if min(last, earlier) > first + 3 * noise:
        return f"{said} is above that of its first, {math.exp(first):.3g}"
    far_above = last - best > max(20 * noise, 0.2 * learned)
    if far_above and earlier - best > 0.2 * learned:
        return f"{said} is far above its best, {math.exp(best):.3g}"
    return None
