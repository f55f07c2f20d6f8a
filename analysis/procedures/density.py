"""Fit the density of models, and how it grows over time."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.formula_fit import fit_formula, fit_one_formula
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.laws.density import Density, DensityGrowth
from analysis.laws.downstream import Accuracy, AnswerLoss


def fit_density(
    losses: Columns,
    scores: Columns,
    spec: FitSpec | None = None,
    tokens: float = 1e12,
    held: Mapping[str, float] | None = None,
) -> tuple[Density, Mapping[str, FitResult]]:
    """Fit both steps: reference models as rows (N, D, task_loss), any models as rows (task_loss, accuracy) on one task.

    held: coefficients of Accuracy that are known. Returns the measure and the two fits by the law's name.
    """
    spec = spec or FitSpec()
    answer = fit_one_formula(losses, AnswerLoss, spec)
    of_scores = dataclasses.replace(spec, fixed={**spec.fixed, **(held or {})})
    accuracy = fit_one_formula(scores, Accuracy, of_scores)
    measure = Density(answer.law, accuracy.law, tokens)
    return measure, {AnswerLoss.NAME: answer, Accuracy.NAME: accuracy}


def records(days: Array, density: Array) -> Array:
    """Say which models [rows] are denser than every one before them; of those of one day, the densest may be."""
    days = np.asarray(days, dtype=np.float64)
    density = np.asarray(density, dtype=np.float64)
    order = np.lexsort((-density, days))
    in_order = density[order]
    before = np.maximum.accumulate(np.r_[-np.inf, in_order[:-1]])
    is_record = np.zeros(len(days), dtype=bool)
    is_record[order] = in_order > before
    return is_record


def fit_records(columns: Columns, law_class: type[DensityGrowth], spec: FitSpec) -> FitResult:
    """Fit the growth of density to the records; the doubling time with its interval is in details["doubling_days"]."""
    is_record = records(columns["days"], columns["density"])
    columns = columns.take(is_record, "an earlier model is as dense")
    # Days may count from far away, where intercept and slope could hardly be told apart: fit around their middle. An
    # intercept that is held is that of day 0.
    middle = 0.0 if "B" in spec.fixed else float(columns["days"].mean())
    from_middle = columns["days"] - middle
    centred = dataclasses.replace(columns, values={**columns.values, "days": from_middle})
    result = fit_formula(centred, law_class, spec)
    growth_rate = result.law.A
    law = law_class(growth_rate, result.law.B - growth_rate * middle)
    draws = result.draws
    doubling: dict[str, Any] = {"value": law.doubling_days()}
    if len(draws):
        growth = draws[:, :1]
        draws = draws - growth * np.array([0.0, middle])
        interval = result.interval(law_class.stack(draws).doubling_days())
        doubling["interval"] = None if interval is None else dataclasses.asdict(interval)
    details = {**result.details, "doubling_days": doubling}
    return dataclasses.replace(result, law=law, draws=draws, columns=columns, details=details)
