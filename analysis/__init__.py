"""Scaling laws from Python: read a grid, fit a law, look at it, predict, compare families, design the next runs.

    import analysis as lab

    grid = lab.read("runs.csv", N="params", loss="val_loss", run="run_id")
    fit = lab.fit(grid, "chinchilla")
    fit.plot.isoflop()

`fit` shows itself, in a notebook and in a terminal: the law, its intervals, whether to believe it. `fit.predict(C=1e24)`,
`fit.backtest()`, `fit.to_frame()` and `fit.save("fit.json")` go on from there.

Each function is a thin call of the library in analysis/questions/, which also has everything that is not here. Nothing
heavy is imported before a function is called, so that `import analysis` is instant. `analysis.fit` is the function;
`python -m analysis.fit` is the command of that name.
"""

from collections.abc import Sequence
import os
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from analysis.fitting.result import FitResult
    from analysis.from_python.answers import Comparison, Design, Prediction, Scoreboard, Trend
    from analysis.from_python.fit import Fit
    from analysis.from_python.grid import NamedGrid, Source
    from analysis.laws.base import Law


class _Face(types.ModuleType):
    """A package whose functions stay when the command of the same name is imported.

    Python sets an imported submodule as an attribute of its package: after `import analysis.fit`, `analysis.fit` would be
    the module of the command and no longer the function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        is_command = isinstance(value, types.ModuleType)
        if is_command and isinstance(vars(self).get(name), types.FunctionType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face


def read(
    source: "Source",
    *,
    where: str | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    join: "Source | None" = None,
    on: str | None = None,
    **columns: str,
) -> "NamedGrid":
    """Read a grid from a file, several files or a pattern of files, or take a DataFrame for one; say what columns mean.

    columns: roles with their column or formula: N="params", loss="eval/loss", run="run_id", C="6*N*D". What is not named
    is looked for under its usual names. `where` chooses rows as --where does. delimiter, decimal, encoding: of a text file,
    where what is found from it is wrong. join: a table with one row a run, whose columns are given to the rows of each run;
    on: the column that names runs in both, or "ours=theirs", else found. Raises InputError when there is no such file, no row in it, or no such column.
    """
    from analysis.from_python import grid
    from analysis.grid.text_table import Reading

    reading = Reading(delimiter, decimal, encoding)
    joined = source if join is None else grid.joined(source, join, on, reading)
    return grid.read(joined, where, columns, reading)


def fit(
    source: "Source",
    law: "str | type[Law]" = "chinchilla",
    *,
    where: str | None = None,
    **given: Any,
) -> "Fit":
    """Fit a law, given by its name, its formula ("L = E + A/N^alpha") or its class, to a grid.

    given: roles as in `read`, options of analysis.fitting.spec.FitSpec (bootstrap=200, fixed={"E": 1.69}), whose types
    are many, and best_of="lr,batch" for the best of the runs that differ in nothing else. Raises InputError for what the law or the grid does not have, FitError where no optimum is found.
    """
    from analysis.from_python import questions

    return questions.fit(source, law, where, given)


def predict(
    result: "FitResult | str | os.PathLike[str]", *, serve_tokens: float | None = None, **at: float
) -> "Prediction":
    """Predict from a fit, or from the fit.json at a path: predict(result, N=1e9, D=2e10) or predict(result, C=1e24).

    serve_tokens: of the model's life, for which the budget C pays as well; or loss=2.1 is reached at the least cost.
    """
    from analysis.from_python import questions

    return questions.predict(result, at, serve_tokens)


def compare(
    source: "Source",
    law: "str | type[Law]" = "chinchilla",
    *,
    baseline: str | None = None,
    shared: Sequence[str] | None = None,
    where: str | None = None,
    **given: Any,
) -> "Comparison":
    """Compare the families of a grid: what one's compute is worth in another's. `given` is that of fit."""
    from analysis.from_python import questions

    return questions.compare(source, law, baseline, shared, where, given)


def design(
    source: "Source",
    target: str,
    *,
    laws: Sequence["str | type[Law]"] = ("chinchilla", "overtraining", "kaplan"),
    budget: float | None = None,
    count: int = 8,
    candidates: "Source | None" = None,
    until: str | None = None,
    where: str | None = None,
    **given: Any,
) -> "Design":
    """Propose the runs that pin a number down, for example design("runs.csv", "loss@C=1e24").

    budget: FLOPs that may be spent, by default as many as the grid has cost. candidates: a table of runs that could be
    made, with a column `cost` where that is not FLOPs. until: how wide the interval may be, "0.02" or "5%". `given` is
    that of fit.
    """
    from analysis.from_python import questions

    return questions.design(source, target, laws, budget, count, candidates, until, where, given)


def scoreboard(
    source: "Source",
    laws: Sequence["str | type[Law]"] = (),
    *,
    where: str | None = None,
    bootstrap: int = 200,
    **given: Any,
) -> "Scoreboard":
    """Say which law extrapolates best on a grid, of those named or of all whose columns it has. `given` is that of fit."""
    from analysis.from_python import questions

    return questions.scoreboard(source, laws, where, given | {"bootstrap": bootstrap})


def trend(
    source: "Source",
    x: str,
    y: str,
    *,
    where: str | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> "Trend":
    """Say whether column or formula y falls, rises, or turns over x: trend("runs.csv", "params", "error")."""
    from analysis.from_python import questions

    return questions.trend(source, x, y, where, level, seed)


def law(text: str, source: "Source | None" = None) -> "type[Law]":
    """Make a law of a formula, known by its name from now on: law("mine: L = E + A/N^alpha + B/D^beta").

    It is parsed and never evaluated, and starts to fit it come from the data. source: a grid whose columns it names.
    fit, compare, design and scoreboard take the text of a formula as well. Raises InputError for what is no formula.
    """
    from analysis.from_python import questions

    return questions.law(text, source)


def list_laws() -> "pd.DataFrame":
    """Return every law: its name, formula, the columns that it needs, and its source."""
    from analysis.from_python import questions

    return questions.list_laws()
