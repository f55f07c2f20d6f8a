"""One worker that is several processes: a population on all hosts of a slice (experiments/alive/hosts.py joins them).

They live and die together: a program that spans hosts cannot go on without one of them, and the others would wait for it
for ever.
"""

from collections.abc import Sequence
import os
import time

from sweeps.executors.support.protocol import End, Event, Failure, Worker

GRACE_SECONDS = 20.0  # for the others to end by themselves once one has


class Gang:
    """Members in the order of their rank; the first one speaks for all. Itself a Worker."""

    def __init__(self, members: Sequence[Worker]):
        self.members = list(members)
        self.pid = os.getpid()
        self._ends: dict[int, int | Failure] = {}  # by rank, in the order in which they ended
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

    def poll(self) -> End:
        """Return None while one of them lives; then the end of the one that went wrong first, 0 when none did."""
        self._note_ends()
        if len(self._ends) == len(self.members):
            return next((end for end in self._ends.values() if end != 0), 0)
        if self._first_end and time.monotonic() - self._first_end > GRACE_SECONDS:
            self.stop(force=True)
        return None

    def _note_ends(self) -> None:
        """Ask those that lived at the last look whether they still do."""
        for rank, member in enumerate(self.members):
            if rank in self._ends:
                continue
            end = member.poll()
            if end is not None:
                self._ends[rank] = end
                self._first_end = self._first_end or time.monotonic()

    def close(self) -> None:
        """Let go of all."""
        for member in self.members:
            member.close()

    def stop(self, force: bool = False) -> None:
        """Ask those that live to save and end, or end them."""
        for rank, member in enumerate(self.members):
            if rank not in self._ends:
                member.stop(force)
