"""What an executor and its workers do. An executor starts workers; a worker is one process that trains one population.

A worker is `python -m experiments.train --population=FILE --workdir=DIR`. It prints one JSON object a line on stdout
(start, progress, record, compiled) and ends with the exit status 0 (every run has a record), 1 (it broke), 2 (bad
input) or 75 (it was asked to stop and has saved). A worker may be far away: it runs the same command there, and whoever
starts it passes on its events.

What lies outside of this program (a queue, a network, a cloud) fails now and then, and that is a result, never an exception:

    start    the worker, or NotStarted: the queue is closed, a quota is used up, the network is down
    poll     None while the worker lives, and while nobody can say. Its exit status; or Failure where there is none and the
             place knows what has happened (a job that was preempted); or NotStarted where it never began
    events   what could be read; what could not comes with a later call
    go, stop, close, release, wait
             nothing. What was not heard shows in `poll`; `stop` is called again until the worker is over

NotStarted says nothing about the runs: they are not charged for it, wait, and are tried again with backoff, as long as
anything else is being trained, and then within the retry budget "start". No call may take longer than a few seconds: the
launcher is one thread, whose heartbeat others wait for. What an executor raises all the same is taken for NotStarted, or for
a Failure of the class "node" (outside.py).
"""

import abc
from collections.abc import Sequence
import dataclasses
import os
import shlex
import sys
import time
from typing import Any, Generic, Protocol, TypeVar

from etils import epath

from experiments.run.schema import Execution

Event = dict[str, Any]
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))  # the folder of the packages


@dataclasses.dataclass(frozen=True)
class Failure:
    """An end without all records: its class (a key of retries.BUDGETS in sweeps/work/) and one line for a reader."""

    kind: str
    reason: str


@dataclasses.dataclass(frozen=True)
class NotStarted(Failure):
    """There is no worker, through no fault of its runs.

    The class is "node" where a later try may do, "user" where none will (an option that the place refuses: the launch
    ends), "disk" where the workdir's is full or read-only.
    """


End = int | Failure | None  # what `poll` returns


class Worker(Protocol):
    """One process that trains one population."""

    pid: int  # on this host; claims are in its name

    def go(self, token: str = "") -> None:
        """Let it begin: it waits until its claims are written. `token` is that of the claims (experiments/alive/lease.py)."""
        ...

    def events(self) -> list[Event]:
        """Return what it has reported since the last call."""
        ...

    def poll(self) -> End:
        """Return its exit status once it is over (negative: the signal that ended it), or what is known of its end instead.

        None before.
        """
        ...

    def close(self) -> None:
        """Let go of what connects us to it, once it is over."""
        ...

    def stop(self, force: bool = False) -> None:
        """Ask it to save and end, or end it at once."""
        ...


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What one worker trains on, all its hosts together: chips of one kind (cpu, gpu or tpu). A CPU counts as one chip."""

    kind: str
    chips: int

    def __str__(self) -> str:
        if self.kind == "cpu":
            return "CPU cores"
        return f"{self.chips} {self.kind.upper()}{'' if self.kind == 'gpu' else ' chip'}{'s' if self.chips > 1 else ''}"


SomeWorker = TypeVar("SomeWorker", bound=Worker)


class Executor(abc.ABC, Generic[SomeWorker]):
    """A place with room for `slots` workers at a time. Only `slots` and `start` have no default."""

    slots: int
    target: str | None = None  # the machine type that a plan has to be for (sweeps/cost/plan_file.py); None: any
    memory: int | None = (
        None  # bytes of one worker's host, where known: states of runs that train together are held in it
    )
    shares_workdir: bool = True  # whether metrics and requests to stop pass through the workdir while a run trains

    @abc.abstractmethod
    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> SomeWorker | NotStarted:
        """Start the worker of a population; it waits for `go`. Its output is appended to `log`."""

    def check(self, workdir: epath.Path) -> None:
        """Raise InputError for a workdir that workers of this place could not use. Called before anything is written.

        By default any will do.
        """

    def rehearse(self, workdir: epath.Path) -> str:
        """Return how a worker would be started, for a reader. Starts and writes nothing."""
        population = workdir / "populations" / "ID.json"
        return shlex.join(train_command(population, workdir))

    def hardware(self) -> Hardware | None:
        """Return what one worker trains on, which a plan has to be for as well. By default that is not known."""
        return None

    def devices(self, execution: Execution) -> int | None:
        """Return how many devices one worker has at most for a mesh; None where that is not known.

        By default the chips of its hardware; a CPU is divided into as many devices as there are cores where it runs.
        """
        has = self.hardware()
        return None if has is None or has.kind == "cpu" else has.chips

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
