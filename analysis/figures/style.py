"""One style for every figure, and the way from a drawing to its SVG and PNG.

Okabe-Ito colours for categories and cividis for order, both safe for colour-blind readers. Figures are as wide as a
phone can show with legible text. A run that is drawn carries its row of the grid into the SVG (`runs`, `data-run`).
"""

from collections.abc import Callable, Iterable
import dataclasses
import io
import itertools
import math
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
import numpy as np

from analysis.writing.numbers import human

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY, INK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#6b7280", "#111827",
)  # fmt: skip
CATEGORIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY)
WIDE = 5.6  # inches; in a browser on a phone its 10 pt text is about 9 px high
MOST_RUNS = 1000  # drawn and listed; a page of more would be slow, and its points would cover each other
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
SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
MARK = "runs:"
_PICTURES = itertools.count()  # ids of one page may not be those of another figure


def render(draw: Callable[[], Figure], name: str) -> tuple[bytes, bytes]:
    """A figure as SVG and PNG bytes; the SVG has no dates, no outside references and ids of its own."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = draw()
        svg, png = io.BytesIO(), io.BytesIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(svg, format="svg", metadata=nothing, transparent=True)  # the page's colour shows through
        figure.set_layout_engine("none")  # the layout stands: finding it again would take as long as all the drawing
        figure.savefig(png, format="png", dpi=160)
        return finish(svg.getvalue(), figure, name), png.getvalue()


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure that a notebook shows by itself."""

    svg: bytes
    png: bytes

    def _repr_svg_(self) -> str:
        return self.svg.decode()


def picture(draw: Callable[..., Figure], *results: Any) -> Picture:
    """A figure of results, for a notebook."""
    return Picture(*render(lambda: draw(*results), f"{draw.__name__}-{next(_PICTURES)}"))


def finish(svg: bytes, figure: Figure, name: str) -> bytes:
    """The SVG with runs marked by `data-run`, short ids that are unique beside other figures, and no metadata."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    marked = {artist.get_gid(): artist for artist in figure.findobj(Line2D) if str(artist.get_gid()).startswith(MARK)}
    for group in root.iter(f"{{{SVG}}}g"):
        artist = marked.get(group.get("id"))
        if artist is not None:
            _mark(group, artist, figure)
    _rename(root, name)
    for element in root.iter():
        styles = {child.get("style") for child in element}
        if len(element) > 1 and len(styles) == 1 and None not in styles and element.tag == f"{{{SVG}}}g":
            # Said once and inherited; `opacity` of a group would be that of all its markers together.
            shared = re.sub(r"(?<![-\w])opacity: ?([\d.]+)", r"fill-opacity: \1; stroke-opacity: \1", styles.pop())
            element.set("style", f"{element.get('style', '')};{shared}".strip(";"))
            for child in element:
                del child.attrib["style"]
        for key in ("d", "x", "y"):
            if key in element.attrib:
                element.set(key, re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", element.attrib[key]))
    return ElementTree.tostring(root)


def _mark(group: ElementTree.Element, artist: Line2D, figure: Figure) -> None:
    """Give the markers of a line their rows; those off the page are not in the SVG.

    Where a line would leave the page matplotlib puts a marker on the edge, which is no run and is taken away.
    """
    at = artist.get_transform().transform(np.asarray(artist.get_xydata(), dtype=float))
    low, high = figure.bbox.min, figure.bbox.max
    drawn = np.isfinite(at).all(axis=1) & (at >= low).all(axis=1) & (at <= high).all(axis=1)
    rows = np.array(str(artist.get_gid()).rpartition(":")[2].split(","))[drawn]
    places = (at[drawn] - low) * 72 / figure.dpi  # points, upwards
    top = figure.get_figheight() * 72
    count = 0
    for parent in list(group.iter(f"{{{SVG}}}g")):
        for use in parent.findall(f"{{{SVG}}}use"):
            here = float(use.get("x", "nan")), top - float(use.get("y", "nan"))
            if count < len(rows) and np.abs(places[count] - here).max() < 0.1:
                use.set("data-run", rows[count])
                count += 1
            else:
                parent.remove(use)
    assert count == len(rows), f"{count} markers in the SVG for {len(rows)} runs"


def _rename(root: ElementTree.Element, name: str) -> None:
    """Ids become NAME-0, NAME-1, ... where something refers to them and go elsewhere."""
    pattern = re.compile(r"(?<=url\(#)[^)]+|(?<=^#).+")
    used = {ref for element in root.iter() for value in element.attrib.values() for ref in pattern.findall(value)}
    count = itertools.count()
    new = {ref: f"{name}-{next(count)}" for ref in sorted(used)}
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.attrib.pop("id")
                if value in new:
                    element.set("id", new[value])
            elif "#" in value:
                element.set(key, pattern.sub(lambda found: new[found[0]], value))


def runs(axis: Axes, x: Iterable[float], y: Iterable[float], rows: Iterable[int], look: str = "o", **more) -> Line2D:
    """Markers that know which rows of the grid they are; what cannot be drawn is left out."""
    x, y, rows = (np.asarray(values) for values in (x, y, rows))
    good = np.isfinite(x) & np.isfinite(y)
    gid = f"{MARK}{id(axis)}.{len(axis.lines)}:{','.join(str(int(row)) for row in rows[good])}"
    return axis.plot(x[good], y[good], look, gid=gid if good.any() else None, **more)[0]


def choose(rows: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Positions of the rows to draw: all, or of more than MOST_RUNS the tenth of the largest `size` and an even part."""
    if len(rows) <= MOST_RUNS:
        return np.arange(len(rows))
    extreme = np.argsort(-np.abs(size))[: MOST_RUNS // 10]
    rest = np.setdiff1d(np.arange(len(rows)), extreme)
    even = rest[np.linspace(0, len(rest) - 1, MOST_RUNS - len(extreme)).round().astype(int)]
    return np.sort(np.r_[extreme, even])


def plain(text: object) -> str:
    """Text from a grid as a label: matplotlib would read dollars as mathematics and hide a leading underscore."""
    words = str(text)
    short = words if len(words) <= 28 else f"{words[:27]}…"
    return ("\u200b" if short.startswith("_") else "") + short.replace("$", r"\$")


def flops_text(value: float) -> str:
    """1e+18 as 10 to the 18, in mathtext."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    power = int(f"{value:.1e}".split("e")[1])  # after rounding: 9.98e12 is 10 to the 13
    mantissa = value / 10.0**power
    return rf"$10^{{{power}}}$" if abs(mantissa - 1) < 0.005 else rf"${mantissa:.2g}{{\times}}10^{{{power}}}$"


def log_axis(axis: Axes, which: str, write: Callable[[float], str] = human, few: bool = False) -> None:
    """Logarithmic axis with labels a person can read, also when it spans less than a decade. few: a narrow panel."""
    if not math.isfinite(getattr(axis.dataLim, f"minpos{which}")):
        return  # nothing on it that a logarithm could show
    getattr(axis, f"set_{which}scale")("log")
    part = getattr(axis, f"{which}axis")
    low, high = getattr(axis, f"get_{which}lim")()
    decades = math.log10(high / low) if 0 < low < high < math.inf else 0.0
    if few:
        subs = (1.0,) if decades > 1.4 else (1.0, 3.0) if decades > 0.6 else (1.0, 2.0, 5.0)
    else:
        subs = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
    if decades <= (0.35 if few else 0.5):
        subs = (1, 1.5, 2, 3, 4, 5, 7) if decades > 0.25 else (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)
    part.set_major_locator(LogLocator(subs=subs, numticks=4 if few else 10))
    part.set_minor_formatter(NullFormatter())
    part.set_major_formatter(FuncFormatter(lambda value, _: write(value)))


def log_colours(values: np.ndarray) -> matplotlib.cm.ScalarMappable:
    """Positive values as colours by their logarithm; the lightest yellow is left out, which white would swallow."""
    low, high = float(np.min(values)), float(np.max(values))
    scale = matplotlib.colors.LinearSegmentedColormap.from_list(
        "dark cividis", matplotlib.colormaps["cividis"](np.linspace(0.02, 0.86, 64)), N=48
    )
    return matplotlib.cm.ScalarMappable(
        matplotlib.colors.LogNorm(low, high if high > low * 1.001 else low * 1.1), scale
    )


def colour_bar(figure: Figure, axes: Any, colours: matplotlib.cm.ScalarMappable, label: str, **more: Any) -> Colorbar:
    """A colour bar of outlines: matplotlib would embed a picture."""
    bar = figure.colorbar(colours, ax=axes, label=label, pad=0.02, aspect=35, **more)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set(rasterized=False, edgecolor="face")
    return bar


def drawable(values: np.ndarray) -> np.ndarray:
    """NaN for what a logarithmic axis cannot show."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values) & (values > 0) & (values < 1e30), values, np.nan)


def symmetric(axis: Axes, away: np.ndarray) -> None:
    """A vertical axis around zero that stays readable when a few values are far out: linear, then logarithmic."""
    away = np.abs(away[np.isfinite(away)])
    typical = float(np.quantile(away, 0.9)) if len(away) else 0.0
    if typical > 0 and away.max() > 6 * typical:
        axis.set_yscale("symlog", linthresh=2 * typical, linscale=1.5)
        steps = 10.0 ** (np.arange(8) * max(0.5, math.log10(away.max() / typical) / 4)) * 2 * typical
        steps = [float(f"{step:.1g}") for step in steps]
        low, high = axis.get_ylim()
        low, high = min(low, 1.4 * low), max(high, 1.4 * high)
        axis.set_ylim(low, high)
        axis.set_yticks([tick for tick in (*(-step for step in steps[::-1]), 0.0, *steps) if low <= tick <= high])
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.3g}" if value else "0"))
    axis.yaxis.set_minor_formatter(NullFormatter())
