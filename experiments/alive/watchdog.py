"""End a process that hangs, with the stacks of all its threads, so that whoever started it can start it again.

Work is marked by phase ("step", "evaluate", "save"); a phase is late when it takes `factor` times its longest sound
instance, the first one included, and never before `floor` seconds. Before there is one it compiles, and has
FIRST_SECONDS. What raised an error says nothing of how long sound work takes. Time is counted in ticks of
the watching thread: while the whole process is stopped (Ctrl-Z, a suspended machine) no time passes, and no clock can
jump. A call that never lets go of Python's lock stops the ticks too: the launcher then misses the signs of life of
`breathe` and kills the process.
"""

from collections.abc import Callable, Iterator
import contextlib
import faulthandler
import os
import sys
import threading
import time
from typing import Any

from experiments.cli import EXIT_AGAIN

FIRST_SECONDS = 3600.0
ALIVE_SECONDS = 15.0
STDERR = 2


def _die(text: str) -> None:
    """Write all stacks and one line to stderr, and end at once: the main thread cannot be asked."""
    try:
        # Of the process: sys.stderr may be an object without a file, as in a notebook.
        faulthandler.dump_traceback(STDERR, all_threads=True)
        print(f"error: stalled: {text}", file=sys.stderr, flush=True)
    finally:
        os._exit(EXIT_AGAIN)


class Watchdog:
    """Watches one thread's work. Without a factor it never bites."""

    def __init__(self, factor: float | None, floor: float, late: Callable[[str], None] = _die):
        self.factor = factor
        self.floor = floor
        self._late = late
        self._longest: dict[str, float] = {}
        self._phase: tuple[str, str] | None = None  # what is being done, and its description
        self._spent = 0.0  # seconds of it, in ticks
        self._lock = threading.Lock()  # of the phase and what is spent of it
        self._thread: threading.Thread | None = None
        self._tick = max(0.01, min(1.0, floor / 10))
        self._over = threading.Event()

    def limit(self, phase: str) -> float:
        """Return the seconds that a phase may take now."""
        longest = self._longest.get(phase)
        if longest is None:
            return max(FIRST_SECONDS, self.floor)
        return max(self.floor, (self.factor or 0) * longest)

    @contextlib.contextmanager
    def watch(self, phase: str, what: str = "") -> Iterator[None]:
        """Watch work that shall not hang. `what` says in the message what was being done."""
        if self.factor is None:
            yield
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            self._thread.start()
        with self._lock:
            self._phase = (phase, what or phase)
            self._spent = 0.0
        start = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._phase = None
        seconds = time.monotonic() - start
        self._longest[phase] = max(self._longest.get(phase, 0.0), seconds)

    def close(self) -> None:
        """End the watching."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        """Watch how long the phase at hand takes, and end the process when it takes too long."""
        while not self._over.wait(self._tick):
            with self._lock:
                if self._phase is None:
                    continue
                self._spent += self._tick
                phase, what = self._phase
                limit = self.limit(phase)
                if self._spent <= limit:
                    continue
                self._spent = 0.0
            longest = self._longest.get(phase, 0)
            self._late(f"{what} takes more than {limit:.3g} s; the longest before took {longest:.3g}")


def breathe(report: Callable[[dict[str, Any]], None], seconds: float = ALIVE_SECONDS) -> None:
    """Report an `alive` event every so often, from a thread that ends with the process."""

    def run() -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more
            while True:
                report({"event": "alive"})
                time.sleep(seconds)

    threading.Thread(target=run, name="signs of life", daemon=True).start()
