"""Read what an answer prints."""

from collections.abc import Callable
import io
from typing import Any

from rich.console import Console

WIDTH = 400  # no line is broken


def text_of(show: Callable[..., Any], *arguments: Any) -> str:
    """What `show(*arguments, console)` prints, without colours."""
    stream = io.StringIO()
    show(*arguments, Console(file=stream, width=WIDTH))
    return stream.getvalue()
