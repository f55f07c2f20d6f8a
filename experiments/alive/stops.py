"""Ask one run to end early: a file in its folder, which its worker looks for between two dispatches.

The run is evaluated and saved where it stands, and its record says `censored`: its loss is an upper bound of what the
whole run would have reached. Who asks, and why, is not decided here (sweeps/work/stopping.py).
"""

import dataclasses

from etils import epath

from experiments import files

SCHEMA = 1
FILE = "stop.json"
STATUSES = ("complete", "diverged")


@dataclasses.dataclass(frozen=True)
class Stop:
    """The status that the run's record shall have, and the reason."""

    status: str
    reason: str


def ask(directory: epath.Path, stop: Stop) -> None:
    """Ask the worker of a run to end it."""
    files.write_json(directory / FILE, {"schema": SCHEMA, **dataclasses.asdict(stop)})


def asked(directory: epath.Path) -> Stop | None:
    """Return what was asked of a run. A file that cannot be understood asks for nothing."""
    try:
        value = files.read_json(directory / FILE)
        stop = Stop(value["status"], str(value["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stop if stop.status in STATUSES else None
