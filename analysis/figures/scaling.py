"""Figures of compute-optimal scaling: IsoFLOP curves, the envelope, the allocation, the loss surface."""

from collections.abc import Callable
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from analysis.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    WIDE,
    choose,
    colour_bar,
    drawable,
    flops_text,
    log_axis,
    log_colours,
    runs,
)  # fmt: skip
from analysis.fitting.result import FitResult
from analysis.grid.table import Columns
from analysis.procedures.isoflop import Budget, compute_slopes, find_minimum, make_budget, split_budgets
from analysis.reporting.survey import FACTORS, Survey

LOSS = "loss (nats per token)"
APPROACHES = {
    "chinchilla": (BLUE, "approach 3, parametric"),
    "isoflop": (ORANGE, "approach 2, parabola"),
    "isoflop_cubic": (GREEN, "approach 2, cubic"),
    "envelope": (PURPLE, "approach 1, envelope"),
}


def budgets_of(result: FitResult, interpolation: str) -> tuple[Columns, list[Budget]]:
    """The IsoFLOP curves behind a fit, as the fit made them, and the columns that their rows count in."""
    columns, groups = split_budgets(result.columns, 3)
    slopes = compute_slopes(columns, groups)
    return columns, [find_minimum(make_budget(columns, rows, slopes), interpolation) for rows in groups]


def isoflop(survey: Survey) -> Figure:
    """Loss against size at each budget, with the parabola (line) and the cubic (dashes) and their minima."""
    figure = Figure(figsize=(WIDE, 4.3))
    axis = figure.subplots()
    columns, square = budgets_of(survey["isoflop"], "quadratic")
    colours = log_colours(np.array([budget.flops for budget in square]))
    for budget in square:
        colour = colours.to_rgba(budget.flops)
        N, loss = columns["N"][budget.rows], np.exp(budget.run_log_loss)
        shown = choose(budget.rows, budget.run_log_loss - np.median(budget.run_log_loss))
        runs(axis, N[shown], loss[shown], columns.row[budget.rows[shown]], color=colour, ms=4.5, alpha=0.85, mec="none")
        x = np.linspace(budget.log_n[0], budget.log_n[-1], 80)
        for degree, style, width in ((2, "-", 1.5), (3, "--", 0.9)):
            if len(budget.log_n) > degree:
                curve = np.polyfit(budget.log_n - budget.middle, budget.log_loss, degree, w=np.sqrt(budget.repeats))
                axis.plot(np.exp(x), np.exp(np.polyval(curve, x - budget.middle)), style, color=colour, lw=width)
    for budget in square:
        if not budget.reason:
            place = math.exp(budget.minimum), math.exp(budget.loss)
            axis.plot(*place, "*", color=RED, ms=10, mec="white", mew=0.6, zorder=5)
    for style, width, label in (("-", 1.5, "parabola"), ("--", 0.9, "cubic")):
        axis.plot([], [], style, color=GREY, lw=width, label=label)
    axis.plot([], [], "*", color=RED, ms=10, mec="white", ls="", label="minimum inside")
    log_axis(axis, "x")
    log_axis(axis, "y", lambda value: f"{value:.3g}")
    axis.set(xlabel="parameters N", ylabel=LOSS)
    axis.set_title("IsoFLOP curves", pad=22)
    axis.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=3, borderaxespad=0.2, columnspacing=1.2)
    log_axis(colour_bar(figure, axis, colours, "training FLOPs of the budget").ax, "y", flops_text)
    return figure


def envelope(survey: Survey) -> Figure:
    """Loss against compute with the lower hull, and the sizes of the runs on the hull against their compute."""
    result = survey["envelope"]
    columns = result.columns
    figure = Figure(figsize=(WIDE, 5.4))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    hull = np.flatnonzero(np.isin(columns.row, result.details["hull_rows"]))
    hull = hull[np.argsort(columns["C"][hull])]
    colours = log_colours(columns["N"])
    shade = np.digitize(np.log(columns["N"]), np.quantile(np.log(columns["N"]), np.linspace(0, 1, 9)[1:-1]))
    shown = choose(columns.row, result.columns["loss"] - np.median(columns["loss"]))
    for one in np.unique(shade[shown]):
        rows = shown[shade[shown] == one]
        colour = colours.to_rgba(float(np.exp(np.log(columns["N"][rows]).mean())))
        runs(
            top, columns["C"][rows], columns["loss"][rows], columns.row[rows], color=colour, ms=4, alpha=0.8, mec="none"
        )
    top.plot(columns["C"][hull], columns["loss"][hull], "-", color=RED, lw=1.2, label="lower hull")
    for axis, role in ((top, "loss"), (bottom, "N")):
        hollow = {"mfc": "none", "mec": RED, "ms": 8, "mew": 1.2}
        runs(axis, columns["C"][hull], columns[role][hull], columns.row[hull], **hollow)
    C = np.geomspace(columns["C"].min(), columns["C"].max(), 60)
    bottom.plot(
        C, drawable(result.law.optimum(C)[0]), color=PURPLE, label=f"N* = C^{result.law.a:.3g}, fitted to the hull"
    )
    log_axis(top, "x", flops_text)
    log_axis(top, "y", lambda value: f"{value:.3g}")
    log_axis(bottom, "y")
    top.set(ylabel=LOSS, title="Envelope (approach 1)")
    bottom.set(xlabel="training FLOPs C", ylabel="parameters N")
    for axis, place in ((top, "upper right"), (bottom, "upper left")):
        axis.legend(loc=place)
    log_axis(colour_bar(figure, [top, bottom], colours, "parameters N").ax, "y")
    return figure


def allocation(survey: Survey) -> Figure:
    """Optimal size, tokens and loss against compute, with bands, as far as 100 times the largest budget."""
    figure = Figure(figsize=(WIDE, 7.2))
    axes = figure.subplots(3, 1, sharex=True)
    grid = np.geomspace(float(survey.columns["C"].min()), 180 * survey.largest, 61)
    for name, (colour, label) in APPROACHES.items():
        if name not in survey.results:
            continue
        result = survey[name]
        factor = result.flops_per_param_token
        values = [*result.law.optimum(grid, factor), result.law.loss({"C": grid}, factor)]
        for axis, value in zip(axes, values, strict=True):
            axis.plot(grid, drawable(np.broadcast_to(value, grid.shape)), color=colour, label=label, lw=1.5)
        if len(result.draws) and name != "isoflop_cubic":
            few = grid[:: len(grid) // 20]
            for axis, edges in zip(axes, band(result, few), strict=True):
                axis.fill_between(few, *drawable(edges).T, color=colour, alpha=0.14, lw=0)
    if "isoflop" in survey.results:
        found = [row for row in survey["isoflop"].details["budgets"] if not row["reason"]]
        for axis, key in zip(axes, ("N", "D", "loss"), strict=True):
            minima = [row["flops"] for row in found], [row[key] for row in found]
            axis.plot(*minima, "*", color=RED, ms=8, mec="white", mew=0.5, label="parabola minima")
    for axis, label in zip(axes, ("parameters N*", "tokens D*", LOSS), strict=True):
        for factor in FACTORS:
            axis.axvline(factor * survey.largest, color=GREY, lw=0.8, ls=":")
        axis.set_ylabel(label)
    for factor in FACTORS:
        place = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "bottom", "rotation": 90}
        axes[0].annotate(f"{factor}x ", (factor * survey.largest, 0.02), fontsize=8, color=GREY, **place)
    for axis in axes[:2]:
        _limit(axis, np.log10, lambda value: 10.0**value)
        log_axis(axis, "y")
    _limit(axes[2], np.asarray, float)
    log_axis(axes[2], "x", flops_text)
    axes[2].set_xlabel("training FLOPs C")
    axes[0].set_title("Compute-optimal allocation")
    axes[0].legend(loc="upper left")
    return figure


def _limit(axis: Axes, to: Callable, back: Callable) -> None:
    """Keep wild bands from flattening the curves: half of the curves' span, on a scale `to`, is left on either side."""
    curves = [line for line in axis.lines if line.get_transform() == axis.transData]
    heights = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in curves])
    heights = to(heights[np.isfinite(heights) & (heights > 0)])
    if len(heights) and np.ptp(heights) > 0:
        low, high = axis.get_ylim()
        room = 0.5 * np.ptp(heights)
        axis.set_ylim(max(low, back(heights.min() - room)), min(high, back(heights.max() + room)))


def band(result: FitResult, C: np.ndarray) -> list[np.ndarray]:
    """Interval edges [C, 2] of N*, D* and loss at every C; NaN where there are none."""
    factor = result.flops_per_param_token
    quantities = (
        lambda law, one: law.optimum(one, factor)[0],
        lambda law, one: law.optimum(one, factor)[1],
        lambda law, one: law.loss({"C": one}, factor),
    )
    edges = []
    for quantity in quantities:
        found = [result.interval_of(lambda law, at=one, q=quantity: drawable(q(law, at))) for one in C]
        edges.append(np.array([(one.low, one.high) if one else (np.nan, np.nan) for one in found]))
    return edges


def surface(survey: Survey) -> Figure:
    """Contours of the fitted loss over N and D with the runs, lines of equal compute and the efficient frontier."""
    result = survey["chinchilla"]
    N, D = survey.columns["N"], survey.columns["D"]
    figure = Figure(figsize=(WIDE, 4.6))
    axis = figure.subplots()
    n = np.geomspace(N.min() / 2, N.max() * 4, 60)
    d = np.geomspace(D.min() / 2, D.max() * 4, 60)
    loss = result.law.loss({"N": n[None, :], "D": d[:, None]})
    flat = np.ptp(loss) < 1e-9 * abs(loss.max())
    # Levels evenly spaced in the loss that runs have; what lies above their worst loss is one colour.
    levels = 14 if flat else np.linspace(loss.min(), min(loss.max(), survey.columns["loss"].max() * 1.02 + 1e-9), 16)
    filled = axis.contourf(n, d, loss, levels=levels, cmap="cividis_r", alpha=0.85, extend="neither" if flat else "max")
    if not flat:
        axis.contour(n, d, loss, levels=filled.levels, colors="white", linewidths=0.4, alpha=0.7)
    for budget in np.geomspace(survey.columns["C"].min(), survey.largest, 4):
        axis.plot(n, budget / result.flops_per_param_token / n, color=INK, lw=0.7, ls=":")
    compute = np.geomspace(survey.columns["C"].min() / 10, survey.largest * 100, 60)
    best = result.law.optimum(compute, result.flops_per_param_token)
    axis.plot(*map(drawable, best), color=RED, lw=2, label="compute-optimal")
    shown = choose(survey.columns.row, result.residual)
    runs(axis, N[shown], D[shown], survey.columns.row[shown], ms=4, mfc="white", mec=INK, mew=0.8, label="runs")
    axis.plot([], [], ":", color=INK, lw=0.8, label="equal compute")
    axis.set(xlim=(n[0], n[-1]), ylim=(d[0], d[-1]), xlabel="parameters N", ylabel="training tokens D")
    axis.set_title("Loss surface", pad=22)
    log_axis(axis, "x")
    log_axis(axis, "y")
    axis.grid(False)
    colour_bar(figure, axis, filled, "fitted loss (nats per token)", format="%.3g")
    axis.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=3, borderaxespad=0.2, columnspacing=1.2)
    return figure
