"""Ask the questions from Python: grids as DataFrames or paths, laws by name or class, columns and options as keywords.

It turns keywords into what questions/ takes, and answers into what shows itself; it computes nothing.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any

import pandas as pd

from analysis import laws as known_laws
from analysis.fitting.result import FitResult
from analysis.from_python import answers
from analysis.from_python.answers import as_shown, predict_from
from analysis.from_python.fit import Fit
from analysis.from_python.grid import Asked, Source, law_of, read, understand
from analysis.grid import selection
from analysis.laws import written
from analysis.laws.base import FormulaLaw, Law
from analysis.questions import compare as comparing
from analysis.questions import design as designing
from analysis.questions import fit as fitting
from analysis.questions import predict as predicting
from analysis.questions import scoreboard as scoring
from analysis.questions import trend as trending
from analysis.questions.candidates import read as read_candidates
from analysis.questions.target import Target, Until
from experiments.cli import InputError


def fit(source: Source, law: str | type[Law], where: str | None, given: Mapping[str, Any]) -> Fit:
    """Fit a law to a grid."""
    grid = read(source)
    chosen = law_of(law, grid)
    asked = understand(grid, where, given)
    columns = asked.select(chosen)
    found = fitting.fit(columns, chosen, asked.spec)
    return as_shown(Fit, found, grid=asked.grid, selected=columns, call=_call(asked, chosen, given))


def _call(asked: Asked, law: type[Law], given: Mapping[str, Any]) -> str:
    """Return the fit as a line of Python, for fit.json."""
    grid = asked.grid
    definition = law.DEFINITION
    name = law.NAME if definition is None else definition["text"]
    words = [f"{grid.path!r}", f"{name!r}"]
    if grid.where:
        words.append(f"where={grid.where!r}")
    keywords = {**grid.columns, **given}
    for name, value in keywords.items():
        words.append(f"{name}={value!r}")
    arguments = ", ".join(words)
    return f"analysis.fit({arguments})"


def predict(
    result: FitResult | str | os.PathLike[str], at: Mapping[str, float], serve_tokens: float | None
) -> answers.Prediction:
    """Predict from a fit or a fit.json."""
    fitted = predicting.of_result(result) if isinstance(result, FitResult) else predicting.read(os.fspath(result))
    return predict_from(fitted, at, serve_tokens)


def compare(
    source: Source,
    law: str | type[Law],
    baseline: str | None,
    shared: Sequence[str] | None,
    where: str | None,
    given: Mapping[str, Any],
) -> answers.Comparison:
    """Compare the families of a grid."""
    grid = read(source)
    chosen = law_of(law, grid)
    if not issubclass(chosen, FormulaLaw):
        raise InputError(f"law: {chosen.NAME} has no loss at C training FLOPs; expected for example chinchilla")
    asked = understand(grid, where, given)
    columns = asked.select(chosen, more=("family",))
    own = None if shared is None else tuple(shared)
    found = comparing.compare(columns, chosen, asked.spec, baseline=baseline, shared=own)
    return as_shown(answers.Comparison, found, columns=columns, level=asked.spec.level)


def design(
    source: Source,
    target: str,
    laws: Sequence[str | type[Law]],
    budget: float | None,
    count: int,
    candidates: Source | None,
    until: str | None,
    where: str | None,
    given: Mapping[str, Any],
) -> answers.Design:
    """Propose runs from a table of candidates, or from the lattice around a grid."""
    grid = read(source)
    chosen = designing.of_single_runs([law_of(law, grid) for law in laws])
    asked = understand(grid, where, given)
    columns = asked.select_for_all(chosen)
    could_be = None
    if candidates is not None:
        table = read(candidates)
        could_be = read_candidates(table, chosen, table.named, columns)
    if budget is None:
        budget = designing.budget_of(columns, could_be)
    if could_be is None:
        could_be = designing.lattice(columns, budget)
    wanted = Target.parse(target)
    enough = None if until is None else Until.parse(until)
    found = designing.propose(columns, chosen, wanted, could_be, asked.spec, budget, count, enough)
    return as_shown(answers.Design, found)


def scoreboard(
    source: Source, laws: Sequence[str | type[Law]], where: str | None, given: Mapping[str, Any]
) -> answers.Scoreboard:
    """Score laws by their error on larger runs than they were fitted to."""
    grid = read(source)
    chosen = [law_of(law, grid) for law in laws]
    asked = understand(grid, where, given)
    if not chosen:
        chosen = scoring.applicable(asked.grid, asked.grid.named, asked.grid.where)
    chosen = designing.of_single_runs(chosen)
    columns = asked.select_for_all(chosen)
    scores = scoring.scoreboard(columns, chosen, asked.spec)
    return answers.Scoreboard(tuple(scores))


def trend(source: Source, x: str, y: str, where: str | None, level: float, seed: int) -> answers.Trend:
    """Find whether one column falls, rises or turns over another."""
    asked = understand(source, where, {"X": x, "loss": y})
    grid = asked.grid
    columns = selection.select(
        grid,
        ("X", "loss"),
        optional=("run",),
        columns=grid.named,
        where=grid.where,
        signed=("loss",),
    )
    found = trending.trend_of(columns, level=level, seed=seed)
    return as_shown(answers.Trend, found, columns=columns)


def law(text: str, source: Source | None) -> type[FormulaLaw]:
    """Make a law of a formula, and make it known by its name until Python ends; one of that name before is replaced.

    Raises InputError for what is no formula, and for the name of a law of ours.
    """
    columns = () if source is None else read(source).names
    made = written.law_of(text, columns)
    known = known_laws.LAWS.get(made.NAME)
    if known is not None and known.DEFINITION is None:
        raise InputError(
            f"law: {made.NAME!r} is the name of {known.FORMULA}; expected another before the colon, as in mine: L = ..."
        )
    known_laws.LAWS[made.NAME] = made
    return made


def list_laws() -> pd.DataFrame:
    """Return the laws as a table."""
    rows = []
    for law in known_laws.LAWS.values():
        row = {
            "law": law.NAME,
            "formula": law.FORMULA,
            "columns": ", ".join(law.ROLES),
            "source": law.SOURCE,
        }
        rows.append(row)
    return pd.DataFrame(rows)
