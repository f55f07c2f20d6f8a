"""Draw compute-optimal scaling: the envelope, the allocation, the loss surface. IsoFLOP curves are in isoflop.py."""

from collections.abc import Callable, Mapping
import itertools
import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from analysis.figures.drawing import Drawing
from analysis.figures.rows import largest_compute, tells_optimum, with_compute
from analysis.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LOSS_LABEL,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    WIDE,
    choose,
    colour_bar,
    colour_of,
    drawable,
    flops_text,
    legend_above,
    log_axis,
    log_colours,
    plain,
    runs,
    three_digits,
)
from analysis.fitting.result import FitResult
from analysis.grid.table import Columns
from analysis.reporting.survey import FACTORS

APPROACHES = {
    "chinchilla": (BLUE, "approach 3, parametric"),
    "isoflop": (ORANGE, "approach 2, parabola"),
    "isoflop_cubic": (GREEN, "approach 2, cubic"),
    "isoflop_akima": (SKY, "approach 2, Akima"),
    "envelope": (PURPLE, "approach 1, envelope"),
}
OTHERS = (INK, "#8C510A", GREY, "#01665E")  # colours of laws that are none of them
STAR: dict[str, Any] = {"color": RED, "mec": "white"}
REACH = 180.0  # the allocation is drawn as far as this many times the largest budget
BAND_POINTS = 20
TOLD_STEP = 4  # of a surface of 60 by 60


def envelope(result: FitResult) -> Figure:
    """Draw loss against compute with the lower hull, and the sizes of the runs on the hull against their compute.

    `result` is a fit of the law envelope.
    """
    columns = result.columns
    figure = Drawing(figsize=(WIDE, 5.4))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    colours = log_colours(columns["N"])
    _draw_by_size(top, columns, colours)

    on_hull = np.isin(columns.row, result.details["hull_rows"])
    hull = np.flatnonzero(on_hull)
    order = np.argsort(columns["C"][hull])
    hull = hull[order]
    compute = columns["C"][hull]
    top.plot(compute, columns["loss"][hull], "-", color=RED, lw=1.2, label="lower hull")
    for axis, role in ((top, "loss"), (bottom, "N")):
        hollow = {"mfc": "none", "mec": RED, "ms": 8, "mew": 1.2}
        runs(axis, compute, columns[role][hull], columns.row[hull], **hollow)
    if tells_optimum(result):
        _draw_hull_law(bottom, result)

    log_axis(top, "x", flops_text)
    log_axis(top, "y", three_digits)
    log_axis(bottom, "y")
    top.set(ylabel=LOSS_LABEL, title="Envelope (approach 1)")
    bottom.set(xlabel="training FLOPs C", ylabel="parameters N")
    top.legend(loc="upper right")
    if tells_optimum(result):
        bottom.legend(loc="upper left")
    bar = colour_bar(figure, [top, bottom], colours, "parameters N")
    log_axis(bar.ax, "y")
    return figure


def _draw_hull_law(axis: Axes, result: FitResult) -> None:
    """Draw the sizes that the law of the hull gives over the compute of the runs."""
    compute = result.columns["C"]
    C = np.geomspace(compute.min(), compute.max(), 60)
    best, _ = result.law.optimum(C)
    law = result.law.coefficients()
    label = f"N* = {law['k_N']:.3g} C^{law['a']:.3g}, fitted to the hull"
    axis.plot(C, drawable(best), color=PURPLE, label=label)


def _draw_by_size(axis: Axes, columns: Columns, colours: Any) -> None:
    """Draw all runs, in one of eight colours by their size."""
    compute = columns["C"]
    loss = columns["loss"]
    log_n = np.log(columns["N"])
    shares = np.linspace(0, 1, 9)[1:-1]
    edges = np.quantile(log_n, shares)
    shade = np.digitize(log_n, edges)
    shown = choose(columns.row, loss - np.median(loss))
    for one in np.unique(shade[shown]):
        rows = shown[shade[shown] == one]
        typical = float(np.exp(log_n[rows].mean()))
        runs(
            axis,
            compute[rows],
            loss[rows],
            columns.row[rows],
            color=colour_of(colours, typical),
            ms=4,
            alpha=0.8,
            mec="none",
        )


def allocation(results: Mapping[str, FitResult]) -> Figure:
    """Draw optimal size, tokens and loss against compute, with bands, beyond 100 times the largest budget.

    results: fits of the same rows by the names of their approaches; those of APPROACHES come first, in its order. A fit
    whose rows do not tell the optimum is not drawn.
    """
    figure = Drawing(figsize=(WIDE, 7.2))
    axes = figure.subplots(3, 1, sharex=True)
    first = next(iter(results.values()))
    least = float(with_compute(first)["C"].min())
    largest = largest_compute(first)
    compute = np.geomspace(least, REACH * largest, 61)
    known = [name for name in APPROACHES if name in results]
    others = [name for name in results if name not in APPROACHES]
    looks = itertools.cycle(OTHERS)
    for name in (*known, *others):
        if not tells_optimum(results[name]):
            continue
        look = APPROACHES[name] if name in APPROACHES else (next(looks), plain(name))
        _draw_approach(axes, results[name], name, compute, look)
    if "isoflop" in results and tells_optimum(results["isoflop"]):
        _draw_minima(axes, results["isoflop"])
    _draw_factors(axes, largest)

    for axis, label in zip(axes, ("parameters N*", "tokens D*", LOSS_LABEL), strict=True):
        axis.set_ylabel(label)
    # Sizes and tokens span decades, so that their room is measured in logarithms; the loss does not.
    for axis in axes[:2]:
        limit_to_curves(axis, np.log10, lambda value: 10.0**value)
        log_axis(axis, "y")
    limit_to_curves(axes[2], np.asarray, float)
    log_axis(axes[2], "x", flops_text)
    axes[2].set_xlabel("training FLOPs C")
    _, labels = axes[0].get_legend_handles_labels()
    lines = math.ceil(len(labels) / 2)
    axes[0].set_title("Compute-optimal allocation", pad=8 + 14 * lines)
    legend_above(axes[0], columns=2)
    return figure


def _draw_approach(axes: Any, result: FitResult, name: str, compute: np.ndarray, look: tuple[str, str]) -> None:
    """Draw N*, D* and the loss of one approach, each on its axis, with their bands; look: its colour and label."""
    colour, label = look
    factor = result.flops_per_param_token
    size, tokens = result.law.optimum(compute, factor)
    loss = result.law.target_at({"C": compute}, factor)
    few = compute[:: len(compute) // BAND_POINTS]
    edges = band(result, few)
    for axis, value, ends in zip(axes, (size, tokens, loss), edges, strict=True):
        height = drawable(np.broadcast_to(value, compute.shape))
        if len(result.draws):
            is_told = _told_beside(compute, few, ends)
            height = np.where(is_told, height, np.nan)
        axis.plot(compute, height, color=colour, label=label, lw=1.5)
        if name == "isoflop_cubic":
            continue
        low, high = drawable(ends).T
        axis.fill_between(few, low, high, color=colour, alpha=0.14, lw=0)


def _told_beside(compute: np.ndarray, few: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Say where there is an interval [compute], by its ends [few, 2] at the nearest of a few computes."""
    distance = np.abs(np.log(compute[:, None] / few))
    nearest = distance.argmin(axis=1)
    is_closed = np.isfinite(ends)
    return is_closed[nearest, 0] & is_closed[nearest, 1]


def _draw_minima(axes: Any, result: FitResult) -> None:
    """Draw the minimum of each IsoFLOP curve that has one inside its sizes."""
    found = [row for row in result.details["budgets"] if not row["reason"]]
    compute = [row["flops"] for row in found]
    for axis, key in zip(axes, ("N", "D", "loss"), strict=True):
        values = [row[key] for row in found]
        axis.plot(compute, values, "*", ms=8, mew=0.5, label="parabola minima", **STAR)


def _draw_factors(axes: Any, largest: float) -> None:
    """Mark 1, 10 and 100 times the largest budget."""
    place = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "bottom", "rotation": 90}
    for factor in FACTORS:
        compute = factor * largest
        for axis in axes:
            axis.axvline(compute, color=GREY, lw=0.8, ls=":")
        axes[0].annotate(f"{factor}x ", (compute, 0.02), fontsize=8, color=GREY, **place)


def limit_to_curves(axis: Axes, to: Callable[[Any], Any], back: Callable[[Any], Any]) -> None:
    """Keep wild bands from flattening the curves: half of the curves' span is left on either side.

    to, back: to the scale on which the span is measured, and back from it.
    """
    heights = []
    for line in axis.lines:
        if line.get_transform() == axis.transData:
            heights.append(np.asarray(line.get_ydata(), dtype=float))
    height = np.concatenate(heights)
    height = to(height[np.isfinite(height) & (height > 0)])
    if not len(height) or np.ptp(height) <= 0:
        return
    room = 0.5 * np.ptp(height)
    low, high = axis.get_ylim()
    least = back(height.min() - room)
    most = back(height.max() + room)
    axis.set_ylim(max(low, least), min(high, most))


def band(result: FitResult, compute: np.ndarray) -> list[np.ndarray]:
    """Return the interval's edges [C, 2] of N*, D* and loss at every compute; NaN where there are none."""
    factor = result.flops_per_param_token

    def size(law: Any, C: float) -> Any:
        return law.optimum(C, factor)[0]

    def tokens(law: Any, C: float) -> Any:
        return law.optimum(C, factor)[1]

    def loss(law: Any, C: float) -> Any:
        return law.target_at({"C": C}, factor)

    edges = []
    for quantity in (size, tokens, loss):
        ends = []
        for C in compute:
            found = result.interval_of(lambda law, at=C, of=quantity: drawable(of(law, at)), is_derived=True)
            ends.append((found.low, found.high) if found else (np.nan, np.nan))
        edges.append(np.array(ends))
    return edges


def surface(result: FitResult) -> Figure:
    """Draw contours of the fitted loss over N and D with the runs, lines of equal compute and the efficient frontier.

    Blank where the rows do not tell the loss.
    """
    columns = with_compute(result)
    largest = largest_compute(result)
    N = columns["N"]
    D = columns["D"]
    figure = Drawing(figsize=(WIDE, 4.6))
    axis = figure.subplots()
    n = np.geomspace(N.min() / 2, N.max() * 4, 60)
    d = np.geomspace(D.min() / 2, D.max() * 4, 60)
    filled = _draw_contours(axis, result, columns, n, d)

    factor = result.flops_per_param_token
    least = columns["C"].min()
    for budget in np.geomspace(least, largest, 4):
        tokens = budget / factor / n
        axis.plot(n, tokens, color=INK, lw=0.7, ls=":")
    if tells_optimum(result):
        compute = np.geomspace(least / 10, largest * 100, 60)
        best_n, best_d = result.law.optimum(compute, factor)
        axis.plot(drawable(best_n), drawable(best_d), color=RED, lw=2, label="compute-optimal")
    shown = choose(columns.row, result.residual)
    white = {"ms": 4, "mfc": "white", "mec": INK, "mew": 0.8}
    runs(axis, N[shown], D[shown], columns.row[shown], label="runs", **white)
    axis.plot([], [], ":", color=INK, lw=0.8, label="equal compute")

    axis.set(xlim=(n[0], n[-1]), ylim=(d[0], d[-1]))
    axis.set(xlabel="parameters N", ylabel="training tokens D")
    axis.set_title("Loss surface", pad=22)
    log_axis(axis, "x")
    log_axis(axis, "y")
    axis.grid(False)
    colour_bar(figure, axis, filled, "fitted loss (nats per token)", format="%.3g")
    legend_above(axis)
    return figure


def tells_surface(result: FitResult) -> bool:
    """Whether the rows tell the loss of runs like theirs."""
    middle = {}
    for role in ("N", "D"):
        log_value = np.log(result.columns[role])
        middle[role] = float(np.exp(log_value.mean()))
    judged = result.judged(lambda law: law.target_at(middle))
    return not judged.why


def told(result: FitResult, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Say where the rows tell the loss [d, n], asked at every TOLD_STEP-th size and number of tokens.

    There are whole numbers of such steps.
    """
    middle = TOLD_STEP // 2
    some_n = n[middle::TOLD_STEP]
    some_d = d[middle::TOLD_STEP]
    found = np.empty((len(some_d), len(some_n)), dtype=bool)
    for row, tokens in enumerate(some_d):
        for column, size in enumerate(some_n):
            at = {"N": size, "D": tokens}
            judged = result.judged(lambda law, at=at: law.target_at(at))
            found[row, column] = not judged.why
    by_row = found.repeat(TOLD_STEP, axis=0)
    return by_row.repeat(TOLD_STEP, axis=1)


def _draw_contours(axis: Axes, result: FitResult, columns: Columns, n: np.ndarray, d: np.ndarray) -> Any:
    """Draw the fitted loss over n x d; levels are evenly spaced in the losses that runs have.

    What lies above the runs' worst loss is one colour, and what the rows do not tell has none.
    """
    loss = result.law.target_at({"N": n[None, :], "D": d[:, None]})
    loss = np.ma.masked_where(~told(result, n, d), loss)
    flat = np.ptp(loss) < 1e-9 * abs(loss.max())
    if flat:
        return axis.contourf(n, d, loss, levels=14, cmap="cividis_r", alpha=0.85)
    worst = columns["loss"].max() * 1.02 + 1e-9
    levels = np.linspace(loss.min(), min(loss.max(), worst), 16)
    filled = axis.contourf(n, d, loss, levels=levels, cmap="cividis_r", alpha=0.85, extend="max")
    axis.contour(n, d, loss, levels=filled.levels, colors="white", linewidths=0.4, alpha=0.7)
    return filled
