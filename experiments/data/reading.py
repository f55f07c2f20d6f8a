"""Read the documents of local files: a .txt file is one (a long one several), so is each line of .jsonl and row of .parquet.

Whatever cannot be read raises InputError with the file and the line or row.
"""

from collections.abc import Iterator
import json
import os
import pathlib
import re
from typing import Any

from etils import epath

from models.errors import InputError, nearest

VERSION = 1  # raise when the same files would give other documents
SUFFIXES = (".txt", ".jsonl", ".parquet")
PIECE = (
    65_536  # characters; a longer text file is cut before that, at a blank line if there is one, else at a line's end
)
_WILDCARD = re.compile(r"[*?\[]")


def find(name: str) -> list[tuple[str, epath.Path]]:
    """Return the files that an entry of data.corpus names, with their names relative to what is common, sorted.

    Raises InputError.
    """
    path = epath.Path(name).expanduser()
    if _WILDCARD.search(name):
        base, files = _glob(name, path)
    elif path.is_dir():
        base = path
        files = [epath.Path(folder) / file for folder, _, names in path.walk() for file in names]
    else:
        base = path.parent
        files = [path] if path.exists() else []
    files = [file for file in files if file.suffix in SUFFIXES and not file.is_dir()]
    if not files:
        raise _nothing_found(name, path, base)
    return sorted((os.fspath(file).removeprefix(os.fspath(base)).lstrip("/"), file) for file in files)


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
        return InputError(f"data.corpus={name!r}: no {', '.join(SUFFIXES)} file in this folder")
    if not base.is_dir():
        return InputError(f"data.corpus={name!r}: no such file or folder; 'embedded' needs none")
    there = [found.name for found in base.iterdir() if found.suffix in SUFFIXES or found.is_dir()]
    hint = nearest(path.name, there, "file")
    return InputError(f"data.corpus={name!r}: no such text; {hint} (in {os.fspath(base)!r})")


def documents(path: epath.Path, field: str) -> Iterator[str]:
    """Yield the texts in a file, empty ones left out. `field` is that of JSON lines and Parquet rows."""
    reader = {".txt": _text, ".jsonl": _json_lines, ".parquet": _parquet}[path.suffix]
    for text in reader(path, field):
        if text.strip():
            yield text


def _text(path: epath.Path, field: str) -> Iterator[str]:
    """Yield a text file in pieces; only one of them is in memory at a time."""
    del field
    local = "://" not in os.fspath(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") if local else path.open("r") as file:
            held = ""
            while block := file.read(PIECE):
                held += block
                while len(held) > PIECE:
                    cut = _cut(held)
                    yield held[:cut]
                    held = held[cut:]
            yield held
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason}: byte 0x{error.object[error.start]:02x})") from error


def _cut(text: str) -> int:
    """Return where to end a piece: after the last blank line, line or space of the first PIECE characters."""
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, PIECE // 4, PIECE)
        if at >= 0:
            return at + len(mark)
    return PIECE


def _checked(value: Any, field: str, where: str) -> str:
    """Return a value that is a text. Raises InputError for anything else, and for what UTF-8 cannot hold."""
    if not isinstance(value, str):
        raise InputError(f"{where}: data.text_field={field!r} holds {type(value).__name__}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: data.text_field={field!r} holds half of a surrogate pair, which is no text"
        ) from error
    return value


def _json_lines(path: epath.Path, field: str) -> Iterator[str]:
    """Yield the text of each line. Raises InputError naming file, line and field."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:  # bad JSON and bad UTF-8 alike
                raise InputError(f"{where}: not a line of JSON ({error})") from error
            if not isinstance(row, dict):
                raise InputError(f"{where}: expected a JSON object with a field {field!r}, found {type(row).__name__}")
            if field not in row:
                raise InputError(f"{where}: no field data.text_field={field!r}; {nearest(field, row, 'field')}")
            yield _checked(row[field], field, where)


def _parquet(path: epath.Path, field: str) -> Iterator[str]:
    """Yield the text of each row. Raises InputError naming file and field."""
    import pyarrow
    from pyarrow import parquet

    with path.open("rb") as file:
        try:
            table = parquet.ParquetFile(file)
            names = table.schema_arrow.names
            if field not in names:
                hint = nearest(field, names, "column")
                raise InputError(f"{path}: no column data.text_field={field!r}; {hint}")
            row = 0
            for batch in table.iter_batches(batch_size=1024, columns=[field]):
                for value in batch.column(0).to_pylist():
                    yield _checked(value, field, f"{path}, row {row}")
                    row += 1
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise InputError(f"{path}: not a readable Parquet file ({error})") from error
