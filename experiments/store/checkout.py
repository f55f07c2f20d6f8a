"""Tell which commit of this project is running, and whether its files differ from it."""

import functools
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ("models", "experiments", "sweeps", "analysis")


@functools.cache
def commit() -> str | None:
    """Return the commit that is checked out; None where the project is no checkout, or git is not there."""
    top = _git("rev-parse", "--show-toplevel")
    if top is None or pathlib.Path(top).resolve() != ROOT:
        return None  # a copy of the files inside of another project's checkout
    return _git("rev-parse", "HEAD")


@functools.cache
def is_dirty() -> bool | None:
    """Tell whether a file of the packages is not as committed, or new; None without a commit."""
    if commit() is None:
        return None
    changes = _git("status", "--porcelain", "--", *PACKAGES)
    return None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """Return what git says; None when it fails or is not there."""
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
