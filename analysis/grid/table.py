"""Read a loss grid, ours or anyone's, Parquet or CSV, local or gs://, and hold the columns that a law can be fitted to.

Which column means what is analysis/grid/resolve.py's, which rows can be used analysis/grid/selection.py's. Fits nothing.
"""

import csv
import dataclasses
import hashlib
import io
from typing import TYPE_CHECKING, cast

from etils import epath
import numpy as np

from experiments.cli import InputError, nearest

if TYPE_CHECKING:  # imported where it is used: --help stays instant
    import pandas as pd

PARQUET_MAGIC = b"PAR1"
PARQUET_SUFFIXES = (".parquet", ".pq")


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Name a row (0 is the first below the header) that is not used, and say why."""

    row: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Grid:
    """Hold a table as it was read, with the hash of its bytes."""

    path: str
    frame: "pd.DataFrame"
    sha256: str
    repeated: frozenset[str] = frozenset()  # header names that occur more than once

    @property
    def names(self) -> list[str]:
        """Names of the columns, as text."""
        return [str(name) for name in self.frame.columns]

    def __contains__(self, name: str) -> bool:
        return name in self.frame.columns

    def __len__(self) -> int:
        return len(self.frame)

    def column(self, name: str, what: str) -> "pd.Series":
        """Return the column of that name; InputError with the nearest name when there is none, or more than one.

        what: the flag that named it, for the message.
        """
        if name in self.repeated:
            raise InputError(f"{what}: column {name!r} occurs more than once in {self.path}; expected unique names")
        if name not in self:
            hint = nearest(name, self.names, "column")
            raise InputError(f"{what}: {name!r} is not a column of {self.path}; {hint}")
        return cast("pd.Series", self.frame[name])  # a frame only where names repeat

    def numbers(self, name: str, what: str) -> np.ndarray:
        """Return the column as float64; what is not a number becomes NaN (and the row is dropped by `select`)."""
        import pandas as pd

        column = cast("pd.Series", pd.to_numeric(self.column(name, what), errors="coerce"))  # a series of a series
        return column.to_numpy(np.float64, na_value=np.nan)

    def words(self, name: str) -> np.ndarray:
        """Return the column as text."""
        return self.column(name, name).astype(str).to_numpy()


@dataclasses.dataclass(frozen=True)
class Columns:
    """Hold the rows that are used: role -> float64 values [rows], and what was left out.

    Labels may be text. A role with many parts has values [rows, parts] and its names in `parts`.
    """

    values: dict[str, np.ndarray]
    row: np.ndarray  # positions in the file of the rows used
    sources: dict[str, str]  # role -> the column or the formula that gave it
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...] = ()
    parts: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, role: str) -> np.ndarray:
        return self.values[role]

    def __contains__(self, role: str) -> bool:
        return role in self.values

    def take(self, keep: np.ndarray, reason: str = "") -> "Columns":
        """Keep the rows where `keep` holds; the others join the dropped ones when a reason is given."""
        keep = np.asarray(keep)
        gone = []
        if reason:
            gone = [Dropped(row, reason) for row in self.row[~keep].tolist()]
        return dataclasses.replace(
            self,
            values={role: value[keep] for role, value in self.values.items()},
            row=self.row[keep],
            dropped=(*self.dropped, *gone),
        )


def load(path: epath.PathLike) -> Grid:
    """Read a Parquet or CSV file. Raises InputError when it is missing, empty, or not such a file."""
    file = epath.Path(path)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"GRID: {path} does not exist; expected a Parquet or CSV file") from None
    except IsADirectoryError:
        raise InputError(f"GRID: {path} is a folder; expected a Parquet or CSV file") from None
    except OSError as error:
        raise InputError(f"GRID: {path} cannot be read ({error.strerror or error})") from None

    is_parquet = data[:4] == PARQUET_MAGIC or file.suffix.lower() in PARQUET_SUFFIXES
    frame, header = _read_parquet(path, data) if is_parquet else _read_csv(path, data)
    if frame.empty:
        raise InputError(f"GRID: {path} has no rows; expected a header and at least one row")
    repeated = frozenset(name for name in header if header.count(name) > 1)
    digest = hashlib.sha256(data).hexdigest()
    return Grid(str(path), frame.reset_index(drop=True), digest, repeated)


def _read_parquet(path: epath.PathLike, data: bytes) -> "tuple[pd.DataFrame, list[str]]":
    """Read the table, in which repeated names are told apart, and the header as it is."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(data))
        header = list(table.column_names)
        unique = []
        for at, name in enumerate(header):
            unique.append(f"{name}.{at}" if name in header[:at] else name)
        return table.rename_columns(unique).to_pandas(), header
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"GRID: {path} is not a readable Parquet file ({_first_line(error)})") from None


def _read_csv(path: epath.PathLike, data: bytes) -> "tuple[pd.DataFrame, list[str]]":
    """Read the table, in which pandas tells repeated names apart, and the header as it is."""
    import pandas as pd

    try:
        text = data.decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it holds zero bytes")
        header = next(csv.reader(io.StringIO(text)), [])
        frame = pd.read_csv(io.StringIO(text), skipinitialspace=True)
        return frame, [name.strip() for name in header]
    except (ValueError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"GRID: {path} is not a readable CSV file ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
