"""What the keeper of a slice and the slice's hosts tell each other: small objects in one folder of the bucket.

    keeper.json                 the keeper's: a counter, whether to stop, the claims' token, who it is
    population.json             what is to be trained
    ATTEMPT/host-RANK.json      a host's: a counter, and once its worker is over its exit status and the end of its log
    ATTEMPT/events-RANK-N.json  the N-th batch of events of a host's worker

Each object has one writer. Whoever reads a counter judges by how long it was seen to stand still: no clocks are compared.
"""

import dataclasses
import time
from typing import Any

from experiments import files
from experiments.alive.lease import Process
from sweeps.executors.support.protocol import Event

LOG_BYTES = 1 << 16  # of the end of a log that a host hands over

# What the hosts are asked for.
GO_ON = 0
SAVE_AND_STOP = 1
STOP_AT_ONCE = 2


@dataclasses.dataclass(frozen=True)
class Orders:
    """What the keeper says."""

    beat: int
    stop: int  # GO_ON, SAVE_AND_STOP or STOP_AT_ONCE
    token: str  # of the claims
    attempt: str
    keeper: Process

    def write(self, folder: str) -> None:
        """Write keeper.json. Raises OSError."""
        files.write_json(f"{folder}/keeper.json", dataclasses.asdict(self))


def read_orders(folder: str) -> Orders | None:
    """Return what the keeper says; None for what cannot be read or understood now."""
    value = _read(f"{folder}/keeper.json")
    try:
        keeper = Process.read(value.pop("keeper"))
        return Orders(**value, keeper=keeper)
    except (KeyError, TypeError, AttributeError):
        return None


@dataclasses.dataclass(frozen=True)
class HostState:
    """What a host says."""

    beat: int
    status: int | None = None  # exit status of its worker, once that is over
    log: str = ""  # its end, with the status
    batches: int = 0  # of events, all there is with the status

    def write(self, folder: str, attempt: str, rank: int) -> None:
        """Write host-RANK.json. Raises OSError."""
        files.write_json(f"{folder}/{attempt}/host-{rank}.json", dataclasses.asdict(self))


def read_host(folder: str, attempt: str, rank: int) -> HostState | None:
    """Return what a host says; None for what cannot be read or understood now."""
    value = _read(f"{folder}/{attempt}/host-{rank}.json")
    try:
        return HostState(**value)
    except TypeError:
        return None


def write_events(folder: str, attempt: str, rank: int, number: int, events: list[Event]) -> None:
    """Write a batch of events. Raises OSError."""
    files.write_json(f"{folder}/{attempt}/events-{rank}-{number}.json", {"events": events})


def read_events(folder: str, attempt: str, rank: int, number: int) -> list[Event] | None:
    """Return a batch of events; None while there is none, and for what cannot be read now."""
    value = _read(f"{folder}/{attempt}/events-{rank}-{number}.json")
    events = value.get("events")
    return events if isinstance(events, list) else None


def _read(path: str) -> dict[str, Any]:
    """Return the object of a file; an empty one for what cannot be read now."""
    try:
        value = files.read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class Stillness:
    """For how long a counter was seen to stand still, on our own monotonic clock. What cannot be read stands still."""

    def __init__(self) -> None:
        self._seen: object = None
        self._since = time.monotonic()

    def seconds(self, counter: object) -> float:
        """Note what the counter says now (None: it cannot be read), and return for how long it has stood still."""
        if counter is not None and counter != self._seen:
            self._seen = counter
            self._since = time.monotonic()
        return time.monotonic() - self._since


class Followed:
    """A host, as its keeper follows it."""

    def __init__(self, folder: str, attempt: str, rank: int):
        self._folder = folder
        self._attempt = attempt
        self._rank = rank
        self._batches = 0  # of events that were read
        self.state = HostState(beat=0)

    def look(self) -> list[Event]:
        """Take in what the host says now; return what its worker has reported since the last look."""
        self.state = read_host(self._folder, self._attempt, self._rank) or self.state
        found = []
        while True:
            events = read_events(self._folder, self._attempt, self._rank, self._batches)
            if events is None:
                return found
            self._batches += 1
            found += events

    @property
    def status(self) -> int | None:
        """The exit status of its worker, once all that it has reported was read."""
        return self.state.status if self._batches >= self.state.batches else None
