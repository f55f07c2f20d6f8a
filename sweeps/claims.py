"""Who is training a run right now. A claim is a file beside the run's record, so that nobody trains it twice.

A claim names the launcher and its worker by host, boot, process id and start time, and the launcher's lease. On the
same host it is alive as long as one of the two processes is, whatever the clock says. Elsewhere the lease decides: a
counter in launchers/<lease>.json that its launcher raises every few seconds. It is dead when this process has watched
the counter stand still for STALE_SECONDS of its own monotonic clock; no two clocks are ever compared, so that none of
them may jump. Claims are taken under a lock on the workdir, which the system lets go of when its holder dies. On an
object store there is no such lock: two launchers that start within the same second may then train a run twice (the
records agree; nothing is lost).
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import json
import os
import re
import socket
import subprocess
import time
from typing import Any
import uuid

from etils import epath

from experiments import files

SCHEMA = 1
HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 180.0  # a claim from another host whose counter we have seen stand still for so long is dead
_LEASE = re.compile(r"[0-9a-f]{1,32}")


@functools.cache
def _boot() -> str:
    """What tells one start of this host from the next, so that a process id of before is not taken for one of now."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


@functools.cache
def _space() -> str:
    """What tells containers of one host apart: the same process id is another process in each."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def started(pid: int) -> str | None:
    """When a process of this host began, in a form that only serves to compare. None when there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # a zombie is over
    except OSError:
        if os.path.isdir("/proc/self"):
            return None
    listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout.strip() or None


@dataclasses.dataclass(frozen=True)
class Process:
    """A process on some host."""

    host: str
    boot: str
    pid: int
    started: str | None
    space: str = ""

    @classmethod
    def of(cls, pid: int) -> "Process":
        """A process of this host."""
        return cls(socket.gethostname(), _boot(), pid, started(pid), _space())

    @property
    def local(self) -> bool:
        """Whether it is (or was) on this host, where its process id means something to us."""
        return self.host == socket.gethostname() and self.space == _space()

    @property
    def alive(self) -> bool:
        """Whether it still runs; only for one of this host."""
        return self.boot == _boot() and self.started is not None and started(self.pid) == self.started


@dataclasses.dataclass(frozen=True)
class Claim:
    """One run, taken by a launcher for a worker. `since` (seconds since 1970) is for readers only."""

    fingerprint: str
    launcher: Process
    worker: Process
    population: str
    since: float
    lease: str

    def __str__(self) -> str:
        return f"process {self.launcher.pid} on {self.launcher.host}"


class Claims:
    """The claims of one workdir, as seen by this process."""

    def __init__(self, root: epath.Path):
        self.root, self.me = root, Process.of(os.getpid())
        self.lease, self._beats = uuid.uuid4().hex[:12], 0
        self._seen: dict[str, tuple[int | None, float]] = {}  # by lease: its counter, when we saw it change

    def _path(self, fingerprint: str) -> epath.Path:
        return self.root / "runs" / fingerprint / "claim.json"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else on this file system reads or writes claims under the lock meanwhile."""
        if "://" in os.fspath(self.root) or os.name != "posix":
            yield
            return
        import fcntl

        with open(self.root / ".lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self, fingerprint: str) -> Claim | None:
        """The claim on a run, dead or alive. One that cannot be read counts as none."""
        try:
            value = json.loads(self._path(fingerprint).read_text())
            launcher, worker = Process(**value.pop("launcher")), Process(**value.pop("worker"))
            del value["schema"]
            return Claim(**value, launcher=launcher, worker=worker)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    # --- leases

    def _lease_path(self, lease: str) -> epath.Path:
        if not _LEASE.fullmatch(lease):
            raise ValueError(f"lease={lease!r}; expected hexadecimal digits")
        return self.root / "launchers" / f"{lease}.json"

    def _renew(self) -> None:
        """Raise the counter of our lease."""
        self._beats += 1
        files.write_json(
            self._lease_path(self.lease),
            {"schema": SCHEMA, "beat": self._beats, "launcher": dataclasses.asdict(self.me), "time": time.time()},
        )

    def _counter(self, lease: str) -> int | None:
        try:
            return int(json.loads(self._lease_path(lease).read_text())["beat"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def alive(self, claim: Claim) -> bool:
        """Whether somebody is still at it. One from another host counts as alive until it was watched for long enough."""
        if claim.launcher.local:
            return claim.launcher.alive or (claim.worker.local and claim.worker.alive)
        counter, now = self._counter(claim.lease), time.monotonic()
        if claim.lease not in self._seen or self._seen[claim.lease][0] != counter:
            self._seen[claim.lease] = (counter, now)
        return now - self._seen[claim.lease][1] < STALE_SECONDS

    def close(self) -> None:
        """Give the lease back, and those of launchers of this host that are over."""
        folder = self.root / "launchers"
        for path in list(folder.glob("*.json")) if folder.exists() else []:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                holder = Process(**json.loads(path.read_text())["launcher"])
                if holder == self.me or (holder.local and not holder.alive):
                    path.unlink(missing_ok=True)

    # --- claims

    def sweep(self, recorded: Sequence[str]) -> None:
        """Remove what launchers have left that were killed after their last run: leases, claims of recorded runs."""
        with self.lock():
            for fingerprint in recorded:
                if (claim := self.read(fingerprint)) and not self.alive(claim):
                    self._path(fingerprint).unlink(missing_ok=True)
        self.close()

    def _write(self, claim: Claim) -> None:
        value: dict[str, Any] = {"schema": SCHEMA, **dataclasses.asdict(claim)}
        files.write_json(self._path(claim.fingerprint), value)

    def mine(self, fingerprint: str) -> bool:
        """Whether this process holds the run."""
        claim = self.read(fingerprint)
        return claim is not None and claim.launcher == self.me

    def by_other(self, fingerprint: str) -> Claim | None:
        """The claim of somebody else who is still at it."""
        claim = self.read(fingerprint)
        return claim if claim and claim.launcher != self.me and self.alive(claim) else None

    def take(self, fingerprints: Sequence[str], worker: int, population: str) -> None:
        """Claim runs for a worker process of ours. Call under `lock`, after `by_other` has said that they are free."""
        if not self._beats:
            self._renew()
        for fingerprint in fingerprints:
            self._write(Claim(fingerprint, self.me, Process.of(worker), population, time.time(), self.lease))

    def beat(self, fingerprints: Sequence[str]) -> list[str]:
        """Say that we are still at it. Returns the runs that somebody else has taken from us meanwhile."""
        self._renew()
        with self.lock():
            return [fingerprint for fingerprint in fingerprints if not self.mine(fingerprint)]

    def release(self, fingerprints: Sequence[str]) -> None:
        """Let go of what is ours among these runs."""
        with self.lock():
            for fingerprint in fingerprints:
                if self.mine(fingerprint):
                    self._path(fingerprint).unlink(missing_ok=True)
