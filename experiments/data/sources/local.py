"""Local text files, and those of an object store: a .txt, .jsonl or .parquet file, a folder or a glob of them.

experiments/data/reading.py says what a document is.
"""

from collections.abc import Callable
import os
import re
from typing import Any

from etils import epath

from experiments.data import reading
from experiments.data.documents import Documents, Texts, written
from experiments.data.origin import Origin
from experiments.data.sources import Found
from models.errors import InputError

PREFIX = ""


def check(name: str) -> None:
    """Check that a name that ends like a file's has an ending that can be read. Raises InputError."""
    suffix = os.path.splitext(name)[1]
    like_a_file = re.fullmatch(r"\.\w{1,8}", suffix) is not None
    if like_a_file and suffix not in reading.SUFFIXES and not os.path.isdir(name):
        raise InputError(
            f"data.corpus={name!r}: expected a file ending in {', '.join(reading.SUFFIXES)}, a folder or a glob of them"
        )


def options(name: str, text_field: str) -> dict[str, Any]:
    """Return the field that holds the text; the path is not a part of what the documents are."""
    del name
    return {"text_field": text_field}


def look(name: str) -> Found:
    """Return names, sizes and times of the files."""
    listed = [(relative, *_state(path)) for relative, path in reading.find(name)]
    return Found([reading.VERSION, listed], {"files": [entry[0] for entry in listed]})


def _state(path: epath.Path) -> tuple[int, int]:
    """Return size and time of a file, the time as exactly as its place knows it."""
    if "://" in os.fspath(path):
        stat = path.stat()
        return stat.length, int(stat.mtime or 0)
    local = os.stat(path)
    return local.st_size, local.st_mtime_ns


def obtain(name: str) -> None:
    """Fetch nothing: a file is there or not."""


def open_documents(
    origin: Origin, folder: epath.Path, text_field: str, say: Callable[[str], None]
) -> tuple[Documents, dict[str, Any]]:
    """Open the files' documents, which are first written to `folder`."""

    def texts(dropped: dict[str, int]) -> Texts:
        del dropped  # all of them are taken
        paths = [path for _, path in reading.find(origin.name)]
        index = -1
        for number, path in enumerate(paths):
            for text in reading.documents(path, text_field):
                index += 1
                yield f"{number}:{index}", text
        if index < 0:
            raise InputError(f"data.corpus: no text in {', '.join(map(str, paths[:5]))}")

    return written(origin, folder, texts, say)
