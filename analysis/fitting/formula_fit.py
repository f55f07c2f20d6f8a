"""Fit a law that is a formula: from columns to a law with its refits and its certificate."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from analysis.fitting.judging import judge_formula
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.fitting.stationary import stationary
from analysis.fitting.weights import row_weights
from analysis.grid import cost, units
from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw, SumLaw, prefactor
from analysis.solve import formula, newton, optimum
from analysis.solve.optimum import Optimum
from analysis.solve.problem import Problem
from analysis.solve.sums import SumProblem
from analysis.trust import bootstrap, certificate, influence, profile
from analysis.trust.certificate import Evidence
from analysis.trust.interval import Interval
from analysis.trust.residuals import Residuals, row_counts
from experiments.cli import InputError, nearest


def pose(columns: Columns, law: type[FormulaLaw], spec: FitSpec) -> Problem:
    """Pose the fit of the law to the rows. Raises InputError for coefficients that it does not have."""
    for name in spec.fixed:
        if name not in law.names():
            hint = nearest(name, law.names(), "name")
            raise InputError(f"--fix: {name!r} is not a coefficient of {law.NAME}; {hint}")
    objective = spec.settled_objective
    raw = objective.residual == "raw"
    above = objective.shares(columns.values.get("censored"))
    own = law.problem(columns, raw, above, spec.fixed)
    if own is not None:
        return own
    # Sums of monomials have a faster way to the same fit, which needs logarithms of the target.
    if not spec.fixed and issubclass(law, SumLaw) and _has_free_prefactors(law) and (columns[law.TARGET] > 0).all():
        return _pose_sum(columns, law, raw, above)
    return formula.problem(law, columns.values, raw, spec.fixed, above)


def _pose_sum(columns: Columns, law: type[SumLaw], raw: bool, above: np.ndarray | float | None) -> SumProblem:
    """Pose a sum of monomials, whose terms are linear in the logarithms of its prefactors."""
    # The problem takes prefactors first; the law names its coefficients in an order of its own.
    names = (*law.prefactors(), *law.exponents())
    order = tuple(names.index(name) for name in law.names())
    slopes = law.slopes(columns.values)
    known = [law.COEFFICIENTS[name] for name in law.exponents()]
    bounds = tuple((one.low, one.high) for one in known)
    return SumProblem.create(slopes, columns[law.TARGET], raw, order, above, names, bounds)


def _has_free_prefactors(law: type[SumLaw]) -> bool:
    """Whether a sum states no bounds of its prefactors; with such it is fitted as a formula."""
    return all(law.COEFFICIENTS[name] == prefactor() for name in law.prefactors())


def fit_formula(columns: Columns, law: type[FormulaLaw], spec: FitSpec) -> FitResult:
    """Fit a formula by variable projection on a grid of starts and damped Newton steps.

    Raises InputError for fewer rows than coefficients, FitError when the best end is no optimum.
    """
    is_raw = spec.settled_objective.residual == "raw"
    law = law.for_data(columns.values, is_raw)
    problem = pose(columns, law, spec)
    _check_rows(columns, law, spec, problem)
    objective = spec.settled_objective
    # The robust losses of raw residuals are scaled by a typical size of the target.
    typical = float(np.median(np.abs(columns[law.TARGET])))
    deltas = objective.stages(typical)
    weights = row_weights(columns, law.TARGET)
    found = optimum.find(problem, weights, objective, deltas, spec.starts)
    found, warnings = stationary(found, law, objective)
    result = _with_refits(found, columns, law, spec)
    judged = result.certificate
    judged = dataclasses.replace(judged, warnings=(*judged.warnings, *warnings))
    return dataclasses.replace(result, certificate=judged)


def _check_rows(columns: Columns, law: type[FormulaLaw], spec: FitSpec, problem: Problem) -> None:
    """Raise InputError where there are fewer rows than coefficients to fit."""
    is_counting = row_counts(columns) > 0
    counting = int(is_counting.sum())
    if counting >= problem.size:
        return
    names = [name for name in law.names() if name not in spec.fixed]
    free = ", ".join(names)
    bounds = len(columns) - counting
    only_bound = f" ({bounds} more only bound the law)" if bounds else ""
    raise InputError(
        f"GRID: {counting} usable rows{only_bound}, {law.NAME} has {problem.size} coefficients to fit ({free}); "
        f"expected at least {problem.size} rows ({len(columns.dropped)} were dropped)"
    )


def _with_refits(found: Optimum, columns: Columns, law: type[FormulaLaw], spec: FitSpec) -> FitResult:
    """Add to an optimum what it would have been on other rows, and whether to believe it."""
    problem = found.problem
    run = columns.values.get("run")
    leverage = influence.leverage(found)
    refits = bootstrap.refits(found, spec.resample, spec.bootstrap, spec.seed, run, leverage)
    draws = problem.coefficients(refits)
    coefficients = problem.coefficients(found.theta[None])[0]
    # The jackknife and the profiles take as long as many refits: only where all was asked for.
    coefficients_left_out = np.empty((0, problem.size))
    profiles: Mapping[str, profile.Profile] = {}
    if spec.thorough and len(draws):
        parameters_left_out = bootstrap.jackknife(found, run)
        coefficients_left_out = problem.coefficients(parameters_left_out)
        by_run = {}
        units_of_rows = bootstrap.unit_count(len(columns), run)
        if units_of_rows < len(columns):
            by_run = _intervals(law, spec, coefficients, draws, coefficients_left_out)
        profiles = profile.profiles(found, spec.level, by_run)

    fitted = law(*coefficients.tolist())
    target = columns[law.TARGET]
    additive = bool((target <= 0).any())
    bare = certificate.Certificate(True, found.agreeing, found.gradient)
    distances = Residuals.of(residuals(fitted, columns, additive), columns, additive)
    freedom = distances.units - problem.size
    result = FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=found.value,
        residual=distances.value,
        certificate=bare,
        draws=draws,
        left_out=coefficients_left_out,
        freedom=freedom,
        additive=additive,
        profiles=profiles,
        details=law.of_data(),
    )
    evidence = Evidence(
        law=fitted,
        columns=columns,
        residuals=distances,
        intervals=result.intervals(),
        left_out=coefficients_left_out,
        profiles=profiles,
        loss=spec.settled_objective.loss,
        fixed=tuple(spec.fixed),
    )
    certified = dataclasses.replace(
        result,
        certificate=certificate.certify(evidence, found, leverage),
    )
    return dataclasses.replace(
        certified,
        verdict=judge_formula(certified, found, refits),
    )


def _intervals(
    law: type[FormulaLaw],
    spec: FitSpec,
    coefficients: np.ndarray,
    draws: np.ndarray,
    left_out: np.ndarray,
) -> dict[str, Interval | None]:
    """Return the bootstrap's interval of each coefficient, from its draws and its jackknife."""
    found = {}
    for at, name in enumerate(law.names()):
        estimate = float(coefficients[at])
        of_draws = draws[:, at]
        without = left_out[:, at]
        found[name] = Interval.of(of_draws, spec.level, estimate, without)
    return found


def residuals(law: FormulaLaw, columns: Columns, additive: bool) -> np.ndarray:
    """Return ln predicted - ln observed [rows], or their plain difference for a target that may be negative."""
    inputs = {role: columns[role] for role in law.inputs()}
    observed = columns[law.TARGET]
    # A law may overflow far from its rows; what is not finite shows in the residual.
    with np.errstate(all="ignore"):
        value = law.predict(**inputs)
    predicted = np.asarray(value, dtype=np.float64)
    predicted = np.broadcast_to(predicted, observed.shape)
    if additive:
        return predicted - observed
    positive = np.maximum(predicted, 1e-300)
    return np.log(positive) - np.log(observed)


def noted(result: FitResult, columns: Columns) -> FitResult:
    """Add to a fit what its rows say of costs and units: C/(N D), and doubts about the columns as they were given."""
    factor, note = cost.flops_factor(result.columns)
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
