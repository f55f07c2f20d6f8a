"""Scaling laws from Python: read a grid, fit a law, predict, compare families, design the next runs.

    import analysis
    result = analysis.fit("runs.csv", "chinchilla", N="params", loss="val_loss")
    analysis.predict(result, C=1e24).optimum

Each function is a thin call of the library in analysis/questions/, which also has everything that is not here. Nothing
heavy is imported before a function is called, so that `import analysis` is instant. `analysis.fit` is the function;
`python -m analysis.fit` is the command of that name.
"""

from collections.abc import Sequence
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from analysis.fitting.result import FitResult
    from analysis.grid.table import Grid
    from analysis.laws.base import Law
    from analysis.questions.compare import Comparison
    from analysis.questions.design import Design
    from analysis.questions.predict import Prediction


def read(source: "Grid | pd.DataFrame | str | os.PathLike[str]") -> "Grid":
    """Read a grid from a Parquet or CSV file, or take a DataFrame for one.

    Raises InputError when there is no such file, or no row in it.
    """
    from analysis.questions import from_python

    return from_python.read(source)


def fit(
    source: "Grid | pd.DataFrame | str | os.PathLike[str]",
    law: "str | type[Law]" = "chinchilla",
    *,
    where: str | None = None,
    **given: Any,
) -> "FitResult":
    """Fit a law, given by its name or its class, to a grid.

    given: roles with their column or formula (N="params", C="6*N*D"), and options of analysis.fitting.spec.FitSpec
    (bootstrap=200, fixed={"E": 1.69}), whose types are many. `where` chooses rows as --where does. Raises InputError for
    what the law or the grid does not have, FitError where no optimum is found.
    """
    from analysis.questions import from_python

    return from_python.fit(source, law, where, given)


def predict(result: "FitResult | str | os.PathLike[str]", **at: float) -> "Prediction":
    """Predict from a fit, or from the fit.json at a path: predict(result, N=1e9, D=2e10) or predict(result, C=1e24)."""
    from analysis.questions import from_python

    return from_python.predict(result, at)


def compare(
    source: "Grid | pd.DataFrame | str | os.PathLike[str]",
    law: "str | type[Law]" = "chinchilla",
    *,
    baseline: str | None = None,
    shared: Sequence[str] | None = None,
    where: str | None = None,
    **given: Any,
) -> "Comparison":
    """Compare the families of a grid: what one's compute is worth in another's. `given` is that of fit."""
    from analysis.questions import from_python

    return from_python.compare(source, law, baseline, shared, where, given)


def design(
    source: "Grid | pd.DataFrame | str | os.PathLike[str]",
    target: str,
    *,
    laws: Sequence["str | type[Law]"] = ("chinchilla", "overtraining", "kaplan"),
    budget: float | None = None,
    count: int = 8,
    where: str | None = None,
    **given: Any,
) -> "Design":
    """Propose the runs that pin a number down, for example design("runs.csv", "loss@C=1e24").

    budget: FLOPs that may be spent, by default as many as the grid has cost. `given` is that of fit.
    """
    from analysis.questions import from_python

    return from_python.design(source, target, laws, budget, count, where, given)


def list_laws() -> "pd.DataFrame":
    """Return every law: its name, formula, the columns that it needs, and its source."""
    from analysis.questions import from_python

    return from_python.list_laws()
