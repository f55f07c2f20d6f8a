"""What an executor and its workers do. An executor starts workers; a worker is one process that trains one population.

A worker is `python -m experiments.train --population=FILE --workdir=DIR`. It prints one JSON object a line on stdout
(start, progress, record, compiled) and ends with the exit status 0 (every run has a record), 1 (it broke), 2 (bad
input) or 75 (it was asked to stop and has saved). A worker may be far away: it runs the same command there, and whoever
starts it passes on its events.
"""

import abc
from collections.abc import Sequence
import os
import sys
import time
from typing import Any, Generic, Protocol, TypeVar

from etils import epath

Event = dict[str, Any]
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))  # the folder of the packages


class Worker(Protocol):
    """One process that trains one population."""

    pid: int  # on this host; claims are in its name

    def go(self, token: str = "") -> None:
        """Let it begin: it waits until its claims are written. `token` is that of the claims (experiments/alive/lease.py)."""
        ...

    def events(self) -> list[Event]:
        """Return what it has reported since the last call."""
        ...

    def poll(self) -> int | None:
        """Return its exit status once it is over (negative: the signal that ended it), None before."""
        ...

    def close(self) -> None:
        """Let go of what connects us to it, once it is over."""
        ...

    def stop(self, force: bool = False) -> None:
        """Ask it to save and end, or end it at once."""
        ...


SomeWorker = TypeVar("SomeWorker", bound=Worker)


class Executor(abc.ABC, Generic[SomeWorker]):
    """A place with room for `slots` workers at a time. Only `slots` and `start` have no default."""

    slots: int
    target: str | None = None  # the machine type that a plan has to be for (sweeps/cost/plan_file.py); None: any

    @abc.abstractmethod
    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> SomeWorker:
        """Start the worker of a population; it waits for `go`. Its output is appended to `log`."""

    def share(self, populations: int) -> None:
        """Learn how many populations are to come, to give each worker more of the machine when they are few.

        By default each worker has what the options say, however many there are.
        """

    def clear(self, workdir: epath.Path) -> None:
        """Ask workers to end that dead launchers of this host have left in a workdir.

        By default nothing: workers that end with their launcher need no such request.
        """

    def options(self) -> dict[str, Any]:
        """Return execution options of the worker that is started next, for what the study leaves open."""
        return {}

    def release(self, worker: SomeWorker) -> None:
        """Take back the place of a worker that is over."""

    def wait(self, workers: Sequence[SomeWorker], seconds: float) -> None:
        """Return when one of the workers has something to say, or after so long.

        By default three times a second at least: there is nothing to wait for but time.
        """
        time.sleep(min(seconds, 0.3))


def python_path() -> str:
    """Return a PYTHONPATH with which the packages are found from any folder."""
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([ROOT, inherited]) if inherited else ROOT


def _absolute(path: epath.Path) -> str:
    """Return the path as text, absolute unless it is an address such as gs://."""
    text = os.fspath(path)
    return text if "://" in text else os.path.abspath(text)


def train_command(population: epath.Path, workdir: epath.Path, *more: str) -> list[str]:
    """Return the command that a worker runs, with absolute paths."""
    inputs = [f"--population={_absolute(population)}", f"--workdir={_absolute(workdir)}"]
    return [sys.executable, "-m", "experiments.train", *inputs, *more]
