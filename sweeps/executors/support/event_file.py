"""Read the events of a worker that is elsewhere from a file that grows: what is new, never again what was read."""

from etils import epath

from sweeps.executors.support.protocol import Event
from sweeps.executors.support.subprocess_worker import parse_event


class EventFile:
    """A file to which a worker appends events, one JSON object a line; other lines are left out."""

    def __init__(self, path: epath.Path):
        self.path = path
        self._bytes_read = 0  # whole lines

    def read(self) -> list[Event]:
        """Return the events since the last call. Raises OSError; a file that is not there yet has none."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._bytes_read)
                new = file.read()
        except FileNotFoundError:
            return []
        whole_lines = new[: new.rfind(b"\n") + 1]
        self._bytes_read += len(whole_lines)
        found = []
        for line in whole_lines.splitlines():
            event = parse_event(line)
            if event is not None:
                found.append(event)
        return found
