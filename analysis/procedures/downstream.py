"""Fit a task-loss law and the accuracy that follows from it, both on the same resampled rows."""

from collections.abc import Iterable, Sequence
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.formula_fit import fit_one_formula, pose
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.fitting.weights import row_weights
from analysis.grid.table import Columns
from analysis.laws.base import Array, FormulaLaw, SumLaw
from analysis.laws.downstream import TwoStep
from analysis.solve import newton
from analysis.solve.parameters import VANISHED
from analysis.solve.problem import Problem
from analysis.solve.shares import SharesProblem
from analysis.solve.sums import SumProblem
from analysis.trust import bootstrap
from analysis.trust.certificate import Certificate
from analysis.trust.residuals import Residuals
from experiments.cli import InputError

REPLICATE = 1e-6  # scaled gradient of a bootstrap replicate: far below its scatter
TINY = 1e-300


def fit_two_step(columns: Columns, law: type[TwoStep], spec: FitSpec) -> FitResult:
    """Fit both steps of a law to rows with its inputs, `task_loss` and `accuracy`.

    Replicate number i of either step is fitted to the same rows, so that draws of the law are draws of the whole way.
    Raises InputError for too few rows, FitError when a step has no optimum.
    """
    _check_spec(spec, law)
    spec_of_first = _spec_of_step(spec, law.FIRST, is_first=True)
    spec_of_second = _spec_of_step(spec, law.SECOND, is_first=False)
    first = fit_one_formula(columns, law.FIRST, spec_of_first)
    second = fit_one_formula(columns, law.SECOND, spec_of_second)
    steps = (first, second)
    of_first = first.law.coefficients()
    of_second = second.law.coefficients()
    fitted = law(*of_first.values(), *of_second.values())

    # Both steps are fitted again to the same rows, of which there must be enough for either.
    fewest = max(len(law.FIRST.names()), len(law.SECOND.names()))
    run = columns.values.get("run")
    counts = bootstrap.row_counts(len(columns), spec.bootstrap, spec.seed, run, fewest)
    draws = np.hstack([refit(step, counts) for step in steps])
    residual, is_additive = _residual(fitted, columns, law.FIRST.inputs())
    return FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=second.objective,
        residual=residual,
        certificate=join([step.certificate for step in steps], Residuals.of(residual, columns), columns),
        draws=draws,
        additive=is_additive,
        details={"steps": {step.law.NAME: _describe(step) for step in steps}},
    )


def _residual(law: TwoStep, columns: Columns, roles: Iterable[str]) -> tuple[Array, bool]:
    """Return the residuals of the accuracy [rows], and whether they are differences and not those of logarithms."""
    inputs = {role: columns[role] for role in roles}
    predicted = np.asarray(law.predict(**inputs))
    observed = columns["accuracy"]
    # An accuracy of 0 has no logarithm.
    is_additive = bool((observed <= 0).any())
    if is_additive:
        return predicted - observed, True
    log_predicted = np.log(np.maximum(predicted, TINY))
    return log_predicted - np.log(observed), False


def _check_spec(spec: FitSpec, law: type[TwoStep]) -> None:
    """Raise InputError for what two steps taken together cannot do."""
    known = law.names()
    for name in spec.fixed:
        if name not in known:
            raise InputError(f"--fix: {name!r} is not a coefficient of {law.NAME}; expected {', '.join(known)}")


def _spec_of_step(spec: FitSpec, step: type[FormulaLaw], is_first: bool) -> FitSpec:
    """Return the spec of one step: its own coefficients held, and no replicates, which both steps share.

    What the user says of the objective is meant for the accuracy; the loss has the objective of its source.
    """
    own = step.names()
    fixed = {name: value for name, value in spec.fixed.items() if name in own}
    objective = step.OBJECTIVE if is_first else spec.objective
    return dataclasses.replace(spec, bootstrap=0, objective=objective, fixed=fixed)


def _describe(step: FitResult) -> dict[str, Any]:
    """Describe a step for JSON."""
    objective = step.spec.settled_objective
    return {
        "objective": step.objective,
        "loss": objective.loss,
        "residual": objective.residual,
        "rms_residual": step.residuals.rms,
    }


def refit(result: FitResult, counts: Array) -> Array:
    """Fit a formula again to rows that count as `counts` [replicates, rows] says. Returns coefficients [replicates, k]."""
    columns = result.columns
    law = type(result.law)
    objective = result.spec.settled_objective
    problem = pose(columns, law, result.spec)
    weight = row_weights(columns, law.TARGET)
    typical = np.median(np.abs(columns[law.TARGET]))
    stages = objective.stages(float(typical))
    start = parameters(problem, result.law)
    starts = np.repeat(start[None], len(counts), axis=0)
    ends = newton.minimise(problem, starts, counts * weight, stages, tolerance=REPLICATE)
    return problem.coefficients(ends)


def parameters(problem: Problem, law: FormulaLaw) -> Array:
    """Return where in a problem [p] a law lies: logarithms of what is searched over logarithms, within the bounds."""
    if isinstance(problem, SharesProblem):
        theta = problem.of_coefficients(_coefficients(law, law.names())[None])[0]
    elif isinstance(problem, SumProblem) and isinstance(law, SumLaw):
        powers = _coefficients(law, law.exponents())
        sizes = _coefficients(law, law.prefactors())
        # Prefactors of a sum are those at the middle of the rows.
        log_sizes = np.log(np.maximum(sizes, TINY))
        log_sizes_at_middle = log_sizes + problem.centre @ powers
        theta = np.r_[log_sizes_at_middle, powers]
    else:
        values = _coefficients(law, problem.names)
        positive = np.where(problem.logs, np.maximum(values, VANISHED), 1.0)
        theta = np.where(problem.logs, np.log(positive), values)
    low, high = problem.bounds()
    return np.clip(theta, low, high)


def _coefficients(law: FormulaLaw, names: Iterable[str]) -> Array:
    """Return coefficients of a law by their names."""
    return np.array([float(getattr(law, name)) for name in names])


def join(certificates: Sequence[Certificate], residuals: Residuals, columns: Columns) -> Certificate:
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
    worst = residuals.worst
    return Certificate(
        converged=all(one.converged for one in certificates),
        agreeing_starts=min(one.agreeing_starts or 0.0 for one in certificates),
        gradient=max(one.gradient or 0.0 for one in certificates),
        not_identified=not_identified,
        at_bound=tuple(at_bound),
        condition=max(conditions, default=None),
        rms_log_residual=residuals.rms,
        worst_row=None if worst is None else int(columns.row[worst]),
        worst_log_residual=None if worst is None else float(residuals.value[worst]),
        warnings=tuple(dict.fromkeys(warnings)),
    )
