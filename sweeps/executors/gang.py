"""One worker that is several processes: a population on all hosts of a slice (experiments/alive/hosts.py joins them).

They live and die together: a program that spans hosts cannot go on without one of them, and the others would wait for it
for ever.
"""

from collections.abc import Sequence
import os
import time

from sweeps.executors.protocol import Event, Worker

GRACE_SECONDS = 20.0  # for the others to end by themselves once one has


class Group:
    """Members in the order of their rank; the first one speaks for all. Itself a Worker."""

    def __init__(self, members: Sequence[Worker]):
        self.members, self.pid = list(members), os.getpid()
        self._codes: dict[int, int] = {}
        self._first_end: float | None = None

    def go(self, token: str = "") -> None:
        """Let all begin. The first one holds the claims."""
        for rank, member in enumerate(self.members):
            member.go(token if rank == 0 else "")

    def events(self) -> list[Event]:
        """What they have reported."""
        return [event for member in self.members for event in member.events()]

    def poll(self) -> int | None:
        """None while one of them lives. Then what went wrong first; 0 when nothing did."""
        now = time.monotonic()
        for rank, member in enumerate(self.members):
            if rank not in self._codes and (code := member.poll()) is not None:
                self._codes[rank] = code
                self._first_end = self._first_end or now
        if len(self._codes) < len(self.members):
            if self._first_end and now - self._first_end > GRACE_SECONDS:
                self.stop(force=True)
            return None
        return next((code for code in self._codes.values() if code), 0)  # in the order in which they ended

    def close(self) -> None:
        """Let go of all."""
        for member in self.members:
            member.close()

    def stop(self, force: bool = False) -> None:
        """Ask those that live to save and end, or end them."""
        for rank, member in enumerate(self.members):
            if rank not in self._codes:
                member.stop(force)
