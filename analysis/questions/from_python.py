"""Ask the questions from Python: grids as DataFrames or paths, laws by name or class, columns and options as keywords.

This is what analysis/__init__.py hands on to; it turns keywords into what the questions take, and computes nothing.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import os
from typing import Any

import pandas as pd

from analysis import laws as known_laws
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid import selection, table
from analysis.grid.roles import ROLES
from analysis.grid.table import Columns, Grid
from analysis.laws.base import FormulaLaw, Law
from analysis.questions import compare as comparing
from analysis.questions import design as designing
from analysis.questions import fit as fitting
from analysis.questions import predict as predicting
from analysis.questions.scoreboard import together
from analysis.questions.target import Target
from experiments.cli import InputError, nearest

Source = Grid | pd.DataFrame | str | os.PathLike[str]


def read(source: Source) -> Grid:
    """Return the grid of a file or a DataFrame; a Grid is returned as it is."""
    if isinstance(source, Grid):
        return source
    if isinstance(source, pd.DataFrame):
        if source.empty:
            raise InputError("GRID: the DataFrame has no rows; expected at least one")
        content = source.to_csv(index=False).encode()
        names = [str(name) for name in source.columns]
        repeated = frozenset(name for name in names if names.count(name) > 1)
        return Grid("DataFrame", source.reset_index(drop=True), hashlib.sha256(content).hexdigest(), repeated)
    return table.load(source)


def law_of(law: str | type[Law]) -> type[Law]:
    """Return the class of a law that is given by its name or by itself."""
    return known_laws.load(law) if isinstance(law, str) else law


def split_given(given: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Split keywords into columns, as --columns takes them, and options of FitSpec. Raises InputError for others."""
    options = {field.name for field in dataclasses.fields(FitSpec)}
    columns = []
    chosen = {}
    for name, value in given.items():
        if name in ROLES:
            columns.append(f"{name}={value}")
        elif name in options:
            chosen[name] = value
        else:
            raise InputError(f"{name}: neither a role nor an option; {nearest(name, [*ROLES, *options], 'name')}")
    return ",".join(columns) or None, chosen


def select(grid: Grid, law: type[Law], columns: str | None, where: str | None, more: Sequence[str] = ()) -> Columns:
    """Select the rows and roles of a grid that a law uses, and further roles that are needed."""
    needed = (*law.ROLES, *more)
    return selection.select(grid, needed, optional=law.OPTIONAL, columns=columns, where=where, signed=law.SIGNED)


def fit(source: Source, law: str | type[Law], where: str | None, given: Mapping[str, Any]) -> FitResult:
    """Fit a law to a grid."""
    chosen = law_of(law)
    columns, options = split_given(given)
    return fitting.fit(select(read(source), chosen, columns, where), chosen, FitSpec(**options))


def predict(result: FitResult | str | os.PathLike[str], at: Mapping[str, float]) -> predicting.Prediction:
    """Predict from a fit or a fit.json."""
    fitted = predicting.of_result(result) if isinstance(result, FitResult) else predicting.read(os.fspath(result))
    text = ",".join(f"{name}={value!r}" for name, value in at.items())
    return predicting.predict(fitted, predicting.parse_at(text, fitted.law))


def compare(
    source: Source,
    law: str | type[Law],
    baseline: str | None,
    shared: Sequence[str] | None,
    where: str | None,
    given: Mapping[str, Any],
) -> comparing.Comparison:
    """Compare the families of a grid."""
    chosen = law_of(law)
    if not issubclass(chosen, FormulaLaw):
        raise InputError(f"law: {chosen.NAME} has no loss at C training FLOPs; expected for example chinchilla")
    text, options = split_given(given)
    columns = select(read(source), chosen, text, where, more=("family",))
    own = None if shared is None else tuple(shared)
    return comparing.compare(columns, chosen, FitSpec(**options), baseline=baseline, shared=own)


def design(
    source: Source,
    target: str,
    laws: Sequence[str | type[Law]],
    budget: float | None,
    count: int,
    where: str | None,
    given: Mapping[str, Any],
) -> designing.Design:
    """Propose runs from the lattice around a grid."""
    chosen = designing.of_single_runs([law_of(law) for law in laws])
    text, options = split_given(given)
    columns = together(read(source), chosen, text, where)
    if budget is None:
        budget = float(columns["C"].sum())
    candidates = designing.lattice(columns, budget)
    return designing.propose(columns, chosen, Target.parse(target), candidates, FitSpec(**options), budget, count)


def list_laws() -> pd.DataFrame:
    """Return the laws as a table."""
    rows = []
    for law in known_laws.LAWS.values():
        rows.append({"law": law.NAME, "formula": law.FORMULA, "columns": ", ".join(law.ROLES), "source": law.SOURCE})
    return pd.DataFrame(rows)
