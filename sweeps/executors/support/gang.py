"""One worker that is several processes: a population on all hosts of a slice (experiments/alive/hosts.py joins them).

They live and die together: a program that spans hosts cannot go on without one of them, and the others would wait for it
for ever.
"""

from collections.abc import Sequence
import os
import time

from sweeps.executors.support.protocol import Event, Worker

GRACE_SECONDS = 20.0  # for the others to end by themselves once one has


class Gang:
    """Members in the order of their rank; the first one speaks for all. Itself a Worker."""

    def __init__(self, members: Sequence[Worker]):
        self.members = list(members)
        self.pid = os.getpid()
        self._statuses: dict[int, int] = {}  # exit status by rank, in the order in which they ended
        self._first_end: float | None = None  # on the monotonic clock

    def go(self, token: str = "") -> None:
        """Let all begin. The first one holds the claims."""
        for rank, member in enumerate(self.members):
            member.go(token if rank == 0 else "")

    def events(self) -> list[Event]:
        """Return what all have reported."""
        found = []
        for member in self.members:
            found += member.events()
        return found

    def poll(self) -> int | None:
        """Return None while one of them lives; then the exit status of what went wrong first, 0 when nothing did."""
        self._note_ends()
        if len(self._statuses) == len(self.members):
            return next((status for status in self._statuses.values() if status != 0), 0)
        if self._first_end and time.monotonic() - self._first_end > GRACE_SECONDS:
            self.stop(force=True)
        return None

    def _note_ends(self) -> None:
        """Ask those that lived at the last look whether they still do."""
        for rank, member in enumerate(self.members):
            if rank in self._statuses:
                continue
            status = member.poll()
            if status is not None:
                self._statuses[rank] = status
                self._first_end = self._first_end or time.monotonic()

    def close(self) -> None:
        """Let go of all."""
        for member in self.members:
            member.close()

    def stop(self, force: bool = False) -> None:
        """Ask those that live to save and end, or end them."""
        for rank, member in enumerate(self.members):
            if rank not in self._statuses:
                member.stop(force)
