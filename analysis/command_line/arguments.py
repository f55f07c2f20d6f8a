"""Read what a command line names besides its flags: files, and the command itself."""

from collections.abc import Sequence
import shlex
import sys

from experiments.cli import InputError


def one_file(argv: Sequence[str], what: str, expected: str) -> str:
    """Return the one path that a command takes. Raises InputError for none or several."""
    if len(argv) != 1:
        raise InputError(f"{what}: {len(argv)} files given ({' '.join(argv) or 'none'}); expected one {expected}")
    return argv[0]


def one_fit(argv: Sequence[str]) -> str:
    """Return the path of the one fit.json that a command takes. Raises InputError for none or several."""
    return one_file(argv, "FIT", "fit.json")


def running_command(module: str) -> str:
    """Return the command line that is running, ready to be pasted into a shell."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])
