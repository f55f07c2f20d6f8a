"""Take a table for a loss grid and say what its columns mean, with keywords: N="params", loss="val_loss"."""

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
from analysis.grid import selection, table
from analysis.grid.resolve import RoleFinder
from analysis.grid.roles import ROLES
from analysis.grid.table import Columns, Grid
from analysis.laws.base import Law
from analysis.questions import scoreboard
from analysis.writing.numbers import number
from analysis.writing.shown import Shown
from experiments.cli import InputError, nearest

Source = Grid | pd.DataFrame | str | os.PathLike[str]

USUAL = ("N", "D", "C", "loss")  # roles that are looked for whatever the law


@dataclasses.dataclass(frozen=True, repr=False)
class NamedGrid(Shown, Grid):
    """A grid with the columns or formulas that its reader named for roles, and the rows that were chosen."""

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    where: str | None = None

    def show(self, console: Console) -> None:
        """Print which column gives which quantity, how far it reaches, and what was not found."""
        console.print(f"[bold]{len(self)} rows[/] of {escape(os.path.basename(self.path))}, {len(self.names)} columns")
        if self.where:
            console.print(f"rows where {escape(self.where)}")
        roles = Table("role", "meaning", "column", "from", "to")
        missing = []
        for role in dict.fromkeys((*USUAL, *self.columns)):
            row = self._describe(role)
            if row is None:
                missing.append(role)
            else:
                roles.add_row(role, ROLES[role].meaning, *map(escape, row))
        console.print(roles)
        for role in missing:
            console.print(f"[yellow]note[/]: no column for {role} ({ROLES[role].meaning}) under its usual names")

    def _describe(self, role: str) -> tuple[str, str, str] | None:
        """Return where a role comes from with its least and largest value; None where it is not found."""
        finder = RoleFinder(self, dict(self.columns))
        values = finder.find(role)
        if values is None:
            return None
        source = finder.sources[role]
        if values.dtype.kind != "f" or values.ndim > 1:
            kinds = len(pd.unique(values.ravel()))
            return source, f"{kinds} different", ""
        finite = values[np.isfinite(values)]
        if not len(finite):
            return source, "no number", ""
        return source, number(float(finite.min())), number(float(finite.max()))


def read(source: Source, where: str | None = None, columns: Mapping[str, str] | None = None) -> NamedGrid:
    """Return the grid of a file or a DataFrame, with the columns that are named for roles.

    A NamedGrid is returned as it is, or with what is named in addition. Raises InputError for a role or a column that
    does not exist.
    """
    named = _named_grid(source)
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


def _named_grid(source: Source) -> NamedGrid:
    """Return the grid of a file or a DataFrame."""
    if isinstance(source, NamedGrid):
        return source
    if isinstance(source, pd.DataFrame):
        grid = _grid_of_frame(source)
    else:
        grid = source if isinstance(source, Grid) else table.load(source)
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


def law_of(law: str | type[Law]) -> type[Law]:
    """Return the class of a law that is given by its name or by itself."""
    return known_laws.load(law) if isinstance(law, str) else law


@dataclasses.dataclass(frozen=True)
class Asked:
    """What was asked in Python: a grid with its columns and rows, and how to fit."""

    grid: NamedGrid
    spec: FitSpec

    @property
    def columns(self) -> str | None:
        """The columns as --columns takes them."""
        pairs = [f"{role}={source}" for role, source in self.grid.columns.items()]
        return ",".join(pairs) or None

    def select(self, law: type[Law], more: Sequence[str] = ()) -> Columns:
        """Select the rows and roles that a law uses, and further roles that are needed."""
        needed = (*law.ROLES, *more)
        return selection.select(
            self.grid,
            needed,
            optional=law.OPTIONAL,
            columns=self.columns,
            where=self.grid.where,
            signed=law.SIGNED,
        )

    def select_for_all(self, laws: Sequence[type[Law]]) -> Columns:
        """Select the rows that all of several laws can use, so that they are compared on the same ones."""
        return scoreboard.together(self.grid, laws, self.columns, self.grid.where)


def understand(source: Source, where: str | None, given: Mapping[str, Any]) -> Asked:
    """Split keywords into roles of columns and options of FitSpec. Raises InputError for others."""
    options = {field.name for field in dataclasses.fields(FitSpec)}
    columns = {}
    chosen = {}
    for name, value in given.items():
        if name in ROLES:
            columns[name] = value
        elif name in options:
            chosen[name] = value
        else:
            raise InputError(f"{name}: neither a role nor an option; {nearest(name, [*ROLES, *options], 'name')}")
    return Asked(read(source, where, columns), FitSpec(**chosen))
