"""Read the documents of local files: a .txt file is one (a long one comes in pieces), so is each row of a table.

Whatever cannot be read raises InputError with the file and the line or row.
"""

import codecs
from collections.abc import Callable, Iterator
import itertools
import os
import pathlib
import re

from etils import epath

from experiments.data import fields, rows, split
from experiments.data.opening import COMPRESSED, opened
from models.errors import InputError, nearest

VERSION = 1  # raise when the same files would give other documents
WHOLE = (".txt", ".md")  # a file is a document
# What a folder is searched for. The others have to be named, by a path or a glob: in a folder of texts such files are
# more often about the texts (README.md, dataset_infos.json) than texts.
SEARCHED = (".txt", ".jsonl", ".parquet", ".arrow")
NAMED = (".md", ".json", ".csv", ".tsv")
PIECE = (
    65_536  # characters; a longer text file is cut before that, at a blank line if there is one, else at a line's end
)
Reader = Callable[[epath.Path, str], Iterator[rows.Row]]
_WILDCARD = re.compile(r"[*?\[]")


def kind_of(name: str) -> str:
    """Return the ending that says how a file is read, before that of its compression; "" for one that is not read."""
    stem, suffix = os.path.splitext(name)
    if suffix in COMPRESSED:
        suffix = os.path.splitext(stem)[1]
        return "" if suffix in (".parquet", ".arrow") else _known(suffix)
    return _known(suffix)


def _known(suffix: str) -> str:
    """Return an ending that can be read, "" in place of any other."""
    return suffix if suffix in (*SEARCHED, *NAMED) else ""


def find(name: str) -> list[tuple[str, epath.Path]]:
    """Return the files that an entry of data.corpus names, with their names relative to what is common, sorted.

    Raises InputError.
    """
    path = epath.Path(name).expanduser()
    kinds = (*SEARCHED, kind_of(name))
    if _WILDCARD.search(name):
        base, files = _glob(name, path)
    elif path.is_dir():
        base = path
        kinds = SEARCHED
        files = [epath.Path(folder) / file for folder, _, names in path.walk() for file in names]
    else:
        base = path.parent
        files = [path] if path.exists() else []
    files = [file for file in files if kind_of(file.name) in kinds and not file.is_dir()]
    if not files:
        raise _nothing_found(name, path, base)
    _check_files(name, files)
    return sorted((os.fspath(file).removeprefix(os.fspath(base)).lstrip("/"), file) for file in files)


def _check_files(name: str, files: list[epath.Path]) -> None:
    """Check that files can be read more than once, and that their names are text. Raises InputError."""
    for file in files:
        path = os.fspath(file)
        try:
            path.encode()
        except UnicodeEncodeError:
            raise InputError(f"data.corpus={name!r}: the name of {path!r} is not UTF-8; rename it") from None
        if "://" not in path and not os.path.isfile(path):
            raise InputError(f"data.corpus={name!r}: {path!r} is no file, but a pipe, a device or a link to nowhere")


def _glob(name: str, path: epath.Path) -> tuple[epath.Path, list[epath.Path]]:
    """Return the folder above the first wildcard, and what the pattern below it finds there."""
    first = next(index for index, part in enumerate(path.parts) if _WILDCARD.search(part))
    base = epath.Path(*path.parts[:first])
    pattern = os.path.join(*path.parts[first:])
    # An object store is not searched recursively.
    searched = base if "://" in name else pathlib.Path(base)
    return base, [epath.Path(found) for found in searched.glob(pattern)]


def _nothing_found(name: str, path: epath.Path, base: epath.Path) -> InputError:
    """Return the error for a corpus of no file, with the nearest name that is there."""
    if base == path:
        others = f"{', '.join(NAMED)} are read where a glob names them, such as {os.path.join(name, '*.md')!r}"
        return InputError(f"data.corpus={name!r}: no {', '.join(SEARCHED)} file in this folder; {others}")
    if not base.is_dir():
        return InputError(f"data.corpus={name!r}: no such file or folder; 'embedded' needs none")
    there = [found.name for found in base.iterdir() if kind_of(found.name) or found.is_dir()]
    hint = nearest(path.name, there, "file")
    return InputError(f"data.corpus={name!r}: no such text; {hint} (in {os.fspath(base)!r})")


def is_cut(path: epath.Path, size: int) -> bool:
    """Tell whether a file of so many bytes may be a text that is cut into pieces."""
    return kind_of(path.name) in WHOLE and (size > PIECE or path.suffix in COMPRESSED)


def documents(path: epath.Path, field: str, dropped: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the texts in a file, and for a piece of a longer document the name of that, else "".

    Texts that are null or blank are counted in `dropped`. `field`: what of a row is its text, see fields.py.
    """
    kind = kind_of(path.name)
    found = _pieces(path) if kind in WHOLE else _texts_of_rows(path, rows.READERS[kind], field)
    for document, text in found:
        reason = "null" if text is None else "empty"
        if text is not None and text.strip():
            yield document, text
        else:
            dropped[reason] = dropped.get(reason, 0) + 1


def _texts_of_rows(path: epath.Path, reader: Reader, field: str) -> Iterator[tuple[str, str | None]]:
    """Yield the texts of the rows in a file, each a document."""
    for where, row in reader(path, field):
        yield "", fields.text_of(row, field, where)


def _pieces(path: epath.Path) -> Iterator[tuple[str, str]]:
    """Yield a text file whole, or in pieces with the name of the document, which equal documents share."""
    pieces = _cut_file(path)
    first = next(pieces)
    second = next(pieces, None)
    if second is None:
        yield "", first
        return
    document = split.name_of(first.encode())
    for piece in itertools.chain((first, second), pieces):
        yield document, piece


def _cut_file(path: epath.Path) -> Iterator[str]:
    """Yield a text file in pieces; only one of them is in memory at a time."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    lines = 0
    held = ""
    with opened(path) as file:
        block = True
        while block:
            block = file.read(PIECE)
            try:
                held += decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line = lines + error.object.count(b"\n", 0, error.start) + 1
                what = f"{error.reason}: byte 0x{error.object[error.start]:02x}"
                raise InputError(f"{path}:{line}: not UTF-8 text ({what})") from error
            lines += block.count(b"\n")
            while len(held) > PIECE:
                cut = _cut(held)
                yield held[:cut]
                held = held[cut:]
    yield held


def _cut(text: str) -> int:
    """Return where to end a piece: after the last blank line, line or space of the first PIECE characters."""
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, PIECE // 4, PIECE)
        if at >= 0:
            return at + len(mark)
    return PIECE
