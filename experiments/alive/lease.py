"""Hold a worker's runs as its own for as long as it trains them. experiments/alive/claims.py hands runs out.

A launcher writes a claim beside each run, with a token, and tells its worker the token as it lets it begin
(LOSSGRID_CLAIM). From then on the worker holds the claim itself. It raises a counter in workers/<token>.json as long as
it lives, so that whoever comes after the death of its launcher waits for what it is saving. And it looks whether the
claims still bear its token before it writes anything: one that was taken for dead (stopped for long, cut off from its
launcher) and comes back finds another token, or none, and ends. It takes no lock to write, or a worker that hangs could
keep its own launcher from killing it; what may slip between the look and the write is one save of the same bits.
"""

import atexit
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import os
import re
import socket
import subprocess
import threading
from typing import Any

from etils import epath

from experiments import files
from experiments.alive.looks import Looks
from experiments.cli import AgainError, InputError
from experiments.objects.bucket import is_remote

SCHEMA = 1
TOKEN = re.compile(r"[0-9a-f]{1,32}")
VARIABLE = "LOSSGRID_CLAIM"
BEAT_SECONDS = 5.0
# Between two looks at the claims while nothing is saved.
LOOK_SECONDS_LOCAL = 3.0
OBJECT_STORE_SECONDS = 15.0  # between two beats, and between two looks, where each is a request


class Lost(AgainError):
    """Somebody else has the runs now; nothing more may be written."""


@functools.cache
def _boot() -> str:
    """Return what tells one start of this host from the next: a process id of before is not one of now."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        asked = ["sysctl", "-n", "kern.bootsessionuuid"]  # macOS
        with contextlib.suppress(OSError):
            return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        return ""


@functools.cache
def _space() -> str:
    """Return what tells containers of one host apart: the same process id is another process in each."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def started(pid: int) -> str | None:
    """Return when a process of this host began, in a form that only serves to compare. None when there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            text = file.read()
        fields = text.rpartition(")")[2].split()
        state = fields[0]
        return None if state in "ZX" else fields[19]  # a zombie is over
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
        """Return a process of this host."""
        return cls(socket.gethostname(), _boot(), pid, started(pid), _space())

    @classmethod
    def read(cls, value: Any) -> "Process":
        """Read a process from a file's value. Raises KeyError or TypeError for what is none: its fields become paths."""
        out = cls(**value)
        texts = (out.host, out.boot, out.space, out.started or "")
        if type(out.pid) is not int or not all(isinstance(text, str) for text in texts):
            raise TypeError("expected a process")
        return out

    @property
    def local(self) -> bool:
        """Tell whether it is of this host as it runs now, where its process id means something to us.

        A name is not enough: two machines may both be called localhost. Of one that was started anew, or is another, the
        counters tell what lives.
        """
        return self.host == socket.gethostname() and self.boot == _boot() and self.space == _space()

    @property
    def alive(self) -> bool:
        """Tell whether it still runs; only for one of this host."""
        return self.boot == _boot() and self.started is not None and started(self.pid) == self.started


@contextlib.contextmanager
def lock(root: epath.Path) -> Iterator[None]:
    """Keep everybody else on this file system from reading or writing claims of a workdir under its lock."""
    if is_remote(root) or os.name != "posix":
        yield
        return
    import fcntl

    with open(root / ".lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def claim_path(directory: epath.Path) -> epath.Path:
    """Return the path of the claim of the run of a folder."""
    return directory / "claim.json"


def beat_path(root: epath.Path, token: str) -> epath.Path:
    """Return the path of the counter of the worker with a token. Raises ValueError for what is no token."""
    if not TOKEN.fullmatch(token):
        raise ValueError(f"token={token!r}; expected hexadecimal digits")
    return root / "workers" / f"{token}.json"


class Lease:
    """What this process holds of the runs of a workdir, by a token."""

    def __init__(self, root: epath.Path, token: str):
        self.root = root
        self.token = token
        self._path = beat_path(root, token)
        self._beats = 0
        remote = is_remote(root)
        self._looks = Looks(OBJECT_STORE_SECONDS if remote else LOOK_SECONDS_LOCAL)  # at the claims
        self._beat_seconds = OBJECT_STORE_SECONDS if remote else BEAT_SECONDS
        self._writing = threading.Lock()
        self._over = threading.Event()

    def begin(self, directories: Sequence[epath.Path]) -> None:
        """Hold the runs in these folders from now on, until the process ends. Raises Lost when they are another's."""
        with lock(self.root):  # whoever takes them over looks for our counter under it, or after our first look
            self._beat()
            if not self.holds(directories):
                self._path.unlink(missing_ok=True)
                raise Lost("another launcher has taken these runs before they began")
        atexit.register(self.end)  # after all that still saves has ended
        threading.Thread(target=self._run, name="lease", daemon=True).start()

    def _beat(self) -> None:
        self._beats += 1
        me = dataclasses.asdict(Process.of(os.getpid()))
        files.write_json(self._path, {"schema": SCHEMA, "beat": self._beats, "worker": me})

    def _run(self) -> None:
        """Beat until the lease is given up."""
        while not self._over.wait(self._beat_seconds):
            with contextlib.suppress(OSError), self._writing:  # a full disk is for whoever has something to save
                if not self._over.is_set():
                    self._beat()

    def holds(self, directories: Sequence[epath.Path]) -> bool:
        """Tell whether the claims on the runs of these folders still bear our token. Raises OSError on a broken disk."""
        return all(self._bears(claim_path(directory)) for directory in directories)

    def _bears(self, path: epath.Path) -> bool:
        """Whether the claim in a file is ours: it bears our token."""
        data = files.read_if_there(path)
        if data is None:
            return False
        try:
            return files.parse(data)["token"] == self.token
        except (ValueError, KeyError, TypeError):
            return False

    def due(self) -> bool:
        """Tell whether it is time for a look at all runs; True once every few seconds."""
        return self._looks.due()

    def end(self) -> None:
        """Let go of the runs."""
        self._over.set()
        atexit.unregister(self.end)
        with contextlib.suppress(OSError), self._writing:
            self._path.unlink(missing_ok=True)


def given(root: epath.Path) -> Lease | None:
    """Return the lease that this process was started with; None when nobody has claimed its runs.

    Raises InputError for a token that cannot be one.
    """
    token = os.environ.pop(VARIABLE, None)  # for this process alone
    if not token:
        return None
    try:
        return Lease(root, token)
    except ValueError as error:
        raise InputError(f"{VARIABLE}: {error}") from error
