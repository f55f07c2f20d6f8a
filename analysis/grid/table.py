"""Read a loss grid, ours or anyone's, local or gs://, and hold the columns that a law can be fitted to.

How files are read is analysis/grid/files.py's, which column means what analysis/grid/resolve.py's, which rows can be used
analysis/grid/selection.py's. Fits nothing.
"""

from collections.abc import Sequence
import dataclasses
import os
import re
from typing import TYPE_CHECKING, cast

from etils import epath
import numpy as np

from analysis.grid import files, numerals
from analysis.grid.text_table import Reading
from experiments.cli import InputError, nearest

if TYPE_CHECKING:  # imported where it is used: --help stays instant
    import pandas as pd


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Name a row (0 is the first below the header) that is not used, and say why."""

    row: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Grid:
    """Hold a table as it was read, with the hash of its bytes.

    best_of: what was tuned in a sweep; of rows that differ in nothing else, only the best is selected.
    """

    path: str
    frame: "pd.DataFrame"
    sha256: str
    repeated: frozenset[str] = frozenset()  # header names that occur more than once
    decimal: str = "."  # the decimal mark of texts that can be read in two ways
    notes: tuple[str, ...] = ()  # what a reader should know of how it was read
    best_of: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the columns, as text."""
        return [str(name) for name in self.frame.columns]

    def __contains__(self, name: str) -> bool:
        return name in self.repeated or self.find(name) is not None

    def __len__(self) -> int:
        return len(self.frame)

    def find(self, name: str) -> str | None:
        """Return the column of that name, or the only one that differs from it in capitals or punctuation; None for none.

        A name of one letter is a role or a column of just that name: L is not l.
        """
        if name in self.frame.columns:
            return name
        spellings = [str.strip, str.casefold]
        if name.isidentifier():
            spellings.append(_bare)
        for spelling in spellings:
            wanted = spelling(name)
            alike = [one for one in self.names if spelling(one) == wanted]
            may_differ = len(wanted) > 1 or spelling is str.strip
            if len(alike) == 1 and may_differ:
                return alike[0]
        return None

    def column(self, name: str, what: str) -> "pd.Series":
        """Return the column of that name; InputError with the nearest name when there is none, or more than one.

        what: the flag that named it, for the message.
        """
        if name in self.repeated:
            raise InputError(f"{what}: column {name!r} occurs more than once in {self.path}; expected unique names")
        found = self.find(name)
        if found is None:
            raise InputError(f"{what}: {name!r} is not a column of {self.path}; {self._hint(name)}")
        return cast("pd.Series", self.frame[found])  # a frame only where names repeat

    def _hint(self, name: str) -> str:
        """Return what a name may have meant."""
        longer = [one for one in self.names if not one.isidentifier() and name in re.split(r"\W+", one)]
        if longer:
            return f"the name of a column such as {longer[0]!r} stands in back-ticks in a formula: `{longer[0]}`"
        return nearest(name, self.names, "column")

    def numbers(self, name: str, what: str) -> np.ndarray:
        """Return the column as float64; what is not a number becomes NaN (and the row is dropped by `select`)."""
        return numerals.numbers(self.column(name, what), self.decimal)

    def words(self, name: str) -> np.ndarray:
        """Return the column as text, empty where there is none."""
        column = self.column(name, name)
        return column.astype(str).where(column.notna(), "").to_numpy(dtype=str)


def _bare(name: str) -> str:
    """Return a name in small letters, with one stroke for whatever lies between them: eval_loss of Eval/Loss."""
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


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
    tuned: tuple[str, ...] = ()  # what varies among rows of equal inputs, though the law does not take it

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


def load(paths: epath.PathLike | Sequence[epath.PathLike], reading: Reading = Reading()) -> Grid:
    """Read a grid from a file of CSV, JSON, JSON lines or Parquet, packed or not, or from several files or a pattern.

    Raises InputError when there is none, when it is empty, or when it is no table, and says what it looks like.
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found = files.find(several)
    content = files.read(found, reading)
    return Grid(
        path=", ".join(map(str, several)),
        frame=content.frame,
        sha256=content.sha256,
        repeated=content.repeated,
        decimal=content.decimal,
        notes=content.notes,
    )
