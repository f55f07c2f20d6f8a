"""Fit annealing laws to whole loss curves."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.formula_fit import fit_one_formula
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.schedules import DECAYS, Annealing, Curve
from experiments.cli import InputError


def curve_columns(curves: Sequence[Curve], decay: float) -> Columns:
    """The points of some runs as rows with the roles of Annealing; each run is one `run`."""
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


def fit_curves(curves: Sequence[Curve], spec: FitSpec | None = None, decays: Sequence[float] = DECAYS) -> FitResult:
    """Fit Annealing to whole curves under each decay; the best one, which is in details["decay"], is returned.

    Rows of one curve are correlated: with a single curve the intervals are those of its noise alone.
    """
    if not decays:
        raise InputError("decays: none given; expected for example 0.999")
    results = [(fit_one_formula(curve_columns(curves, decay), Annealing, spec or FitSpec()), decay) for decay in decays]
    best, decay = min(results, key=lambda pair: pair[0].objective)
    return dataclasses.replace(best, details={**best.details, "decay": decay})


def fit_logged_curves(columns: Columns, law: Any, spec: FitSpec) -> FitResult:
    """Fit the curves of all runs together; rows without `run` are one curve."""
    run = columns["run"] if "run" in columns else np.zeros(len(columns))
    curves, order, notes = [], [], list(columns.notes)
    for one in dict.fromkeys(run):
        rows = np.flatnonzero(run == one)
        rows = rows[np.argsort(columns["S"][rows], kind="stable")]
        curve = Curve.logged(columns["S"][rows], columns["lr"][rows], columns["loss"][rows])
        if curve.step[0] > 2 * np.median(np.diff(curve.step, prepend=0)):
            notes.append(f"the log of run {one} begins at step {curve.step[0]}: its rate until then is guessed")
        warm = curve.step > curve.warmup()
        curves.append(Curve(curve.rate, curve.step[warm], curve.loss[warm]))
        order.append(rows[warm])
    chosen = np.concatenate(order)
    if not len(chosen):
        raise InputError("lr: the rate rises in every row; expected rows after the warm-up")
    result = fit_curves([curve for curve in curves if len(curve.step)], spec)
    left = columns.take(np.isin(np.arange(len(columns)), chosen), "it is in the warm-up")
    rate = columns.sources.get("lr", "lr")
    sources = {role: columns.sources.get(role, role) for role in result.columns.values}
    sources |= {"S1": f"sum of {rate} over steps", "S2": f"annealing area of {rate}"}
    used = dataclasses.replace(
        result.columns, row=columns.row[chosen], dropped=left.dropped, notes=tuple(notes), sources=sources
    )
    return dataclasses.replace(result, columns=used)
