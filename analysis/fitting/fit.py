"""Fit a law to a loss grid.

    python -m analysis.fit GRID --columns=N=params_total,D=tokens,loss=loss --where="a==1 and b<2" --out=fit.json

A formula is fitted from every combination of start values, with what enters linearly solved for, all starts together
(analysis.solve.newton); laws with a procedure of their own bring it. A fit that does not end at a stationary point raises
FitError.
"""

import dataclasses
from typing import Any

from absl import flags
import numpy as np
from rich.markup import escape

from analysis.command_line import options
from analysis.command_line.output import check_writable, command, number, one_grid, span, write
from analysis.fitting.result import Certificate, FitError, FitResult, FitSpec, to_json
from analysis.grid import units
from analysis.grid.table import Columns, select
from analysis.grid.table import load as load_grid
from analysis.laws import LAWS
from analysis.laws import load as load_law
from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, FormulaLaw, Law, SumLaw
from analysis.solve import formula, newton, optimum
from analysis.solve.formula import FormulaProblem
from analysis.trust import bootstrap, certificate, profile
from experiments import cli
from experiments.cli import InputError, nearest

REPLICATES = 200  # of each fit of a back-test


def fit(columns: Columns, law: type[Law], spec: FitSpec = FitSpec()) -> FitResult:
    """Fit a law to the rows of a grid.

    Raises InputError when there are fewer rows than coefficients, FitError when no optimum was reached.
    """
    spec, law = spec.for_law(law), law.of(columns.parts)
    estimate = getattr(law, "estimate", None)
    with newton.one_thread():
        if estimate is not None:
            result = estimate(columns, spec)
        elif issubclass(law, FormulaLaw):
            result = fit_formula(columns, law, spec)
        else:
            raise TypeError(f"{law.__name__} is neither a FormulaLaw nor has an estimate of its own")
    factor, note = flops_factor(result.columns)
    columns = dataclasses.replace(
        result.columns, notes=(*result.columns.notes, *filter(None, [note]), *units.doubts(columns))
    )
    return dataclasses.replace(result, columns=columns, flops_per_param_token=factor)


def pose(columns: Columns, law: type[FormulaLaw], spec: FitSpec) -> newton.Problem | FormulaProblem:
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
        return newton.Problem.create(law.slopes(columns.values), columns[law.TARGET], raw, order, above)
    return formula.problem(law, columns.values, raw, spec.fixed, above)


def parameter_names(problem: newton.Problem | FormulaProblem, law: type[FormulaLaw]) -> tuple[str, ...]:
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
    found = optimum.find(problem, weight, spec, deltas)
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
    return dataclasses.replace(result, certificate=certificate.certify(result, found, names, leverage))


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


def show(result: FitResult, console: Any) -> None:
    """Print a fit for people."""
    from rich.table import Table

    law, certificate_ = result.law, result.certificate
    intervals = result.intervals()
    table = Table(title=f"{law.NAME}: {law.FORMULA}", title_justify="left")
    for heading, side in (("coefficient", "left"), ("value", "right"), (f"{result.spec.level:.0%} interval", "right")):
        table.add_column(heading, justify=side)
    exponents = {name: float(value) for name, value in law.optimum_exponents().items()}
    for name, value in (law.coefficients() | exponents).items():
        lost = " (not identified)" if name in certificate_.not_identified else ""
        table.add_row(name + lost, number(value, 6), span(intervals.get(name)))
    console.print(table)
    console.print(
        f"{len(result.columns)} rows used, {len(result.columns.dropped)} dropped; objective {result.objective:.8g}; "
        f"{certificate_.agreeing_starts:.0%} of the starts agree; scaled gradient {certificate_.gradient:.0e}"
    )
    chosen = ", ".join(f"{role} = {source}" for role, source in result.columns.sources.items())
    console.print(f"columns: {chosen}", highlight=False)
    for name, why in certificate_.not_identified.items():
        console.print(f"[yellow]not identified[/]: {name}, {why}", highlight=False)
    for text in (*certificate_.warnings, *result.columns.notes):
        console.print(f"[yellow]note[/]: {text}", highlight=False)


def list_laws(console: Any) -> None:
    """Print every law with its formula, columns and source."""
    from rich.table import Table

    table = Table("law", "formula", "columns", "source")
    for name, law in LAWS.items():
        optional = f" [{', '.join(law.OPTIONAL)}]" if law.OPTIONAL else ""
        table.add_row(name, law.FORMULA, escape(", ".join(law.ROLES) + optional), law.SOURCE)
    console.print(table)


def hindsight(columns: Columns, law: type[Law], spec: FitSpec) -> dict[str, Any]:
    """The rolling back-test of a fit for its JSON, or the reason why there is none."""
    from analysis.questions import backtest

    test, why = backtest.try_rolling(columns, law, dataclasses.replace(spec, bootstrap=min(spec.bootstrap, REPLICATES)))
    return test.summary() if test else {"reason": why.removeprefix("GRID: ")}


def show_hindsight(test: dict[str, Any] | None, console: Any) -> None:
    """Print a back-test for people."""
    if test is None:
        return
    if "reason" in test:
        console.print(f"[yellow]note[/]: {test['reason']}", highlight=False)
        return
    reach = test["by_factor"][-1]["to"]
    console.print(
        f"back-test: {test['rms_error']:.2%} root mean square error of {test['predictions']} predictions of "
        f"{test['quantity']} up to {reach:.3g} times beyond the rows fitted; {test['covered']:.0%} lay in their interval",
        highlight=False,
    )


def main(argv: list[str]) -> None:
    """The command line."""
    from rich.console import Console

    console = Console(soft_wrap=True)
    values = flags.FLAGS
    if values.laws:
        list_laws(console)
        return
    path = one_grid(argv)
    if values.out is None:
        raise InputError("--out is missing; expected the path of the JSON file to write, for example --out=fit.json")
    law = load_law(values.law)
    spec = options.spec(values.interpolation, law)
    check_writable(values.out, "--out")
    grid = load_grid(path)
    columns = select(
        grid, law.ROLES, optional=law.OPTIONAL, columns=values.columns, where=values.where, signed=law.SIGNED
    )
    result = fit(columns, law, spec)
    data = to_json(result, grid.sha256, command("analysis.fit"))
    if values.back_test:
        data["back_test"] = hindsight(columns, law, spec)
    write(values.out, data, "--out")
    show(result, console)
    show_hindsight(data.get("back_test"), console)
    console.print(f"written: {values.out}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    options.define()
    flags.adopt_module_key_flags(options)
    flags.DEFINE_string("law", "chinchilla", "The law to fit; --laws lists them.")
    flags.DEFINE_string("interpolation", "quadratic", "Curve through an IsoFLOP budget: quadratic, cubic, akima.")
    flags.DEFINE_string("out", None, "The JSON file to write.")
    flags.DEFINE_bool("back_test", True, "Also fit the smaller runs alone and predict the larger ones.")
    flags.DEFINE_bool("laws", False, "List the laws with formula, columns and source.")
    cli.run(main)
