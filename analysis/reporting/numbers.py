"""Gather every number of a report for NAME.numbers.json."""

import dataclasses
from typing import Any

from analysis.fitting import result
from analysis.grid.table import Grid
from analysis.questions.compare import Comparison
from analysis.reporting.checklist import checklist
from analysis.reporting.page import versions
from analysis.reporting.rates import Rates
from analysis.reporting.survey import Survey
from analysis.writing.strict_json import finite_or_null

SCHEMA = 1
# Of a fit's JSON: large, or said once for all.
LEFT_OUT = ("draws", "left_out", "region", "rows_dropped", "command", "data_sha256")


def numbers(survey: Survey, grid: Grid, command: str) -> dict[str, Any]:
    """Return NAME.numbers.json: every number of the report, with a schema version; what there is not is null."""
    fits = {}
    for name, found in survey.results.items():
        fit = result.to_json(found, grid.sha256, command)
        fits[name] = {key: value for key, value in fit.items() if key not in LEFT_OUT}
    described = {
        "schema": SCHEMA,
        "design": result.judged_verdict(survey[survey.headline]).to_json(),
        "command": command,
        "data": _data(survey, grid),
        "headline": survey.headline,
        "verdict": {"grade": survey.verdict, "reasons": survey.reasons},
        "largest_budget_flops": survey.largest,
        "fits": fits,
        "not_fitted": survey.failures,
        "optimal": survey.optima,
        "conventions": survey.conventions,
        "back_test": survey.test.summary() if survey.test else {"reason": survey.no_test},
        "back_tests": survey.rolling.summary() if survey.rolling else None,
        "exchange": _exchange(survey.comparison) if survey.comparison else None,
        "learning_rate": [_learning_rate(one) for one in survey.rates],
        "checklist": [item._asdict() for item in checklist(survey, grid)],
        "versions": versions(),
    }
    return finite_or_null(described)


def _data(survey: Survey, grid: Grid) -> dict[str, Any]:
    """Describe the grid and what was used of it."""
    return {
        "path": grid.path,
        "sha256": grid.sha256,
        "rows": len(grid.frame),
        "rows_used": len(survey.columns),
        "rows_dropped": [dataclasses.asdict(row) for row in survey.columns.dropped],
        "columns": survey.columns.sources,
    }


def _exchange(comparison: Comparison) -> dict[str, Any]:
    """Say where families turn over, against the baseline."""
    return {
        "baseline": comparison.baseline,
        "crossings": {name: dataclasses.asdict(one) for name, one in comparison.crossings.items()},
    }


def _learning_rate(one: Rates) -> dict[str, Any]:
    """Describe one bracket of learning rates."""
    return {
        "label": one.label,
        "rate": one.rate.tolist(),
        "loss": one.loss.tolist(),
        "best": one.best,
        "used": one.used,
        "excess": one.excess,
    }
