"""Say who is training a run right now. A claim is a file beside the run's record, so that nobody trains it twice.

A claim names the launcher and its worker by host, boot, process id and start time, and the launcher's lease. On the
same host it is alive as long as one of the two processes is, whatever the clock says. Elsewhere the lease decides: a
counter in launchers/<lease>.json, the launcher's heartbeat, that it raises every few seconds. It is dead when this process
has watched the counter stand still for STALE_SECONDS of its own monotonic clock; no two clocks are ever compared, so that
none of them may jump. A worker on another host (Ray, Slurm) keeps a counter too, in workers/<token>.json, and the claim
lives as long as that does, whatever has become of the launcher (experiments/alive/lease.py). Each claim has a token of its
own, by which a worker knows that it has been superseded: it looks before it writes.

On a disk claims are taken under a lock on the workdir, which the system lets go of when its holder dies. On an object
store there is no such lock, and none is needed: a claim is written only if the object is in the version that was last
looked at (a conditional put), so that of several launchers one gets it. A worker whose claims were not all written finds
that out before it begins. For the same reason a claim there is not deleted when it is given back, but overwritten.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import time
from typing import Any
import uuid

from etils import epath

from experiments import files
from experiments.alive import lease
from experiments.alive.lease import Process
from experiments.objects.bucket import ABSENT, Conflict
from experiments.objects.path import ObjectPath

SCHEMA = 1
HEARTBEAT_SECONDS = 15.0
LEAST_SECONDS = 5.0  # between two writes of the counter, however many ask for one
STALE_SECONDS = 180.0  # a claim from another host whose counter we have seen stand still for so long is dead


def new_token() -> str:
    """Return a token that nobody else has."""
    return uuid.uuid4().hex[:16]


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


def _read_object(path: epath.Path) -> dict[str, Any]:
    """Return the JSON object of a file; an empty one where there is none, or it is damaged. Raises OSError."""
    return _object_in(files.read_if_there(path) or b"")


def _object_in(data: bytes) -> dict[str, Any]:
    """Return the JSON object of a file's content; an empty one where it is damaged."""
    try:
        value = files.parse(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


class Heartbeats:
    """The counters of other hosts, as this process has watched them."""

    def __init__(self) -> None:
        self._counters: dict[str, object] = {}  # by path: the value that we saw last
        self._moved_at: dict[str, float] = {}  # by path: when we first saw that value, on the monotonic clock
        self._raised: set[str] = set()  # paths of counters that were raised as we watched

    def moves(self, path: epath.Path, counter: object) -> bool:
        """Note what a counter says now; whether we have not yet watched it stand still for STALE_SECONDS."""
        name = os.fspath(path)
        now = time.monotonic()
        if name in self._counters and self._counters[name] != counter:
            self._raised.add(name)
        if name not in self._counters or self._counters[name] != counter:
            self._counters[name] = counter
            self._moved_at[name] = now
        return now - self._moved_at[name] < STALE_SECONDS

    def was_raised(self, path: epath.Path) -> bool:
        """Tell whether a counter was raised while we watched: its holder lives."""
        return os.fspath(path) in self._raised


class Claims:
    """The claims of one workdir, as seen by this process."""

    def __init__(self, root: epath.Path, directory_of: Callable[[str], epath.Path] | None = None):
        """`directory_of`: the folder of a run by its fingerprint; runs/FINGERPRINT without it."""
        self.root = root
        self._directory_of = directory_of or self._run_dir
        self.me = Process.of(os.getpid())
        self.lease = uuid.uuid4().hex[:12]
        self._beats = 0  # of our own counter
        self._beat_at = 0.0  # its last one, on the monotonic clock
        self._seen: dict[str, tuple[str, Claim | None]] = {}  # on an object store: version and claim, by fingerprint
        self._heartbeats = Heartbeats()

    def _run_dir(self, fingerprint: str) -> epath.Path:
        return self.root / "runs" / fingerprint

    def _path(self, fingerprint: str) -> epath.Path:
        """Return the file of the claim on a run."""
        return lease.claim_path(self._directory_of(fingerprint))

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keep everybody else on this file system who takes the lock from reading or writing claims meanwhile."""
        return lease.lock(self.root)

    def read(self, fingerprint: str) -> Claim | None:
        """Return the claim on a run, dead or alive. A damaged one counts as none. Raises OSError."""
        path = self._path(fingerprint)
        version = ABSENT
        data = b""
        with files.absence_allowed():
            if isinstance(path, ObjectPath):
                data, version = path.read_version()
            else:
                data = path.read_bytes()
        claim = self._parse(data)
        self._seen[fingerprint] = (version, claim)
        return claim

    def _parse(self, data: bytes) -> Claim | None:
        """Return the claim that a file holds; None for one that was given back, and for what is none."""
        try:
            value = files.parse(data)
            launcher = Process.read(value.pop("launcher"))
            worker = Process.read(value.pop("worker"))
            del value["schema"]
            claim = Claim(**value, launcher=launcher, worker=worker)
            self._lease_path(claim.lease)  # raises for what could not be a file's name
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        readable = isinstance(claim.population, str) and isinstance(claim.token, str)
        return claim if readable else None

    def _write(self, claim: Claim) -> bool:
        """Write a claim. False: on an object store somebody else has written it meanwhile."""
        return self._put(claim.fingerprint, {"schema": SCHEMA, **dataclasses.asdict(claim)})

    def _put(self, fingerprint: str, value: Mapping[str, Any]) -> bool:
        """Write what stands in the place of a claim. False: on an object store somebody else has written it meanwhile."""
        path = self._path(fingerprint)
        if not isinstance(path, ObjectPath):
            files.write_json(path, value)
            return True
        version, _ = self._seen[fingerprint]
        try:
            new_version = path.write_version(json.dumps(value, allow_nan=False).encode(), version)
        except Conflict:
            return False
        self._seen[fingerprint] = (new_version, None)
        return True

    def _remove(self, fingerprint: str) -> None:
        """Give up the claim on a run, as it was last seen."""
        path = self._path(fingerprint)
        if isinstance(path, ObjectPath):
            self._put(fingerprint, {"schema": SCHEMA, "released": new_token()})
        else:
            path.unlink(missing_ok=True)

    # --- leases

    def _lease_path(self, name: str) -> epath.Path:
        """Return the file of a lease. Raises ValueError for what is no name of one: it becomes a path."""
        if not lease.TOKEN.fullmatch(name):
            raise ValueError(f"lease={name!r}; expected hexadecimal digits")
        return self.root / "launchers" / f"{name}.json"

    def _renew(self) -> None:
        """Raise the counter of our lease, unless that was just done."""
        now = time.monotonic()
        if self._beats and abs(now - self._beat_at) < LEAST_SECONDS:
            return
        self._beat_at = now
        self._beats += 1
        launcher = dataclasses.asdict(self.me)
        value = {"schema": SCHEMA, "beat": self._beats, "launcher": launcher, "time": time.time()}
        files.write_json(self._lease_path(self.lease), value)

    def alive(self, claim: Claim) -> bool:
        """Whether somebody is still at it. One from another host counts as alive until it was watched for long enough."""
        here = claim.launcher.local
        if here and claim.launcher.alive:
            return True
        if here and claim.worker != claim.launcher:  # a child of the launcher; else a host of its own
            return claim.worker.alive
        # Both counters are looked at each time: what counts is for how long each was seen to stand still.
        launcher_lives = False
        if not here:
            path = self._lease_path(claim.lease)
            launcher_lives = self._heartbeats.moves(path, _read_object(path).get("beat"))
        worker_lives = self._worker_lives(claim.token)
        return launcher_lives or worker_lives

    def is_seen_alive(self, claim: Claim) -> bool:
        """Tell whether somebody is known to be at it, and not only not yet known to be dead. Call after `alive`."""
        if claim.launcher.local:
            return True
        counters = [self._lease_path(claim.lease)]
        if lease.TOKEN.fullmatch(claim.token):
            counters.append(lease.beat_path(self.root, claim.token))
        return any(map(self._heartbeats.was_raised, counters))

    def _worker_lives(self, token: str) -> bool:
        """Whether a worker that is not known to be of this host holds its runs. One that has not begun does not."""
        if not lease.TOKEN.fullmatch(token):
            return False
        path = lease.beat_path(self.root, token)
        data = files.read_if_there(path)
        if data is None:
            return False
        value = _object_in(data)
        with contextlib.suppress(KeyError, TypeError):
            worker = Process.read(value["worker"])
            if worker.local:
                return worker.alive
        return self._heartbeats.moves(path, value.get("beat"))

    def _forget(self, claim: Claim | None) -> None:
        """Remove the counter of a worker that is over."""
        if claim and lease.TOKEN.fullmatch(claim.token):
            lease.beat_path(self.root, claim.token).unlink(missing_ok=True)

    def close(self) -> None:
        """Give the lease back, and those of launchers and workers of this host that are over."""
        for path, role in self._counter_files():
            with contextlib.suppress(OSError, KeyError, TypeError):
                holder = Process.read(_read_object(path)[role])
                over = holder.local and not holder.alive
                if holder == self.me or over:
                    path.unlink(missing_ok=True)

    def _counter_files(self) -> Iterator[tuple[epath.Path, str]]:
        """Go through all counters, each with the role of its holder."""
        for folder, role in ((self.root / "launchers", "launcher"), (self.root / "workers", "worker")):
            if folder.exists():
                for path in list(folder.glob("*.json")):  # a list: files are removed on the way
                    yield path, role

    # --- claims

    def sweep(self, recorded: Sequence[str]) -> None:
        """Remove what launchers have left that were killed after their last run: leases, claims of recorded runs."""
        with self.lock():
            for fingerprint in recorded:
                claim = self.read(fingerprint)
                if claim and not self.alive(claim):
                    self._remove(fingerprint)
                    self._forget(claim)
        self.close()

    def mine(self, fingerprint: str) -> bool:
        """Whether this process holds the run."""
        claim = self.read(fingerprint)
        return claim is not None and claim.launcher == self.me

    def by_other(self, fingerprint: str) -> Claim | None:
        """Return the claim of somebody else who is still at it."""
        claim = self.read(fingerprint)
        if claim is None or claim.launcher == self.me:
            return None
        return claim if self.alive(claim) else None

    def take(self, fingerprints: Sequence[str], worker: int, population: str) -> str:
        """Claim runs for a worker process of ours; return the token by which it knows that they are still its own.

        Call under `lock`, after `by_other` has said that they are free. On an object store another launcher may have
        been quicker since: the worker will see that, and end.
        """
        if self._beats == 0:
            self._renew()
        token = new_token()
        self._take(fingerprints, worker, population, token)
        return token

    def take_for_ourselves(self, fingerprint: str, token: str) -> bool:
        """Claim a run that this process trains itself: its worker's counter says enough. Call under `lock`.

        False: somebody else was quicker.
        """
        return self._take([fingerprint], self.me.pid, "", token)

    def _take(self, fingerprints: Sequence[str], worker: int, population: str, token: str) -> bool:
        """Write claims until one of them is somebody else's by now; tell whether all were written."""
        process = Process.of(worker)
        for fingerprint in fingerprints:
            before = self._last_seen(fingerprint)
            claim = Claim(fingerprint, self.me, process, population, time.time(), self.lease, token)
            if not self._write(claim):
                return False
            self._forget(before)
        return True

    def _last_seen(self, fingerprint: str) -> Claim | None:
        """Return the claim that a run had when it was last looked at, which is when it was said to be free."""
        if fingerprint not in self._seen:
            return self.read(fingerprint)
        return self._seen[fingerprint][1]

    def beat(self, fingerprints: Sequence[str]) -> list[str]:
        """Say that we are still at it. Return the runs that somebody else has taken from us meanwhile."""
        self._renew()
        with self.lock():
            return [fingerprint for fingerprint in fingerprints if not self.mine(fingerprint)]

    def release(self, fingerprints: Sequence[str]) -> None:
        """Let go of what is ours among these runs."""
        with self.lock():
            for fingerprint in fingerprints:
                claim = self.read(fingerprint)
                if claim is not None and claim.launcher == self.me:
                    self._forget(claim)
                    self._remove(fingerprint)
