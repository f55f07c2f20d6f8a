"""Who is training a run right now. A claim is a file beside the run's record, so that nobody trains it twice.

A claim names the launcher and its worker by host, boot, process id and start time, and the launcher's lease. On the
same host it is alive as long as one of the two processes is, whatever the clock says. Elsewhere the lease decides: a
counter in launchers/<lease>.json that its launcher raises every few seconds. It is dead when this process has watched
the counter stand still for STALE_SECONDS of its own monotonic clock; no two clocks are ever compared, so that none of
them may jump. A worker on another host (Ray, Slurm) keeps a counter too, in workers/<token>.json, and the claim lives as
long as that does, whatever has become of the launcher (experiments/alive/lease.py). Each claim has a token of its own, by
which a worker knows that it has been superseded: it looks before it writes.

Claims are taken under a lock on the workdir, which the system lets go of when its holder dies. On an object store there
is no such lock: two launchers that start within the same second may then train a run twice (the records agree; nothing
is lost).
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import os
import time
from typing import Any
import uuid

from etils import epath

from experiments import files
from experiments.alive import lease
from experiments.alive.lease import Process
from experiments.alive.lease import started as started  # for those who ask whether a worker is over

SCHEMA = 1
HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 180.0  # a claim from another host whose counter we have seen stand still for so long is dead


@dataclasses.dataclass(frozen=True)
class Claim:
    """One run, taken by a launcher for a worker. `since` (seconds since 1970) is for readers only."""

    fingerprint: str
    launcher: Process
    worker: Process
    population: str
    since: float
    lease: str
    token: str = ""

    def __str__(self) -> str:
        return f"process {self.launcher.pid} on {self.launcher.host}"


class Claims:
    """The claims of one workdir, as seen by this process."""

    def __init__(self, root: epath.Path):
        self.root, self.me = root, Process.of(os.getpid())
        self.lease, self._beats = uuid.uuid4().hex[:12], 0
        self._seen: dict[str, tuple[Any, float]] = {}  # by path of a counter: its value, when we saw it change

    def _path(self, fingerprint: str) -> epath.Path:
        return lease.claim_path(self.root / "runs" / fingerprint)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Nobody else on this file system reads or writes claims under the lock meanwhile."""
        return lease.lock(self.root)

    def read(self, fingerprint: str) -> Claim | None:
        """The claim on a run, dead or alive. One that cannot be read counts as none."""
        try:
            value = files.read_json(self._path(fingerprint))
            launcher, worker = Process.read(value.pop("launcher")), Process.read(value.pop("worker"))
            del value["schema"]
            claim = Claim(**value, launcher=launcher, worker=worker)
            self._lease_path(claim.lease)
            return claim if isinstance(claim.population, str) and isinstance(claim.token, str) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    # --- leases

    def _lease_path(self, lease_: str) -> epath.Path:
        if not lease.TOKEN.fullmatch(lease_):
            raise ValueError(f"lease={lease_!r}; expected hexadecimal digits")
        return self.root / "launchers" / f"{lease_}.json"

    def _renew(self) -> None:
        """Raise the counter of our lease."""
        self._beats += 1
        files.write_json(
            self._lease_path(self.lease),
            {"schema": SCHEMA, "beat": self._beats, "launcher": dataclasses.asdict(self.me), "time": time.time()},
        )

    @staticmethod
    def _read(path: epath.Path) -> dict[str, Any]:
        try:
            value = files.read_json(path)
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def _moves(self, path: epath.Path, value: dict[str, Any]) -> bool:
        """Whether we have not yet watched a counter stand still for so long."""
        counter, now, name = value.get("beat"), time.monotonic(), os.fspath(path)
        if name not in self._seen or self._seen[name][0] != counter:
            self._seen[name] = (counter, now)
        return now - self._seen[name][1] < STALE_SECONDS

    def alive(self, claim: Claim) -> bool:
        """Whether somebody is still at it. One from another host counts as alive until it was watched for long enough."""
        near = claim.launcher.local
        if near and claim.launcher.alive:
            return True
        if near and claim.worker != claim.launcher:  # a child of the launcher; else a host of its own
            return claim.worker.alive
        moves = False
        if not near:
            path = self._lease_path(claim.lease)
            moves = self._moves(path, self._read(path))
        return self._worker_lives(claim.token) or moves

    def _worker_lives(self, token: str) -> bool:
        """Whether a worker that is not known to be of this host holds its runs. One that has not begun does not."""
        if not lease.TOKEN.fullmatch(token):
            return False
        path = lease.beat_path(self.root, token)
        if not path.exists():
            return False
        value = self._read(path)
        with contextlib.suppress(KeyError, TypeError):
            worker = Process.read(value["worker"])
            if worker.local:
                return worker.alive
        return self._moves(path, value)

    def _forget(self, claim: Claim | None) -> None:
        """Remove the counter of a worker that is over."""
        if claim and lease.TOKEN.fullmatch(claim.token):
            lease.beat_path(self.root, claim.token).unlink(missing_ok=True)

    def close(self) -> None:
        """Give the lease back, and those of launchers and workers of this host that are over."""
        for folder, role in ((self.root / "launchers", "launcher"), (self.root / "workers", "worker")):
            for path in list(folder.glob("*.json")) if folder.exists() else []:
                with contextlib.suppress(OSError, KeyError, TypeError):
                    holder = Process.read(self._read(path)[role])
                    if holder == self.me or (holder.local and not holder.alive):
                        path.unlink(missing_ok=True)

    # --- claims

    def sweep(self, recorded: Sequence[str]) -> None:
        """Remove what launchers have left that were killed after their last run: leases, claims of recorded runs."""
        with self.lock():
            for fingerprint in recorded:
                if (claim := self.read(fingerprint)) and not self.alive(claim):
                    self._path(fingerprint).unlink(missing_ok=True)
                    self._forget(claim)
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

    def take(self, fingerprints: Sequence[str], worker: int, population: str) -> str:
        """Claim runs for a worker process of ours; returns the token by which it knows that they are still its own.

        Call under `lock`, after `by_other` has said that they are free.
        """
        if not self._beats:
            self._renew()
        token, process = uuid.uuid4().hex[:16], Process.of(worker)
        for fingerprint in fingerprints:
            self._forget(self.read(fingerprint))
            self._write(Claim(fingerprint, self.me, process, population, time.time(), self.lease, token))
        return token

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
                    self._forget(self.read(fingerprint))
                    self._path(fingerprint).unlink(missing_ok=True)
