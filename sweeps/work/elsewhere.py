"""Runs that another launcher trains: watched until nobody is at them any more."""

import time

from sweeps.work.workdir import Workdir

LOOK_SECONDS = 2.0  # between two looks
LOOK_SHARE = 0.02  # of the launcher's time, at most, is spent on looks


class Elsewhere:
    """The runs that another launcher is at, as long as it is."""

    def __init__(self, workdir: Workdir):
        self._workdir = workdir
        self._fingerprints: dict[str, None] = {}  # in the order in which they came
        self._look_at = 0.0  # the next one, on the monotonic clock

    def __len__(self) -> int:
        return len(self._fingerprints)

    def add(self, fingerprint: str) -> None:
        """Watch a run that somebody else has claimed."""
        self._fingerprints[fingerprint] = None

    def look(self) -> list[str]:
        """Return those that nobody is at any more; none when the last look was just now.

        Raises OSError where the workdir cannot be read now.
        """
        began = time.monotonic()
        if not self._fingerprints or began < self._look_at:
            return []
        self._look_at = began + LOOK_SECONDS
        left = [name for name in self._fingerprints if self._workdir.claims.by_other(name) is None]
        took = time.monotonic() - began
        self._look_at += took / LOOK_SHARE
        return left

    def remove(self, fingerprint: str) -> None:
        """Watch a run no longer."""
        del self._fingerprints[fingerprint]
