"""Write files that are never half done, and read strict JSON. Paths may be local or gs:// (etils.epath)."""

import json
import os
import re
from typing import Any, BinaryIO
import uuid

from etils import epath

from experiments.cli import InputError


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, whatever happens between.

    What is no regular file, such as /dev/null or a pipe, is written to and stays what it is.
    """
    path = epath.Path(path)
    if is_device(path):
        with open(path, "wb") as file:
            file.write(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        if "://" in os.fspath(temporary):  # object stores publish a file when it is closed
            temporary.write_bytes(data)
        else:
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
    brackets; a backslash it refuses.
    """
    found = re.search(r"[\[\]\\]", os.path.abspath(path))
    if found:
        raise InputError(f"{flag}={os.fspath(path)}: checkpoints cannot be kept under a path with {found[0]!r} in it")
    nearest = os.path.abspath(path)
    while not os.path.exists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest):
        raise InputError(f"{flag}={os.fspath(path)}: {nearest} is a file; expected a folder")


def append(path: epath.PathLike) -> BinaryIO:
    """Open a local file to append to, unbuffered. Raises OSError for a link, which could lead out of a workdir."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    return open(path, "ab", buffering=0, opener=opener)


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


def read_json(path: epath.PathLike) -> Any:
    """Read a JSON file. Raises OSError or ValueError."""
    return parse(epath.Path(path).read_bytes())
