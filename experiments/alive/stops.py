"""Ask one run to end early: a file in its folder, which its worker looks for between two dispatches (on object stores, now and
then).

The run is evaluated and saved where it stands, and its record says `censored`. Where its loss was falling, that bounds the
loss of the whole run from above; that of a run which is ended as diverged bounds nothing. Who asks, and why, is not decided
here (sweeps/work/stopping.py).
"""

import dataclasses
import sys

from etils import epath

from experiments import files
from experiments.alive.looks import Looks
from experiments.cli import InputError
from experiments.objects.bucket import is_remote

SCHEMA = 1
FILE = "stop.json"
STATUSES = ("complete", "diverged")
REMOTE_SECONDS = 15.0  # between two looks where each is a request to an object store


@dataclasses.dataclass(frozen=True)
class Stop:
    """The status that the run's record shall have, and the reason."""

    status: str
    reason: str


class Requests:
    """Requests to end one run early. `found`: the one that the last look has found."""

    def __init__(self, directory: epath.Path):
        self._directory = directory
        self._looks = Looks(REMOTE_SECONDS if is_remote(directory) else 0.0)
        self._said: str | None = None
        self.found: Stop | None = None

    def look(self) -> Stop | None:
        """Look for a request. One that cannot be read is said once: whoever made it has to make it anew."""
        if not self._looks.due():
            return self.found
        try:
            self.found = asked(self._directory)
        except InputError as error:
            text = str(error)
            if text != self._said:
                print(f"{self._directory} is asked to stop, and goes on: {text}", file=sys.stderr)
            self._said = text
        return self.found


def ask(directory: epath.Path, stop: Stop) -> None:
    """Ask the worker of a run to end it."""
    files.write_json(directory / FILE, {"schema": SCHEMA, **dataclasses.asdict(stop)})


def asked(directory: epath.Path) -> Stop | None:
    """Return what was asked of a run; None: nothing.

    Raises InputError, naming the file, for one that cannot be read or understood.
    """
    path = directory / FILE
    try:
        value = files.read_json(path)
        stop = Stop(value["status"], str(value["reason"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be understood ({type(error).__name__}): expected a status and a reason"
        ) from error
    if stop.status not in STATUSES:
        expected = " or ".join(STATUSES)
        raise InputError(f"{path}: status={stop.status!r} cannot be asked for; expected {expected}")
    return stop
