"""Figures of a report: results in, SVG and PNG out. Never fits.

One style: Okabe-Ito colours for categories, cividis for order, both safe for colour-blind readers; axes have units.
"""

from collections.abc import Callable
import io
import math
import re

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
import numpy as np

from analysis.isoflop import Budget, compute_slopes, find_minimum, make_budget, split_budgets
from analysis.output import human
from analysis.result import FitResult
from analysis.survey import FACTORS, Survey

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#6b7280",
)  # fmt: skip
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.6,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",
    "axes.axisbelow": True,
}
CLOUD = 400  # bootstrap replicates drawn


def render(draw: Callable[[], Figure], name: str) -> tuple[bytes, bytes]:
    """A figure as SVG and PNG bytes; the SVG has no dates, no outside references and ids of its own."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = draw()
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        figure.savefig(png, format="png", dpi=160)
    text = re.sub(r"<metadata>.*?</metadata>", "", svg.getvalue().decode(), flags=re.DOTALL)
    return text.encode(), png.getvalue()


def flops_text(value: float) -> str:
    """1e+18 as 10 to the 18, in mathtext."""
    power = int(f"{value:.1e}".split("e")[1])  # after rounding: 9.98e12 is 10 to the 13
    mantissa = value / 10.0**power
    return rf"$10^{{{power}}}$" if abs(mantissa - 1) < 0.005 else rf"${mantissa:.2g}{{\times}}10^{{{power}}}$"


def log_axis(axis: Axes, which: str, words: bool = True) -> None:
    """Logarithmic axis with labels a person can read, also when it spans less than a decade."""
    if not math.isfinite(getattr(axis.dataLim, f"minpos{which}")):
        return  # nothing on it that a logarithm could show
    getattr(axis, f"set_{which}scale")("log")
    part = getattr(axis, f"{which}axis")
    low, high = getattr(axis, f"get_{which}lim")()
    decades = math.log10(high / low) if 0 < low < high < math.inf else 0.0
    subs = (
        (1.0,)
        if decades > 2.5
        else (1.0, 3.0)
        if decades > 1.2
        else (1.0, 2.0, 5.0)
        if decades > 0.5
        else (1, 1.5, 2, 3, 4, 5, 7)
    )
    part.set_major_locator(LogLocator(subs=subs, numticks=12))
    part.set_minor_formatter(NullFormatter())
    part.set_major_formatter(
        FuncFormatter((lambda value, _: human(value)) if words else (lambda value, _: flops_text(value)))
    )


def _colours(count: int) -> list[tuple[float, ...]]:
    scale = matplotlib.colormaps["cividis"]
    return [scale(0.05 + 0.8 * at / max(count - 1, 1)) for at in range(count)]


def budgets_of(result: FitResult, interpolation: str) -> list[Budget]:
    """The IsoFLOP curves behind a fit, as the fit made them."""
    columns, groups = split_budgets(result.columns, 3)
    slopes = compute_slopes(columns, groups)
    return [find_minimum(make_budget(columns, rows, slopes), interpolation) for rows in groups]


def isoflop(survey: Survey) -> Figure:
    """Loss against size at each budget, with the parabola (line) and the cubic (dashes) and their minima."""
    figure = Figure(figsize=(7.2, 4.6))
    axis = figure.subplots()
    square = budgets_of(survey["isoflop"], "quadratic")
    for colour, budget in zip(_colours(len(square)), square, strict=True):
        label = f"{flops_text(budget.flops)} FLOPs"
        axis.plot(np.exp(budget.log_n), np.exp(budget.log_loss), "o", color=colour, ms=4.5, alpha=0.85, label=label)
        x = np.linspace(budget.log_n[0], budget.log_n[-1], 120)
        for degree, style in ((2, "-"), (3, "--")):
            if len(budget.log_n) <= degree:
                continue
            weight = np.sqrt(budget.repeats)
            curve = np.polyfit(budget.log_n - budget.middle, budget.log_loss, degree, w=weight)
            axis.plot(
                np.exp(x),
                np.exp(np.polyval(curve, x - budget.middle)),
                style,
                color=colour,
                lw=1.6 if degree == 2 else 1.0,
            )
        if not budget.reason:
            axis.plot(
                math.exp(budget.minimum), math.exp(budget.loss), "*", color=RED, ms=12, mec="white", mew=0.6, zorder=5
            )
    axis.plot([], [], "-", color=GREY, label="parabola")
    axis.plot([], [], "--", color=GREY, lw=1, label="cubic")
    axis.plot([], [], "*", color=RED, ms=11, ls="", label="minimum inside")
    log_axis(axis, "x")
    axis.set(xlabel="parameters N", ylabel="loss (nats per token)", title="IsoFLOP curves")
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), ncols=1 + len(square) // 14)
    return figure


def allocation(survey: Survey) -> Figure:
    """Optimal size, tokens and loss against compute, with bands, as far as 100 times the largest budget."""
    figure = Figure(figsize=(7.2, 7.4))
    axes = figure.subplots(3, 1, sharex=True)
    low = float(survey.columns["C"].min())
    grid = np.geomspace(low, 180 * survey.largest, 60)
    looks = {
        "chinchilla": (BLUE, "approach 3: parametric"),
        "isoflop": (ORANGE, "approach 2: parabola"),
        "isoflop_cubic": (GREEN, "approach 2: cubic"),
    }
    for name, (colour, label) in looks.items():
        if name not in survey.results:
            continue
        result = survey[name]
        factor = result.flops_per_param_token
        values = [*result.law.optimum(grid, factor), result.law.loss({"C": grid}, factor)]
        for axis, value in zip(axes, values, strict=True):
            axis.plot(grid, drawable(np.broadcast_to(value, grid.shape)), color=colour, label=label)
        if len(result.draws) and name != "isoflop_cubic":
            bands = [_band(result, C) for C in grid]
            for at, axis in enumerate(axes):
                edges = np.array([band[at] for band in bands])
                axis.fill_between(grid, edges[:, 0], edges[:, 1], color=colour, alpha=0.15, lw=0)
    if "isoflop" in survey.results:
        found = [row for row in survey["isoflop"].details["budgets"] if not row["reason"]]
        for axis, key in zip(axes, ("N", "D", "loss"), strict=True):
            axis.plot(
                [row["flops"] for row in found],
                [row[key] for row in found],
                "*",
                color=RED,
                ms=10,
                mec="white",
                label="parabola minima",
            )
    for axis, label in zip(axes, ("parameters N*", "tokens D*", "loss (nats per token)"), strict=True):
        for factor in FACTORS:
            axis.axvline(factor * survey.largest, color=GREY, lw=0.8, ls=":")
        axis.set_ylabel(label)
    for factor in FACTORS:
        place = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "top", "rotation": 90}
        axes[0].annotate(f"{factor}x", (factor * survey.largest, 1.0), fontsize=8, color=GREY, **place)
    for axis in axes[:2]:
        log_axis(axis, "y")
    log_axis(axes[2], "x", words=False)
    axes[2].set_xlabel("training FLOPs C")
    axes[0].set_title("Compute-optimal allocation")
    axes[0].legend(loc="upper left")
    return figure


def _band(result: FitResult, C: float) -> list[np.ndarray]:
    """Interval edges of N*, D* and loss at C."""
    many = result.stacked()
    values = [*many.optimum(C, result.flops_per_param_token), many.loss({"C": C}, result.flops_per_param_token)]
    intervals = [result.interval(drawable(value)) for value in values]
    return [np.array([one.low, one.high]) if one else np.full(2, np.nan) for one in intervals]


def drawable(values: np.ndarray) -> np.ndarray:
    """NaN for what a logarithmic axis cannot show."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values) & (values > 0) & (values < 1e30), values, np.nan)


def surface(survey: Survey) -> Figure:
    """Contours of the fitted loss over N and D with the runs, lines of equal compute and the efficient frontier."""
    result = survey["chinchilla"]
    N, D = survey.columns["N"], survey.columns["D"]
    figure = Figure(figsize=(7.2, 5.2))
    axis = figure.subplots()
    n = np.geomspace(N.min() / 2, N.max() * 4, 140)
    d = np.geomspace(D.min() / 2, D.max() * 4, 140)
    loss = result.law.loss({"N": n[None, :], "D": d[:, None]})
    filled = axis.contourf(n, d, loss, levels=18, cmap="cividis_r", alpha=0.85)
    if np.ptp(loss) > 1e-9:
        axis.contour(n, d, loss, levels=filled.levels, colors="white", linewidths=0.4, alpha=0.7)
    for budget in np.geomspace(survey.columns["C"].min(), survey.largest, 4):
        axis.plot(n, budget / result.flops_per_param_token / n, color="#111827", lw=0.7, ls=":")
    compute = np.geomspace(survey.columns["C"].min() / 10, survey.largest * 100, 80)
    best = result.law.optimum(compute, result.flops_per_param_token)
    axis.plot(*map(drawable, best), color=RED, lw=2, label="compute-optimal")
    axis.plot(N, D, "o", ms=4, mfc="white", mec="#111827", mew=0.8, label="runs")
    axis.plot([], [], ":", color="#111827", lw=0.8, label="equal compute")
    axis.set(
        xlim=(n[0], n[-1]), ylim=(d[0], d[-1]), xlabel="parameters N", ylabel="training tokens D", title="Loss surface"
    )
    log_axis(axis, "x")
    log_axis(axis, "y")
    axis.grid(False)
    figure.colorbar(filled, ax=axis, label="fitted loss (nats per token)")
    axis.legend(loc="upper left", facecolor="white", framealpha=0.8, frameon=True, edgecolor="none")
    return figure


def residuals(survey: Survey) -> Figure:
    """Residuals of the parametric law against N, D and C."""
    result = survey["chinchilla"]
    figure = Figure(figsize=(7.2, 3.2))
    axes = figure.subplots(1, 3, sharey=True)
    away = 100 * np.expm1(-result.residual)
    for axis, role, label in zip(axes, "NDC", ("parameters N", "tokens D", "training FLOPs C"), strict=True):
        axis.axhline(0, color=GREY, lw=1)
        axis.plot(survey.columns[role], away, "o", color=BLUE, ms=4, alpha=0.65, mec="none")
        log_axis(axis, "x", words=role != "C")
        axis.xaxis.set_major_locator(
            LogLocator(subs=(1.0,), numticks=4)
            if np.ptp(np.log10(survey.columns[role])) > 1.5
            else LogLocator(subs=(1.0, 3.0), numticks=4)
        )
        axis.set_xlabel(label)
    axes[0].set(ylabel="observed over fitted, %", title="Residuals")
    return figure


def observed(survey: Survey) -> Figure:
    """Fitted against observed loss; in the back-test's colour what was held out."""
    result = survey["chinchilla"]
    figure = Figure(figsize=(5.2, 4.4))
    axis = figure.subplots()
    loss = survey.columns["loss"]
    fitted = loss * np.exp(result.residual)
    ends = [min(loss.min(), fitted.min()) * 0.99, max(loss.max(), fitted.max()) * 1.01]
    axis.plot(ends, ends, color=GREY, lw=1)
    axis.plot(loss, fitted, "o", color=BLUE, ms=4.5, alpha=0.7, mec="none", label="fitted to all rows")
    if survey.test is not None:
        test = survey.test
        bars = np.maximum(np.stack([test.predicted - test.low, test.high - test.predicted]), 0)
        axis.errorbar(
            test.observed,
            test.predicted,
            yerr=bars,
            fmt="D",
            color=RED,
            ms=4,
            lw=1,
            label="back-test: predicted unseen",
        )
    axis.set(
        xlabel="observed loss (nats per token)",
        ylabel="law (nats per token)",
        title="Law against runs",
        xlim=ends,
        ylim=ends,
    )
    axis.legend(loc="upper left")
    return figure


def cloud(survey: Survey) -> Figure:
    """Bootstrap replicates of the parametric law: exponents, floor and the allocation's exponent."""
    result = survey["chinchilla"]
    many = result.stacked()
    pairs = [
        (many.alpha, many.beta, "alpha", "beta"),
        (many.E, many.alpha, "E (nats per token)", "alpha"),
        (many.E, many.optimum_exponents()["exponent_N"], "E (nats per token)", "exponent of N*"),
    ]
    law = result.law
    centres = [(law.alpha, law.beta), (law.E, law.alpha), (law.E, law.optimum_exponents()["exponent_N"])]
    figure = Figure(figsize=(7.2, 2.9))
    for axis, (x, y, x_label, y_label), centre in zip(figure.subplots(1, 3), pairs, centres, strict=True):
        keep = np.isfinite(x) & np.isfinite(y)
        axis.plot(x[keep][:CLOUD], y[keep][:CLOUD], "o", color=SKY, ms=3, alpha=0.45, mec="none")
        axis.plot(*centre, "*", color=RED, ms=12, mec="white")
        if keep.sum() > 10:  # a few wild replicates must not hide the cloud
            for which, values in (("x", x[keep]), ("y", y[keep])):
                low, high = np.percentile(values, [1, 99])
                room = 0.15 * max(high - low, 1e-9)
                getattr(axis, f"set_{which}lim")(low - room, high + room)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.set(xlabel=x_label, ylabel=y_label)
    figure.axes[0].set_title("Bootstrap replicates")
    return figure


def learning_rate(survey: Survey) -> Figure:
    """Loss against peak learning rate in the bracket, with its minimum and the rate of the runs in the fit."""
    figure = Figure(figsize=(6.4, 3.8))
    axis = figure.subplots()
    for colour, one in zip((BLUE, GREEN, PURPLE, ORANGE, SKY), survey.rates, strict=False):
        axis.plot(one.rate, one.loss, "o-", color=colour, lw=1.2, label=one.label)
        if one.best is not None:
            axis.plot(one.best, one.best_loss, "*", color=RED, ms=13, mec="white", zorder=5)
        if one.used is not None:
            axis.axvline(one.used, color=colour, ls=":", lw=1.2)
    axis.plot([], [], "*", color=RED, ls="", ms=11, label="minimum")
    axis.plot([], [], ":", color=GREY, label="rate of the runs in the fit")
    log_axis(axis, "x")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set(xlabel="peak learning rate", ylabel="loss (nats per token)", title="Learning-rate bracket")
    axis.legend(loc="best")
    return figure


CAPTIONS: dict[str, tuple[Callable[[Survey], Figure], str]] = {
    "isoflop": (isoflop, "Loss against size at each budget. A minimum on the edge of its sizes is not used."),
    "allocation": (
        allocation,
        (
            "Where the next budgets should go. Bands are bootstrap intervals; dotted lines mark 1, 10 and 100 times the "
            "largest budget."
        ),
    ),
    "surface": (surface, "The fitted law with the runs that it rests on."),
    "residuals": (
        residuals,
        "What the law leaves over. A bend against any axis means that the law's form is wrong there.",
    ),
    "observed": (observed, "Each run against the law, and the runs of the largest budget as predicted without them."),
    "cloud": (cloud, "How far the coefficients move together when runs are resampled."),
    "learning_rate": (
        learning_rate,
        "Whether the rate of the runs was near its best; a badly tuned run bends a law.",
    ),
}


def draw_all(survey: Survey) -> dict[str, tuple[bytes, bytes, str]]:
    """Name -> (SVG, PNG, caption) of every figure that the survey has something for."""
    wanted = []
    if "isoflop" in survey.results:
        wanted.append("isoflop")
    wanted.append("allocation")
    if "chinchilla" in survey.results:
        wanted.extend(("surface", "residuals", "observed"))
        if len(survey["chinchilla"].draws):
            wanted.append("cloud")
    if survey.rates:
        wanted.append("learning_rate")
    drawn = {}
    for name in wanted:
        draw, caption = CAPTIONS[name]
        drawn[name] = (*render(lambda draw=draw: draw(survey), name), caption)
    return drawn
