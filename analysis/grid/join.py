"""Give the rows of a grid what another table says of their runs: its configuration, where histories have none.

Trackers export two tables: histories with a row for each run and step, and a table with one row a run (config.*, summary).
"""

from collections.abc import Sequence
import dataclasses
import hashlib

import numpy as np

from analysis.grid.table import Grid
from experiments.cli import InputError

FEWEST_MATCHED = 0.5  # share of the rows whose run the other table has, for a column to be taken for the key
MOST_NAMED = 3  # values or columns in a message
SHORT = 60  # letters of a name; longer ones are no names of runs


@dataclasses.dataclass(frozen=True)
class Key:
    """The column that names the run in the grid and in the table of runs, and the share of the rows that it finds."""

    ours: str
    theirs: str
    matched: float


def join(grid: Grid, runs: Grid, on: str | None = None) -> Grid:
    """Return the grid with the columns of a table of one row a run.

    on: the column of both, or OURS=THEIRS; else the pair of columns whose values agree best. Columns that the grid has
    keep its own values. Raises InputError where the tables have no key in common, or a run has two rows in the table.
    """
    key = _named_key(grid, runs, on) if on else _find_key(grid, runs)
    place = _places(runs, key.theirs)
    rows = np.array([place.get(name, -1) for name in _texts(grid, key.ours)])
    has_run = rows >= 0
    frame = grid.frame.copy()
    kept_out = []
    added = []
    for name in runs.names:
        if name == key.theirs or name in runs.repeated:
            continue
        if name in grid.names:
            kept_out.append(name)
            continue
        value = runs.frame[name].iloc[np.where(has_run, rows, 0)].reset_index(drop=True)
        frame[name] = value.where(has_run)
        added.append(name)
    told = _tell(grid, runs, key, len(added), kept_out, int((~has_run).sum()))
    both = grid.sha256 + runs.sha256
    return dataclasses.replace(
        grid,
        frame=frame,
        sha256=hashlib.sha256(both.encode()).hexdigest(),
        notes=(*grid.notes, *runs.notes, *told),
    )


def _tell(grid: Grid, runs: Grid, key: Key, added: int, kept_out: Sequence[str], without: int) -> list[str]:
    """Say what was joined, and what was not."""
    pair = key.ours if key.ours == key.theirs else f"{key.ours} = {key.theirs}"
    told = [f"{added} columns of {runs.path} are joined by {pair}"]
    if without:
        told.append(f"{without} of {len(grid)} rows have no run in {runs.path}: nothing is joined to them")
    if kept_out:
        more = f" and {len(kept_out) - MOST_NAMED} more" if len(kept_out) > MOST_NAMED else ""
        told.append(f"{', '.join(kept_out[:MOST_NAMED])}{more} of {runs.path} are left out: the rows have their own")
    return told


def _named_key(grid: Grid, runs: Grid, on: str) -> Key:
    """Return the key that the user named."""
    ours, _, theirs = (part.strip().strip("`") for part in on.partition("="))
    theirs = theirs or ours
    grid.column(ours, "--on")
    runs.column(theirs, "--on")
    ours = grid.find(ours) or ours
    theirs = runs.find(theirs) or theirs
    place = _places(runs, theirs)
    texts = _texts(grid, ours)
    matched = sum(text in place for text in texts) / len(texts)
    if not matched:
        there = ", ".join(list(place)[:MOST_NAMED])
        raise InputError(
            f"--on: no {ours} of {grid.path} is a {theirs} of {runs.path}: {texts[0]!r} is none of {there}, ..."
        )
    return Key(ours, theirs, matched)


def _find_key(grid: Grid, runs: Grid) -> Key:
    """Find the columns whose values name runs in both tables: those that agree for most rows, of equal name if there are."""
    best = None
    for theirs in runs.names:
        texts = _texts(runs, theirs) if theirs not in runs.repeated else []
        is_key = len(texts) > 1 and len(set(texts)) == len(texts) and not _is_measured(texts)
        if not is_key:
            continue
        known = set(texts)
        for ours in grid.names:
            if ours in grid.repeated:
                continue
            values = _texts(grid, ours)
            matched = sum(value in known for value in values) / len(values)
            found = Key(ours, theirs, matched)
            is_same_name = ours.casefold() == theirs.casefold()
            if best is None or (matched, is_same_name) > (best.matched, best.ours.casefold() == best.theirs.casefold()):
                best = found
    if best is None or best.matched < FEWEST_MATCHED:
        raise InputError(
            f"--join: no column of {grid.path} names runs as one of {runs.path} does; name them with --on=OURS=THEIRS "
            f"(columns of the one: {', '.join(grid.names[:12])}; of the other: {', '.join(runs.names[:12])})"
        )
    return best


def _is_measured(texts: Sequence[str]) -> bool:
    """Say whether values are measured numbers, which are different in every row and name nothing."""
    return any("." in text and text.replace(".", "").replace("-", "").replace("e", "").isdigit() for text in texts)


def _places(runs: Grid, name: str) -> dict[str, int]:
    """Return the row of each run by its name. Raises InputError for a run with two rows."""
    place: dict[str, int] = {}
    for row, text in enumerate(_texts(runs, name)):
        if text in place:
            raise InputError(
                f"--join: {name} {text[:SHORT]!r} stands in rows {place[text]} and {row} of {runs.path}; expected one row a run"
            )
        place[text] = row
    return place


def _texts(grid: Grid, name: str) -> list[str]:
    """Return a column as texts that can be compared: a whole number is written as one."""
    found = []
    for value in grid.frame[name].tolist():
        is_whole = isinstance(value, float) and value.is_integer()
        found.append(str(int(value)) if is_whole else str(value).strip())
    return found
