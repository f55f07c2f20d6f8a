"""Figures of trust: residuals, law against runs, bootstrap clouds, profiles, back-tests."""

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
    log_axis,
    plain,
    runs,
    symmetric,
)  # fmt: skip
from analysis.fitting.result import FitResult
from analysis.questions.backtest import Rolling
from analysis.reporting.survey import Survey
from analysis.writing.numbers import human

CLOUD = 400  # bootstrap replicates drawn


def residuals(survey: Survey) -> Figure:
    """Residuals of the parametric law against N, D and C in one row."""
    result = survey["chinchilla"]
    figure = Figure(figsize=(WIDE, 3.0))
    axes = figure.subplots(1, 3, sharey=True)
    away = np.round(100 * np.expm1(-result.residual), 9)  # runs that lie exactly on the law
    columns = survey.columns
    shown = choose(columns.row, result.residual)
    for axis, role, label in zip(axes, "NDC", ("parameters N", "tokens D", "FLOPs C"), strict=True):
        axis.axhline(0, color=GREY, lw=1)
        runs(axis, columns[role][shown], away[shown], columns.row[shown], color=BLUE, ms=4, alpha=0.6, mec="none")
        log_axis(axis, "x", flops_text if role == "C" else human, few=True)
        axis.set_xlabel(label)
    symmetric(axes[0], away)
    axes[0].set(ylabel="observed over fitted, %", title="Residuals")
    return figure


def observed(survey: Survey) -> Figure:
    """Fitted against observed loss; in the back-test's colour what was held out."""
    result = survey["chinchilla"]
    figure = Figure(figsize=(WIDE, 4.6))
    axis = figure.subplots()
    loss = survey.columns["loss"]
    fitted = loss * np.exp(result.residual)
    ends = np.array([min(loss.min(), fitted.min()), max(loss.max(), fitted.max())])
    shown = choose(survey.columns.row, result.residual)
    look = {"color": BLUE, "ms": 4.5, "alpha": 0.65, "mec": "none", "label": "fitted to all rows"}
    runs(axis, loss[shown], fitted[shown], survey.columns.row[shown], **look)
    test = survey.test
    if test is not None:
        near = choose(test.rows, test.error)
        bars = np.maximum(np.stack([test.predicted - test.low, test.high - test.predicted]), 0)[:, near]
        place = test.observed[near], test.predicted[near]
        axis.errorbar(*place, yerr=bars, fmt="none", ecolor=RED, elinewidth=1, alpha=0.7)
        look = {"color": RED, "ms": 4, "label": "back-test: predicted without the largest budget"}
        runs(axis, *place, test.rows[near], "D", **look)
        ends = np.array([min(ends[0], test.predicted.min()), max(ends[1], test.predicted.max())])
    ends *= (0.985, 1.015)
    axis.plot(ends, ends, color=GREY, lw=1, zorder=1)
    axis.set(xlabel="observed loss (nats per token)", ylabel="law (nats per token)", title="Law against runs")
    axis.set(xlim=ends, ylim=ends)
    for which in "xy":
        log_axis(axis, which, lambda value: f"{value:.3g}")
    axis.legend(loc="upper left")
    return figure


def cloud(survey: Survey) -> Figure:
    """Bootstrap replicates of the parametric law: exponents, floor and the allocation's exponent."""
    result = survey["chinchilla"]
    names = (("alpha", "beta"), ("E", "alpha"), ("E", "exponent_N"))
    return pairs(result, names, {"E": "E (nats per token)", "exponent_N": "exponent of N*"})


def pairs(result: FitResult, names: tuple[tuple[str, str], ...], labels: dict[str, str] | None = None) -> Figure:
    """Bootstrap clouds of pairs of coefficients (or of the optimum's exponents) of any law, side by side."""
    many, law = result.stacked(), result.law
    draws = dict(zip(law.names(), result.draws.T, strict=True)) | many.optimum_exponents()
    centre = law.coefficients() | law.optimum_exponents()
    figure = Figure(figsize=(WIDE, 2.7))
    for axis, (first, second) in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        x, y = np.asarray(draws[first]), np.asarray(draws[second])
        keep = np.isfinite(x) & np.isfinite(y)
        axis.plot(x[keep][:CLOUD], y[keep][:CLOUD], "o", color=SKY, ms=3, alpha=0.45, mec="none")
        axis.plot(centre[first], centre[second], "*", color=RED, ms=11, mec="white")
        if keep.sum() > 10:  # a few wild replicates must not hide the cloud
            for which, values, here in (("x", x[keep], centre[first]), ("y", y[keep], centre[second])):
                low, high = np.percentile(np.r_[values, here], [1, 99])
                low, high = min(low, here), max(high, here)
                room = max(0.15 * (high - low), 1e-3 * abs(here), 1e-6)
                getattr(axis, f"set_{which}lim")(low - room, high + room)
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.set(xlabel=plain((labels or {}).get(first, first)), ylabel=plain((labels or {}).get(second, second)))
    figure.axes[0].set_title("Bootstrap replicates")
    return figure


def profiles(survey: Survey) -> Figure:
    """Profile likelihoods of the parametric law."""
    return profile_panels(survey["chinchilla"])


def profile_panels(result: FitResult) -> Figure:
    """How much worse the law fits with each coefficient held away from its estimate, in units of the interval's limit.

    Runs that lie exactly on the law have no scatter to measure a rise by; their profiles are left out.
    """
    profiles = {name: one for name, one in result.profiles.items() if one.threshold > 0}
    count = len(profiles)
    across = min(count, 3)
    down = -(-count // across)
    figure = Figure(figsize=(WIDE, 0.5 + 2.0 * down))
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    centre = result.law.coefficients()
    for axis, (name, one) in zip(axes.flat, profiles.items(), strict=False):
        rise = (one.objective - one.objective.min()) / one.threshold
        axis.axhline(1, color=GREY, lw=0.8, ls="--")
        for end in (one.low, one.high):
            if end is not None:
                axis.axvline(end, color=GREY, lw=0.8, ls=":")
        axis.plot(one.values, rise, ".-", color=BLUE, ms=4, lw=1.3)
        axis.plot(centre[name], 0, "*", color=RED, ms=10, mec="white", zorder=5)
        near = one.values[rise <= 4]
        ends = [end for end in (one.low, one.high) if end is not None]
        low, high = min([*near, *ends, centre[name]]), max([*near, *ends, centre[name]])
        if high > low:
            axis.set_xlim(low - 0.08 * (high - low), high + 0.08 * (high - low))
        axis.set_ylim(-0.25, 4)
        if low > 0 and high > 30 * low:
            axis.set_xlim(low / 1.3, high * 1.3)
            log_axis(axis, "x", flops_text, few=True)
        else:
            axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.set_xlabel(plain(name))
    for axis in list(axes.flat)[count:]:
        axis.set_axis_off()
    level = next(iter(profiles.values())).level
    figure.supylabel(f"rise of the objective, {level:.0%} limit = 1", fontsize=10)
    figure.suptitle("Profile of each coefficient", fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


def back_tests(survey: Survey) -> Figure:
    """Errors of the parametric law on rows beyond those it was fitted to, over every split of the grid."""
    return extrapolation(survey.rolling)


def extrapolation(test: Rolling) -> Figure:
    """Error of each held-out prediction against how far beyond the fitted runs it reached, with its root mean square."""
    factor, error, inside, rows = (test.gathered(name) for name in ("factor", "error", "inside", "rows"))
    error = np.round(100 * error, 9)
    figure = Figure(figsize=(WIDE, 3.6))
    axis = figure.subplots()
    axis.axhline(0, color=GREY, lw=1)
    shown = choose(rows, error)
    looks = (
        (inside, {"color": BLUE, "label": "inside its interval"}),
        (~inside, {"mfc": "none", "mec": ORANGE, "label": "outside"}),
    )
    for which, look in looks:
        at = shown[which[shown]]
        if len(at):
            runs(axis, factor[at], error[at], rows[at], ms=5, alpha=0.8, ls="none", **look)
    bins = test.by_factor()
    steps = np.digitize(factor, [one["from"] for one in bins[1:]], right=True)
    middle = [np.exp(np.log(factor[steps == at]).mean()) for at in range(len(bins)) if (steps == at).any()]
    rms = [np.sqrt(np.mean(error[steps == at] ** 2)) for at in range(len(bins)) if (steps == at).any()]
    for sign in (1, -1):
        label = "root mean square" if sign > 0 else None
        axis.plot(middle, sign * np.array(rms), "_-", color=RED, lw=1.2, ms=9, label=label)
    log_axis(axis, "x", lambda value: f"{value:.3g}x")
    symmetric(axis, error)
    axis.set(xlabel="compute of the run over the largest fitted", ylabel="law over run, %")
    axis.set_title(f"Back-test: {len(test.splits)} splits, {inside.mean():.0%} inside", pad=22)
    axis.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=3, borderaxespad=0.2, columnspacing=1.2)
    return figure
