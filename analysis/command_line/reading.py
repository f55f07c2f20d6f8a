"""Declare the flags that say how the files of a grid are read, and read the grid that a command line names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from experiments.cli import InputError

if TYPE_CHECKING:
    from analysis.grid.table import Grid


def define() -> None:
    """Declare the flags."""
    flags.DEFINE_string("delimiter", None, "The mark between cells, or comma, semicolon, tab, pipe, space; else found.")
    flags.DEFINE_string(
        "decimal", None, "The decimal mark, . or , of numbers such as 1,234; else found from the others."
    )
    flags.DEFINE_string("encoding", None, "The encoding of the file, such as utf-8 or cp1252; else found.")


def grid_paths(argv: Sequence[str]) -> list[str]:
    """Return the files or patterns of files that a command line names. Raises InputError for none."""
    if not argv:
        raise InputError("GRID: no files given; expected a file of CSV, JSON, JSON lines or Parquet, or several")
    return list(argv)


def load(paths: Sequence[str] | str) -> "Grid":
    """Read a grid as the flags say."""
    from analysis.grid import table
    from analysis.grid.text_table import Reading

    given = flags.FLAGS
    return table.load(paths, Reading(given.delimiter, given.decimal, given.encoding))
