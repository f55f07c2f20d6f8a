"""Fits a task-loss law and the accuracy that follows from it, both on the same resampled rows."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.formula_fit import fit_one_formula, pose
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.solve import newton, sums
from analysis.solve.parameters import VANISHED
from analysis.solve.problem import Problem
from analysis.trust import bootstrap
from analysis.trust.certificate import Certificate
from experiments.cli import InputError

REPLICATE = 1e-6  # scaled gradient of a bootstrap replicate: far below its scatter


def fit_two_step(columns: Columns, law: Any, spec: FitSpec) -> FitResult:
    """Fit both steps of a law to rows with its inputs, `task_loss` and `accuracy`.

    Replicate number i of either step is fitted to the same rows, so that draws of the law are draws of the whole way.
    Raises InputError for too few rows, FitError when a step has no optimum.
    """
    known = law.FIRST.names(), law.SECOND.names()
    for name in spec.fixed:
        if name not in law.names():
            raise InputError(f"--fix: {name!r} is not a coefficient of {law.NAME}; expected {', '.join(law.names())}")
    if spec.resample != "paired":
        raise InputError(
            f"--resample: {spec.resample!r} cannot keep the two steps of {law.NAME} together; expected paired"
        )
    specs = [
        dataclasses.replace(
            spec,
            bootstrap=0,
            objective=step.OBJECTIVE if step is law.FIRST else spec.objective,
            fixed={name: value for name, value in spec.fixed.items() if name in names},
        )
        for step, names in zip((law.FIRST, law.SECOND), known, strict=True)
    ]
    results = [fit_one_formula(columns, step, own) for step, own in zip((law.FIRST, law.SECOND), specs, strict=True)]
    fewest = max(len(names) for names in known)
    counts = bootstrap.row_counts(len(columns), spec.bootstrap, spec.seed, columns.values.get("run"), fewest)
    draws = [refit(result, counts) for result in results]
    fitted = law(*(getattr(result.law, name) for result in results for name in result.law.names()))
    observed = columns["accuracy"]
    predicted = np.asarray(fitted.predict(**{role: columns[role] for role in law.FIRST.inputs()}))
    additive = bool((observed <= 0).any())
    residual = predicted - observed if additive else np.log(np.maximum(predicted, 1e-300)) - np.log(observed)
    return FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=results[1].objective,
        residual=residual,
        certificate=join([result.certificate for result in results], residual, columns),
        draws=np.hstack(draws),
        additive=additive,
        details={
            "steps": {
                result.law.NAME: {
                    "objective": result.objective,
                    "loss": result.spec.objective.loss,
                    "residual": result.spec.objective.residual,
                    "rms_residual": float(np.sqrt(np.mean(result.residual**2))),
                }
                for result in results
            }
        },
    )


def refit(result: FitResult, counts: np.ndarray) -> np.ndarray:
    """Coefficients [replicates, k] of a fitted formula on rows that count as `counts` [replicates, rows] says."""
    law, columns, spec = type(result.law), result.columns, result.spec
    problem = pose(columns, law, spec)
    weight = columns["weight"] / columns["weight"].mean() if "weight" in columns else np.ones(len(columns))
    theta = parameters(problem, result.law)
    deltas = spec.objective.stages(float(np.median(np.abs(columns[law.TARGET]))))
    start = np.repeat(theta[None], len(counts), axis=0)
    ends = newton.minimise(problem, start, counts * weight, deltas, tolerance=REPLICATE)
    return problem.coefficients(ends)


def parameters(problem: Problem, law: Any) -> np.ndarray:
    """Where in a problem [p] a law lies."""
    if isinstance(problem, sums.SumProblem):
        powers = np.array([float(getattr(law, name)) for name in law.exponents()])
        sizes = np.array([float(getattr(law, name)) for name in law.prefactors()])
        return np.clip(np.r_[np.log(np.maximum(sizes, 1e-300)) + problem.centre @ powers, powers], *problem.bounds())
    values = np.array([float(getattr(law, name)) for name in problem.names])
    plain = np.where(problem.logs, np.log(np.maximum(np.where(problem.logs, values, 1.0), VANISHED)), values)
    return np.clip(plain, *problem.bounds())


def join(certificates: list[Certificate], residual: np.ndarray, columns: Columns) -> Certificate:
    """The certificate of steps taken one after the other: the worst of each."""
    lost: Mapping[str, str] = {name: why for one in certificates for name, why in one.not_identified.items()}
    worst = int(np.argmax(np.abs(residual)))
    return Certificate(
        converged=all(one.converged for one in certificates),
        agreeing_starts=min(one.agreeing_starts for one in certificates),
        gradient=max(one.gradient for one in certificates),
        not_identified=lost,
        at_bound=tuple(name for one in certificates for name in one.at_bound),
        condition=max((one.condition for one in certificates if one.condition is not None), default=None),
        rms_log_residual=float(np.sqrt(np.mean(residual**2))),
        worst_row=int(columns.row[worst]),
        worst_log_residual=float(residual[worst]),
        warnings=tuple(dict.fromkeys(text for one in certificates for text in one.warnings)),
    )
