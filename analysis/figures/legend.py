"""Tie the entries of legends to what they stand for, so that a page can hide and show a series by its entry."""

from collections.abc import Iterable
import itertools
from typing import Any
from xml.etree.ElementTree import Element

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

SERIES = "data-series"
ENTRY = "data-entry"

Ties = dict[str, tuple[str, str]]  # id of a group in the SVG -> attribute and number of the series


def tie_legends(figure: Figure) -> Ties:
    """Give what is drawn and the entries of its legends ids, and say which belong together.

    A series is all that has one label, on every axis of the figure, and what else of its colour has none.
    """
    ties: Ties = {}
    numbers = itertools.count()
    for axis in figure.axes:
        legend = axis.get_legend()
        if legend is None:
            continue
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True):
            drawn = _of_label(figure.axes, text.get_text())
            if not drawn or handle is None:
                continue
            number = str(next(numbers))
            for artist in drawn:
                ties[_id(artist, f"series:{number}.{len(ties)}")] = (SERIES, number)
            for artist in (text, handle):
                ties[_id(artist, f"entry:{number}.{len(ties)}")] = (ENTRY, number)
    return ties


def _id(artist: Artist, new: str) -> str:
    """Return the id of an artist in the SVG, a new one where it has none."""
    if artist.get_gid() is None:
        artist.set_gid(new)
    return str(artist.get_gid())


def _of_label(axes: Iterable[Axes], label: str) -> list[Artist]:
    """Return what has a label, and what has its colour and none."""
    found: list[Artist] = []
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        own = [handle for handle, one in zip(handles, labels, strict=True) if one == label]
        others = {_colour(handle) for handle, one in zip(handles, labels, strict=True) if one != label}
        colours = {_colour(handle) for handle in own} - others - {""}
        unnamed = [artist for artist in (*axis.lines, *axis.collections) if _is_unnamed(artist)]
        found += [artist for handle in own for artist in _parts(handle)]
        found += [artist for artist in unnamed if _colour(artist) in colours]
    return list(dict.fromkeys(found))


def _is_unnamed(artist: Artist) -> bool:
    """Say whether no legend speaks of an artist."""
    return str(artist.get_label()).startswith("_")


def _parts(handle: Any) -> list[Artist]:
    """Return the artists of a handle: of error bars and bars there are several."""
    return [handle] if isinstance(handle, Artist) else list(handle.get_children())


def _colour(artist: Any) -> str:
    """Return the one colour of a line or an area; empty where there is none, or are several."""
    if isinstance(artist, Line2D):
        return to_hex(artist.get_color())
    if not hasattr(artist, "get_facecolor"):
        return ""
    colours = artist.get_facecolor()
    is_one = getattr(colours, "ndim", 1) == 1 or len(colours) == 1
    if not is_one or len(colours) == 0:
        return ""
    return to_hex(colours if getattr(colours, "ndim", 1) == 1 else colours[0])


def mark_series(root: Element, ties: Ties) -> None:
    """Say in an SVG which series a group is of, or stands for in a legend."""
    for element in root.iter():
        tie = ties.get(element.get("id", ""))
        if tie is not None:
            attribute, number = tie
            element.set(attribute, number)
