"""How one population gets a machine. An executor starts workers; a worker is one process that trains one population.

A worker is `python -m experiments.train --population=FILE --workdir=DIR`. It prints one JSON object a line on stdout
(start, progress, record, compiled) and ends with 0 (every run has a record), 1 (it broke), 2 (bad input) or 75 (it
was asked to stop and has saved). `EXECUTORS` names those that this version knows.

    --executor=local                                          this machine
    --executor=slurm:partition=a100,gpus=1,minutes=240,slots=16
    --executor=ray:address=auto,tpus=4,hosts=4                one actor per host of a slice
    --executor=tpu-vm:zone=us-east5-b,type=v5litepod-16,bucket=gs://mine/work,spot=true

What follows the colon are fields of the executor's `Options`, a dataclass in its module. A worker may be far away: it
runs the same command there (`LocalWorker` on the other host), and whoever starts it passes on its events.
"""

import os
import sys
from typing import Any, Protocol

from etils import epath

Event = dict[str, Any]


class Worker(Protocol):
    """One process that trains one population."""

    pid: int  # on this host; claims are in its name

    def go(self, token: str = "") -> None:
        """Let it begin: it waits until its claims are written. `token` is that of the claims (experiments/alive/lease.py)."""
        ...

    def events(self) -> list[Event]:
        """What it has reported since the last call."""
        ...

    def poll(self) -> int | None:
        """Its exit code once it is over (negative: the signal that ended it)."""
        ...

    def close(self) -> None:
        """Let go of what connects us to it, once it is over."""
        ...

    def stop(self, force: bool = False) -> None:
        """Ask it to save and end, or end it at once."""
        ...


class Executor(Protocol):
    """A place with room for `slots` workers at a time."""

    slots: int

    def share(self, populations: int) -> None:
        """So many populations are to come: give each worker more of the machine when they are few."""
        ...

    def clear(self, workdir: epath.Path) -> None:
        """Ask workers to end that dead launchers of this host have left in a workdir, where they do not by themselves."""
        ...

    def options(self) -> dict[str, Any]:
        """Execution options of the worker that is started next, for what the study leaves open."""
        ...

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> Worker:
        """Start the worker of a population; it waits for `go`. Its output is appended to `log`."""
        ...

    def release(self, worker: Any) -> None:
        """A worker is over; its place is free again."""
        ...

    def wait(self, workers: list[Any], seconds: float) -> None:
        """Return when one of the workers has something to say, or after so long."""
        ...


def python_path() -> str:
    """PYTHONPATH with which this package is found from any folder."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))


def train_command(population: epath.Path, workdir: epath.Path, *more: str) -> list[str]:
    """What a worker runs, with absolute paths."""
    places = (p if "://" in p else os.path.abspath(p) for p in map(os.fspath, (population, workdir)))
    at, folder = places
    return [sys.executable, "-m", "experiments.train", f"--population={at}", f"--workdir={folder}", *more]
