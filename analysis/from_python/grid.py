"""Take a table for a loss grid and say what its columns mean, with keywords: N="params", loss="val_loss"."""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import os
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis import laws as known_laws
from analysis.fitting.spec import FitSpec
from analysis.grid import join as joining
from analysis.grid import selection, table
from analysis.grid.resolve import RoleFinder
from analysis.grid.roles import ROLES
from analysis.grid.table import Columns, Grid
from analysis.grid.text_table import Reading
from analysis.laws import written
from analysis.laws.base import Law
from analysis.questions import scoreboard
from analysis.questions.fit import select_for
from analysis.writing.numbers import number
from analysis.writing.shown import Shown
from experiments.cli import InputError, nearest

Path = str | os.PathLike[str]
Source = Grid | pd.DataFrame | Path | Sequence[Path]

BEST_OF = "best_of"  # of what was tuned: of runs that differ in nothing else, only the best one is used
MOST_REASONS = 5  # to leave rows out, that are shown
USUAL = ("N", "D", "C", "loss")  # roles that are looked for whatever the law


@dataclasses.dataclass(frozen=True, repr=False)
class NamedGrid(Shown, Grid):
    """A grid with the columns or formulas that its reader named for roles, and the rows that were chosen."""

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    where: str | None = None

    def show(self, console: Console) -> None:
        """Print which column gives which quantity, how far it reaches, which rows are left out, and what was not found."""
        finder = RoleFinder(self, dict(self.columns))
        wanted = dict.fromkeys((*USUAL, *self.columns))
        found = [role for role in wanted if finder.find(role) is not None]
        name = escape(os.path.basename(self.path))
        console.print(f"[bold]{len(self)} rows[/] of {name}, {len(self.names)} columns")
        try:
            chosen = selection.select(self, found, columns=self.named, where=self.where)
        except InputError as error:
            console.print(f"[yellow]note[/]: {escape(str(error))}")
            return
        console.print(self._roles_table(chosen))
        reasons = collections.Counter(row.reason for row in chosen.dropped)
        for reason, count in reasons.most_common(MOST_REASONS):
            console.print(f"{count} left out: {escape(reason)}")
        for role in wanted:
            if role not in found:
                console.print(f"[yellow]note[/]: no column for {role} ({ROLES[role].meaning}) under its usual names")
        for note in chosen.notes:
            console.print(f"[yellow]note[/]: {escape(note)}")

    @property
    def named(self) -> str | None:
        """The columns that were named, as --columns takes them: a column's name in back-ticks, a formula as it is."""
        pairs = []
        for role, source in self.columns.items():
            is_name = source in self.frame.columns and "`" not in source
            pairs.append(f"{role}=`{source}`" if is_name else f"{role}={source}")
        return ",".join(pairs) or None

    def _roles_table(self, chosen: Columns) -> Table:
        """Return which column gives which role, and how far it reaches over the rows that can be used."""
        roles = Table("role", "meaning", "column", "from", "to")
        for role, values in chosen.values.items():
            low, high = _ends(values)
            roles.add_row(role, ROLES[role].meaning, escape(chosen.sources[role]), low, high)
        return roles


def _ends(values: np.ndarray) -> tuple[str, str]:
    """Return the least and the largest of numbers, or how many different labels there are, in words."""
    if values.dtype.kind != "f" or values.ndim > 1:
        kinds = len(pd.unique(values.ravel()))
        return f"{kinds} different", ""
    least = float(values.min())
    most = float(values.max())
    return number(least), number(most)


def read(
    source: Source,
    where: str | None = None,
    columns: Mapping[str, str] | None = None,
    reading: Reading = Reading(),
) -> NamedGrid:
    """Return the grid of files or a DataFrame, with the columns that are named for roles.

    A NamedGrid is returned as it is, or with what is named in addition. Raises InputError for a role or a column that
    does not exist.
    """
    named = _named_grid(source, reading)
    columns = dict(columns or {})
    for role in columns:
        if role not in ROLES:
            raise InputError(f"{role}: not a role of a column; {nearest(role, ROLES, 'role')}")
    if not columns and where is None:
        return named
    conditions = [f"({text})" for text in (named.where, where) if text]
    both = conditions[0][1:-1] if len(conditions) == 1 else " and ".join(conditions)
    found = dataclasses.replace(named, columns={**named.columns, **columns}, where=both or None)
    finder = RoleFinder(found, dict(found.columns))
    for role in columns:
        finder.find(role)
    return found


def joined(source: Source, runs: Source, on: str | None, reading: Reading = Reading()) -> NamedGrid:
    """Return a grid whose rows have the columns of a table with one row a run."""
    grid = _named_grid(source, reading)
    found = joining.join(grid, _named_grid(runs, reading), on)
    return dataclasses.replace(grid, frame=found.frame, sha256=found.sha256, notes=found.notes)


def _named_grid(source: Source, reading: Reading) -> NamedGrid:
    """Return the grid of files or a DataFrame."""
    if isinstance(source, NamedGrid):
        return source
    if isinstance(source, pd.DataFrame):
        grid = _grid_of_frame(source)
    else:
        grid = source if isinstance(source, Grid) else table.load(source, reading)
    fields = {field.name: getattr(grid, field.name) for field in dataclasses.fields(Grid)}
    return NamedGrid(**fields)


def _grid_of_frame(frame: pd.DataFrame) -> Grid:
    """Return a DataFrame as a grid."""
    if frame.empty:
        raise InputError("GRID: the DataFrame has no rows; expected at least one")
    content = frame.to_csv(index=False).encode()
    names = [str(name) for name in frame.columns]
    repeated = frozenset(name for name in names if names.count(name) > 1)
    digest = hashlib.sha256(content).hexdigest()
    return Grid("DataFrame", frame.reset_index(drop=True), digest, repeated)


def law_of(law: str | type[Law], grid: Grid) -> type[Law]:
    """Return the class of a law that is given by its name, by its formula (L = E + A/N^alpha), or by itself.

    A formula may name columns of the grid.
    """
    if not isinstance(law, str):
        return law
    return written.law_of(law, grid.names) if "=" in law else known_laws.load(law)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What was asked in Python: a grid with its columns and rows, and how to fit."""

    grid: NamedGrid
    spec: FitSpec

    def select(self, law: type[Law], more: Sequence[str] = ()) -> Columns:
        """Select the rows and roles that a law uses, and further roles that are needed."""
        return select_for(self.grid, law, self.grid.named, self.grid.where, more, changing=True)

    def select_for_all(self, laws: Sequence[type[Law]]) -> Columns:
        """Select the rows that all of several laws can use, so that they are compared on the same ones."""
        return scoreboard.together(self.grid, laws, self.grid.named, self.grid.where)


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return names that are written with commas between them, or one by one."""
    names = value.split(",") if isinstance(value, str) else value
    return tuple(name.strip() for name in names)


def understand(source: Source, where: str | None, given: Mapping[str, Any]) -> Asked:
    """Split keywords into roles of columns, options of FitSpec and best_of="lr,batch". Raises InputError for others."""
    options = {field.name for field in dataclasses.fields(FitSpec)}
    columns = {}
    chosen = {}
    best_of: tuple[str, ...] = ()
    for name, value in given.items():
        if name == BEST_OF:
            best_of = _names(value)
        elif name in ROLES:
            columns[name] = value
        elif name in options:
            chosen[name] = value
        else:
            raise InputError(
                f"{name}: neither a role nor an option; {nearest(name, [*ROLES, *options, BEST_OF], 'name')}"
            )
    grid = read(source, where, columns)
    if best_of:
        grid = dataclasses.replace(grid, best_of=best_of)
    return Asked(grid, FitSpec(**chosen))
