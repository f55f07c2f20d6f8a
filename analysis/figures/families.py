"""Draw comparisons: exchange rates between families, the break-even of growing a model, forecasts against outcomes."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from analysis.figures.drawing import Drawing
from analysis.figures.style import (
    BLUE,
    CATEGORIES,
    GREY,
    RED,
    WIDE,
    drawable,
    flops_text,
    legend_inside,
    log_axis,
    plain,
    runs,
    symmetric,
    times_text,
)
from analysis.fitting.result import FitResult
from analysis.questions.compare import Comparison
from analysis.questions.forecast import Outcome
from analysis.reporting.survey import Survey

FAR = 30.0  # a break-even this many times beyond the runs is not drawn, it is said


def exchange_rates(survey: Survey) -> Figure:
    """Draw what the compute of each family is worth in that of the baseline."""
    assert survey.comparison is not None, "the figure is drawn only where there is a comparison"
    return exchange(survey.comparison)


def why_no_rates(found: Comparison) -> str:
    """Say why no exchange rate is known at all; empty where one is."""
    why = ""
    for rate in found.rates.values():
        if np.isfinite(rate.multiplier).any():
            return ""
        reasons = [*filter(None, rate.why), "no loss of the baseline is reached"]
        why = why or reasons[0]
    return why


def exchange(found: Comparison) -> Figure:
    """Draw multipliers of compute against the baseline's compute, with bands.

    Dashes where a family has no runs that large. A diamond marks where a family and the baseline cross.
    """
    figure = Drawing(figsize=(WIDE, 4.0))
    axis = figure.subplots()
    axis.axhline(1, color=GREY, lw=1)
    for colour, (name, rate) in zip(CATEGORIES * 9, found.rates.items(), strict=False):
        multiplier = drawable(rate.multiplier)
        inside = np.where(rate.extrapolated, np.nan, multiplier)
        low = drawable(rate.low)
        high = drawable(rate.high)
        compute = rate.compute
        axis.fill_between(compute, low, high, color=colour, alpha=0.15, lw=0)
        axis.plot(compute, multiplier, "--", color=colour, lw=1.1)
        axis.plot(compute, inside, "-", color=colour, label=plain(name))
    crosses = False
    for crossing in found.crossings.values():
        if crossing.at is None:
            continue
        crosses = True
        fill = RED if crossing.status == "found" else "white"
        axis.plot(crossing.at, 1, "D", ms=6, mfc=fill, mec=RED, zorder=5)

    axis.plot([], [], "--", color=GREY, lw=1.1, label="beyond the runs")
    if crosses:
        axis.plot([], [], "D", ms=6, mfc="white", mec=RED, label="crossing (filled: certain)")
    log_axis(axis, "x", flops_text)
    log_axis(axis, "y", times_text)
    baseline = plain(found.baseline)
    axis.set(xlabel=f"training FLOPs of {baseline}", ylabel=f"worth in FLOPs of {baseline}")
    axis.set_title("Exchange rates")
    legend_inside(axis)
    return figure


def growth(result: FitResult) -> Figure:
    """Draw the speed-up of grown runs against their compute, trunk included, with the law and where it breaks even.

    `result` is a fit of the law growth_speedup.
    """
    columns = result.columns
    speedup = 100 * columns["speedup"]
    figure = Drawing(figsize=(WIDE, 3.8))
    axis = figure.subplots()
    axis.axhline(0, color=GREY, lw=1)
    C = _compute_to_draw(result)
    _draw_law(axis, result, C)
    runs(axis, columns["C"], speedup, columns.row, color=BLUE, ms=5, mec="white", label="grown runs")
    _draw_break_even(axis, result, C)

    log_axis(axis, "x", flops_text)
    axis.set_xlim(C[0], C[-1])
    symmetric(axis, speedup)
    axis.set(xlabel="training FLOPs, trunk included", ylabel="speed-up at equal loss, %")
    axis.set_title("What growing saves")
    legend_inside(axis)
    return figure


def break_even(result: FitResult) -> float:
    """Return the FLOPs at which growing saves nothing."""
    return result.law.coefficients()["C_even"]


def _breaks_even_nearby(result: FitResult) -> bool:
    """Whether the break-even lies among the runs or not far from them."""
    compute = result.columns["C"]
    even = break_even(result)
    return compute.min() / FAR < even < compute.max() * FAR


def _compute_to_draw(result: FitResult) -> np.ndarray:
    """Return FLOPs over the runs and, where it is near, the break-even."""
    compute = result.columns["C"]
    low = float(compute.min())
    high = float(compute.max())
    if _breaks_even_nearby(result):
        even = break_even(result)
        low = min(low, even)
        high = max(high, even)
    return np.geomspace(low / 1.5, high * 1.5, 60)


def _draw_law(axis: Axes, result: FitResult, C: np.ndarray) -> None:
    """Draw the fitted speed-up in per cent with its band, where there is one."""
    ends = []
    for one in C:
        found = result.interval_of(lambda law, at=one: 100 * law.predict(at))
        ends.append((found.low, found.high) if found else (np.nan, np.nan))
    low, high = np.array(ends).T
    if np.isfinite(low).any():
        axis.fill_between(C, low, high, color=BLUE, alpha=0.15, lw=0)
    axis.plot(C, 100 * result.law.predict(C), color=BLUE, label="fitted law")


def _draw_break_even(axis: Axes, result: FitResult, C: np.ndarray) -> None:
    """Mark the break-even and its interval, or say where it is when that is off the page."""
    even = break_even(result)
    words = f"break-even at {flops_text(even)} FLOPs"
    if not _breaks_even_nearby(result):
        axis.plot([], [], "D", color=RED, label=f"{words}, off the page")
        return
    axis.plot(even, 0, "D", color=RED, ms=7, label=words, zorder=5)
    interval = result.intervals().get("C_even")
    if interval is not None:
        low = max(interval.low, C[0])
        high = min(interval.high, C[-1])
        axis.plot([low, high], [0, 0], color=RED, lw=3, alpha=0.5)


def calibration(outcomes: Sequence[Outcome], level: float = 0.9) -> Figure:
    """Draw whether forecasts kept their word.

    Left: the share of intervals that held their outcome, at every level. Right: each outcome in its own interval.
    """
    figure = Drawing(figsize=(WIDE, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _draw_shares(left, outcomes)
    _draw_outcomes(right, outcomes, level)
    return figure


def _draw_shares(axis: Axes, outcomes: Sequence[Outcome]) -> None:
    """Draw the share of intervals that held, at every level.

    The shaded band holds the share at each level in 90% of all sets of as many independent and honest forecasts.
    """
    from scipy.stats import binom

    count = len(outcomes)
    ranks = np.array([outcome.rank for outcome in outcomes])
    levels = np.linspace(0, 1, 101)
    # An outcome lies in the interval of a level where its rank is no further from the median than half the level.
    distance = 2 * np.abs(ranks - 0.5)
    held = (distance <= levels[:, None] + 1e-12).mean(axis=1)
    inner = levels[1:-1]
    low = binom.ppf(0.05, count, inner) / count
    high = binom.ppf(0.95, count, inner) / count
    axis.fill_between(inner, low, high, color=GREY, alpha=0.18, lw=0, label="honest forecasts")
    axis.plot([0, 1], [0, 1], color=GREY, lw=1)
    axis.step(levels, held, where="post", color=BLUE, label="these forecasts")
    axis.set(
        xlabel="level of the interval",
        ylabel="share that held",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    axis.set_title(f"Calibration of {count} forecasts" if count != 1 else "Calibration of one forecast")
    axis.legend(loc="upper left", fontsize=8)


def _draw_outcomes(axis: Axes, outcomes: Sequence[Outcome], level: float) -> None:
    """Draw each outcome in its own interval, in per cent of the forecast, the oldest forecast lowest."""
    by_date = sorted(outcomes, key=lambda outcome: outcome.forecast.made)
    forecasts = [outcome.forecast for outcome in by_date]
    middle = np.array([forecast.prediction for forecast in forecasts])
    ends = np.array([forecast.interval(level) for forecast in forecasts])
    seen = np.array([outcome.observed for outcome in by_date])
    rows = np.array([outcome.row for outcome in by_date])
    scale = np.where(middle != 0, np.abs(middle), 1.0)
    away = 100 * ((seen - middle) / scale)
    low, high = 100 * (ends.T - middle) / scale
    y = np.arange(len(by_date))
    thickness = 3 if len(by_date) < 40 else 1
    axis.hlines(y, low, high, color=BLUE, lw=thickness, alpha=0.35)

    least, most = ends.T
    outside = (seen < least) | (seen > most)
    for which, colour, label in ((~outside, BLUE, "inside"), (outside, RED, "outside")):
        if which.any():
            look = {"color": colour, "ms": 5, "mec": "white", "mew": 0.5}
            runs(axis, away[which], y[which], rows[which], label=label, **look)
    axis.axvline(0, color=GREY, lw=1)
    axis.set(xlabel="outcome over forecast, %", yticks=[], ylabel=f"forecasts by date, {level:.0%} intervals")
    axis.legend(loc="lower left", bbox_to_anchor=(-0.03, 0.98), fontsize=8, ncols=2)
