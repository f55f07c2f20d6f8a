"""Share among the short commands what each does: flags that choose rows and columns, reading them, writing the answer."""

from collections import Counter
from collections.abc import Mapping, Sequence
import dataclasses
from typing import TYPE_CHECKING, Any

from absl import flags

from analysis.command_line import reading
from experiments import cli
from experiments.cli import InputError

if TYPE_CHECKING:
    from analysis.grid.table import Columns, Grid


MOST_REASONS = 5  # for rows that are left out, which a reader is shown


def define(columns: str, task: bool = False, intervals: bool = True) -> None:
    """Declare the flags. columns: help for --columns. task: whether there is --task; intervals: --level and --seed."""
    reading.define()
    flags.adopt_module_key_flags(reading)
    flags.DEFINE_string("columns", None, columns)
    flags.DEFINE_string("where", None, "Rows to use: comparisons joined by and, or, not.")
    if task:
        flags.DEFINE_string(
            "task", None, "The task NAME whose columns task_NAME_* are meant; else the grid's only one."
        )
    if intervals:
        flags.DEFINE_float("level", 0.9, "Level of intervals.")
        cli.define_integer("seed", 0, "Seed of what is drawn.")
    cli.define_output("json", "A JSON file to write.")


def grid_of(argv: Sequence[str]) -> "Grid":
    """Read the grid that a command line names, once it is known that the answer can be written."""
    from analysis.writing.output_file import check_writable

    paths = reading.grid_paths(argv)
    check_writable(flags.FLAGS.json, "--json")
    if "level" in flags.FLAGS and not 0 < flags.FLAGS.level < 1:
        raise InputError(f"--level={flags.FLAGS.level}: expected a number above 0 and below 1")
    return reading.load(paths)


def rows(
    grid: "Grid",
    needed: Sequence[str],
    optional: Sequence[str] = (),
    *,
    signed: Sequence[str] = (),
    gaps: Sequence[str] = (),
    also: Sequence[str] = (),
    where: str | None = None,
) -> "Columns":
    """Return the rows that --columns, --task and --where choose. `also`: roles that other rows of the command have.

    `signed` and `gaps`: roles that may be zero or less, or missing. `where`: a condition of the command's own, which has to hold as well. Raises InputError for a role that it has no use for.
    """
    from analysis.grid import task_columns
    from analysis.grid.resolve import parse_roles
    from analysis.grid.selection import select

    values = flags.FLAGS
    used = (*needed, *optional)
    wanted = dict.fromkeys((*used, *also))
    for role in parse_roles(values.columns):
        if role not in wanted:
            raise InputError(f"--columns: {role}: there is no use for it; expected {', '.join(wanted)}")
    task = values.task if "task" in values else None
    columns = task_columns.with_task(grid, values.columns, task, used)
    pairs = []
    for role, source in parse_roles(columns).items():
        if role in used:
            pairs.append(f"{role}=`{source}`" if source in grid.names else f"{role}={source}")
    conditions = [f"({text})" for text in (values.where, where) if text]
    return select(
        grid,
        needed,
        optional=optional,
        columns=",".join(pairs) or None,
        where=" and ".join(conditions) or None,
        signed=signed,
        gaps=gaps,
    )


def _reasons(columns: "Columns") -> Counter[str]:
    """Count the rows that are left out by the reason why, without the value that each of them has."""
    return Counter(one.reason.partition(" (")[0] for one in columns.dropped)


def tell(lines: Sequence[str], answer: Mapping[str, Any], columns: "Columns") -> None:
    """Print an answer, how many rows it is of, and their notes; write it where --json says."""
    from analysis.writing.numbers import counted
    from analysis.writing.output_file import write
    from analysis.writing.strict_json import finite_or_null
    from analysis.writing.terminal import open_console

    console = open_console()
    for line in lines:
        console.print(line, highlight=False, markup=False)
    console.print(f"{counted(len(columns), 'row')}, {len(columns.dropped)} dropped", highlight=False)
    for reason, count in _reasons(columns).most_common(MOST_REASONS):
        console.print(f"dropped: {counted(count, 'row')}: {reason}", highlight=False, markup=False)
    for note in columns.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    path = flags.FLAGS.json
    if path is not None:
        told = {"schema": 1, **answer, "columns": dict(columns.sources), "rows_used": len(columns)}
        told["dropped"] = [dataclasses.asdict(one) for one in columns.dropped]
        write(path, finite_or_null(told), "--json")
        console.print(f"written: {path}", markup=False)
