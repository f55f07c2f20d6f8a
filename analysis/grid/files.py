"""Read the tables of one file, or of several that belong together: CSV, JSON or Parquet, packed or not."""

from collections.abc import Callable, Sequence
import dataclasses
import glob
import hashlib
import io
import os
import pathlib
from typing import TYPE_CHECKING

from etils import epath

from analysis.grid import exports, json_table, opening, text_table
from analysis.grid.text_table import Reading, Table
from experiments.cli import InputError

if TYPE_CHECKING:  # imported where it is used: --help stays instant
    import pandas as pd
    import pyarrow as pa

PARQUET_MAGIC = b"PAR1"
ARROW_MAGIC = b"ARROW1"
PARQUET_SUFFIXES = (".parquet", ".pq")
FILE = "file"  # the column that says which of several files a row is from


@dataclasses.dataclass(frozen=True)
class Content:
    """Hold what was read: the table, the hash of the bytes, and the names of columns that occur more than once.

    decimal: the decimal mark of texts in it that can be read in two ways.
    """

    frame: "pd.DataFrame"
    sha256: str
    repeated: frozenset[str]
    decimal: str
    notes: tuple[str, ...]


def find(paths: Sequence[epath.PathLike]) -> list[str]:
    """Return the files that paths and patterns such as runs/*.csv name, each once. InputError where one names none."""
    found: dict[str, None] = {}
    for path in map(str, paths):
        is_pattern = glob.has_magic(path) and "://" not in path and not os.path.exists(path)
        files = sorted(glob.glob(path, recursive=True)) if is_pattern else [path]
        if not files:
            raise InputError(f"GRID: no file is named {path}; expected a file, or a pattern of several")
        found |= dict.fromkeys(files)
    return list(found)


def read(paths: Sequence[str], reading: Reading) -> Content:
    """Read one file, or several as one table with the column `file`. Raises InputError for what is no table."""
    contents = [_read_one(path, reading) for path in paths]
    if len(contents) == 1:
        return contents[0]
    return _together(dict(zip(labels(paths), contents, strict=True)))


def _read_one(path: str, reading: Reading) -> Content:
    """Read the table in one file."""
    packed = opening.fetch(path)
    data = opening.unpack(path, packed)
    opening.refuse_stranger(path, data)
    table = exports.unroll(_table(path, data, reading), path)
    frame = table.frame.reset_index(drop=True)
    if frame.empty:
        raise InputError(f"GRID: {path} has no rows; expected a header and at least one row")
    decimal = frame.attrs.pop("decimal", None)
    if decimal is None:
        decimal, _ = text_table.find_decimal(frame, ",", reading.decimal)
    return Content(
        frame=frame,
        sha256=hashlib.sha256(packed).hexdigest(),
        repeated=frozenset(name for name in table.header if table.header.count(name) > 1),
        decimal=decimal,
        notes=table.notes,
    )


def _table(path: str, data: bytes, reading: Reading) -> Table:
    """Read the table in the bytes of a file, whose first ones say what it is."""
    if data[:4] == PARQUET_MAGIC or opening.suffix(path) in PARQUET_SUFFIXES:
        return _read_parquet(path, data)
    if data[:6] == ARROW_MAGIC:
        return _read_arrow(path, data)
    kind = "CSV"
    try:
        if exports.is_event_file(path):
            kind = "TensorBoard"
            return exports.read_events(data, path)
        text, notes = text_table.decode(data, reading.encoding)
        if json_table.looks_like_json(text):
            kind = "JSON"
            table = json_table.read(text)
        else:
            table = text_table.read(text, reading)
        return dataclasses.replace(table, notes=(*notes, *table.notes))
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"GRID: {path} is not a readable {kind} file ({opening.first_line(error)})") from None


def _read_parquet(path: str, data: bytes) -> Table:
    """Read a Parquet file."""
    from pyarrow import parquet

    return _from_arrow(path, "Parquet", lambda: parquet.read_table(io.BytesIO(data)))


def _read_arrow(path: str, data: bytes) -> Table:
    """Read an Arrow file, which is also called Feather."""
    from pyarrow import feather

    return _from_arrow(path, "Arrow", lambda: feather.read_table(io.BytesIO(data)))


def _from_arrow(path: str, kind: str, read_table: "Callable[[], pa.Table]") -> Table:
    """Return the table that `read_table` reads, in which repeated names are told apart, and its header as it is."""
    import pyarrow as pa

    try:
        table = read_table()
        header = list(table.column_names)
        unique = []
        for at, name in enumerate(header):
            unique.append(f"{name}.{at}" if name in header[:at] else name)
        return Table(table.rename_columns(unique).to_pandas(), header)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"GRID: {path} is not a readable {kind} file ({opening.first_line(error)})") from None


def labels(paths: Sequence[str]) -> list[str]:
    """Name files by what tells them apart: their names without suffix, or their paths below the folder of all."""
    pure = [pathlib.PurePosixPath(path.replace(os.sep, "/")) for path in paths]
    short = [path.name.partition(opening.suffix(path) or "\0")[0] for path in pure]
    if len(set(short)) == len(short) and not any(map(exports.is_event_file, paths)):
        return short
    folders = [path.parent.parts for path in pure]
    shared = 0
    while len({folder[: shared + 1] for folder in folders}) == 1 and shared < len(folders[0]):
        shared += 1
    below = ["/".join(folder[shared:]) for folder in folders]
    if all(below) and len(set(below)) == len(below):
        return below
    return ["/".join(filter(None, pair)) for pair in zip(below, short, strict=True)]


def _together(contents: dict[str, Content]) -> Content:
    """Return the rows of several files as one table, with their names in the column `file`."""
    import pandas as pd

    frames = []
    notes = []
    for name, content in contents.items():
        frame = content.frame
        if FILE not in frame:
            frame = frame.assign(**{FILE: name})
        frames.append(frame)
        notes += content.notes
    frame = _curves_together(pd.concat(frames, ignore_index=True))
    decimals = {content.decimal for content in contents.values()}
    decimal = "," if decimals == {","} else "."
    counts = f"{len(contents)} files with {len(frame)} rows; the column {FILE} says which file a row is from"
    digests = "".join(content.sha256 for content in contents.values())
    return Content(
        frame=frame,
        sha256=hashlib.sha256(digests.encode()).hexdigest(),
        repeated=frozenset().union(*(content.repeated for content in contents.values())),
        decimal=decimal,
        notes=(counts, *dict.fromkeys(notes)),
    )


def _curves_together(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Put what was measured of one run at one step into one row: TensorBoard exports a file for each."""
    keys = ["run", "Step"]
    others = [name for name in frame.columns if name not in (*keys, "Wall time", FILE)]
    if not {*keys, "Wall time"} <= set(frame.columns) or len(others) < 2:
        return frame
    given = frame[others].notna().sum(axis=1)
    if not (given == 1).all() or frame.duplicated([*keys, FILE]).any():
        return frame
    return frame.groupby(keys, sort=False, as_index=False).first()
