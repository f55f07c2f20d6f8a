"""Give every figure one style: colours, axes that a person can read, markers that know their runs.

Okabe-Ito colours for categories and cividis for order, both safe for colour-blind readers. Figures are as wide as a
phone can show with legible text. A run that is drawn carries its row of the grid into the SVG (`runs`); the way from a
drawing to its SVG and PNG is in picture.py.
"""

from collections.abc import Callable, Iterable
import math
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
import numpy as np

from analysis.writing.numbers import human

BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
RED = "#D55E00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
GREY = "#6b7280"
INK = "#111827"
CATEGORIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY)
WIDE = 5.6  # inches; in a browser on a phone its 10 pt text is about 9 px high
MOST_RUNS = 1000  # drawn and listed; a page of more would be slow, and its points would cover each other
STYLE: dict[str, Any] = {
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
ROUNDING = 1e-6  # relative: what differs by less is one value on a page
AROUND_ONE = 1.02  # factor around it
MARK = "runs:"  # begins the id of markers that stand for runs
LOSS_LABEL = "loss (nats per token)"


def runs(
    axis: Axes, x: Iterable[float], y: Iterable[float], rows: Iterable[int], look: str = "o", **more: Any
) -> Line2D:
    """Draw markers that know which rows of the grid they are; what cannot be drawn is left out."""
    x = np.asarray(x)
    y = np.asarray(y)
    rows = np.asarray(rows)
    good = np.isfinite(x) & np.isfinite(y)
    listed = ",".join(str(int(row)) for row in rows[good])
    # The number of lines so far makes the id unique among those of one axis.
    gid = f"{MARK}{id(axis)}.{len(axis.lines)}:{listed}"
    lines = axis.plot(x[good], y[good], look, gid=gid if good.any() else None, **more)
    return lines[0]


def choose(rows: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the positions of the rows to draw.

    These are all rows, or of more than MOST_RUNS the tenth with the largest `size` and an even part of the others.
    """
    if len(rows) <= MOST_RUNS:
        return np.arange(len(rows))
    by_size = np.argsort(-np.abs(size))
    extreme = by_size[: MOST_RUNS // 10]
    rest = np.setdiff1d(np.arange(len(rows)), extreme)
    steps = np.linspace(0, len(rest) - 1, MOST_RUNS - len(extreme))
    even = rest[steps.round().astype(int)]
    return np.sort(np.r_[extreme, even])


def plain(text: object) -> str:
    """Turn text from a grid into a label: matplotlib would read dollars as mathematics and hide a leading underscore."""
    words = str(text)
    if len(words) > 28:
        words = f"{words[:27]}…"
    words = words.replace("$", r"\$")
    return f"\u200b{words}" if words.startswith("_") else words


def flops_text(value: float) -> str:
    """Write 1e+18 as 10 to the 18, in mathtext."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    # The exponent after rounding: 9.98e12 is 10 to the 13.
    power = int(f"{value:.1e}".split("e")[1])
    mantissa = value / 10.0**power
    if abs(mantissa - 1) < 0.005:
        return rf"$10^{{{power}}}$"
    return rf"${mantissa:.2g}{{\times}}10^{{{power}}}$"


def three_digits(value: float) -> str:
    """Write a tick as a number of three digits."""
    return f"{value:.3g}"


def times_text(value: float) -> str:
    """Write a tick as a factor: 2.5x."""
    return f"{value:.3g}x"


def tick_multiples(decades: float, few: bool) -> tuple[float, ...]:
    """Return which multiples of powers of ten are labelled on an axis that spans so many decades.

    few: on a narrow panel, which has room for fewer labels.
    """
    finest = 0.35 if few else 0.5
    finer = 0.6 if few else 1.2
    fine = 1.4 if few else 2.5
    if decades <= 0.25:
        return (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)
    if decades <= finest:
        return (1, 1.5, 2, 3, 4, 5, 7)
    if decades <= finer:
        return (1.0, 2.0, 5.0)
    if decades <= fine:
        return (1.0, 3.0)
    return (1.0,)


def log_axis(axis: Axes, which: str, write: Callable[[float], str] = human, few: bool = False) -> None:
    """Make an axis logarithmic, with labels a person can read also when it spans less than a decade.

    which: "x" or "y". write: how a tick is written. few: on a narrow panel.
    """
    least = getattr(axis.dataLim, f"minpos{which}")
    if not math.isfinite(least):
        return  # nothing on it that a logarithm could show
    if which == "x":
        axis.set_xscale("log")
        low, high = axis.get_xlim()
    else:
        axis.set_yscale("log")
        low, high = axis.get_ylim()
    if 0 < low <= high < low * (1 + ROUNDING):
        # One value but for rounding: what differs in its last digits has no place on the page.
        low /= AROUND_ONE
        high *= AROUND_ONE
        limits = axis.set_xlim if which == "x" else axis.set_ylim
        limits(low, high)
    spans = 0 < low < high < math.inf
    decades = math.log10(high / low) if spans else 0.0
    ticks = axis.xaxis if which == "x" else axis.yaxis
    multiples = tick_multiples(decades, few)
    ticks.set_major_locator(LogLocator(subs=multiples, numticks=4 if few else 10))
    ticks.set_minor_formatter(NullFormatter())
    ticks.set_major_formatter(FuncFormatter(lambda value, _: write(value)))


def log_colours(values: np.ndarray) -> ScalarMappable:
    """Map positive values to colours by their logarithm; the lightest yellow is left out, which white would swallow."""
    low = float(np.min(values))
    high = float(np.max(values))
    if high <= low * 1.001:
        high = low * 1.1
    shades = matplotlib.colormaps["cividis"](np.linspace(0.02, 0.86, 64))
    scale = LinearSegmentedColormap.from_list("dark cividis", shades, N=48)
    return ScalarMappable(LogNorm(low, high), scale)


def colour_of(colours: Any, value: float) -> Any:
    """Return the colour of one value."""
    return colours.to_rgba(value)


def colour_bar(figure: Figure, axes: Any, colours: Any, label: str, **more: Any) -> Colorbar:
    """Draw a colour bar of outlines: matplotlib would embed a picture."""
    bar = figure.colorbar(colours, ax=axes, label=label, pad=0.02, aspect=35, **more)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]  # the stubs have it as a list of patches
    if bar.solids is not None:
        bar.solids.set(rasterized=False, edgecolor="face")
    return bar


def legend_above(axis: Axes, columns: int = 3) -> None:
    """Put the legend between the title and the axis; the title needs pad=22 for one line."""
    axis.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.99),
        ncols=columns,
        borderaxespad=0.2,
        columnspacing=1.2,
    )


def legend_inside(axis: Axes) -> None:
    """Put the legend where it hides least, on a ground that lines shine through."""
    axis.legend(loc="best", frameon=True, framealpha=0.8, edgecolor="none")


def drawable(values: np.ndarray) -> np.ndarray:
    """Replace what a logarithmic axis cannot show by NaN."""
    with np.errstate(invalid="ignore"):
        good = np.isfinite(values) & (values > 0) & (values < 1e30)
        return np.where(good, values, np.nan)


def symmetric(axis: Axes, away: np.ndarray) -> None:
    """Make a vertical axis around zero that stays readable when a few values are far out: linear, then logarithmic."""
    away = np.abs(away[np.isfinite(away)])
    typical = float(np.quantile(away, 0.9)) if len(away) else 0.0
    if typical > 0 and away.max() > 6 * typical:
        _bend(axis, typical, float(away.max()))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.3g}" if value else "0"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _bend(axis: Axes, typical: float, largest: float) -> None:
    """Make an axis linear up to twice the typical distance from zero, and logarithmic beyond."""
    threshold = 2 * typical
    axis.set_yscale("symlog", linthresh=threshold, linscale=1.5)
    decades = math.log10(largest / typical)
    exponents = np.arange(8) * max(0.5, decades / 4)
    steps = [float(f"{step:.1g}") for step in 10.0**exponents * threshold]

    low, high = axis.get_ylim()
    low = min(low, 1.4 * low)
    high = max(high, 1.4 * high)
    axis.set_ylim(low, high)
    below = [-step for step in reversed(steps)]
    ticks = [tick for tick in (*below, 0.0, *steps) if low <= tick <= high]
    axis.set_yticks(ticks)
