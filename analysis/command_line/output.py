"""Where commands write: checked before the work, atomic after it. And how they speak of what was fitted."""

from collections.abc import Iterable, Sequence
import os
import pathlib
import shlex
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from etils import epath

from experiments import files
from experiments.cli import InputError

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


def check_writable(path: str, flag: str) -> None:
    """Raise InputError when a file could not be written at `path`; creates nothing."""
    if "://" in path:
        return  # an object store says so when it is written to
    target = pathlib.Path(path)
    if not path or target.is_dir():
        raise InputError(f"{flag}: {path!r} is not the path of a file")
    folder = target.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{flag}: {path} cannot be written ({folder} is not a folder)")
    if not os.access(folder, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise InputError(f"{flag}: {path} cannot be written (no permission in {folder})")


def one_file(argv: Sequence[str], what: str, expected: str) -> str:
    """The one path that a command takes. Raises InputError for none or several."""
    if len(argv) != 1:
        raise InputError(f"{what}: {len(argv)} files given ({' '.join(argv) or 'none'}); expected one {expected}")
    return argv[0]


def one_grid(argv: Sequence[str]) -> str:
    """As `one_file`, for a loss grid."""
    return one_file(argv, "GRID", "Parquet or CSV file")


def open_console() -> "Console":
    """Where tables go; wide enough for them where the output is a file or a pipe."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 140
    return console


def track(items: Iterable[T], what: str) -> Iterable[T]:
    """The items, with a progress bar on a terminal's standard error."""
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    return rich_track(items, what, console=console, transient=True, disable=not console.is_terminal)


def write(path: epath.PathLike, content: Any, flag: str) -> None:
    """Write JSON (a dict), text or bytes atomically; InputError when the path cannot be written."""
    try:
        if isinstance(content, dict):
            files.write_json(path, content)
        else:
            files.write_bytes(path, content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        raise InputError(f"{flag}: {path} cannot be written ({error.strerror or error})") from error


def command(module: str) -> str:
    """The command line that is running, ready to be pasted into a shell."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def number(value: float | None, digits: int = 4) -> str:
    """A number as people write it: 1.82, 2.10e+09."""
    if value is None or value != value:
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits}g}"
    return f"{value:.{max(digits - 1, 1)}e}"


def span(interval: Any, digits: int = 4) -> str:
    """`low to high` of an interval, a dash when there is none."""
    return "-" if interval is None else f"{number(interval.low, digits)} to {number(interval.high, digits)}"


def human(value: float | None, digits: int = 3) -> str:
    """A count as people write it: 1.5M, 20B; powers of ten where words end."""
    if value is None or value != value:
        return "-"
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if limit <= float(f"{value:.{digits - 1}e}") < 1e15:
            scaled = f"{value / limit:.{digits}g}"
            return f"{float(scaled):.0f}{unit}" if "e" in scaled else f"{scaled}{unit}"
    return f"{value:.{digits}g}"
