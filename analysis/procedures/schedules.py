"""Fit annealing laws to whole loss curves."""

from collections.abc import Hashable, Sequence
import dataclasses

import numpy as np

from analysis.fitting.formula_fit import fit_one_formula
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.laws.schedules import DECAYS, Annealing, AnnealingCurve, Curve
from experiments.cli import InputError


def curve_columns(curves: Sequence[Curve], decay: float) -> Columns:
    """Return the points of some runs as rows with the roles of Annealing; each run is one `run`."""
    if not curves:
        raise InputError("curves: none given; expected the curve of at least one run")
    inputs = [curve.inputs(decay) for curve in curves]
    losses = [np.asarray(curve.loss, dtype=np.float64) for curve in curves]
    values = {
        "S1": np.concatenate([areas["S1"] for areas in inputs]),
        "S2": np.concatenate([areas["S2"] for areas in inputs]),
        "loss": np.concatenate(losses),
    }
    points = len(values["loss"])
    if points != len(values["S1"]):
        raise InputError("loss: not as many as steps; expected one loss for each step")
    if len(curves) > 1:  # rows of a single run are all there is to resample
        runs = np.arange(len(curves))
        steps_of_run = [len(curve.step) for curve in curves]
        values["run"] = np.repeat(runs, steps_of_run)
    sources = {role: role for role in values}
    return Columns(values, np.arange(points), sources, ())


def fit_curves(curves: Sequence[Curve], spec: FitSpec | None = None, decays: Sequence[float] = DECAYS) -> FitResult:
    """Fit Annealing to whole curves under each decay; the best one, which is in details["decay"], is returned.

    Rows of one curve are correlated: with a single curve the intervals are those of its noise alone.
    """
    if not decays:
        raise InputError("decays: none given; expected for example 0.999")
    spec = spec or FitSpec()
    results = {}
    for decay in decays:
        columns = curve_columns(curves, decay)
        results[decay] = fit_one_formula(columns, Annealing, spec)
    best_decay = min(results, key=lambda decay: results[decay].objective)
    best = results[best_decay]
    details = {**best.details, "decay": best_decay}
    return dataclasses.replace(best, details=details)


def fit_logged_curves(columns: Columns, law: type[AnnealingCurve], spec: FitSpec) -> FitResult:
    """Fit the curves of all runs together; rows without `run` are one curve, rows of the warm-up are left out."""
    del law  # its rows are turned into those of Annealing, which is what is fitted
    curves = []
    used_rows = []
    notes = list(columns.notes)
    for run, rows in _runs(columns).items():
        log = columns.take(rows)
        curve = Curve.logged(log["S"], log["lr"], log["loss"])
        if _begins_late(curve):
            notes.append(f"the log of run {run} begins at step {curve.step[0]}: its rate until then is guessed")
        is_warm = curve.step > curve.warmup()
        used_rows.append(rows[is_warm])
        if is_warm.any():
            # The rates of the warm-up stay: the areas of later steps count from the first one.
            annealed = Curve(curve.rate, curve.step[is_warm], curve.loss[is_warm])
            curves.append(annealed)
    if not curves:
        raise InputError("lr: the rate rises in every row; expected rows after the warm-up")
    result = fit_curves(curves, spec)
    used = np.concatenate(used_rows)
    told = _as_given(result.columns, columns, used, notes)
    return dataclasses.replace(result, columns=told)


def _runs(columns: Columns) -> dict[Hashable, Array]:
    """Return the rows of every run by its label, each by step; without a role `run` all rows are one run."""
    labels = columns["run"] if "run" in columns else np.zeros(len(columns))
    by_step = np.argsort(columns["S"], kind="stable")
    runs = {}
    for label in dict.fromkeys(labels):
        is_own = labels[by_step] == label
        runs[label] = by_step[is_own]
    return runs


def _begins_late(curve: Curve) -> bool:
    """Say whether a log begins later than its own spacing explains."""
    gaps = np.diff(curve.step, prepend=0)
    spacing = np.median(gaps)
    return bool(curve.step[0] > 2 * spacing)


def _as_given(fitted: Columns, given: Columns, used: Array, notes: Sequence[str]) -> Columns:
    """Return the fitted columns with the rows, sources and notes of the table they come from."""
    rows = np.arange(len(given))
    is_used = np.isin(rows, used)
    rate = given.sources.get("lr", "lr")
    sources = {role: given.sources.get(role, role) for role in fitted.values}
    sources["S1"] = f"sum of {rate} over steps"
    sources["S2"] = f"annealing area of {rate}"
    kept = given.take(is_used, "it is in the warm-up")
    return dataclasses.replace(
        fitted,
        row=given.row[used],
        dropped=kept.dropped,
        notes=tuple(notes),
        sources=sources,
    )
