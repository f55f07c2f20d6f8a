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
    flags.DEFINE_string(
        "join",
        None,
        "A table with one row a run, such as the runs table of W&B (config.*, summary): its columns are given to the rows "
        "of each run, for histories that do not hold them.",
    )
    flags.DEFINE_string(
        "on",
        None,
        "With --join: the column that names the run in both tables, or OURS=THEIRS; else found by its values.",
    )
    flags.DEFINE_string(
        "melt",
        None,
        "Columns that hold one quantity at several numbers, as rows: samples,coverage=task_sums_coverage_* makes of them a "
        "column samples (what the star stands for) and a column coverage.",
    )


def grid_paths(argv: Sequence[str]) -> list[str]:
    """Return the files or patterns of files that a command line names. Raises InputError for none."""
    if not argv:
        raise InputError("GRID: no files given; expected a file of CSV, JSON, JSON lines or Parquet, or several")
    return list(argv)


def load(paths: Sequence[str] | str) -> "Grid":
    """Read a grid as the flags say, with what --join says of its runs, and --melt of its columns."""
    from analysis.grid.join import join
    from analysis.grid.melt import melt

    given = flags.FLAGS
    if given.on and not given.join:
        raise InputError(f"--on={given.on}: nothing is joined; expected --join=FILE with it")
    grid = load_alone(paths)
    if given.join:
        grid = join(grid, load_alone(given.join), given.on)
    return melt(grid, given.melt) if given.melt else grid


def load_alone(paths: Sequence[str] | str) -> "Grid":
    """Read one table as the flags say."""
    from analysis.grid import table
    from analysis.grid.text_table import Reading

    given = flags.FLAGS
    return table.load(paths, Reading(given.delimiter, given.decimal, given.encoding))
