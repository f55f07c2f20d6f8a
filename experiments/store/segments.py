"""The log of a run as numbered segments: metrics/000001.jsonl, metrics/000002.jsonl, …, one JSON object a line.

They are read in order. On a disk a row is there as soon as it is appended, and every start of a run begins a segment. An
object cannot be appended to: there, rows are published together every few seconds, and before each checkpoint. Who
resumes a run cuts its segments back to the restored step first. What was written before there were segments, one
metrics.jsonl, is read as well, and becomes the first segment when its run is resumed.
"""

from collections.abc import Callable, Iterator
import dataclasses
import math
import os
import re
import sys
import time
from typing import Any, BinaryIO

from etils import epath

from experiments import files
from experiments.cli import AgainError
from experiments.objects.bucket import ABSENT, Conflict, is_remote
from experiments.objects.path import ObjectPath

FOLDER = "metrics"
OLD_FILE = "metrics.jsonl"
PUBLISH_SECONDS = 15.0  # between two writes of an object
FULL_BYTES = 1 << 18  # of an object, after which the next one begins: each write has all of it
_NAME = re.compile(r"(\d{6,})\.jsonl")

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Segment:
    """A segment as it lies there: its number, its size in bytes, and what changes when it is not the same file any more."""

    path: epath.Path
    number: int
    size: int
    version: str


def find(directory: epath.Path) -> list[Segment]:
    """Return the segments of the run of a folder in order, in one listing; the old file where there are none."""
    found = []
    for path, size, version in _listed(directory / FOLDER):
        name = _NAME.fullmatch(path.name)
        if name:
            found.append(Segment(path, int(name[1]), size, version))
    if not found:
        return _old_file(directory)
    return sorted(found, key=_number)


def _number(segment: Segment) -> int:
    return segment.number


def _listed(folder: epath.Path) -> Iterator[tuple[epath.Path, int, str]]:
    """Yield the files of a folder, with size and version."""
    if isinstance(folder, ObjectPath):
        yield from folder.entries()
        return
    with files.absence_allowed(), os.scandir(folder) as entries:
        for entry in entries:
            if not os.path.isfile(entry.path):  # a folder, or links that go in a circle
                continue
            seen = entry.stat()
            yield epath.Path(entry.path), seen.st_size, str(seen.st_ino)


def _old_file(directory: epath.Path) -> list[Segment]:
    """Return the log of before there were segments, if there is one."""
    path = directory / OLD_FILE
    with files.absence_allowed():
        if not path.is_dir():
            return [Segment(path, 0, path.stat().length, "")]
    return []


# --- reading


def read(directory: epath.PathLike) -> list[Row]:
    """Read the log of the run of a folder; no rows where it has none. Lines that cannot be read are left out."""
    return Reader(epath.Path(directory)).read()


@dataclasses.dataclass
class _Part:
    """What is known of a segment: its version, how many of its bytes were read, and the rows in them."""

    version: str
    seen: int = 0
    rows: list[Row] = dataclasses.field(default_factory=list)


class Reader:
    """Reads the log of a run again and again: of a segment that has grown only what is new, of another one nothing."""

    def __init__(self, directory: epath.Path):
        self._directory = directory
        self._parts: dict[str, _Part] = {}  # by the segment's path

    def read(self) -> list[Row]:
        """Return all rows that there are by now."""
        parts: dict[str, _Part] = {}
        rows: list[Row] = []
        for segment in find(self._directory):
            name = os.fspath(segment.path)
            part = self._parts.get(name)
            if part is None or part.version != segment.version or part.seen > segment.size:
                part = _Part(segment.version)
            if part.seen < segment.size:
                _read_on(segment.path, part)
            parts[name] = part
            rows += part.rows
        self._parts = parts
        return rows


def _read_on(path: epath.Path, part: _Part) -> None:
    """Read what a segment has behind what was seen of it, up to its last whole line."""
    try:
        with path.open("rb") as file:
            file.seek(part.seen)
            data = file.read()
    except FileNotFoundError:  # cut away since it was listed
        return
    end = data.rfind(b"\n") + 1
    for _, row in _rows(data[:end]):
        part.rows.append(row)
    part.seen += end


def _rows(data: bytes, broken: Callable[[int], None] | None = None) -> Iterator[tuple[bytes, Row]]:
    """Yield the lines that are rows, with the rows. `broken` is told the numbers of whole lines that are none."""
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        try:
            row = files.parse(line)
            if not isinstance(row["step"], int | float):
                raise TypeError("step")
        except (ValueError, KeyError, TypeError):
            # The last line of a process that was killed has no end: that is no damage.
            if broken and line.endswith(b"\n"):
                broken(number)
            continue
        yield line, row


# --- cutting back


def cut(directory: epath.Path, step: int) -> tuple[int, list[Row]]:
    """Forget the rows after a step, and half-written lines; return the number of the next segment, and the rows left.

    The newest rows go first, so that what is left when this is interrupted is cut the next time. A line in the middle
    that cannot be read is left out, and said so. The last segment is written anew in any case: who was taken for dead, and
    still writes it, finds another version there (an object), or adds to a file that has no name any more.
    """
    found = find(directory)
    kept: list[Row] = []
    last = found[-1].number if found else 0
    for segment in reversed(found):
        rows = _cut_segment(directory, segment, step, segment.number == last)
        kept = rows + kept
    return last + 1, kept


def _cut_segment(directory: epath.Path, segment: Segment, step: int, is_last: bool) -> list[Row]:
    """Forget the rows of one segment after a step; return the rows left."""
    path = segment.path

    def say(number: int) -> None:
        print(f"{path}: line {number} cannot be read and is left out", file=sys.stderr)

    data = path.read_bytes()
    lines = []
    rows = []
    for line, row in _rows(data, say):
        if row["step"] <= step:
            lines.append(line.rstrip() + b"\n")
            rows.append(row)
    content = b"".join(lines)
    if path.name == OLD_FILE:
        files.write_bytes(_path(directory, 0), content)
        path.unlink()
    elif content != data or is_last:
        files.write_bytes(path, content)
    return rows


def _path(directory: epath.Path, number: int) -> epath.Path:
    return directory / FOLDER / f"{number:06}.jsonl"


# --- writing


def _written_by_another(path: epath.Path) -> AgainError:
    return AgainError(f"{path} was written by another process, which trains this run now")


class DiskWriter:
    """Appends to a new segment on a disk: a row is there at once. Raises AgainError where somebody else has begun it."""

    def __init__(self, directory: epath.Path, number: int):
        self._path = _path(directory, number)
        self._file: BinaryIO | None = None

    def append(self, line: bytes) -> None:
        """Write one line."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._begin()
        written = 0
        while written < len(line):  # on a disk that is full only a part may be taken, before the error comes
            written += self._file.write(line[written:])

    def _begin(self) -> BinaryIO:
        try:
            return files.append(self._path, new=True)
        except FileExistsError as error:
            if self._path.is_file():
                raise _written_by_another(self._path) from error
            raise

    def publish(self) -> None:
        """Do nothing: all is there."""

    def close(self) -> None:
        """Close the segment."""
        if self._file is not None:
            self._file.close()
            self._file = None


class ObjectWriter:
    """Collects rows and publishes them as objects. Raises AgainError where somebody else writes the same log."""

    def __init__(self, directory: epath.Path, number: int):
        self._directory = directory
        self._number = number
        self._lines: list[bytes] = []  # of the segment
        self._published = 0  # of these lines
        self._version = ABSENT
        self._published_at = -math.inf  # the first row is published at once

    def append(self, line: bytes) -> None:
        """Keep one line, and publish all when it is time."""
        self._lines.append(line)
        if time.monotonic() - self._published_at >= PUBLISH_SECONDS:
            self.publish()

    def publish(self) -> None:
        """Write the segment, if there is anything new in it."""
        self._published_at = time.monotonic()
        if self._published == len(self._lines):
            return
        path = ObjectPath(_path(self._directory, self._number))
        content = b"".join(self._lines)
        try:
            self._version = path.write_version(content, self._version)
        except Conflict as error:
            raise _written_by_another(path) from error
        self._published = len(self._lines)
        if len(content) >= FULL_BYTES:
            self._number += 1
            self._lines = []
            self._published = 0
            self._version = ABSENT

    def close(self) -> None:
        """Publish what is left."""
        self.publish()


def writer(directory: epath.Path, number: int) -> DiskWriter | ObjectWriter:
    """Return what writes the log of a run from a segment on."""
    return ObjectWriter(directory, number) if is_remote(directory) else DiskWriter(directory, number)
