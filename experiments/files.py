"""Writing that is never half done. Paths may be local or gs:// (etils.epath)."""

import json
import os
from typing import Any
import uuid

from etils import epath


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, whatever happens between."""
    path = epath.Path(path)
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


def write_json(path: epath.PathLike, value: Any) -> None:
    """Write strict JSON (no NaN, no Infinity) atomically."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_lines(path: epath.PathLike) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; none when it does not exist. A line that is half written is left out."""
    out = []
    try:
        lines = epath.Path(path).read_text().splitlines()
    except (OSError, ValueError):
        return []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            out.append(value)
    return out


def read_json(path: epath.PathLike) -> Any:
    """A JSON file. Raises OSError or ValueError."""
    return json.loads(epath.Path(path).read_text())
