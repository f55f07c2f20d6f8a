"""Local text files, and those of an object store: a file, a folder or a glob of them.

experiments/data/reading.py says which files are read and what a document is.
"""

from collections.abc import Callable, Iterator
import os
import re
from typing import Any

from etils import epath

from experiments.data import reading
from experiments.data.documents import Documents, Piece, written
from experiments.data.opening import COMPRESSED
from experiments.data.origin import Origin
from experiments.data.sources import Found
from models.errors import InputError

PREFIX = ""
DEDUPLICATES = True
IN_PIECES = "pieces stay together"  # they were split one by one once: such corpora are prepared anew


def check(name: str) -> None:
    """Check that a name that ends like a file's has an ending that can be read. Raises InputError."""
    suffix = os.path.splitext(name)[1]
    like_a_file = re.fullmatch(r"\.\w{1,8}", suffix) is not None
    if like_a_file and not reading.kind_of(name) and not os.path.isdir(name):
        endings = ", ".join((*reading.SEARCHED, *reading.NAMED))
        raise InputError(
            f"data.corpus={name!r}: expected a file ending in {endings} (the texts among them also with"
            f" {' or '.join(COMPRESSED)} behind), a folder or a glob of them"
        )


def options(name: str, text_field: str) -> dict[str, Any]:
    """Return the field that holds the text; the path is not a part of what the documents are."""
    del name
    return {"text_field": text_field}


def look(name: str) -> Found:
    """Return names, sizes and times of the files, and whether there are documents in pieces, which were split once."""
    listed = []
    in_pieces = False
    for relative, path in reading.find(name):
        size, time = _state(path)
        listed.append((relative, size, time))
        in_pieces |= reading.is_cut(path, size)
    inputs = [reading.VERSION, listed]
    if in_pieces:
        inputs.append(IN_PIECES)
    return Found(inputs, {"files": [entry[0] for entry in listed], "in_pieces": in_pieces})


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

    def texts(dropped: dict[str, int]) -> Iterator[Piece]:
        paths = [path for _, path in reading.find(origin.name)]
        index = -1
        for number, path in enumerate(paths):
            for document, text in reading.documents(path, text_field, dropped):
                index += 1
                yield Piece(f"{number}:{index}", text, document, index)
        if index < 0:
            counts = [f", {count} {reason}" for reason, count in dropped.items()]
            raise InputError(f"data.corpus: no text in {', '.join(map(str, paths[:5]))}{''.join(counts)}")

    return written(origin, folder, texts, say, origin.details["in_pieces"])
