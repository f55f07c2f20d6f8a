"""Fit a law of learning rate and batch size to the optima of a sweep, by ordinary least squares of logarithms.

Which runs are optima is the affair of sweep_cells.py; what following a law costs in loss, that of loss_gap.py.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from analysis.fitting.judging import WHY_NONE
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.laws.lr_batch import HyperparameterLaw
from analysis.procedures.linear_regression import Regression, regress
from analysis.procedures.sweep_cells import NEAR_OPTIMUM, Optima, cells, choice_of, optima
from analysis.procedures.unsearched import certify, root_mean_square
from analysis.trust import bootstrap
from analysis.trust.certificate import Certificate
from analysis.trust.interval import Interval
from analysis.writing.strict_json import finite_or_null
from experiments.cli import InputError, nearest

RESAMPLED = ("cells", "points")  # what is independent: optima of one cell rest on the same runs
FEWEST_CELLS = 10  # below, a reader is told on how many the law rests
FEWEST_SPARE = 4  # cells beside one for each coefficient of a regression: of fewer, 90% intervals held 70 to 83%


@dataclasses.dataclass(frozen=True)
class TwoRegressions:
    """The regressions of ln lr and of ln batch; their coefficients together are those of the law."""

    lr: Regression
    batch: Regression
    replicates: int  # refits to resampled cells; those without one cell at a time follow

    @property
    def coefficients(self) -> Array:
        """Those of the law, with logarithms of the prefactors."""
        return np.r_[self.lr.coefficients, self.batch.coefficients]

    @property
    def errors(self) -> Array:
        """Standard errors of the coefficients."""
        return np.r_[self.lr.errors, self.batch.errors]

    @property
    def draws(self) -> Array:
        """Refits to resampled cells [replicates, coefficients]."""
        return self._refits[: self.replicates]

    @property
    def left_out(self) -> Array:
        """Refits without one cell at a time [cells, coefficients]; none where that leaves too few."""
        return self._refits[self.replicates :]

    @property
    def _refits(self) -> Array:
        return np.hstack([self.lr.draws, self.batch.draws])

    @property
    def residual(self) -> Array:
        """Residuals of both, end to end."""
        return np.r_[self.lr.residual, self.batch.residual]


def fit_lr_batch(
    columns: Columns,
    law: type[HyperparameterLaw],
    spec: FitSpec,
    choice: str | None = None,
    excess: float = NEAR_OPTIMUM,
    resample: str = "cells",
) -> FitResult:
    """Fit a law of learning rate and batch to the near-optimal rows of each cell.

    `spec.near_optimum` says which rows those are, unless `choice` does. Bootstrap and standard errors take whole cells
    for independent; `resample` "points" takes the points, as Li et al. 2025 do. Raises InputError when there are fewer
    points than coefficients, or when they do not determine them.
    """
    if resample not in RESAMPLED:
        raise InputError(f"resample: {resample!r} is not cells or points; {nearest(resample, RESAMPLED, 'choice')}")
    spec = spec.for_law(law)
    _check_fixed(spec, law)
    if choice is None:
        choice, excess = choice_of(spec.near_optimum)
    roles = tuple(dict.fromkeys([*law.LR, *law.BATCH]))
    points = optima(columns, roles, choice, excess)
    cell = points.cell if resample == "cells" else np.arange(len(points.cell))
    fitted = _regress_both(points, cell, law, spec)
    freedom = _freedom(law, cell, spec.fixed)

    is_scale = np.array([name in (law.LR_SCALE, law.BATCH_SCALE) for name in law.names()])
    coefficients = np.where(is_scale, np.exp(fitted.coefficients), fitted.coefficients)
    chosen = {"choice": choice, "excess": excess if choice == "near" else None}

    def in_units(refits: Array) -> Array:
        return np.where(is_scale, np.exp(refits), refits)

    return FitResult(
        law=law(*coefficients.tolist()),
        spec=spec,
        columns=columns,
        objective=0.5 * float(fitted.residual @ fitted.residual),
        residual=fitted.lr.residual,
        certificate=_certify(law, points, fitted, columns, spec.fixed),
        draws=in_units(fitted.draws),
        left_out=in_units(fitted.left_out),
        freedom=freedom,
        details=chosen | _describe(law, points, fitted) | _why_none(law, points, freedom),
    )


def _check_fixed(spec: FitSpec, law: type[HyperparameterLaw]) -> None:
    """Raise InputError for a coefficient that the law does not have."""
    for name in spec.fixed:
        if name not in law.names():
            raise InputError(
                f"--fix: {name!r} is not a coefficient of {law.NAME}; {nearest(name, law.names(), 'name')}"
            )


def _regress_both(points: Optima, cell: Array, law: type[HyperparameterLaw], spec: FitSpec) -> TwoRegressions:
    """Regress ln lr and ln batch on the logarithms of their inputs, over the same resampled cells [points]."""
    scales = (law.LR_SCALE, law.BATCH_SCALE)
    fixed = {name: math.log(value) if name in scales else value for name, value in spec.fixed.items()}
    fewest = 1 + max(len(law.LR), len(law.BATCH))
    different, label = np.unique(cell, return_inverse=True)
    drawn = bootstrap.row_counts(len(different), spec.bootstrap, spec.seed, fewest=fewest)
    counts = drawn[:, label]
    is_determined = np.array([points.vary(count) for count in counts], dtype=bool)
    counts = counts[is_determined]
    replicates = len(counts)
    without = bootstrap.left_out(len(different))[:, label]
    if replicates and all(points.vary(count) for count in without):
        counts = np.concatenate([counts, without])

    def one(goal: Array, scale: str, exponents: Mapping[str, str]) -> Regression:
        """Regress one logarithm on those of the inputs. Raises InputError for fewer points than coefficients."""
        names = [scale, *exponents.values()]
        if len(goal) < len(names):
            raise InputError(f"GRID: {len(goal)} near-optimal points, {law.NAME} needs at least {len(names)}")
        inputs = [np.log(points.inputs[role]) for role in exponents]
        return regress(goal, inputs, names, fixed, counts, cell)

    return TwoRegressions(
        lr=one(points.log_lr, law.LR_SCALE, law.LR),
        batch=one(points.log_batch, law.BATCH_SCALE, law.BATCH),
        replicates=replicates,
    )


def _freedom(law: type[HyperparameterLaw], cell: Array, fixed: Mapping[str, float]) -> int:
    """Return how many cells are left over where each coefficient of a regression takes one."""
    of_lr = [name for name in (law.LR_SCALE, *law.LR.values()) if name not in fixed]
    of_batch = [name for name in (law.BATCH_SCALE, *law.BATCH.values()) if name not in fixed]
    return len(np.unique(cell)) - max(len(of_lr), len(of_batch))


def _why_none(law: type[HyperparameterLaw], points: Optima, freedom: int) -> dict[str, str]:
    """Say why there are no intervals, where too few cells are left over to measure their scatter by."""
    if freedom >= FEWEST_SPARE:
        return {}
    cells_used = len(np.unique(points.cell))
    coefficients = cells_used - freedom
    return {
        WHY_NONE: f"{cells_used} cells for {coefficients} coefficients: too few are left to measure the scatter by; "
        "more sizes or token counts would tell"
    }


def _describe(law: type[HyperparameterLaw], points: Optima, fitted: TwoRegressions) -> dict[str, Any]:
    """Describe the regressions for JSON. Errors, means and deviations of prefactors are those of their logarithms."""
    names = law.names()
    details: dict[str, Any] = {
        "points": len(points.cell),
        "cells": len(np.unique(points.cell)),
        "standard_errors": finite_or_null(dict(zip(names, fitted.errors.tolist(), strict=True))),
        "r_squared": finite_or_null({"lr": fitted.lr.r_squared, "batch": fitted.batch.r_squared}),
    }
    if len(fitted.draws):
        mean = fitted.draws.mean(axis=0)
        deviation = fitted.draws.std(axis=0, ddof=1)
        details["bootstrap_mean"] = dict(zip(names, mean.tolist(), strict=True))
        details["bootstrap_sd"] = dict(zip(names, deviation.tolist(), strict=True))
    return details


def _certify(
    law: type[HyperparameterLaw],
    points: Optima,
    fitted: TwoRegressions,
    columns: Columns,
    fixed: Mapping[str, float],
) -> Certificate:
    """Say which exponents the points leave open, and what a reader should know of the sweep."""
    warnings = []
    cells_used = len(np.unique(points.cell))
    if cells_used < FEWEST_CELLS:
        warnings.append(
            f"{cells_used} cells carry the law: optima of one cell count once, and intervals are wide or none"
        )
    on_edge = _best_on_edge(columns)
    if on_edge:
        warnings.append(f"{on_edge} best learning rates or batches lie on the edge of their cell's sweep")
    lost = _lost_exponents(fitted.lr, law.LR, fixed) | _lost_exponents(fitted.batch, law.BATCH, fixed)
    return certify(root_mean_square(fitted.lr.residual), warnings, lost)


def _lost_exponents(side: Regression, exponents: Mapping[str, str], fixed: Mapping[str, float]) -> dict[str, str]:
    """Say which exponents are not two standard errors from zero."""
    lost = {}
    for name, value, error in zip(exponents.values(), side.coefficients[1:], side.errors[1:], strict=True):
        is_clear = abs(value) > 2 * error
        if name not in fixed and not is_clear:
            lost[name] = f"{value:.3g} with a standard error of {error:.2g}"
    return lost


def _best_on_edge(columns: Columns) -> int:
    """Count the best learning rates and batches of cells that are the smallest or largest that was tried."""
    on_edge = 0
    for rows in cells(columns):
        best = rows[np.argmin(columns["loss"][rows])]
        for role in ("lr", "batch"):
            tried = columns[role][rows]
            is_swept = len(np.unique(tried)) > 1
            if is_swept and columns[role][best] in (tried.min(), tried.max()):
                on_edge += 1
    return on_edge


def interval_of(result: FitResult, **at: float) -> tuple[Interval | None, Interval | None]:
    """Return the bootstrap intervals of the learning rate and of the batch at `at`."""
    lr, batch = result.stacked().predict(**at)
    return result.interval(lr), result.interval(batch)
