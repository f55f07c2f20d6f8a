"""Give the rows of a grid what another table says of their runs: its configuration, where histories have none.

Trackers export two tables: histories with a row for each run and step, and a table with one row a run (config.*, summary).
"""

from collections.abc import Collection, Sequence
import dataclasses
import hashlib
import re

import numpy as np

from analysis.grid.table import Grid
from experiments.cli import InputError

FEWEST_MATCHED = 0.5  # share of the rows whose run the other table has, for a column to be taken for the key
MOST_NAMED = 3  # values or columns in a message
MOST_COLUMNS = 12
SHORT = 60  # letters of a name; longer ones are no names of runs


@dataclasses.dataclass(frozen=True)
class Key:
    """The column that names the run in the grid and in the table of runs, and the share of the rows that it finds."""

    ours: str
    theirs: str
    matched: float

    @property
    def rank(self) -> tuple[float, bool]:
        """What makes one key better than another."""
        is_same_name = self.ours.casefold() == self.theirs.casefold()
        return self.matched, is_same_name


def join(grid: Grid, runs: Grid, on: str | None = None) -> Grid:
    """Return the grid with the columns of a table of one row a run.

    on: the column of both, or OURS=THEIRS; else the pair of columns whose values agree best. Columns that the grid has
    keep its own values. Raises InputError where the tables have no key in common, or a run has two rows in the table.
    """
    key = _named_key(grid, runs, on) if on else _find_key(grid, runs)
    place = _places(runs, key.theirs)
    ours = _texts(grid, key.ours)
    rows = np.array([place.get(name, -1) for name in ours])
    has_run = rows >= 0
    some_row = np.where(has_run, rows, 0)
    frame = grid.frame.copy()
    kept_out = []
    added = 0
    for name in runs.names:
        if name == key.theirs or name in runs.repeated:
            continue
        if name in grid.names:
            kept_out.append(name)
            continue
        column = runs.frame[name]
        value = column.iloc[some_row].reset_index(drop=True)
        frame[name] = value.where(has_run)
        added += 1
    without = int((~has_run).sum())
    told = _tell(grid, runs, key, added, kept_out, without)
    both = grid.sha256 + runs.sha256
    digest = hashlib.sha256(both.encode())
    return dataclasses.replace(
        grid,
        frame=frame,
        sha256=digest.hexdigest(),
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
    left, _, right = on.partition("=")
    ours = left.strip().strip("`")
    theirs = right.strip().strip("`") or ours
    grid.column(ours, "--on")
    runs.column(theirs, "--on")
    ours = grid.find(ours) or ours
    theirs = runs.find(theirs) or theirs
    place = _places(runs, theirs)
    texts = _texts(grid, ours)
    matched = _share_in(texts, place)
    if matched:
        return Key(ours, theirs, matched)
    some = list(place)[:MOST_NAMED]
    there = ", ".join(some)
    raise InputError(
        f"--on: no {ours} of {grid.path} is a {theirs} of {runs.path}: {texts[0]!r} is none of {there}, ..."
    )


def _share_in(texts: Sequence[str], known: Collection[str]) -> float:
    """Return the share of texts that are known."""
    found = [text for text in texts if text in known]
    return len(found) / len(texts)


def _find_key(grid: Grid, runs: Grid) -> Key:
    """Find the columns whose values name runs in both tables: those that agree for most rows, of equal name if there are."""
    best: Key | None = None
    for theirs in runs.names:
        known = _names_of_runs(runs, theirs)
        for ours in grid.names:
            if not known or ours in grid.repeated:
                continue
            matched = _share_in(_texts(grid, ours), known)
            found = Key(ours, theirs, matched)
            if best is None or found.rank > best.rank:
                best = found
    if best is not None and best.matched >= FEWEST_MATCHED:
        return best
    of_grid = ", ".join(grid.names[:MOST_COLUMNS])
    of_runs = ", ".join(runs.names[:MOST_COLUMNS])
    raise InputError(
        f"--join: no column of {grid.path} names runs as one of {runs.path} does; name them with --on=OURS=THEIRS "
        f"(columns of the one: {of_grid}; of the other: {of_runs})"
    )


def _names_of_runs(runs: Grid, name: str) -> set[str]:
    """Return the values of a column that may name runs: another one in every row, and no measured number."""
    if name in runs.repeated:
        return set()
    texts = _texts(runs, name)
    known = set(texts)
    is_key = len(texts) > 1 and len(known) == len(texts)
    return known if is_key and not any(map(_is_measured, texts)) else set()


def _is_measured(text: str) -> bool:
    """Say whether a value is a measured number, which is different in every row and names nothing."""
    return re.fullmatch(r"-?\d*\.\d+(e[+-]?\d+)?", text) is not None


def _places(runs: Grid, name: str) -> dict[str, int]:
    """Return the row of each run by its name. Raises InputError for a run with two rows."""
    place: dict[str, int] = {}
    for row, text in enumerate(_texts(runs, name)):
        if text in place:
            short = text[:SHORT]
            first = place[text]
            raise InputError(
                f"--join: {name} {short!r} stands in rows {first} and {row} of {runs.path}; expected one row a run"
            )
        place[text] = row
    return place


def _texts(grid: Grid, name: str) -> list[str]:
    """Return a column as texts that can be compared: a whole number is written as one."""
    column = grid.frame[name]
    found = []
    for value in column.tolist():
        is_whole = isinstance(value, float) and value.is_integer()
        text = str(int(value)) if is_whole else str(value)
        found.append(text.strip())
    return found
