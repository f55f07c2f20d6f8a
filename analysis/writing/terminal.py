"""Open the terminal for tables, notes and progress. Imports rich only when something is shown."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
WIDTH_OF_FILES = 200  # columns, where the output is a file or a pipe


def open_console() -> "Console":
    """Return the console that tables go to; wide enough for them where the output is a file or a pipe."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    return console


def track(items: Iterable[T], what: str) -> Iterable[T]:
    """Go through the items with a progress bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    return rich_track(items, what, console=console, transient=True, disable=not console.is_terminal)
