"""Draw how far a fit can be trusted: residuals, law against runs, bootstrap clouds, profiles, back-tests."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
import numpy as np

from analysis.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    SKY,
    WIDE,
    choose,
    flops_text,
    legend_above,
    log_axis,
    plain,
    runs,
    symmetric,
    three_digits,
    times_text,
)
from analysis.fitting.result import FitResult
from analysis.questions.backtest import Rolling
from analysis.reporting.survey import Survey
from analysis.writing.numbers import human

CLOUD = 400  # bootstrap replicates drawn
HIGHEST_RISE = 4.0  # of a profile that is drawn, in units of the interval's limit
STAR: dict[str, Any] = {"color": RED, "mec": "white"}


def residuals(survey: Survey) -> Figure:
    """Draw the residuals of the parametric law against N, D and C in one row."""
    columns = survey.columns
    residual = survey["chinchilla"].residual
    figure = Figure(figsize=(WIDE, 3.0))
    axes = figure.subplots(1, 3, sharey=True)
    # Rounded, because runs that lie exactly on the law leave residuals of 1e-16 of either sign.
    percent = 100 * np.expm1(-residual)
    away = np.round(percent, 9)
    shown = choose(columns.row, residual)
    rows = columns.row[shown]
    labels = {"N": "parameters N", "D": "tokens D", "C": "FLOPs C"}
    for axis, (role, label) in zip(axes, labels.items(), strict=True):
        axis.axhline(0, color=GREY, lw=1)
        x = columns[role][shown]
        runs(axis, x, away[shown], rows, color=BLUE, ms=4, alpha=0.6, mec="none")
        write = flops_text if role == "C" else human
        log_axis(axis, "x", write, few=True)
        axis.set_xlabel(label)
    symmetric(axes[0], away)
    axes[0].set(ylabel="observed over fitted, %", title="Residuals")
    return figure


def observed(survey: Survey) -> Figure:
    """Draw fitted against observed loss; what was held out in the back-test has a colour of its own."""
    columns = survey.columns
    residual = survey["chinchilla"].residual
    figure = Figure(figsize=(WIDE, 4.6))
    axis = figure.subplots()
    loss = columns["loss"]
    fitted = loss * np.exp(residual)
    shown = choose(columns.row, residual)
    look = {"color": BLUE, "ms": 4.5, "alpha": 0.65, "mec": "none"}
    runs(axis, loss[shown], fitted[shown], columns.row[shown], label="fitted to all rows", **look)
    drawn = [loss, fitted]
    if survey.test is not None:
        _draw_held_out(axis, survey.test)
        drawn.append(survey.test.predicted)

    everything = np.concatenate(drawn)
    least = 0.985 * everything.min()
    most = 1.015 * everything.max()
    ends = np.array([least, most])
    axis.plot(ends, ends, color=GREY, lw=1, zorder=1)
    axis.set(
        xlabel="observed loss (nats per token)",
        ylabel="law (nats per token)",
        title="Law against runs",
        xlim=ends,
        ylim=ends,
    )
    for which in "xy":
        log_axis(axis, which, three_digits)
    axis.legend(loc="upper left")
    return figure


def _draw_held_out(axis: Axes, test: Any) -> None:
    """Draw what the law said of the largest budget without having seen it, with its intervals."""
    near = choose(test.rows, test.error)
    seen = test.observed[near]
    predicted = test.predicted[near]
    below = predicted - test.low[near]
    above = test.high[near] - predicted
    # A bound of rounding may lie on the wrong side of the prediction.
    bars = np.maximum(np.stack([below, above]), 0)
    axis.errorbar(
        seen,
        predicted,
        yerr=bars,
        fmt="none",
        ecolor=RED,
        elinewidth=1,
        alpha=0.7,
    )
    label = "back-test: predicted without the largest budget"
    runs(axis, seen, predicted, test.rows[near], "D", color=RED, ms=4, label=label)


def cloud(survey: Survey) -> Figure:
    """Draw bootstrap replicates of the parametric law: exponents, floor and the allocation's exponent."""
    result = survey["chinchilla"]
    names = (("alpha", "beta"), ("E", "alpha"), ("E", "exponent_N"))
    return pairs(result, names, {"E": "E (nats per token)", "exponent_N": "exponent of N*"})


def pairs(result: FitResult, names: tuple[tuple[str, str], ...], labels: dict[str, str] | None = None) -> Figure:
    """Draw bootstrap clouds of pairs of coefficients (or of the optimum's exponents) of any law, side by side."""
    law = result.law
    columns = zip(law.names(), result.draws.T, strict=True)
    draws = dict(columns) | result.stacked().optimum_exponents()
    centre = law.coefficients() | law.optimum_exponents()
    labels = labels or {}
    figure = Figure(figsize=(WIDE, 2.7))
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, (first, second) in zip(axes, names, strict=True):
        x = np.asarray(draws[first])
        y = np.asarray(draws[second])
        finite = np.isfinite(x) & np.isfinite(y)
        x = x[finite]
        y = y[finite]
        axis.plot(x[:CLOUD], y[:CLOUD], "o", color=SKY, ms=3, alpha=0.45, mec="none")
        axis.plot(centre[first], centre[second], "*", ms=11, **STAR)
        # A few wild replicates must not hide the cloud.
        if len(x) > 10:
            axis.set_xlim(*most_of(x, centre[first]))
            axis.set_ylim(*most_of(y, centre[second]))
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.set_xlabel(plain(labels.get(first, first)))
        axis.set_ylabel(plain(labels.get(second, second)))
    figure.axes[0].set_title("Bootstrap replicates")
    return figure


def most_of(values: np.ndarray, centre: float) -> tuple[float, float]:
    """Return the ends of an axis that shows the middle 98% of the values and the centre, with some room."""
    low, high = np.percentile(np.r_[values, centre], [1, 99])
    low = min(low, centre)
    high = max(high, centre)
    room = max(0.15 * (high - low), 1e-3 * abs(centre), 1e-6)
    return low - room, high + room


def profiles(survey: Survey) -> Figure:
    """Draw the profile likelihoods of the parametric law."""
    return profile_panels(survey["chinchilla"])


def profile_panels(result: FitResult) -> Figure:
    """Draw how much worse the law fits with each coefficient held away from its estimate.

    The rise is in units of the interval's limit. Runs that lie exactly on the law have no scatter to measure a rise by;
    their profiles are left out.
    """
    profiles = {name: one for name, one in result.profiles.items() if one.threshold > 0}
    across = min(len(profiles), 3)
    down = -(-len(profiles) // across)
    figure = Figure(figsize=(WIDE, 0.5 + 2.0 * down))
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    panels = list(axes.flat)
    centre = result.law.coefficients()
    for axis, (name, profile) in zip(panels, profiles.items(), strict=False):
        _draw_profile(axis, profile, centre[name])
        axis.set_xlabel(plain(name))
    for axis in panels[len(profiles) :]:
        axis.set_axis_off()
    level = next(iter(profiles.values())).level
    figure.supylabel(f"rise of the objective, {level:.0%} limit = 1", fontsize=10)
    figure.suptitle("Profile of each coefficient", fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_profile(axis: Axes, profile: Any, centre: float) -> None:
    """Draw the rise of one profile, its limit, and the ends of its interval where they are bounded."""
    values = profile.values
    objective = profile.objective
    rise = (objective - objective.min()) / profile.threshold
    ends = [end for end in (profile.low, profile.high) if end is not None]
    axis.axhline(1, color=GREY, lw=0.8, ls="--")
    for end in ends:
        axis.axvline(end, color=GREY, lw=0.8, ls=":")
    axis.plot(values, rise, ".-", color=BLUE, ms=4, lw=1.3)
    axis.plot(centre, 0, "*", ms=10, zorder=5, **STAR)

    near = [*values[rise <= HIGHEST_RISE], *ends, centre]
    low = min(near)
    high = max(near)
    if high > low:
        room = 0.08 * (high - low)
        axis.set_xlim(low - room, high + room)
    axis.set_ylim(-0.25, HIGHEST_RISE)
    if low > 0 and high > 30 * low:
        axis.set_xlim(low / 1.3, high * 1.3)
        log_axis(axis, "x", flops_text, few=True)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(3))


def back_tests(survey: Survey) -> Figure:
    """Draw errors of the parametric law on rows beyond those it was fitted to, over every split of the grid."""
    assert survey.rolling is not None, "the figure is drawn only where there is a back-test"
    return extrapolation(survey.rolling)


def extrapolation(test: Rolling) -> Figure:
    """Draw the error of each held-out prediction against how far beyond the fitted runs it reached.

    A line shows the root mean square at each reach.
    """
    factor = test.gathered("factor")
    inside = test.gathered("inside")
    rows = test.gathered("rows")
    error = np.round(100 * test.gathered("error"), 9)
    figure = Figure(figsize=(WIDE, 3.6))
    axis = figure.subplots()
    axis.axhline(0, color=GREY, lw=1)
    shown = choose(rows, error)
    filled = {"color": BLUE, "label": "inside its interval"}
    hollow = {"mfc": "none", "mec": ORANGE, "label": "outside"}
    for which, look in ((inside, filled), (~inside, hollow)):
        at = shown[which[shown]]
        if not len(at):
            continue
        runs(
            axis,
            factor[at],
            error[at],
            rows[at],
            ms=5,
            alpha=0.8,
            ls="none",
            **look,
        )

    middle, rms = rms_by_reach(test, factor, error)
    axis.plot(middle, rms, "_-", color=RED, lw=1.2, ms=9, label="root mean square")
    axis.plot(middle, -rms, "_-", color=RED, lw=1.2, ms=9)
    log_axis(axis, "x", times_text)
    symmetric(axis, error)
    axis.set(xlabel="compute of the run over the largest fitted", ylabel="law over run, %")
    axis.set_title(f"Back-test: {len(test.splits)} splits, {inside.mean():.0%} inside", pad=22)
    legend_above(axis)
    return figure


def rms_by_reach(test: Rolling, factor: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean reach and the root mean square error of each bin of reaches that holds a prediction."""
    bins = test.by_factor()
    edges = [one["from"] for one in bins[1:]]
    step = np.digitize(factor, edges, right=True)
    middle = []
    rms = []
    for at in range(len(bins)):
        here = step == at
        if not here.any():
            continue
        log_reach = np.log(factor[here])
        square = error[here] ** 2
        middle.append(np.exp(log_reach.mean()))
        rms.append(np.sqrt(square.mean()))
    return np.array(middle), np.array(rms)
