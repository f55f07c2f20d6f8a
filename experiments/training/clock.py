"""Share out the time of a loop: what it was spent on, and by which run."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import time
from typing import Any

from jax.sharding import Mesh

Shares = dict[str, float]  # seconds by what they were spent on

# data: waiting for batches; step: giving steps to the devices and waiting for them; save: what of a checkpoint cannot be
# done beside the steps. REST is all else: the first state, logs, looks at signals and claims.
TIMED = ("data", "step", "evaluate", "save")
REST = "rest"
ALL = (*TIMED, REST)
UNKNOWN = ""  # kind of device


class Clock:
    """Counts seconds from its beginning on. Every one of them is in a share, and in one lap."""

    def __init__(self) -> None:
        self._lap_began = time.monotonic()
        self._timed: Shares = dict.fromkeys(TIMED, 0.0)

    @contextlib.contextmanager
    def share(self, name: str) -> Iterator[None]:
        """Count what is done here as one share. Shares do not lie in each other."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._timed[name] += time.monotonic() - start

    def share_out(self, parts: Sequence[tuple[Shares, float]]) -> None:
        """Add the time since the last call to the shares of some runs, in proportion to these numbers.

        Without a run the lap goes on: its time is that of whoever comes next.
        """
        if not parts:
            return
        lap = self._lap()
        total = sum(part for _, part in parts)
        for shares, part in parts:
            for name, seconds in lap.items():
                shares[name] += seconds * part / total

    def share_out_equally(self, runs: Sequence[Shares]) -> None:
        """Add the time since the last call to the shares of some runs, to all alike."""
        self.share_out([(shares, 1.0) for shares in runs])

    def _lap(self) -> Shares:
        """Return the seconds of all shares since the last call; together they are the time that has passed."""
        now = time.monotonic()
        passed = now - self._lap_began
        shares = self._timed
        rest = passed - sum(shares.values())
        self._lap_began = now
        self._timed = dict.fromkeys(TIMED, 0.0)
        return shares | {REST: rest}


@dataclasses.dataclass
class DeviceTime:
    """The devices that a run has, and the time that it has had of each kind: it may have gone on elsewhere.

    kind: as jax names it; UNKNOWN of what checkpoints of before have spent.
    """

    devices: int = 1
    kind: str = UNKNOWN
    _since: float = 0.0  # seconds of the run when it came here
    _before: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, mesh: Mesh) -> "DeviceTime":
        """Begin to count the time of a mesh's devices."""
        return cls(mesh.size, mesh.devices.flat[0].device_kind)

    def recall(self, notes: Mapping[str, Any]) -> None:
        """Go on from a run's notes."""
        self._since = notes["seconds"]
        in_all = notes.get("accelerator_seconds", self._since * self.devices)
        self._before = notes.get("device_seconds", {UNKNOWN: in_all})

    def spent(self, seconds: float) -> dict[str, float]:
        """Return the seconds of devices, by their kind, of a run that has taken so many seconds."""
        found = dict(self._before)
        here = (seconds - self._since) * self.devices
        found[self.kind] = found.get(self.kind, 0.0) + here
        return found


def nothing() -> Shares:
    """Return shares of no time."""
    return dict.fromkeys(ALL, 0.0)


def columns(shares: Mapping[str, float]) -> Shares:
    """Return columns of a record, or of a row of metrics."""
    return {f"seconds_{name}": round(seconds, 3) for name, seconds in shares.items()}
