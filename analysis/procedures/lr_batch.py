"""From sweeps of learning rate and batch size to a law, and what a law's choice costs in loss.

A cell is the runs of one (N, D). Rows near a cell's best are regressed by ordinary least squares (Step Law, Li et al. 2025,
arXiv 2503.04715: all rows within 0.25% of the cell's least loss).
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import FLOPS_PER_PARAM_TOKEN
from analysis.laws.lr_batch import HyperparameterLaw
from analysis.trust import bootstrap
from analysis.trust.certificate import Certificate
from analysis.trust.interval import Interval
from experiments.cli import InputError, nearest

NEAR_OPTIMUM = 0.0025  # relative excess of the loss over the cell's least one, in Step Law
CHOICES = ("near", "best", "vertex")
INTERPOLATIONS = ("nearest", "linear", "quadratic")
SAME = 1e-3  # of ln N and ln D: rows of one cell
CURVED_WITHIN, FEWEST_CURVED = 0.01, 9  # relative excess of the rows that a local parabola is put through


@dataclasses.dataclass(frozen=True)
class Optima:
    """Points that a law is regressed on: what it depends on, ln lr and ln batch, and the cell of each, [points]."""

    inputs: dict[str, np.ndarray]
    log_lr: np.ndarray
    log_batch: np.ndarray
    cell: np.ndarray


def cells(columns: Columns) -> list[np.ndarray]:
    """Rows of each cell: of equal `group` where the grid names them, else of equal N and D (or C) up to 0.1%."""
    if "group" in columns:
        label = np.unique(columns["group"].astype(str), return_inverse=True)[1]
    else:
        roles = [role for role in ("N", "D") if role in columns] or ["C"]
        label = np.zeros(len(columns), dtype=int)
        for role in roles:
            order = np.argsort(columns[role], kind="stable")
            new = np.diff(np.log(columns[role][order])) > SAME
            level = np.empty(len(columns), dtype=int)
            level[order] = np.r_[0, np.cumsum(new)]
            label = np.unique(label * (len(columns) + 1) + level, return_inverse=True)[1]
    return [np.flatnonzero(label == one) for one in range(label.max() + 1)]


def choice_of(text: str) -> tuple[str, float]:
    """(way, relative excess) of --near_optimum: a number, `best` or `vertex`. InputError for anything else."""
    if text in CHOICES[1:]:
        return text, 0.0
    try:
        excess = float(text)
    except ValueError:
        excess = math.nan
    if not 0 < excess < math.inf:
        raise InputError(f"--near_optimum: {text!r} is not a positive number (a relative excess loss), best or vertex")
    return "near", excess


def optima(columns: Columns, roles: tuple[str, ...], choice: str = "near", excess: float = NEAR_OPTIMUM) -> Optima:
    """The points to regress on. `near`: all rows of relative excess loss below `excess`; `best`: the best row of each
    cell; `vertex`: the minimum of a parabola in (ln lr, ln batch) through the cell's best rows, where it has one inside.
    """
    if choice not in CHOICES:
        raise InputError(f"choice: {choice!r} is not a way to choose optima; {nearest(choice, CHOICES, 'choice')}")
    log_lr, log_batch = np.log(columns["lr"]), np.log(columns["batch"])
    found: list[tuple[int, int, float, float]] = []  # cell, a row of it, ln lr, ln batch
    for cell, rows in enumerate(cells(columns)):
        over = columns["loss"][rows] / columns["loss"][rows].min() - 1
        if choice == "vertex":
            at = vertex(log_lr[rows], log_batch[rows], over)
            found += [(cell, int(rows[0]), *at)] if at else []
            continue
        chosen = rows[over < excess] if choice == "near" else rows[[int(np.argmin(over))]]
        found += [(cell, int(row), float(log_lr[row]), float(log_batch[row])) for row in chosen]
    if not found:
        raise InputError(f"GRID: no cell of {len(columns)} rows has a minimum inside its learning rates and batches")
    cell, row, lr, batch = zip(*found, strict=True)
    inputs = {role: value_of(columns, role)[list(row)] for role in roles}
    return Optima(inputs, np.array(lr), np.array(batch), np.array(cell))


def value_of(columns: Columns, role: str) -> np.ndarray:
    """A role [rows]; C is 6 N D where no column gives it. InputError for one that is not there."""
    if role not in columns and role == "C" and "N" in columns and "D" in columns:
        return FLOPS_PER_PARAM_TOKEN * columns["N"] * columns["D"]
    if role not in columns:
        raise InputError(
            f"--columns: no column for {role}, which the law depends on; name it with --columns={role}=COLUMN"
        )
    return columns[role]


def vertex(log_lr: np.ndarray, log_batch: np.ndarray, over: np.ndarray) -> tuple[float, float] | None:
    """(ln lr, ln batch) of the minimum of a parabola through the best rows of a cell; None where it is not inside the sweep."""
    near = curved(over)
    x, y = log_lr[near], log_batch[near]
    fitted = _parabola(x, y, over[near])
    if fitted is None:
        return None
    _, p, q, pp, pq, qq = fitted
    bend = np.array([[2 * pp, pq], [pq, 2 * qq]])
    if np.linalg.eigvalsh(bend)[0] <= 0:
        return None
    lr, batch = np.linalg.solve(bend, [-p, -q])
    lr, batch = lr + x.mean(), batch + y.mean()
    inside = log_lr.min() <= lr <= log_lr.max() and log_batch.min() <= batch <= log_batch.max()
    return (float(lr), float(batch)) if inside else None


def curved(over: np.ndarray) -> np.ndarray:
    """Rows [booleans] that a local parabola is put through: within 1% of the best, and the nine best at least."""
    return over <= max(CURVED_WITHIN, np.sort(over)[:FEWEST_CURVED][-1])


def _parabola(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray | None:
    """Coefficients of 1, x, y, x^2, xy, y^2 around the means of x and y; None where the points do not determine them."""
    x, y = x - x.mean(), y - y.mean()
    design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    coefficients, _, rank, _ = np.linalg.lstsq(design, z, rcond=1e-10)
    return coefficients if rank == design.shape[1] else None


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two regressions: coefficients (ln of the prefactor first) with standard errors, R^2, residuals."""

    coefficients: np.ndarray
    errors: np.ndarray
    r_squared: float
    residual: np.ndarray
    draws: np.ndarray  # [replicates, coefficients]


def regress(
    goal: np.ndarray, columns: list[np.ndarray], names: list[str], fixed: Mapping[str, float], counts: np.ndarray
) -> Side:
    """Ordinary least squares of `goal` on a constant and `columns`; coefficients in `fixed` keep their value.

    `counts` [replicates, points] are bootstrap weights. Raises InputError where the points do not determine the rest.
    """
    held = np.array([fixed.get(name, 0.0) for name in names])
    free = np.array([name not in fixed for name in names])
    # Centred where the constant can take it up: ln N and ln D are large numbers that vary little.
    middles = np.array([0.0, *(x.mean() if free[0] else 0.0 for x in columns)])
    design = np.stack([np.ones_like(goal), *columns], axis=1) - middles
    rest, basis = goal - (design + middles) @ held, design[:, free]
    if np.linalg.matrix_rank(basis) < free.sum():
        lost = ", ".join(name for name, is_free in zip(names, free, strict=True) if is_free)
        raise InputError(f"GRID: {len(goal)} near-optimal points do not determine {lost}; hold some with --fix")
    to_constant = np.eye(len(names))
    to_constant[0] -= middles
    to_constant = to_constant[:, free]  # from centred coefficients to those of the law

    def solve(weight: np.ndarray) -> np.ndarray:
        weighted = basis * weight[:, None]
        return held + to_constant @ np.linalg.lstsq(weighted.T @ basis, weighted.T @ rest, rcond=None)[0]

    found = solve(np.ones(len(goal)))
    residual = (design + middles) @ found - goal
    freedom = len(goal) - int(free.sum())
    variance = float(residual @ residual) / freedom if freedom > 0 else math.nan
    covariance = to_constant @ np.linalg.inv(basis.T @ basis) @ to_constant.T * variance
    spread = float(np.sum((goal - goal.mean()) ** 2))
    draws = np.array([solve(count) for count in counts]).reshape(len(counts), len(names))
    r_squared = 1 - float(residual @ residual) / spread if spread > 0 else math.nan
    return Side(found, np.sqrt(np.diag(covariance)), r_squared, residual, draws)


def fit_lr_batch(
    columns: Columns,
    law: type[HyperparameterLaw],
    spec: FitSpec,
    choice: str | None = None,
    excess: float = NEAR_OPTIMUM,
) -> FitResult:
    """Fit a law of learning rate and batch to the near-optimal rows of each cell; `spec.near_optimum` says which, unless
    `choice` does.

    Raises InputError when there are fewer points than coefficients, or when they do not determine them.
    """
    spec = spec.for_law(law)
    if spec.objective is not None and (spec.objective.loss, spec.objective.residual) != ("least_squares", "log"):
        raise InputError(f"--law: {law.NAME} is ordinary least squares of logarithms; expected no --loss or --residual")
    if choice is None:
        choice, excess = choice_of(spec.near_optimum)
    roles = tuple(dict.fromkeys([*law.LR, *law.BATCH]))
    for name in spec.fixed:
        if name not in law.names():
            raise InputError(
                f"--fix: {name!r} is not a coefficient of {law.NAME}; {nearest(name, law.names(), 'name')}"
            )
    points = optima(columns, roles, choice, excess)
    scales = {law.LR_SCALE, law.BATCH_SCALE}
    fixed = {name: math.log(value) if name in scales else value for name, value in spec.fixed.items()}
    sides: list[Side] = []
    fewest = 1 + max(len(law.LR), len(law.BATCH))
    counts = bootstrap.row_counts(len(points.cell), spec.bootstrap, spec.seed, fewest=fewest)
    for goal, scale, exponents in (
        (points.log_lr, law.LR_SCALE, law.LR),
        (points.log_batch, law.BATCH_SCALE, law.BATCH),
    ):
        names = [scale, *exponents.values()]
        if len(goal) < len(names):
            raise InputError(f"GRID: {len(goal)} near-optimal points, {law.NAME} needs at least {len(names)}")
        sides.append(regress(goal, [np.log(points.inputs[role]) for role in exponents], names, fixed, counts))
    found = np.r_[sides[0].coefficients, sides[1].coefficients]
    draws = np.hstack([side.draws for side in sides])
    is_scale = np.array([name in scales for name in law.names()])
    fitted = law(*np.where(is_scale, np.exp(found), found).tolist())
    residual = np.r_[sides[0].residual, sides[1].residual]
    return FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=0.5 * float(residual @ residual),
        residual=sides[0].residual,
        certificate=_certify(law, points, sides, columns, fixed),
        draws=np.where(is_scale, np.exp(draws), draws),
        details=_describe(law, points, sides, choice, excess, draws),
    )


def _describe(
    law: type[HyperparameterLaw], points: Optima, sides: list[Side], choice: str, excess: float, draws: np.ndarray
) -> dict[str, Any]:
    names = law.names()
    errors = dict(zip(names, np.r_[sides[0].errors, sides[1].errors].tolist(), strict=True))
    known = {name: error if math.isfinite(error) else None for name, error in errors.items()}
    details: dict[str, Any] = {
        "choice": choice,
        "excess": excess if choice == "near" else None,
        "points": len(points.cell),
        "cells": len(np.unique(points.cell)),
        "standard_errors": known,  # of ln for the prefactors
        "r_squared": {
            side: value.r_squared if math.isfinite(value.r_squared) else None
            for side, value in zip(("lr", "batch"), sides, strict=True)
        },
    }
    if len(draws):
        details["bootstrap_mean"] = dict(zip(names, draws.mean(axis=0).tolist(), strict=True))  # ln of the prefactors
        details["bootstrap_sd"] = dict(zip(names, draws.std(axis=0, ddof=1).tolist(), strict=True))
    return details


def _certify(
    law: type[HyperparameterLaw], points: Optima, sides: list[Side], columns: Columns, fixed: Mapping[str, float]
) -> Certificate:
    lost: dict[str, str] = {}
    for side, exponents in zip(sides, (law.LR, law.BATCH), strict=True):
        for name, value, error in zip(exponents.values(), side.coefficients[1:], side.errors[1:], strict=True):
            if name not in fixed and not abs(value) > 2 * error:
                lost[name] = f"{value:.3g} with a standard error of {error:.2g}"
    cells_used = np.bincount(points.cell)
    warnings = [] if (cells_used > 0).sum() > 4 else [f"{(cells_used > 0).sum()} cells carry the law"]
    on_edge = 0
    for rows in cells(columns):
        best = rows[int(np.argmin(columns["loss"][rows]))]
        for role in ("lr", "batch"):
            value = columns[role][rows]
            on_edge += len(np.unique(value)) > 1 and columns[role][best] in (value.min(), value.max())
    if on_edge:
        warnings.append(f"{on_edge} best learning rates or batches lie on the edge of their cell's sweep")
    return Certificate(
        converged=True,
        agreeing_starts=1.0,
        gradient=0.0,
        not_identified=lost,
        rms_log_residual=float(np.sqrt(np.mean(sides[0].residual ** 2))),
        warnings=tuple(warnings),
    )


@dataclasses.dataclass(frozen=True)
class Gap:
    """What following a law costs in each cell: relative excess of the loss there over the cell's least, [cells].

    Interpolated losses may lie below the least measured one. outside: the law's choice lies beyond the cell's sweep, where
    the nearest run stands in.
    """

    excess: np.ndarray
    outside: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.excess.mean())

    @property
    def largest(self) -> float:
        return float(self.excess.max())


def loss_gap(law: HyperparameterLaw, columns: Columns, interpolation: str = "linear") -> Gap:
    """The cost of a law's learning rates and batches on a grid of cells, their loss interpolated over (ln lr, ln batch).

    nearest: the nearest run; linear: over Delaunay triangles; quadratic: a parabola through the rows within 1%.
    """
    if interpolation not in INTERPOLATIONS:
        hint = nearest(interpolation, INTERPOLATIONS, "interpolation")
        raise InputError(f"interpolation: {interpolation!r} is not one; {hint}")
    found = []
    for rows in cells(columns):
        x, y = np.log2(columns["lr"][rows]), np.log2(columns["batch"][rows])
        over = columns["loss"][rows] / columns["loss"][rows].min() - 1
        lr, batch = law.predict(**{role: value_of(columns, role)[rows[0]] for role in (*law.LR, *law.BATCH)})
        found.append(_excess_at(x, y, over, float(np.log2(lr)), float(np.log2(batch)), interpolation))
    return Gap(*(np.array(part) for part in zip(*found, strict=True)))


def _excess_at(
    x: np.ndarray, y: np.ndarray, over: np.ndarray, lr: float, batch: float, interpolation: str
) -> tuple[float, bool]:
    beside = float(over[np.argmin((x - lr) ** 2 + (y - batch) ** 2)])
    outside = not (x.min() <= lr <= x.max() and y.min() <= batch <= y.max())
    if interpolation == "nearest" or outside:
        return beside, outside
    if interpolation == "quadratic":
        near = curved(over)
        surface = _parabola(x[near], y[near], over[near])
        if surface is None:
            return beside, False
        u, v = lr - x[near].mean(), batch - y[near].mean()
        return float(surface @ [1.0, u, v, u * u, u * v, v * v]), False
    from scipy.interpolate import LinearNDInterpolator
    from scipy.spatial import QhullError

    try:
        value = float(LinearNDInterpolator(np.stack([x, y], axis=1), over)(lr, batch))
    except QhullError:  # all runs on one line
        return beside, False
    return (value, False) if math.isfinite(value) else (beside, True)


def leave_one_out(
    columns: Columns, law: type[HyperparameterLaw], spec: FitSpec, role: str = "N", interpolation: str = "linear"
) -> dict[float, Gap]:
    """For every value of `role`: the gap on its cells of the law that was fitted to all the others."""
    spec = dataclasses.replace(spec, bootstrap=0)
    found = {}
    for value in np.unique(columns[role]):
        out = columns[role] == value
        fitted = fit_lr_batch(columns.take(~out), law, spec).law
        found[float(value)] = loss_gap(fitted, columns.take(out), interpolation)
    return found


def interval_of(result: FitResult, **at: float) -> tuple[Interval | None, Interval | None]:
    """Bootstrap intervals of the learning rate and batch at `at`."""
    lr, batch = result.stacked().predict(**at)
    return result.interval(lr), result.interval(batch)
