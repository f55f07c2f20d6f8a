"""Write files that are never half done, and read strict JSON. Paths may be local or gs:// (experiments/objects)."""

from collections.abc import Iterator
import contextlib
import errno
import io
import json
import os
import re
import tempfile
from typing import Any, BinaryIO
import uuid

from etils import epath

from experiments.cli import InputError
from experiments.objects.bucket import is_remote
from experiments.objects.path import ObjectPath


def as_path(path: epath.PathLike) -> epath.Path:
    """Return a path on a disk or in an object store."""
    return epath.Path(path)


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, whatever happens between.

    What is no regular file, such as /dev/null or a pipe, is written to and stays what it is.
    """
    path = epath.Path(path)
    if is_remote(path):  # whole, or not at all
        path.write_bytes(data)
        return
    if is_device(path):
        with open(path, "wb") as file:
            file.write(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        if temporary.exists():
            temporary.unlink()


def is_device(path: epath.PathLike) -> bool:
    """Tell whether there is something at a path that is neither a regular file nor a folder."""
    name = os.fspath(path)
    return os.path.exists(name) and not os.path.isfile(name) and not os.path.isdir(name)


def write_json(path: epath.PathLike, value: Any) -> None:
    """Write strict JSON (no NaN, no Infinity) atomically."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def check_folder(path: epath.PathLike, flag: str = "--workdir") -> None:
    """Check that a folder can be made where it is not, and that checkpoints would not be lost in it. Raises InputError.

    Orbax (0.12.8) looks for what it has saved by a pattern that has the path in it, and finds nothing under a path with
    brackets; a backslash it refuses. Of a bucket it is checked that it is there.
    """
    place = os.fspath(path) if is_remote(path) else os.path.abspath(path)
    found = re.search(r"[\[\]\\]", place)
    if found:
        raise InputError(f"{flag}={os.fspath(path)}: checkpoints cannot be kept under a path with {found[0]!r} in it")
    if is_remote(path):
        ObjectPath(path).is_dir()  # raises where the bucket is not there, or not ours
        return
    nearest = os.path.abspath(path)
    while not os.path.exists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest):
        raise InputError(f"{flag}={os.fspath(path)}: {nearest} is a file; expected a folder")


def append(path: epath.PathLike, new: bool = False) -> BinaryIO:
    """Open a file to append to, unbuffered. `new`: a file that is not there yet (on a disk: objects have versions for that).

    What is appended to an object is kept on this machine until the file is closed. Raises OSError for a link, which could
    lead out of a workdir, and FileExistsError for a file that is to be new.
    """
    if is_remote(path):
        return _LaterAppended(ObjectPath(path))

    def opener(name: str, flags: int) -> int:
        exclusive = os.O_EXCL if new else 0
        return os.open(name, flags | exclusive | getattr(os, "O_NOFOLLOW", 0), 0o666)

    return open(path, "ab", buffering=0, opener=opener)


class _LaterAppended(io.FileIO):
    """A local file whose content becomes the end of an object when it is closed. It has a descriptor, as files have."""

    def __init__(self, target: ObjectPath):
        descriptor, name = tempfile.mkstemp(prefix="lossgrid-", suffix=f"-{target.name}")
        os.unlink(name)
        super().__init__(descriptor, "r+")
        self._target = target

    def close(self) -> None:
        """Write the object, where there is something to add to it."""
        if not self.closed:
            self.seek(0)
            added = self.readall()
            if added:
                before = read_if_there(self._target) or b""
                self._target.write_bytes(before + added)
        super().close()


INTEGERS = range(-(2**63), 2**63)  # what tables hold


def _integer(text: str) -> int:
    if len(text) > 20 or int(text) not in INTEGERS:
        raise ValueError(f"{text[:20]}… is larger than any count")
    return int(text)


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def parse(text: str | bytes) -> Any:
    """Parse a JSON value from a file that anybody may have written.

    Raises ValueError, and nothing else, for what is none: bytes that are no UTF-8, brackets nested without end, NaN,
    integers that no table holds, halves of characters.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value = json.loads(text, parse_int=_integer, parse_constant=_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None
    return value


def read_lines(path: epath.PathLike) -> list[dict[str, Any]]:
    """Read the objects of a JSON-lines file; none when it does not exist. A line that is half written is left out."""
    rows = []
    try:
        lines = epath.Path(path).read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            value = parse(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            rows.append(value)
    return rows


@contextlib.contextmanager
def absence_allowed() -> Iterator[None]:
    """End a block quietly where there is no file: nothing, a folder in its place, or links that go in a circle.

    Any other OSError is the disk's, says nothing about what is there, and is raised.
    """
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise


def read_if_there(path: epath.PathLike) -> bytes | None:
    """Return what a file holds; None where there is none. Raises OSError where the disk does not answer."""
    with absence_allowed():
        return epath.Path(path).read_bytes()
    return None


def read_json(path: epath.PathLike) -> Any:
    """Read a JSON file. Raises OSError or ValueError."""
    return parse(epath.Path(path).read_bytes())
