"""Fit a law to a loss grid.

    python -m analysis.fit GRID --law=chinchilla --columns=N=params_total,D=tokens,loss=loss --where="a==1" --out=fit.json

A sum of monomials is fitted from an exhaustive grid of exponents, all starts together (analysis.solver); laws with a
procedure of their own bring it. A fit that does not end at a stationary point raises FitError.
"""

from collections.abc import Sequence
import shlex
import sys

import numpy as np

from analysis import bootstrap, certificate, solver
from analysis.laws.base import Law, SumLaw
from analysis.result import Certificate, FitError, FitResult, FitSpec, Interval, to_json
from analysis.table import Columns, Dropped, load, select
from experiments.cli import InputError

STATIONARY = {"huber": 1e-6, "least_squares": 1e-6, "lad": 1e-3}  # LAD's slope jumps at each row; its limit is coarser
AGREE = 1e-6  # relative excess of the objective


def fit(columns: Columns, law: type[Law], spec: FitSpec = FitSpec()) -> FitResult:
    """Fit a law to the rows of a grid.

    Raises InputError when there are fewer rows than coefficients, FitError when no optimum was reached.
    """
    estimate = getattr(law, "estimate", None)
    if estimate is not None:
        return estimate(columns, spec)
    if not issubclass(law, SumLaw):
        raise TypeError(f"{law.__name__} is neither a SumLaw nor has an estimate of its own")
    return fit_sum(columns, law, spec)


def fit_sum(columns: Columns, law: type[SumLaw], spec: FitSpec) -> FitResult:
    """Fit a sum of monomials by variable projection on a grid of exponents and damped Newton steps."""
    names = [*law.prefactors(), *law.exponents()]
    order = [names.index(name) for name in law.names()]
    if len(columns) < len(names):
        raise InputError(
            f"GRID: {len(columns)} usable rows, {law.NAME} has {len(names)} coefficients ({', '.join(law.names())}); "
            f"expected at least {len(names)} rows ({len(columns.dropped)} were dropped)"
        )
    weight = columns["weight"] / columns["weight"].mean() if "weight" in columns else np.ones(len(columns))
    problem = solver.Problem.create(law.slopes(columns.values), columns["loss"], spec.objective.residual == "raw")
    stages = spec.objective.stages()
    deltas = tuple(delta for delta in (1e-2, 1e-3, 1e-4, 1e-5) if delta > 10 * stages[0]) + stages
    ends = solver.minimise(problem, solver.start_points(problem, weight, spec.starts), weight, deltas)
    values = (weight * spec.objective.value(problem.residuals(ends))).sum(axis=1)
    best = int(np.argmin(values))
    theta, value = ends[best], float(values[best])
    agreeing = float(np.mean(values <= value * (1 + AGREE) + 1e-20 * weight.sum()))
    gradient = stationarity(problem, theta, weight, deltas[-1])
    if not gradient <= STATIONARY[spec.objective.loss]:
        raise FitError(
            f"{law.NAME}: the best of {len(ends)} starts is not at a stationary point (scaled gradient {gradient:.1e}); "
            "no coefficients are reported"
        )
    counts = bootstrap.row_counts(len(columns), spec.bootstrap, spec.seed, columns.values.get("run"))
    replicates = solver.minimise(problem, np.repeat(theta[None], spec.bootstrap, axis=0), counts * weight, deltas)
    draws = problem.coefficients(replicates)[:, order]
    fitted = law(*(float(problem.coefficients(theta[None])[0, at]) for at in order))
    residual = solver.Problem(problem.slopes, problem.centre, problem.target).residuals(theta[None])[0]
    return FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=value,
        residual=residual,
        certificate=certify(problem, theta, weight, fitted, columns, draws, residual, spec, agreeing, gradient),
        draws=draws,
    )


def stationarity(problem: solver.Problem, theta: np.ndarray, weight: np.ndarray, delta: float) -> float:
    """Scaled gradient at `theta`; 0 where every residual is zero to rounding."""
    rows = (1, len(weight))
    local = solver.expand(
        problem, theta[None], np.broadcast_to(weight, rows), np.broadcast_to(problem.target, rows), delta
    )
    if np.max(np.abs(problem.residuals(theta[None]))) < 1e-11 * (np.exp(problem.target.max()) if problem.raw else 1.0):
        return 0.0
    return float(solver.cancellation(local, solver.free_parameters(theta[None], local.gradient, problem.bounds()))[0])


def certify(
    problem: solver.Problem,
    theta: np.ndarray,
    weight: np.ndarray,
    law: SumLaw,
    columns: Columns,
    draws: np.ndarray,
    residual: np.ndarray,
    spec: FitSpec,
    agreeing: float,
    gradient: float,
) -> Certificate:
    """The certificate of a fit that reached a stationary point."""
    weak, condition = certificate.weak_directions(problem, theta, weight)
    vanished = theta[: problem.terms] <= problem.bounds()[0][: problem.terms]
    found = {name: Interval.of(values, spec.level) for name, values in zip(law.names(), draws.T, strict=True)}
    intervals = {name: interval for name, interval in found.items() if interval is not None}
    worst = int(np.argmax(np.abs(residual)))
    return Certificate(
        converged=True,
        agreeing_starts=agreeing,
        gradient=gradient,
        not_identified=certificate.not_identified(law, weak, vanished, intervals),
        at_bound=tuple(term.prefactor for term, gone in zip(law.TERMS, vanished, strict=True) if gone),
        condition=condition,
        rms_log_residual=float(np.sqrt(np.mean(residual**2))),
        worst_row=int(columns.row[worst]),
        worst_log_residual=float(residual[worst]),
        warnings=certificate.warnings(columns, len(theta), agreeing, residual),
    )
