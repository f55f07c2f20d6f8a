"""Fit the growth of density over time."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.laws.downstream import Accuracy

if TYPE_CHECKING:
    from analysis.fitting.result import FitResult
    from analysis.fitting.spec import FitSpec
    from analysis.grid.table import Columns
from analysis.laws.capacity import AnswerLoss, Density


def fit_density(
    losses: "Columns", scores: "Columns", spec: "FitSpec | None" = None, tokens: float = 1e12
) -> "tuple[Density, Mapping[str, FitResult]]":
    """Fit both steps: reference models as rows (N, D, task_loss), any models as rows (task_loss, accuracy) on one task.

    Returns the measure and the two fits by the law's name.
    """
    from analysis.fitting.fit import fit
    from analysis.fitting.spec import FitSpec

    found = {law.NAME: fit(rows, law, spec or FitSpec()) for law, rows in ((AnswerLoss, losses), (Accuracy, scores))}
    return Density(found[AnswerLoss.NAME].law, found[Accuracy.NAME].law, tokens), found


def records(days: Any, density: Any) -> np.ndarray:
    """Which models are denser than every one before them [rows]; of those of one day, the densest may be."""
    days, density = np.asarray(days, dtype=np.float64), np.asarray(density, dtype=np.float64)
    order = np.lexsort((-density, days))
    before = np.maximum.accumulate(np.r_[-np.inf, density[order][:-1]])
    kept = np.zeros(len(days), dtype=bool)
    kept[order] = density[order] > before
    return kept
