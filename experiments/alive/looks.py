"""Space out looks at files that others change: each costs a reading, on an object store a request."""

import math
import time


class Looks:
    """Spaces out looks for a request, where each costs something."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._last = -math.inf

    def due(self) -> bool:
        """Tell whether it is time to look; True once every so many seconds."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
