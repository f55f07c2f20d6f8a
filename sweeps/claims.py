"""Who is training a run right now. A claim is a file beside the run's record, so that nobody trains it twice.

A claim names the launcher and its worker by host, boot, process id and start time. On the same host it is alive as
long as one of the two processes is, whatever the clock says; a claim from another host is alive while its heartbeat
is fresh. Claims are taken under a lock on the workdir, which the system lets go of when its holder dies. On an object
store there is no such lock: two launchers that start within the same second may then train a run twice (the
records agree; nothing is lost).
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import json
import os
import socket
import subprocess
import time
from typing import Any

from etils import epath

from experiments import files

SCHEMA = 1
HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 180.0  # a claim from another host without a heartbeat for so long is dead


@functools.cache
def _boot() -> str:
    """What tells one start of this host from the next, so that a process id of before is not taken for one of now."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
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

    @classmethod
    def of(cls, pid: int) -> "Process":
        """A process of this host."""
        return cls(socket.gethostname(), _boot(), pid, started(pid))

    @property
    def local(self) -> bool:
        """Whether it is (or was) on this host."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it still runs; only for one of this host."""
        return self.boot == _boot() and self.started is not None and started(self.pid) == self.started


@dataclasses.dataclass(frozen=True)
class Claim:
    """One run, taken by a launcher for a worker. Times are seconds since 1970."""

    fingerprint: str
    launcher: Process
    worker: Process
    population: str
    since: float
    heartbeat: float

    @property
    def alive(self) -> bool:
        """Whether somebody is still at it."""
        if self.launcher.local:
            return self.launcher.alive or self.worker.alive
        return abs(time.time() - self.heartbeat) < STALE_SECONDS

    def __str__(self) -> str:
        return f"process {self.launcher.pid} on {self.launcher.host}"


class Claims:
    """The claims of one workdir, as seen by this process."""

    def __init__(self, root: epath.Path):
        self.root, self.me = root, Process.of(os.getpid())

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
        return claim if claim and claim.launcher != self.me and claim.alive else None

    def take(self, fingerprints: Sequence[str], worker: int, population: str) -> None:
        """Claim runs for a worker process of ours. Call under `lock`, after `by_other` has said that they are free."""
        now = time.time()
        for fingerprint in fingerprints:
            self._write(Claim(fingerprint, self.me, Process.of(worker), population, now, now))

    def beat(self, fingerprints: Sequence[str]) -> list[str]:
        """Say that we are still at it. Returns the runs that somebody else has taken from us meanwhile."""
        taken = []
        with self.lock():
            for fingerprint in fingerprints:
                claim = self.read(fingerprint)
                if claim is None or claim.launcher != self.me:
                    taken.append(fingerprint)
                else:
                    self._write(dataclasses.replace(claim, heartbeat=time.time()))
        return taken

    def release(self, fingerprints: Sequence[str]) -> None:
        """Let go of what is ours among these runs."""
        with self.lock():
            for fingerprint in fingerprints:
                if self.mine(fingerprint):
                    self._path(fingerprint).unlink(missing_ok=True)
