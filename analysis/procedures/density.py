"""Fit the growth of density over time."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.formula_fit import fit_formula, fit_one_formula
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.density import Density
from analysis.laws.downstream import Accuracy, AnswerLoss


def fit_density(
    losses: Columns, scores: Columns, spec: FitSpec | None = None, tokens: float = 1e12
) -> tuple[Density, Mapping[str, FitResult]]:
    """Fit both steps: reference models as rows (N, D, task_loss), any models as rows (task_loss, accuracy) on one task.

    Returns the measure and the two fits by the law's name.
    """
    found = {
        law.NAME: fit_one_formula(rows, law, spec or FitSpec())
        for law, rows in ((AnswerLoss, losses), (Accuracy, scores))
    }
    return Density(found[AnswerLoss.NAME].law, found[Accuracy.NAME].law, tokens), found


def records(days: Any, density: Any) -> np.ndarray:
    """Which models are denser than every one before them [rows]; of those of one day, the densest may be."""
    days, density = np.asarray(days, dtype=np.float64), np.asarray(density, dtype=np.float64)
    order = np.lexsort((-density, days))
    before = np.maximum.accumulate(np.r_[-np.inf, density[order][:-1]])
    kept = np.zeros(len(days), dtype=bool)
    kept[order] = density[order] > before
    return kept


def fit_records(columns: Columns, law_class: Any, spec: FitSpec) -> FitResult:
    """Fit the records; the doubling time with its interval is in details["doubling_days"]."""
    columns = columns.take(records(columns["days"], columns["density"]), "an earlier model is as dense")
    middle = float(columns["days"].mean())  # days may count from far away
    centred = dataclasses.replace(columns, values={**columns.values, "days": columns["days"] - middle})
    result = fit_formula(centred, law_class, spec)
    shift = np.array([0.0, middle])
    law = law_class(result.law.A, result.law.B - result.law.A * middle)
    draws = result.draws - result.draws[:, :1] * shift if len(result.draws) else result.draws
    doubling: dict[str, Any] = {"value": law.doubling_days()}
    if len(draws):
        interval = result.interval(law_class.stack(draws).doubling_days())
        doubling["interval"] = None if interval is None else dataclasses.asdict(interval)
    details = {**result.details, "doubling_days": doubling}
    return dataclasses.replace(result, law=law, draws=draws, columns=columns, details=details)
