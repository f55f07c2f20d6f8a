"""Read the rows of a file as mappings, each with its place: JSON lines, JSON, CSV, TSV, Parquet, Arrow.

Whatever cannot be read raises InputError with the file and the line or row.
"""

from collections.abc import Callable, Iterator, Mapping
import csv
import itertools
import json
import re
from typing import Any, BinaryIO

from etils import epath

from experiments.data import fields
from experiments.data.opening import opened
from models.errors import InputError

Row = tuple[str, Mapping[str, Any]]
"""Where it is, and what it holds."""

LONGEST_CELL = (1 << 31) - 1  # characters; Python's csv stops at 131,072 by itself
ROWS_AT_ONCE = 1024
_SPACE = re.compile(r"[ \t\r\n]*")  # between the values of JSON


def json_lines(path: epath.Path, spec: str) -> Iterator[Row]:
    """Yield the objects of a file with one on each line."""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}:{number}"
                yield where, _object(_parsed(line, number, where), spec, where)


def _parsed(line: bytes, number: int, where: str) -> Any:
    """Return the value of a line of JSON."""
    try:
        return json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:  # bad JSON and bad UTF-8 alike; what is nested too deep
        raise InputError(f"{where}: not a line of JSON ({error})") from error


def _object(value: Any, spec: str, where: str) -> Mapping[str, Any]:
    """Return a value that is a JSON object."""
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise InputError(f"{where}: expected a JSON object with a field {fields.parts(spec)[0]!r}, found {kind}")
    return value


def json_file(path: epath.Path, spec: str) -> Iterator[Row]:
    """Yield the objects of a .json file: those of a list, or one on each line (as C4 has them), or the only one."""
    if _has_lines(path):
        yield from json_lines(path, spec)
        return
    with opened(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8 text ({error.reason})") from error
    line = 1
    try:
        before = 0
        for position, value in _values(text):
            line += text.count("\n", before, position)
            before = position
            where = f"{path}:{line}"
            yield where, _object(value, spec, where)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits; what is nested too deep
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: a value after line {line} cannot be read ({error})") from error


def _has_lines(path: epath.Path) -> bool:
    """Tell whether the first line that is not blank is an object by itself."""
    with opened(path) as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        return isinstance(json.loads(first.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """Yield the items of a JSON list with their positions, or the one value that is there."""
    decoder = json.JSONDecoder()
    at = _skip_space(text, 0)
    if text[at : at + 1] != "[":
        yield at, json.loads(text)
        return
    at = _skip_space(text, at + 1)
    while text[at : at + 1] != "]":
        value, end = decoder.raw_decode(text, at)
        yield at, value
        at = _skip_space(text, end)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("expected a comma or the end of the list", text, at)
    at = _skip_space(text, at + 1)
    if at < len(text):
        raise json.JSONDecodeError("something follows the list", text, at)


def _skip_space(text: str, at: int) -> int:
    """Return the position of the next character that is not white space."""
    space = _SPACE.match(text, at)
    assert space is not None, "it matches nothing, too"
    return space.end()


def comma_separated(path: epath.Path, spec: str) -> Iterator[Row]:
    """Yield the rows of a table whose first line names its columns."""
    return _table(path, spec, ",;")


def tab_separated(path: epath.Path, spec: str) -> Iterator[Row]:
    """Yield the rows of a table with tabs whose first line names its columns."""
    return _table(path, spec, "\t")


def _table(path: epath.Path, spec: str, delimiters: str) -> Iterator[Row]:
    """Yield the rows of a table. Of several delimiters the one that its first line has most of."""
    csv.field_size_limit(LONGEST_CELL)
    with opened(path) as file:
        lines = _lines(file, path)
        first = next(lines, "")
        delimiter = max(delimiters, key=first.count)
        reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
        header = _cells(reader, path) or []
        _check_header(header, spec, path)
        while True:
            where = f"{path}:{reader.line_num + 1}"
            cells = _cells(reader, path)
            if cells is None:
                return
            if not cells:  # a blank line
                continue
            if len(cells) != len(header):
                raise InputError(f"{where}: {len(cells)} cells; the first line names {len(header)} columns")
            yield where, dict(zip(header, cells, strict=True))


def _lines(file: BinaryIO, path: epath.Path) -> Iterator[str]:
    """Yield the lines of a file as text."""
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}:{number}: not UTF-8 text ({error.reason})") from error


def _cells(reader: Any, path: epath.Path) -> list[str] | None:
    """Return the cells of the next row, None at the end."""
    try:
        return next(reader, None)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not a row of a table ({error})") from error


def _check_header(header: list[str], spec: str, path: epath.Path) -> None:
    """Raise InputError when a table lacks a column, or has two of one name."""
    try:
        fields.top_level(spec, header)
    except InputError as error:
        raise InputError(f"{path}:1: {error}") from None


def parquet(path: epath.Path, spec: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file; only the columns that are needed are read."""
    from pyarrow import parquet

    def batches(file: BinaryIO) -> Iterator[Any]:
        table = parquet.ParquetFile(file)
        columns = fields.top_level(spec, table.schema_arrow.names)
        yield from table.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns)

    return _batched(path, batches, "Parquet")


def arrow(path: epath.Path, spec: str) -> Iterator[Row]:
    """Yield the rows of an Arrow stream or file, as `datasets` of Hugging Face saves them."""
    import pyarrow

    def batches(file: BinaryIO) -> Iterator[Any]:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        if is_file:
            source = pyarrow.ipc.open_file(file)
            whole = (source.get_batch(index) for index in range(source.num_record_batches))
        else:
            whole = source = pyarrow.ipc.open_stream(file)
        columns = fields.top_level(spec, source.schema.names)
        for batch in whole:
            yield batch.select(columns)

    return _batched(path, batches, "Arrow")


def _batched(path: epath.Path, batches: Callable[[BinaryIO], Iterator[Any]], kind: str) -> Iterator[Row]:
    """Yield the rows of record batches, numbered from 0."""
    import pyarrow

    with opened(path) as file:
        number = 0
        try:
            for batch in batches(file):
                batch.validate(full=True)  # or bytes that are no text would be found while they are decoded
                for row in batch.to_pylist():
                    yield f"{path}, row {number}", row
                    number += 1
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (pyarrow.ArrowException, ValueError, OverflowError, OSError) as error:
            if getattr(error, "errno", None) is not None:  # of the disk
                raise
            text = " ".join(str(error).split())
            raise InputError(f"{path}: not a readable {kind} file ({text})") from error


READERS: dict[str, Callable[[epath.Path, str], Iterator[Row]]] = {
    ".jsonl": json_lines,
    ".json": json_file,
    ".csv": comma_separated,
    ".tsv": tab_separated,
    ".parquet": parquet,
    ".arrow": arrow,
}
