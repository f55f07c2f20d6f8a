"""Run records -> one grid table: a row per run of a study, whether it has a record or not.

Columns: fingerprint, name, status, reason, the points' tags, then every column of the records. Where two points are
one run, a tag has the value of the first of them, and a column `<tag>_all` lists those of all, joined by |.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import io
import os
from typing import Any

from etils import epath
import pandas as pd

from experiments import cli, files
from experiments.run import stored
from experiments.store import record
from models.errors import InputError
from sweeps.work.workdir import State, Workdir

SUFFIXES = (".parquet", ".csv")
FIRST_COLUMNS = ("fingerprint", "name", "status", "reason")
NUMBERS = {int, float}


def merge_tags(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the tags of each run by fingerprint; see the module's docstring for points that share one."""
    values: dict[str, dict[str, list[Any]]] = {}  # by fingerprint and tag: distinct values, the first point's first
    ambiguous = set()  # tags of which some run has several values
    for point in points:
        of_run = values.setdefault(point["fingerprint"], {})
        for tag, value in point["tags"].items():
            seen = of_run.setdefault(tag, [])
            if value not in seen:
                seen.append(value)
            if len(seen) > 1:
                ambiguous.add(tag)

    merged = {}
    for fingerprint, of_run in values.items():
        tags = {tag: seen[0] for tag, seen in of_run.items()}
        for tag in sorted(ambiguous & of_run.keys()):
            tags[f"{tag}_all"] = "|".join(map(str, of_run[tag]))
        merged[fingerprint] = tags
    return merged


def _run_columns(point: Mapping[str, Any], state: State) -> dict[str, Any]:
    """Return the columns of one run: from its record, or what is known of it without one."""
    if state.record is not None:
        return state.record["columns"]
    try:
        run = stored.read_checked(point["run"])
        return record.columns(run) | record.ledger(run)
    except (InputError, ArithmeticError):
        return {}  # written by a version with other options: the name and the status remain


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a grid, a dictionary each; the names of their columns in order; a line for each damaged record.

    tags: the names of the columns that the study gave.
    """

    rows: list[dict[str, Any]]
    names: list[str]
    tags: list[str]
    damaged: list[str]


def read(workdir: Workdir) -> Rows:
    """Read the rows of a workdir's grid. Raises InputError without a study.json."""
    points = workdir.read_study()["points"]
    tags = merge_tags(points)
    first: dict[str, Mapping[str, Any]] = {}
    for point in points:
        first.setdefault(point["fingerprint"], point)
    rows = []
    damaged = []
    for fingerprint, point in first.items():
        state = workdir.state(fingerprint)
        if state.damaged:
            damaged.append(state.reason or fingerprint)
        row = {
            "fingerprint": fingerprint,
            "name": point["name"],
            "status": state.status,
            "reason": state.reason,
        }
        row |= tags[fingerprint]
        row |= _run_columns(point, state)
        rows.append(row)
    tag_names: dict[str, None] = {}
    for of_run in tags.values():
        tag_names |= dict.fromkeys(of_run)
    return Rows(rows, _column_names(tags, rows), list(tag_names), damaged)


def build(workdir: Workdir) -> tuple[pd.DataFrame, list[str]]:
    """Return the table of a workdir, and a line for each damaged record. Raises InputError without a study.json."""
    found = read(workdir)
    return table(found.rows, found.names), found.damaged


def _column_names(tags: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of all columns: identity, tags, then the records', each in the order of its first appearance."""
    names = dict.fromkeys(FIRST_COLUMNS)
    for of_run in tags.values():
        names |= dict.fromkeys(of_run)
    for row in rows:
        names |= dict.fromkeys(row)
    return list(names)


def table(rows: Sequence[Mapping[str, Any]], names: list[str]) -> pd.DataFrame:
    """Return rows as a table whose columns have one type each."""
    frame = pd.DataFrame(rows, columns=names)
    if "censored" in frame:
        # 1 where a run was stopped early while its loss fell: it bounds what the whole run would have reached from above.
        # That of a run which was stopped because it diverges bounds nothing.
        stopped_early = frame["censored"].fillna(0).astype(int)
        frame["censored"] = stopped_early * (frame["status"] == "complete").astype(int)
    for name, column in frame.items():
        frame[name] = _of_one_type(column)
    return frame


def _of_one_type(column: pd.Series) -> pd.Series:
    """Return a column with values of one type, as tables have it: numbers where it can be, else text."""
    kinds = {type(value) for value in column if value is not None}
    if kinds <= NUMBERS:
        if column.dtype == object:  # only some records have a value
            return pd.Series(pd.to_numeric(column))
        return column
    if len(kinds) > 1:
        texts = [None if value is None else str(value) for value in column]
        return pd.Series(texts, index=column.index)
    return column


def write(frame: pd.DataFrame, path: epath.PathLike) -> None:
    """Write the table atomically, in the format that the name's ending says."""
    if os.fspath(path).endswith(".csv"):
        files.write_bytes(path, frame.to_csv(index=False).encode())
    else:
        frame.attrs |= cli.signed({})  # the ending of the file has it, for the next one to replace it
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        files.write_bytes(path, buffer.getvalue())
