"""One host of a worker on a Ray cluster: the actor that runs there (`Host`), and the same as its launcher sees it (`Member`)."""

import contextlib
import os
import signal
import sys
import tempfile
import time
from typing import Any

from etils import epath

from sweeps.executors.support.protocol import Event
from sweeps.executors.support.subprocess_worker import SubprocessWorker

CALL_SECONDS = 30.0  # for an actor to answer
SILENT_SECONDS = 60.0  # without an answer, after which an actor counts as lost


class Host:
    """The actor: one process on one host. Its log goes to the launcher, since no folder may be shared."""

    def __init__(self) -> None:
        self._started: SubprocessWorker | None = None
        self._bytes_read = 0  # of its log
        self._log = epath.Path(tempfile.mkdtemp(prefix="lossgrid-")) / "log"

    def address(self) -> str:
        """Return the address of this host, as others reach it."""
        import ray  # pyright: ignore[reportMissingImports]  # an optional package

        return ray.util.get_node_ip_address()  # pyright: ignore[reportAttributeAccessIssue]  # without the package

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

    def look(self) -> tuple[int | None, list[Event], bytes]:
        """Return its exit status, and its events and log since the last look."""
        status = self._worker.poll()  # before the last events are read, or some could be missed
        events = self._worker.events()
        with open(self._log, "rb") as file:
            file.seek(self._bytes_read)
            text = file.read()
        self._bytes_read += len(text)
        return status, events, text

    def stop(self, force: bool) -> None:
        """Ask it to save and end, or end it."""
        self._worker.stop(force)


class Member:
    """A Worker: one host's actor, as seen from here."""

    def __init__(self, ray: Any, actor: Any, log: epath.Path):
        """Follow `actor`. `ray` is the package, which is optional and has no types."""
        self.pid = os.getpid()
        self._ray = ray
        self._actor = actor
        self._log = log
        self._status: int | None = None
        self._events: list[Event] = []  # that nobody has asked for yet
        self._silent_since: float | None = None  # on the monotonic clock

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the actor; None when there was no answer.

        An actor that is dead, or silent for long, is noted as the worker's end.
        """
        if self._status is not None:
            return None
        ray = self._ray
        asked_at = time.monotonic()
        try:
            call = getattr(self._actor, method).remote(*arguments)
            answer = ray.get(call, timeout=CALL_SECONDS)
        except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError) as error:
            # Perhaps only the network is down, and its worker lives.
            self._silent_since = self._silent_since or asked_at
            if asked_at - self._silent_since > SILENT_SECONDS:
                self._lost(error)
            return None
        except (ray.exceptions.RayError, ConnectionError) as error:
            self._lost(error)
            return None
        self._silent_since = None
        return answer

    def _lost(self, error: Exception) -> None:
        """Note that the worker is over because its host or its actor is."""
        self.close()
        self._status = -signal.SIGKILL  # to the runs it is the same
        self._write(f"error: ray: the host or its actor was lost ({type(error).__name__})\n".encode())

    def _write(self, text: bytes) -> None:
        """Append to the log of the population."""
        if not text:
            return
        before = self._log.read_bytes() if self._log.exists() else b""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(before + text)

    def go(self, token: str = "") -> None:
        """Let it begin."""
        answer = self._call("go", token)
        if answer is None and self._status is None:
            self._lost(TimeoutError())  # whether it has heard is not known

    def _look(self) -> None:
        """Ask for all that is new."""
        found = self._call("look")
        if found:
            status, events, text = found
            self._events += events
            self._write(text)
            self._status = status

    def events(self) -> list[Event]:
        """Return what it has reported since the last call."""
        self._look()
        found = self._events
        self._events = []
        return found

    def poll(self) -> int | None:
        """Return its exit status once it is over."""
        self._look()
        return self._status

    def close(self) -> None:
        """End the actor."""
        with contextlib.suppress(Exception):  # it may be dead, and so may be the cluster
            self._ray.kill(self._actor)

    def stop(self, force: bool = False) -> None:
        """Ask it to save and end, or end it."""
        self._call("stop", force)
