"""One host of a worker on a Ray cluster: the actor that runs there (`Host`), and the same as its launcher sees it (`Member`).

Nothing here waits for an answer. A call that is under way is looked at again with the next poll.
"""

import contextlib
import os
import socket
import sys
import tempfile
import time
from typing import Any

from etils import epath

from experiments import files
from sweeps.executors.support.protocol import End, Event, Failure
from sweeps.executors.support.subprocess_worker import SubprocessWorker

LOG_BYTES = 1 << 20  # of a log that travel with one answer
FORCE_SECONDS = 15.0  # for a worker that is to end at once, before its actor is ended instead


class Host:
    """The actor: one process on one host. Its log goes to the launcher, since no folder may be shared."""

    def __init__(self) -> None:
        self._started: SubprocessWorker | None = None
        self._events: list[Event] = []  # that the launcher is not known to have heard
        self._events_heard = 0  # before them
        self._log = epath.Path(tempfile.mkdtemp(prefix="lossgrid-")) / "log"

    def meeting_point(self, port: int) -> str:
        """Return HOST:PORT where the hosts of a gang can meet on this one; `port` 0: one that is free now."""
        import ray  # pyright: ignore[reportMissingImports]  # an optional package

        address: str = ray.util.get_node_ip_address()  # pyright: ignore[reportAttributeAccessIssue]
        return f"{address}:{port or _free_port()}"

    def start(self, arguments: list[str]) -> None:
        """Start the worker; it waits for `go`. The interpreter is this actor's."""
        self._started = SubprocessWorker([sys.executable, *arguments], None, {}, self._log)

    @property
    def _worker(self) -> SubprocessWorker:
        assert self._started
        return self._started

    def go(self, token: str) -> bool:
        """Let it begin."""
        self._worker.go(token)
        return True

    def look(self, events_heard: int, bytes_heard: int) -> tuple[int | None, list[Event], bytes]:
        """Return its exit status, and its events and log but for so many that the launcher has: an answer may get lost."""
        status = self._worker.poll()  # before the last events are read, or some could be missed
        self._events += self._worker.events()
        del self._events[: events_heard - self._events_heard]
        self._events_heard = events_heard
        with open(self._log, "rb") as file:
            file.seek(bytes_heard)
            text = file.read(LOG_BYTES)
            rest = file.read(1)
        if rest:  # it is over when all that it has said is on its way
            status = None
        return status, self._events, text

    def stop(self, force: bool) -> None:
        """Ask it to save and end, or end it."""
        self._worker.stop(force)


def _free_port() -> int:
    """Return a TCP port of this host that nobody listens on."""
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]


class Member:
    """A Worker: one host's actor, as seen from here."""

    def __init__(self, ray: Any, actor: Any, log: epath.Path, silent_seconds: float):
        """Follow `actor`. `ray` is the package, which is optional and has no types.

        `silent_seconds`: without an answer for so long, the actor counts as lost.
        """
        self.pid = os.getpid()
        self._ray = ray
        self._actor = actor
        self._log = files.append(log)
        self._silent_seconds = silent_seconds
        self._end: End = None
        self._events: list[Event] = []  # that nobody has asked for yet
        self._events_heard = 0
        self._bytes_heard = 0
        # Calls that are under way.
        self._look: Any = None
        self._going: Any = None
        self._stopping: Any = None
        self._answered_at = time.monotonic()
        self._forced_at: float | None = None

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the actor; its answer is to come. None when it cannot even be asked."""
        ray = self._ray
        try:
            return getattr(self._actor, method).remote(*arguments)
        except (ray.exceptions.RayError, ConnectionError) as error:
            self._lost(type(error).__name__)
            return None

    def _answer(self, call: Any) -> tuple[bool, Any]:
        """Return whether a call is over, and its answer."""
        ray = self._ray
        try:
            ready, _ = ray.wait([call], timeout=0)
            if not ready:
                return False, None
            answer = ray.get(call, timeout=0)
        except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError):
            return True, None  # perhaps only the network is down, and its worker lives
        except (ray.exceptions.RayError, ConnectionError) as error:
            self._lost(type(error).__name__)
            return True, None
        self._answered_at = time.monotonic()
        return True, answer

    def _lost(self, reason: str) -> None:
        """Note that the worker is over because its host or its actor is."""
        if self._end is not None:
            return
        self._end = Failure("node", f"ray: the host or its actor was lost ({reason})")
        self._log.write(f"error: {self._end.reason}\n".encode())
        self._kill_actor()

    def _kill_actor(self) -> None:
        with contextlib.suppress(Exception):  # it may be dead, and so may be the cluster
            self._ray.kill(self._actor)

    def go(self, token: str = "") -> None:
        """Let it begin."""
        self._going = self._call("go", token)

    def _hear(self) -> None:
        """Take in what has been answered, and ask for all that is new."""
        if self._going is not None:
            is_over, heard = self._answer(self._going)
            if is_over:
                self._going = None
                if not heard:  # or it would wait for ever
                    self._lost("it could not be told to begin")
        if self._look is None:
            self._look = self._call("look", self._events_heard, self._bytes_heard)
        if self._look is None or self._end is not None:
            return
        is_over, news = self._answer(self._look)
        if is_over:
            self._look = None
        if news is not None:
            self._note(*news)
        elif time.monotonic() - self._answered_at > self._silent_seconds:
            self._lost(f"no answer for {self._silent_seconds:.0f} s")

    def _note(self, status: int | None, events: list[Event], text: bytes) -> None:
        """Take in what a look has found."""
        self._events += events
        self._events_heard += len(events)
        self._bytes_heard += len(text)
        self._log.write(text)
        self._end = status

    def events(self) -> list[Event]:
        """Return what it has reported since the last call."""
        found = self._events
        self._events = []
        return found

    def poll(self) -> End:
        """Return its end once it is over."""
        if self._end is None:
            self._hear()
        if self._forced_at and time.monotonic() - self._forced_at > FORCE_SECONDS:
            self._lost("it was to end at once, and nobody says that it has")
        return self._end

    def close(self) -> None:
        """End the actor, and let go of its log."""
        self._kill_actor()
        self._log.close()

    def stop(self, force: bool = False) -> None:
        """Ask it to save and end, or end it."""
        if self._forced_at:
            return
        if force:
            self._forced_at = time.monotonic()
        self._stopping = self._call("stop", force)  # kept, or Ray could forget the call
