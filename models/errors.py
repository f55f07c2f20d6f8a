"""Say what is wrong with what a user wrote, and what went wrong at work. Imports nothing of ours, so that every layer may use it."""

from collections.abc import Iterable
import difflib


class InputError(ValueError):
    """Something that the user wrote cannot be right. The text names the field, the value and what was expected."""

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows of it: the one line that a command prints, and not where in our code it arose."""
        return [f"InputError: {self}"]


EXIT_FAILURE = 1  # exit codes of commands
EXIT_AGAIN = 75


class WorkError(Exception):
    """A failure at work that one line explains."""

    exit_code = EXIT_FAILURE


class AgainError(WorkError):
    """A failure that the same command may not meet again, such as a disk that does not answer."""

    exit_code = EXIT_AGAIN


SHOWN = 40  # names in a hint
LONGEST = 60  # characters of one of them


def nearest(name: str, known: Iterable[str], noun: str = "name") -> str:
    """A hint for a name that is not among `known`: the closest one, or the first of them when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = [" ".join(one.split())[:LONGEST] for one in known[:SHOWN]]
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f"known {noun}s: {', '.join(shown) or 'none'}{more}"
