"""Draw how far a fit can be trusted: residuals, law against runs, bootstrap clouds, profiles, back-tests."""

import itertools
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
import numpy as np

from analysis.figures.drawing import Drawing
from analysis.figures.rows import with_compute
from analysis.figures.style import (
    BLUE,
    GREY,
    LOSS_LABEL,
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
from analysis.fitting.result import FitResult, judged_verdict
from analysis.grid.table import Columns
from analysis.questions.backtest import BackTest, Rolling
from analysis.writing.numbers import human

MOST_PANELS = 3  # side by side
QUANTITIES = {"N": "parameters N", "D": "tokens D", "C": "FLOPs C"}
USUAL_PAIRS = (("alpha", "beta"), ("E", "alpha"), ("E", "exponent_N"))
CLOUD = 400  # bootstrap replicates drawn
HIGHEST_RISE = 4.0  # of a profile that is drawn, in units of the interval's limit
STAR: dict[str, Any] = {"color": RED, "mec": "white"}


def residuals(result: FitResult) -> Figure:
    """Draw the residuals of a fit against each quantity that the law takes, and against C, in one row."""
    columns = with_compute(result)
    roles = axes_of(result, columns)
    figure = Drawing(figsize=(WIDE, 3.0))
    axes = figure.subplots(1, len(roles), sharey=True, squeeze=False)[0]
    shown = choose_counting(result)
    rows = columns.row[shown]
    away, label = deviation(result)
    for axis, role in zip(axes, roles, strict=True):
        axis.axhline(0, color=GREY, lw=1)
        x = columns[role][shown]
        runs(axis, x, away[shown], rows, color=BLUE, ms=4, alpha=0.6, mec="none")
        write = flops_text if role == "C" else human
        if (columns[role] > 0).all():
            log_axis(axis, "x", write, few=True)
        axis.set_xlabel(QUANTITIES.get(role, plain(role)))
    symmetric(axes[0], away[result.residuals.counting])
    axes[0].set(ylabel=label, title="Residuals")
    return figure


def choose_counting(result: FitResult) -> np.ndarray:
    """Return the positions of the rows to draw, of those that count: a bound says nothing of how far runs lie."""
    counting = np.flatnonzero(result.residuals.counting)
    rows = result.columns.row[counting]
    size = result.residual[counting]
    chosen = choose(rows, size)
    return counting[chosen]


def axes_of(result: FitResult, columns: Columns) -> list[str]:
    """Return the quantities that residuals are drawn against: one number a row, at most MOST_PANELS of them."""
    inputs = [role for role in result.law.ROLES if role != result.law.TARGET]
    roles = []
    for role in dict.fromkeys((*inputs, "C")):
        if role in columns and columns[role].dtype.kind == "f" and columns[role].ndim == 1:
            roles.append(role)
    return roles[:MOST_PANELS]


def deviation(result: FitResult) -> tuple[np.ndarray, str]:
    """Return how far each row lies from the law, and what that is: per cent, or a difference.

    Rounded, because runs that lie exactly on the law leave residuals of 1e-16 of either sign.
    """
    if result.additive:
        return np.round(-result.residual, 12), "observed less fitted"
    percent = 100 * np.expm1(-result.residual)
    return np.round(percent, 9), "observed over fitted, %"


def observed(result: FitResult, test: BackTest | None = None) -> Figure:
    """Draw what a law gives against what was observed; the rows that `test` held out have a colour of their own."""
    columns = result.columns
    target = result.law.TARGET
    residual = result.residual
    figure = Drawing(figsize=(WIDE, 4.6))
    axis = figure.subplots()
    loss = columns[target]
    fitted = loss + residual if result.additive else loss * np.exp(residual)
    shown = choose_counting(result)
    look = {"color": BLUE, "ms": 4.5, "alpha": 0.65, "mec": "none"}
    runs(axis, loss[shown], fitted[shown], columns.row[shown], label="fitted to all rows", **look)
    drawn = [loss[shown], fitted[shown]]
    if test is not None:
        _draw_held_out(axis, test)
        drawn.append(test.predicted)

    everything = np.concatenate(drawn)
    least = float(everything.min())
    most = float(everything.max())
    room = 0.015 * max(abs(least), abs(most))
    ends = np.array([least - room, most + room])
    axis.plot(ends, ends, color=GREY, lw=1, zorder=1)
    name = LOSS_LABEL if target == "loss" else plain(target)
    axis.set(
        xlabel=f"observed {name}",
        ylabel=f"law: {name}",
        title="Law against runs",
        xlim=ends,
        ylim=ends,
    )
    if ends[0] > 0:
        log_axis(axis, "x", three_digits)
        log_axis(axis, "y", three_digits)
    axis.legend(loc="upper left")
    return figure


def _draw_held_out(axis: Axes, test: BackTest) -> None:
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


def cloud(result: FitResult) -> Figure:
    """Draw bootstrap replicates of a law in pairs: of the loss in N and D its exponents, floor and the optimum's exponent.

    Of another law, the first coefficients one after the other.
    """
    return pairs(result, pairs_of_cloud(result), {"E": "E (nats per token)", "exponent_N": "exponent of N*"})


def pairs_of_cloud(result: FitResult) -> tuple[tuple[str, str], ...]:
    """Return the pairs of numbers that a cloud shows: of those that the rows tell; none without replicates."""
    if judged_verdict(result).nothing or not len(result.draws):
        return ()
    told = [name for name, value in result.values().items() if value is not None]
    shown = []
    for pair in USUAL_PAIRS:
        if set(pair) <= set(told):
            shown.append(pair)
    if shown:
        return tuple(shown)
    coefficients = [name for name in result.law.names() if name in told]
    return tuple(itertools.pairwise(coefficients))[:MOST_PANELS]


def pairs(result: FitResult, names: tuple[tuple[str, str], ...], labels: dict[str, str] | None = None) -> Figure:
    """Draw bootstrap clouds of pairs of coefficients (or of the optimum's exponents) of any law, side by side."""
    law = result.law
    columns = zip(law.names(), result.draws.T, strict=True)
    draws = dict(columns) | result.stacked().optimum_exponents()
    centre = law.coefficients() | law.optimum_exponents()
    labels = labels or {}
    figure = Drawing(figsize=(WIDE, 2.7))
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


def profile_panels(result: FitResult) -> Figure:
    """Draw how much worse the law fits with each coefficient held away from its estimate.

    The rise is in units of the interval's limit. Runs that lie exactly on the law have no scatter to measure a rise by;
    their profiles are left out.
    """
    profiles = {name: one for name, one in result.profiles.items() if one.threshold > 0}
    across = min(len(profiles), 3)
    down = -(-len(profiles) // across)
    figure = Drawing(figsize=(WIDE, 0.5 + 2.0 * down))
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    panels = list(axes.flat)
    centre = result.law.coefficients()
    values = result.values()
    for axis, (name, profile) in zip(panels, profiles.items(), strict=False):
        _draw_profile(axis, profile, centre[name], is_told=values[name] is not None)
        axis.set_xlabel(plain(name))
    for axis in panels[len(profiles) :]:
        axis.set_axis_off()
    level = next(iter(profiles.values())).level
    figure.supylabel(f"rise of the objective, {level:.0%} limit = 1", fontsize=10)
    figure.suptitle("Profile of each coefficient", fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_profile(axis: Axes, profile: Any, centre: float, is_told: bool) -> None:
    """Draw the rise of one profile and its limit; the estimate and the ends of its interval where the rows tell them."""
    values = profile.values
    objective = profile.objective
    rise = (objective - objective.min()) / profile.threshold
    ends = [end for end in (profile.low, profile.high) if end is not None and is_told]
    axis.axhline(1, color=GREY, lw=0.8, ls="--")
    for end in ends:
        axis.axvline(end, color=GREY, lw=0.8, ls=":")
    axis.plot(values, rise, ".-", color=BLUE, ms=4, lw=1.3)
    if is_told:
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


def extrapolation(test: Rolling) -> Figure:
    """Draw the error of each held-out prediction against how far beyond the fitted runs it reached.

    A line shows the root mean square at each reach.
    """
    factor = test.gathered("factor")
    inside = test.gathered("inside")
    rows = test.gathered("rows")
    error = np.round(100 * test.gathered("error"), 9)
    figure = Drawing(figsize=(WIDE, 3.6))
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
    told = f", {test.covered:.0%} inside" if np.isfinite(test.covered) else ""
    axis.set_title(f"Back-test: {len(test.splits)} splits{told}", pad=22)
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
