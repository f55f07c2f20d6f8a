"""Fit a law that is a formula."""

import dataclasses

import numpy as np

from analysis.fitting.result import FitError, FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid import units
from analysis.grid.table import Columns
from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, FormulaLaw, SumLaw
from analysis.solve import formula, newton, optimum, sums
from analysis.solve.formula import FormulaProblem
from analysis.trust import bootstrap, certificate, profile
from analysis.trust.certificate import Certificate, Evidence
from experiments.cli import InputError, nearest


def pose(columns: Columns, law: type[FormulaLaw], spec: FitSpec) -> sums.Problem | FormulaProblem:
    """The problem of fitting the law to the rows. Raises InputError for coefficients that it does not have."""
    for name in spec.fixed:
        if name not in law.names():
            raise InputError(
                f"--fix: {name!r} is not a coefficient of {law.NAME}; {nearest(name, law.names(), 'name')}"
            )
    raw, above = spec.objective.residual == "raw", spec.objective.shares(columns.values.get("censored"))
    if hasattr(law, "problem") and not spec.fixed:
        return law.problem(columns, raw, above)
    if issubclass(law, SumLaw) and not spec.fixed and (columns[law.TARGET] > 0).all():
        names = [*law.prefactors(), *law.exponents()]
        order = tuple(names.index(name) for name in law.names())
        return sums.Problem.create(law.slopes(columns.values), columns[law.TARGET], raw, order, above)
    return formula.problem(law, columns.values, raw, spec.fixed, above)


def parameter_names(problem: sums.Problem | FormulaProblem, law: type[FormulaLaw]) -> tuple[str, ...]:
    """Coefficients of the parameters, in the problem's order."""
    if hasattr(problem, "names"):
        return problem.names
    return (*law.prefactors(), *law.exponents()) if issubclass(law, SumLaw) else ()


def fit_formula(columns: Columns, law: type[FormulaLaw], spec: FitSpec) -> FitResult:
    """Fit a formula by variable projection on a grid of starts and damped Newton steps."""
    problem = pose(columns, law, spec)
    if len(columns) < problem.size:
        raise InputError(
            f"GRID: {len(columns)} usable rows, {law.NAME} has {problem.size} coefficients to fit "
            f"({', '.join(n for n in law.names() if n not in spec.fixed)}); "
            f"expected at least {problem.size} rows ({len(columns.dropped)} were dropped)"
        )
    weight = columns["weight"] / columns["weight"].mean() if "weight" in columns else np.ones(len(columns))
    deltas = spec.objective.stages(float(np.median(np.abs(columns[law.TARGET]))))
    found = optimum.find(problem, weight, spec.objective, deltas, spec.starts)
    if not found.gradient <= optimum.STATIONARY:
        raise FitError(
            f"{law.NAME}: the best of {found.starts} starts is not at a stationary point (scaled gradient "
            f"{found.gradient:.1e}); no coefficients are reported"
        )
    run = columns.values.get("run")
    leverage = certificate.leverage(found)
    draws = problem.coefficients(bootstrap.refits(found, spec.resample, spec.bootstrap, spec.seed, run, leverage))
    thorough = spec.thorough and len(draws) > 0
    left_out = bootstrap.jackknife(found, run) if thorough else np.empty((0, problem.size))
    additive, names = bool((columns[law.TARGET] <= 0).any()), parameter_names(problem, law)
    fitted = law(*map(float, problem.coefficients(found.theta[None])[0]))
    result = FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=found.value,
        residual=residuals(fitted, columns, additive),
        certificate=Certificate(converged=True, agreeing_starts=found.agreeing, gradient=found.gradient),
        draws=draws,
        left_out=problem.coefficients(left_out),
        freedom=int(bootstrap.units(len(columns), run).max()) + 1 - problem.size,
        additive=additive,
        profiles=profile.profiles(found, names, spec.level) if thorough else {},
    )
    evidence = Evidence(
        law=fitted,
        columns=columns,
        residual=result.residual,
        intervals=result.intervals(),
        left_out=result.left_out,
        profiles=result.profiles,
        loss=spec.objective.loss,
        fixed=tuple(spec.fixed),
    )
    return dataclasses.replace(result, certificate=certificate.certify(evidence, found, names, leverage))


def residuals(law: FormulaLaw, columns: Columns, additive: bool) -> np.ndarray:
    """ln predicted - ln observed [rows], or their plain difference for a target that may be negative."""
    with np.errstate(all="ignore"):
        predicted = np.asarray(law.predict(**{role: columns[role] for role in law.inputs()}), dtype=np.float64)
    observed = columns[law.TARGET]
    predicted = np.broadcast_to(predicted, observed.shape)
    return predicted - observed if additive else np.log(np.maximum(predicted, 1e-300)) - np.log(observed)


def flops_factor(columns: Columns) -> tuple[float, str]:
    """C/(N D), the geometric mean over the rows, and a note when it varies; 6 when a role is missing."""
    if not all(role in columns for role in ("N", "D", "C")):
        return FLOPS_PER_PARAM_TOKEN, ""
    logs = np.log(columns["C"]) - np.log(columns["N"]) - np.log(columns["D"])
    factor = float(np.exp(logs.mean()))
    if abs(factor / FLOPS_PER_PARAM_TOKEN - 1) < 1e-9:
        factor = FLOPS_PER_PARAM_TOKEN
    low, high = np.exp(logs.min()), np.exp(logs.max())
    varies = high > 1.02 * low
    note = f"C = {factor:.3g} N D on average, {low:.3g} to {high:.3g} over the rows; optima at given C use the average"
    return factor, note if varies else ""


def noted(result: FitResult, columns: Columns) -> FitResult:
    """Add to a fit what its rows say of costs and units: C/(N D), and doubts about the columns as they were given."""
    factor, note = flops_factor(result.columns)
    notes = [*result.columns.notes]
    if note:
        notes.append(note)
    notes += units.doubts(columns)
    columns = dataclasses.replace(result.columns, notes=tuple(notes))
    return dataclasses.replace(result, columns=columns, flops_per_param_token=factor)


def fit_one_formula(columns: Columns, law: type[FormulaLaw], spec: FitSpec = FitSpec()) -> FitResult:
    """Fit a formula as one step of a procedure: with the objective of its source, and with its notes."""
    spec = spec.for_law(law)
    with newton.one_thread():
        result = fit_formula(columns, law.of(columns.parts), spec)
    return noted(result, columns)
