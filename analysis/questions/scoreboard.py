"""Say which law to believe on a grid: every law that its columns allow, by the error on runs that it has not seen."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from analysis import laws
from analysis.fitting.result import FitError, judged_verdict
from analysis.fitting.spec import FitSpec
from analysis.grid.selection import select, unused
from analysis.grid.table import Columns, Grid
from analysis.laws.base import FormulaLaw, Law
from analysis.questions import backtest
from analysis.questions import fit as fitting
from analysis.solve.objective import Objective
from analysis.trust.verdict import Verdict
from analysis.writing.strict_json import finite_or_null
from analysis.writing.terminal import track
from experiments.cli import InputError

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Score:
    """How one law does on a grid.

    Errors are relative, of held-out rows; nan where `reason` says why there are none. not_identified: the coefficients that
    the verdict on the fit to all rows withholds; verdict: None where there is no such fit.
    """

    law: str
    coefficients: int
    rms_residual: float = math.nan
    aicc: float = math.nan
    held_out_rms: float = math.nan
    held_out_bias: float = math.nan
    covered: float = math.nan
    not_identified: tuple[str, ...] = ()
    verdict: Verdict | None = None
    test: backtest.Rolling | None = None
    reason: str = ""


def scoreboard(columns: Columns, laws: Sequence[type[Law]], spec: FitSpec) -> list[Score]:
    """Score laws by held-out error, best first; those that cannot be fitted last. All are tested on the same splits.

    All are fitted with one objective (Huber's where the spec gives none), else their AICc would not compare. AICc
    compares them where they were fitted; the held-out error says who extrapolates, and that is what counts.
    """
    spec = dataclasses.replace(spec, objective=spec.objective or Objective())
    most_coefficients = max(len(law.of(columns.parts).names()) for law in laws)
    fewest_rows = most_coefficients + backtest.MARGIN
    scores = [score_law(columns, law, spec, fewest_rows) for law in track(laws, "fitting and testing laws")]
    return sorted(scores, key=lambda score: (math.isnan(score.held_out_rms), score.held_out_rms, score.aicc))


def score_law(columns: Columns, law: type[Law], spec: FitSpec, fewest_rows: int) -> Score:
    """Fit and back-test one law; each split leaves at least `fewest_rows` to fit."""
    coefficients = len(law.names())
    try:
        result = fitting.fit(columns, law, dataclasses.replace(spec, thorough=False))
    except (InputError, FitError) as error:
        return Score(law.NAME, coefficients, reason=_reason(error))
    certificate = result.certificate
    verdict = judged_verdict(result)
    score = Score(
        law=law.NAME,
        coefficients=coefficients,
        rms_residual=certificate.rms_log_residual or 0.0,
        aicc=math.nan if certificate.aicc is None else certificate.aicc,
        not_identified=tuple(name for name in law.names() if name in verdict.withheld),
        verdict=verdict,
    )
    try:
        test = backtest.rolling(columns, law, spec, fewest_rows)
    except (InputError, FitError) as error:
        return dataclasses.replace(score, reason=_reason(error))
    return dataclasses.replace(
        score,
        held_out_rms=test.rms_error,
        held_out_bias=test.mean_error,
        covered=test.covered,
        test=test,
    )


def _reason(error: Exception) -> str:
    """Return why a law has no score, in a table whose rows are all of one grid."""
    return str(error).removeprefix("GRID: ")


def weights(aicc: Mapping[str, float]) -> dict[str, float]:
    """Return Akaike weights: how plausible each law is next to the others; a law without a criterion has none."""
    known = [value for value in aicc.values() if math.isfinite(value)]
    if not known:
        return {name: 1 / len(aicc) for name in aicc}
    least = min(known)
    likelihood = {}
    for name, value in aicc.items():
        likelihood[name] = float(np.exp(-0.5 * (value - least))) if math.isfinite(value) else 0.0
    total = sum(likelihood.values())
    return {name: value / total for name, value in likelihood.items()}


def applicable(grid: Grid, columns: str | None, where: str | None) -> list[type[Law]]:
    """Return the laws of the loss of single runs whose roles all have a column in the grid."""
    found = []
    for law in laws.LAWS.values():
        if not is_of_single_runs(law):
            continue
        try:
            select(grid, law.ROLES, columns=columns, where=where)
        except InputError:
            continue
        found.append(law)
    return found


def is_of_single_runs(law: type[Law]) -> bool:
    """Say whether a law gives the loss of single runs, so that laws can be scored by it."""
    return issubclass(law, FormulaLaw) and law.TARGET == "loss"


def together(grid: Grid, chosen: Sequence[type[Law]], columns: str | None, where: str | None) -> Columns:
    """Select the rows that all `chosen` laws can use, with every role that one of them needs or can use."""
    needed = dict.fromkeys(role for law in chosen for role in law.ROLES)
    optional = dict.fromkeys(role for law in chosen for role in law.OPTIONAL)
    if "N" in needed and "D" in needed:
        needed["C"] = None  # derived where no column gives it: it orders the runs
    used = {*needed, *optional, "group"}  # budgets are those of back-tests
    for role in unused(grid, columns, where, used):
        if role in fitting.CHANGING:
            names = ", ".join(law.NAME for law in chosen)
            raise InputError(f"--columns: {role}: {names} have no use for it; expected it to be left out")
    return select(grid, tuple(needed), optional=tuple(optional), columns=columns, where=where)


def to_json(scores: Sequence[Score], grid: Grid, rows: int, command: str) -> dict[str, Any]:
    """Return scoreboard.json: the laws in order, numbers that do not exist null."""
    share = weights({score.law: score.aicc for score in scores})
    return {
        "schema": SCHEMA,
        "data_sha256": grid.sha256,
        "rows_used": rows,
        "command": command,
        "laws": [_describe(score, share[score.law]) for score in scores],
    }


def _describe(score: Score, weight: float) -> dict[str, Any]:
    """Describe a law's score for JSON."""
    numbers = {
        "held_out_rms": score.held_out_rms,
        "held_out_bias": score.held_out_bias,
        "covered": score.covered,
        "rms_residual": score.rms_residual,
        "aicc": score.aicc,
    }
    return {
        "law": score.law,
        "coefficients": score.coefficients,
        **finite_or_null(numbers),
        "weight": weight,
        "verdict": None if score.verdict is None else score.verdict.to_json(),
        "not_identified": list(score.not_identified),
        "by_factor": score.test.by_factor() if score.test else [],
        "reason": score.reason,
    }
