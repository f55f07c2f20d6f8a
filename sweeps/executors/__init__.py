"""How one population gets a machine. An executor starts workers; a worker is one process that trains one population.

A worker is `python -m experiments.train --population=FILE --workdir=DIR`. It prints one JSON object a line on stdout
(start, progress, record, compiled) and ends with 0 (every run has a record), 1 (it broke), 2 (bad input) or 75 (it
was asked to stop and has saved). `EXECUTORS` names those that this version knows.
"""

from collections.abc import Callable
from typing import Any, Protocol

from etils import epath

from experiments.cli import InputError, nearest

Event = dict[str, Any]


class Worker(Protocol):
    """One process that trains one population."""

    pid: int  # on this host; claims are in its name

    def go(self) -> None:
        """Let it begin: it waits until its claims are written."""
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


def _local() -> Executor:
    from sweeps.executors import local

    return local.LocalExecutor()


EXECUTORS: dict[str, Callable[[], Executor]] = {"local": _local}


def load(name: str) -> Executor:
    """The executor of a name. Raises InputError for an unknown one."""
    if name not in EXECUTORS:
        raise InputError(f"--executor={name!r} is not known; {nearest(name, EXECUTORS, 'executor')}")
    return EXECUTORS[name]()
