"""Show a result by itself: as text in a terminal, as HTML in a notebook.

What is said is said once, by a function that prints to a rich console (analysis/command_line/answers); a notebook gets the
same words and the same tables.
"""

import html
import io
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 110  # columns of the text of a result
COLOURS = {"yellow": "#b45309", "red": "#b91c1c", "green": "#15803d"}  # readable on white and on black


class Shown:
    """Something that a notebook shows as HTML and a terminal as text; `show` says what."""

    def show(self, console: Console) -> None:
        """Print it to a console."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)


def as_text(shown: Shown) -> str:
    """Return what something shows, as plain text."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=WIDTH,
        highlight=False,
        color_system=None,
        soft_wrap=True,
        force_jupyter=False,  # in a notebook, rich would show it at once and leave the file empty
    )
    shown.show(console)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return "\n".join(lines)


def as_html(shown: Shown) -> str:
    """Return what something shows, as HTML."""
    console = HtmlConsole()
    shown.show(console)
    return "\n".join(console.parts)


class HtmlConsole(Console):
    """A console whose lines and tables become paragraphs and tables of HTML, kept in `parts`."""

    def __init__(self) -> None:
        super().__init__(file=io.StringIO(), width=WIDTH, highlight=False, force_jupyter=False)
        self.parts: list[str] = []

    def print(self, *objects: Any, **how: Any) -> None:
        """Keep tables and lines as HTML. How a terminal would lay them out does not matter here."""
        del how
        for one in objects:
            if isinstance(one, Table):
                self.parts.append(table_html(one))
                continue
            for line in str(one).splitlines():
                self.parts.append(f"<div>{markup_html(line)}</div>")


def table_html(table: Table) -> str:
    """Return a rich table as a table of HTML, with its title above it and its numbers to the right."""
    title = "" if table.title is None else f"<div><b>{markup_html(table.title)}</b></div>\n"
    heads = [_cell("th", column.header, column.justify) for column in table.columns]
    rows = [f"<tr>{''.join(heads)}</tr>"]
    cells = [list(column.cells) for column in table.columns]
    for row in zip(*cells, strict=True):
        texts = []
        for column, cell in zip(table.columns, row, strict=True):
            texts.append(_cell("td", cell, column.justify))
        rows.append(f"<tr>{''.join(texts)}</tr>")
    body = "\n".join(rows)
    return f"{title}<table>\n{body}\n</table>"


def _cell(tag: str, content: Any, justify: str) -> str:
    """Return one cell; notebooks set tables to the right, so that text says that it stands to the left."""
    side = "right" if justify == "right" else "left"
    return f'<{tag} style="text-align: {side}">{markup_html(content)}</{tag}>'


def markup_html(content: Any) -> str:
    """Return rich's markup as HTML: bold and colours stay, everything else is escaped."""
    text = content if isinstance(content, Text) else Text.from_markup(str(content))
    pieces = []
    for segment in text.render(Console(file=io.StringIO(), width=WIDTH, force_jupyter=False)):
        piece = html.escape(segment.text)
        style = segment.style
        if style is not None and style.bold:
            piece = f"<b>{piece}</b>"
        colour = COLOURS.get(style.color.name) if style is not None and style.color is not None else None
        if colour is not None:
            piece = f'<span style="color: {colour}">{piece}</span>'
        pieces.append(piece)
    return "".join(pieces).rstrip("\n")
