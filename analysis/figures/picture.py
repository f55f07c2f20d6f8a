"""Turn a drawing into SVG and PNG: small, with no outside references, and with every run marked by its row.

The SVG goes into a page beside other figures, so that its ids are its own and nothing in it is fetched.
"""

from collections.abc import Callable
import dataclasses
import io
import itertools
import re
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
import numpy as np

from analysis.figures.legend import Ties, mark_series, tie_legends
from analysis.figures.style import MARK, STYLE

SVG = "http://www.w3.org/2000/svg"
LINK = "http://www.w3.org/1999/xlink"
GROUP = f"{{{SVG}}}g"
USE = f"{{{SVG}}}use"
METADATA = f"{{{SVG}}}metadata"
POINTS_PER_INCH = 72
NEAR = 0.1  # points between a marker in the SVG and where its run lies
_REFERENCE = re.compile(r"(?<=url\(#)[^)]+|(?<=^#).+")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_OPACITY = re.compile(r"(?<![-\w])opacity: ?([\d.]+)")
_PICTURES = itertools.count()  # ids of one page may not be those of another figure


def render(draw: Callable[[], Figure], name: str) -> tuple[bytes, bytes]:
    """Return a figure as SVG and PNG bytes; the SVG has no dates, no outside references and ids of its own."""
    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = draw()
        ties = tie_legends(figure)
        svg = io.BytesIO()
        png = io.BytesIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        # Transparent, so that the page's colour shows through.
        figure.savefig(svg, format="svg", metadata=nothing, transparent=True)
        # The layout stands: finding it again would take as long as all the drawing.
        figure.set_layout_engine("none")
        figure.savefig(png, format="png", dpi=160)
        return finish(svg.getvalue(), figure, name, ties), png.getvalue()


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure that a notebook shows by itself."""

    svg: bytes
    png: bytes

    def _repr_svg_(self) -> str:
        return self.svg.decode()


def picture(draw: Callable[..., Figure], *results: Any) -> Picture:
    """Draw results, for a notebook."""
    name = f"{draw.__name__}-{next(_PICTURES)}"
    svg, png = render(lambda: draw(*results), name)
    return Picture(svg, png)


def finish(svg: bytes, figure: Figure, name: str, ties: Ties) -> bytes:
    """Return the SVG with runs and series marked, ids that are unique beside other figures, and no metadata.

    Runs have `data-run`; what an entry of a legend stands for has `data-series`, and the entry `data-entry`.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(METADATA):
        root.remove(metadata)
    mark_runs(root, figure)
    mark_series(root, ties)
    rename_ids(root, name)
    for element in root.iter():
        share_style(element)
        shorten_numbers(element)
    return ElementTree.tostring(root)


def mark_runs(root: Element, figure: Figure) -> None:
    """Give every marker that stands for a run the row of the run."""
    marked = {}
    for artist in figure.findobj(Line2D):
        gid = str(artist.get_gid())
        if isinstance(artist, Line2D) and gid.startswith(MARK):
            marked[gid] = artist
    for group in root.iter(GROUP):
        artist = marked.get(group.get("id"))
        if artist is not None:
            _mark_line(group, artist, figure)


def _mark_line(group: Element, artist: Line2D, figure: Figure) -> None:
    """Give the markers of a line their rows; those off the page are not in the SVG.

    Where a line would leave the page matplotlib puts a marker on the edge, which is no run and is taken away.
    """
    at = artist.get_transform().transform(np.asarray(artist.get_xydata(), dtype=float))
    low = figure.bbox.min
    high = figure.bbox.max
    drawn = np.isfinite(at).all(axis=1) & (at >= low).all(axis=1) & (at <= high).all(axis=1)
    listed = str(artist.get_gid()).rpartition(":")[2]
    rows = np.array(listed.split(","))[drawn]
    places = (at[drawn] - low) * POINTS_PER_INCH / figure.dpi  # upwards, where SVG counts downwards
    top = figure.get_figheight() * POINTS_PER_INCH

    count = 0
    for parent in list(group.iter(GROUP)):
        for use in parent.findall(USE):
            x = float(use.get("x", "nan"))
            y = top - float(use.get("y", "nan"))
            if count < len(rows) and _is_near(places[count], x, y):
                use.set("data-run", rows[count])
                count += 1
            else:
                parent.remove(use)
    assert count == len(rows), f"{count} markers in the SVG for {len(rows)} runs"


def _is_near(place: np.ndarray, x: float, y: float) -> bool:
    """Whether a marker at (x, y) stands for the run at `place`. NaN is near nothing."""
    across, up = np.abs(place - (x, y))
    return bool(across < NEAR and up < NEAR)


def rename_ids(root: Element, name: str) -> None:
    """Rename ids that something refers to as NAME-0, NAME-1, …, and remove the others."""
    used: set[str] = set()
    for element in root.iter():
        for value in element.attrib.values():
            used.update(_REFERENCE.findall(value))
    new = {}
    for number, reference in enumerate(sorted(used)):
        new[reference] = f"{name}-{number}"
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                del element.attrib[key]
                if value in new:
                    element.set(key, new[value])
            elif "#" in value:
                element.set(key, _REFERENCE.sub(lambda found: new[found[0]], value))


def share_style(element: Element) -> None:
    """Say a style that all children of a group have once, at the group, for them to inherit."""
    if element.tag != GROUP or len(element) < 2:
        return
    styles = {child.get("style") for child in element}
    style = styles.pop()
    if styles or style is None:
        return
    # `opacity` of a group would be that of all its markers together.
    shared = _OPACITY.sub(r"fill-opacity: \1; stroke-opacity: \1", style)
    own = element.get("style", "")
    element.set("style", f"{own};{shared}".strip(";"))
    for child in element:
        del child.attrib["style"]


def shorten_numbers(element: Element) -> None:
    """Round coordinates to hundredths of a point."""
    for key in ("d", "x", "y"):
        if key in element.attrib:
            element.set(key, _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.2f}", element.attrib[key]))
