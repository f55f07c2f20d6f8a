"""Fit annealing laws to whole loss curves."""

from collections.abc import Sequence
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from experiments.cli import InputError

if TYPE_CHECKING:
    from analysis.fitting.result import FitResult
    from analysis.fitting.spec import FitSpec
    from analysis.grid.table import Columns
from analysis.laws.schedules import DECAYS, Annealing, Curve


def curve_columns(curves: Sequence[Curve], decay: float) -> "Columns":
    """The points of some runs as rows with the roles of Annealing; each run is one `run`."""
    from analysis.grid.table import Columns

    if not curves:
        raise InputError("curves: none given; expected the curve of at least one run")
    parts = [curve.inputs(decay) for curve in curves]
    values = {role: np.concatenate([part[role] for part in parts]) for role in ("S1", "S2")}
    values["loss"] = np.concatenate([np.asarray(curve.loss, dtype=np.float64) for curve in curves])
    if len(values["loss"]) != len(values["S1"]):
        raise InputError("loss: not as many as steps; expected one loss for each step")
    if len(curves) > 1:  # rows of a single run are all there is to resample
        values["run"] = np.repeat(np.arange(len(curves)), [len(curve.step) for curve in curves])
    return Columns(values, np.arange(len(values["loss"])), {role: role for role in values}, ())


def fit_curves(curves: Sequence[Curve], spec: "FitSpec | None" = None, decays: Sequence[float] = DECAYS) -> "FitResult":
    """Fit Annealing to whole curves under each decay; the best one, which is in details["decay"], is returned.

    Rows of one curve are correlated: with a single curve the intervals are those of its noise alone.
    """
    from analysis.fitting.fit import fit
    from analysis.fitting.spec import FitSpec

    if not decays:
        raise InputError("decays: none given; expected for example 0.999")
    results = [(fit(curve_columns(curves, decay), Annealing, spec or FitSpec()), decay) for decay in decays]
    best, decay = min(results, key=lambda pair: pair[0].objective)
    return dataclasses.replace(best, details={**best.details, "decay": decay})
