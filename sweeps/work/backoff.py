"""When to try again what has failed through no fault of any run, and when to end the launch for it.

What lies outside is a place that has no worker to give, or a workdir that cannot be read or written now. The runs wait;
the launch goes on as long as anything of it is being trained, and then as long as its retry budget allows.
"""

from collections.abc import Mapping
import errno
import os
import time

from experiments.cli import AgainError, InputError
from sweeps.executors.support.protocol import Failure
from sweeps.work import retries
from sweeps.work.workdir import Workdir


def disk_error(workdir: Workdir, reason: str) -> OSError:
    """Return the error of a full or read-only disk that a worker has met, for the launcher's own user."""
    code = errno.EROFS if "read-only" in reason.lower() else errno.ENOSPC
    return OSError(code, os.strerror(code), os.fspath(workdir.root))


class Backoff:
    """Spaces out tries of one thing that fails again and again."""

    def __init__(self, workdir: Workdir, budgets: Mapping[str, int], what: str):
        """`what`: what is tried, as in "no worker could be started"."""
        self._workdir = workdir
        self._budgets = budgets
        self._what = what
        self._in_a_row = 0  # failures since the last success
        self._charged = 0  # those of them while nothing was being trained
        self._not_before = 0.0  # on the monotonic clock
        self.over: Exception | None = None  # what the launch ends for, once it was tried often enough

    @property
    def due(self) -> bool:
        """Whether it may be tried now."""
        return time.monotonic() >= self._not_before

    def succeeded(self) -> None:
        """Forget what has failed before."""
        self._in_a_row = 0
        self._charged = 0

    def failed(self, failure: Failure, idle: bool) -> None:
        """Note a failure, and when to try again, or that it was tried often enough. `idle`: nothing is being trained."""
        kind = "disk" if failure.kind == "disk" else "start"
        self._in_a_row += 1
        self._charged += 1 if idle or kind == "disk" else 0
        if failure.kind == "user":
            self.over = InputError(f"{self._what}: {failure.reason}")
        elif self._charged > self._budgets[kind]:
            self.over = self._error(kind, failure.reason)
        self._not_before = time.monotonic() + retries.backoff(kind, self._in_a_row)

    def _error(self, kind: str, reason: str) -> Exception:
        """Return what to tell the user."""
        if kind == "disk":
            return disk_error(self._workdir, reason)
        return AgainError(f"{self._what} (tried {self._charged} times): {reason}; the same command goes on")
