"""Fit a task-loss law and the accuracy that follows from it, both on the same resampled rows."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.formula_fit import fit_one_formula, pose
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import Array, FormulaLaw, SumLaw
from analysis.laws.downstream import TwoStep
from analysis.solve import newton
from analysis.solve.parameters import VANISHED
from analysis.solve.problem import Problem
from analysis.solve.sums import SumProblem
from analysis.trust import bootstrap
from analysis.trust.certificate import Certificate
from experiments.cli import InputError

REPLICATE = 1e-6  # scaled gradient of a bootstrap replicate: far below its scatter
TINY = 1e-300


def fit_two_step(columns: Columns, law: type[TwoStep], spec: FitSpec) -> FitResult:
    """Fit both steps of a law to rows with its inputs, `task_loss` and `accuracy`.

    Replicate number i of either step is fitted to the same rows, so that draws of the law are draws of the whole way.
    Raises InputError for too few rows, FitError when a step has no optimum.
    """
    _check_spec(spec, law)
    first = fit_one_formula(columns, law.FIRST, _spec_of_step(spec, law.FIRST, is_first=True))
    second = fit_one_formula(columns, law.SECOND, _spec_of_step(spec, law.SECOND, is_first=False))
    steps = (first, second)
    fitted = law(*first.law.coefficients().values(), *second.law.coefficients().values())

    fewest = max(len(law.FIRST.names()), len(law.SECOND.names()))
    counts = bootstrap.row_counts(len(columns), spec.bootstrap, spec.seed, columns.values.get("run"), fewest)
    draws = np.hstack([refit(step, counts) for step in steps])
    observed = columns["accuracy"]
    predicted = np.asarray(fitted.predict(**{role: columns[role] for role in law.FIRST.inputs()}))
    is_additive = bool((observed <= 0).any())
    if is_additive:
        residual = predicted - observed
    else:
        residual = np.log(np.maximum(predicted, TINY)) - np.log(observed)
    return FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=second.objective,
        residual=residual,
        certificate=join([step.certificate for step in steps], residual, columns),
        draws=draws,
        additive=is_additive,
        details={"steps": {step.law.NAME: _describe(step) for step in steps}},
    )


def _check_spec(spec: FitSpec, law: type[TwoStep]) -> None:
    """Raise InputError for what two steps taken together cannot do."""
    for name in spec.fixed:
        if name not in law.names():
            raise InputError(f"--fix: {name!r} is not a coefficient of {law.NAME}; expected {', '.join(law.names())}")
    if spec.resample != "paired":
        raise InputError(
            f"--resample: {spec.resample!r} cannot keep the two steps of {law.NAME} together; expected paired"
        )


def _spec_of_step(spec: FitSpec, step: type[FormulaLaw], is_first: bool) -> FitSpec:
    """Return the spec of one step: its own coefficients held, and no replicates, which both steps share.

    What the user says of the objective is meant for the accuracy; the loss has the objective of its source.
    """
    return dataclasses.replace(
        spec,
        bootstrap=0,
        objective=step.OBJECTIVE if is_first else spec.objective,
        fixed={name: value for name, value in spec.fixed.items() if name in step.names()},
    )


def _describe(step: FitResult) -> dict[str, Any]:
    """Describe a step for JSON."""
    objective = step.spec.settled_objective
    return {
        "objective": step.objective,
        "loss": objective.loss,
        "residual": objective.residual,
        "rms_residual": float(np.sqrt(np.mean(step.residual**2))),
    }


def refit(result: FitResult, counts: Array) -> Array:
    """Fit a formula again to rows that count as `counts` [replicates, rows] says. Returns coefficients [replicates, k]."""
    columns = result.columns
    law = type(result.law)
    objective = result.spec.settled_objective
    problem = pose(columns, law, result.spec)
    weight = columns["weight"] / columns["weight"].mean() if "weight" in columns else np.ones(len(columns))
    typical = float(np.median(np.abs(columns[law.TARGET])))
    start = parameters(problem, result.law)
    starts = np.repeat(start[None], len(counts), axis=0)
    ends = newton.minimise(problem, starts, counts * weight, objective.stages(typical), tolerance=REPLICATE)
    return problem.coefficients(ends)


def parameters(problem: Problem, law: FormulaLaw) -> Array:
    """Return where in a problem [p] a law lies: logarithms of what is searched over logarithms, within the bounds."""
    if isinstance(problem, SumProblem) and isinstance(law, SumLaw):
        powers = np.array([float(getattr(law, name)) for name in law.exponents()])
        sizes = np.array([float(getattr(law, name)) for name in law.prefactors()])
        # Prefactors of a sum are those at the middle of the rows.
        log_sizes = np.log(np.maximum(sizes, TINY)) + problem.centre @ powers
        theta = np.r_[log_sizes, powers]
    else:
        values = np.array([float(getattr(law, name)) for name in problem.names])
        positive = np.where(problem.logs, np.maximum(values, VANISHED), 1.0)
        theta = np.where(problem.logs, np.log(positive), values)
    low, high = problem.bounds()
    return np.clip(theta, low, high)


def join(certificates: Sequence[Certificate], residual: Array, columns: Columns) -> Certificate:
    """Return the certificate of steps taken one after the other: the worst of each."""
    not_identified: dict[str, str] = {}
    at_bound: list[str] = []
    warnings: list[str] = []
    conditions: list[float] = []
    for one in certificates:
        not_identified |= one.not_identified
        at_bound += one.at_bound
        warnings += one.warnings
        if one.condition is not None:
            conditions.append(one.condition)
    worst = int(np.argmax(np.abs(residual)))
    return Certificate(
        converged=all(one.converged for one in certificates),
        agreeing_starts=min(one.agreeing_starts for one in certificates),
        gradient=max(one.gradient for one in certificates),
        not_identified=not_identified,
        at_bound=tuple(at_bound),
        condition=max(conditions, default=None),
        rms_log_residual=float(np.sqrt(np.mean(residual**2))),
        worst_row=int(columns.row[worst]),
        worst_log_residual=float(residual[worst]),
        warnings=tuple(dict.fromkeys(warnings)),
    )
