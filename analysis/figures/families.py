"""Figures that compare: exchange rates between families, the break-even of growing a model, forecasts against outcomes."""

from collections.abc import Sequence

from matplotlib.figure import Figure
import numpy as np

from analysis.figures.style import (
    BLUE,
    CATEGORIES,
    GREY,
    RED,
    WIDE,
    drawable,
    flops_text,
    log_axis,
    plain,
    runs,
    symmetric,
)
from analysis.fitting.result import FitResult
from analysis.questions.compare import Comparison
from analysis.questions.forecast import Outcome
from analysis.reporting.survey import Survey


def exchange_rates(survey: Survey) -> Figure:
    """What the compute of each family is worth in that of the baseline."""
    return exchange(survey.comparison)


def exchange(found: Comparison) -> Figure:
    """Multipliers of compute against the baseline's compute, with bands; dashes where a family has no runs that large."""
    figure = Figure(figsize=(WIDE, 4.0))
    axis = figure.subplots()
    axis.axhline(1, color=GREY, lw=1)
    for colour, (name, rate) in zip(CATEGORIES * 9, found.rates.items(), strict=False):
        axis.fill_between(rate.compute, drawable(rate.low), drawable(rate.high), color=colour, alpha=0.15, lw=0)
        inside = np.where(rate.extrapolated, np.nan, drawable(rate.multiplier))
        axis.plot(rate.compute, drawable(rate.multiplier), "--", color=colour, lw=1.1)
        axis.plot(rate.compute, inside, "-", color=colour, label=plain(name))
        crossing = found.crossings[name]
        if crossing.at is not None:
            look = {"mfc": RED if crossing.status == "found" else "white", "mec": RED}
            axis.plot(crossing.at, 1, "D", ms=6, zorder=5, **look)
    axis.plot([], [], "--", color=GREY, lw=1.1, label="beyond the runs")
    if any(crossing.at is not None for crossing in found.crossings.values()):
        axis.plot([], [], "D", ms=6, mfc="white", mec=RED, label="crossing (filled: certain)")
    log_axis(axis, "x", flops_text)
    log_axis(axis, "y", lambda value: f"{value:.3g}x")
    axis.set(xlabel=f"training FLOPs of {plain(found.baseline)}", ylabel=f"worth in FLOPs of {plain(found.baseline)}")
    axis.set_title("Exchange rates")
    axis.legend(loc="best", frameon=True, framealpha=0.8, edgecolor="none")
    return figure


def growth(result: FitResult) -> Figure:
    """Speed-up of grown runs against their compute, trunk included, with the fitted law and where it breaks even.

    `result` is a fit of the law growth_speedup.
    """
    columns, law = result.columns, result.law
    figure = Figure(figsize=(WIDE, 3.8))
    axis = figure.subplots()
    low, high = float(columns["C"].min()), float(columns["C"].max())
    near = low / 30 < law.C_even < high * 30  # a break-even further out is not drawn, it is said
    C = np.geomspace(
        min(low, law.C_even) / 1.5 if near else low / 1.5, max(high, law.C_even) * 1.5 if near else high * 1.5, 60
    )
    axis.axhline(0, color=GREY, lw=1)
    band = [result.interval_of(lambda law, at=one: 100 * law.predict(at)) for one in C]
    if any(band):
        edges = np.array([(one.low, one.high) if one else (np.nan, np.nan) for one in band])
        axis.fill_between(C, *edges.T, color=BLUE, alpha=0.15, lw=0)
    axis.plot(C, 100 * law.predict(C), color=BLUE, label="fitted law")
    runs(axis, columns["C"], 100 * columns["speedup"], columns.row, color=BLUE, ms=5, mec="white", label="grown runs")
    even = result.intervals().get("C_even")
    words = f"break-even at {flops_text(law.C_even)} FLOPs"
    if near:
        axis.plot(law.C_even, 0, "D", color=RED, ms=7, label=words, zorder=5)
        if even is not None:
            axis.plot([max(even.low, C[0]), min(even.high, C[-1])], [0, 0], color=RED, lw=3, alpha=0.5)
    else:
        axis.plot([], [], "D", color=RED, label=f"{words}, off the page")
    log_axis(axis, "x", flops_text)
    axis.set_xlim(C[0], C[-1])
    symmetric(axis, 100 * columns["speedup"])
    axis.set(xlabel="training FLOPs, trunk included", ylabel="speed-up at equal loss, %", title="What growing saves")
    axis.legend(loc="best", frameon=True, framealpha=0.8, edgecolor="none")
    return figure


def calibration(outcomes: Sequence[Outcome], level: float = 0.9) -> Figure:
    """Left: the share of intervals that held their outcome, at every level. Right: each outcome in its own interval.

    The shaded band holds the share at each level in 90% of all sets of as many independent and honest forecasts.
    """
    from scipy.stats import binom

    count = len(outcomes)
    ranks = np.array([outcome.rank for outcome in outcomes])
    levels = np.linspace(0, 1, 101)
    held = (2 * np.abs(ranks - 0.5) <= levels[:, None] + 1e-12).mean(axis=1)
    figure = Figure(figsize=(WIDE, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    low, high = (binom.ppf(edge, count, levels[1:-1]) / count for edge in (0.05, 0.95))
    left.fill_between(levels[1:-1], low, high, color=GREY, alpha=0.18, lw=0, label="honest forecasts")
    left.plot([0, 1], [0, 1], color=GREY, lw=1)
    left.step(levels, held, where="post", color=BLUE, label="these forecasts")
    left.set(xlabel="level of the interval", ylabel="share that held", xlim=(0, 1), ylim=(0, 1.02))
    left.set_title(f"Calibration of {count} forecasts" if count != 1 else "Calibration of one forecast")
    left.legend(loc="upper left", fontsize=8)
    order = sorted(range(count), key=lambda at: outcomes[at].forecast.made)
    y = np.arange(count)
    ends = np.array([outcomes[at].forecast.interval(level) for at in order])
    middle = np.array([outcomes[at].forecast.prediction for at in order])
    seen = np.array([outcomes[at].observed for at in order])
    scale = np.where(middle != 0, np.abs(middle), 1.0)
    right.hlines(y, *(100 * (ends.T - middle) / scale), color=BLUE, lw=3 if count < 40 else 1, alpha=0.35)
    outside = (seen < ends[:, 0]) | (seen > ends[:, 1])
    rows = np.array([outcomes[at].row for at in order])
    for which, colour, label in ((~outside, BLUE, "inside"), (outside, RED, "outside")):
        if which.any():
            place = 100 * ((seen - middle) / scale)[which], y[which]
            runs(right, *place, rows[which], color=colour, ms=5, mec="white", mew=0.5, label=label)
    right.axvline(0, color=GREY, lw=1)
    right.set(xlabel="outcome over forecast, %", yticks=[], ylabel=f"forecasts by date, {level:.0%} intervals")
    right.legend(loc="lower left", bbox_to_anchor=(-0.03, 0.98), fontsize=8, ncols=2)
    return figure
