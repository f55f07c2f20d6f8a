"""Fit a law to a loss grid.

    python -m analysis.fit GRID --columns=N=params_total,D=tokens,loss=loss --where="a==1 and b<2" --out=fit.json

A sum of monomials is fitted from an exhaustive grid of exponents, all starts together (analysis.solver); laws with a
procedure of their own bring it. A fit that does not end at a stationary point raises FitError.
"""

import dataclasses
from typing import Any

from absl import flags
import numpy as np
from rich.markup import escape

from analysis import bootstrap, certificate, options, solver
from analysis.laws import LAWS
from analysis.laws import load as load_law
from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Law, SumLaw
from analysis.output import check_writable, command, number, span, write
from analysis.result import Certificate, FitError, FitResult, FitSpec, Interval, to_json
from analysis.table import Columns, select
from analysis.table import load as load_grid
from experiments import cli
from experiments.cli import InputError

STATIONARY = 2e-5  # largest scaled gradient of a fit that is reported
AGREE = 1e-6  # relative excess of the objective
ZERO_RESIDUAL = 1e-6
FINALISTS = 6
DIFFERENT = 1e-2  # of log terms and exponents: two minima and not one
PATIENCE = 3000  # steps of a finalist; each may cross a single kink of the objective


def fit(columns: Columns, law: type[Law], spec: FitSpec = FitSpec()) -> FitResult:
    """Fit a law to the rows of a grid.

    Raises InputError when there are fewer rows than coefficients, FitError when no optimum was reached.
    """
    estimate = getattr(law, "estimate", None)
    if estimate is not None:
        result = estimate(columns, spec)
    elif issubclass(law, SumLaw):
        result = fit_sum(columns, law, spec)
    else:
        raise TypeError(f"{law.__name__} is neither a SumLaw nor has an estimate of its own")
    factor, note = flops_factor(result.columns)
    columns = dataclasses.replace(result.columns, notes=(*result.columns.notes, *filter(None, [note])))
    return dataclasses.replace(result, columns=columns, flops_per_param_token=factor)


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
    deltas = spec.objective.stages(float(np.median(columns["loss"])))
    starts = solver.start_points(problem, weight, spec.starts)
    ends, agreeing = search(problem, starts, weight, deltas)
    best, rivals = choose(problem, ends, weight, spec)
    theta, value = drop_vanished(problem, best, weight, spec, deltas)
    gradient = stationarity(problem, theta, weight, deltas[-1], spec.objective.loss == "lad")
    if not gradient <= STATIONARY:
        raise FitError(
            f"{law.NAME}: the best of {len(starts)} starts is not at a stationary point (scaled gradient "
            f"{gradient:.1e}); no coefficients are reported"
        )
    counts = bootstrap.row_counts(len(columns), spec.bootstrap, spec.seed, columns.values.get("run"), fewest=len(names))
    replicates = solver.minimise(problem, np.repeat(theta[None], len(counts), axis=0), counts * weight, deltas)
    draws = problem.coefficients(replicates)[:, order]
    fitted = law(*(float(problem.coefficients(theta[None])[0, at]) for at in order))
    residual = solver.Problem(problem.slopes, problem.centre, problem.target).residuals(theta[None])[0]
    return FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=value,
        residual=residual,
        certificate=certify(problem, theta, weight, rivals, fitted, columns, draws, residual, spec, agreeing, gradient),
        draws=draws,
    )


def search(
    problem: solver.Problem, starts: np.ndarray, weight: np.ndarray, deltas: tuple[float, ...]
) -> tuple[np.ndarray, float]:
    """The best few local minima from all starts, and the share of the starts that lead to the best one.

    All starts are brought to the first of `deltas`; those that end at different minima and lie lowest go on.
    """
    ends = solver.minimise(problem, starts, weight, deltas[:1], tolerance=1e-7, max_steps=100)
    target = np.broadcast_to(problem.target, (len(ends), len(weight)))
    values = solver.value(problem, ends, np.broadcast_to(weight, target.shape), target, deltas[0])
    order = np.argsort(values, kind="stable")
    agree = values <= values[order[0]] * (1 + AGREE) + 1e-20 * weight.sum()
    chosen = [int(order[0])]
    for at in map(int, order):
        if len(chosen) < FINALISTS and np.abs(ends[at] - ends[chosen]).max(axis=1).min() > DIFFERENT:
            chosen.append(at)
    return solver.minimise(problem, ends[chosen], weight, deltas, max_steps=PATIENCE), float(agree.mean())


def choose(
    problem: solver.Problem, ends: np.ndarray, weight: np.ndarray, spec: FitSpec
) -> tuple[np.ndarray, np.ndarray]:
    """The best end [p], and the other ends [rivals, p] that fit as well with other parameters.

    Among equals (as many rows as coefficients can be fitted exactly in several ways) the smallest exponents win.
    """
    values = (weight * spec.objective.value(problem.residuals(ends))).sum(axis=1)
    equal = np.flatnonzero(values <= values.min() * (1 + AGREE) + 1e-20 * weight.sum())
    best = int(equal[np.argmin((ends[equal, problem.terms :] ** 2).sum(axis=1))])
    apart = np.abs(ends[equal] - ends[best]).max(axis=1) > DIFFERENT
    return ends[best], ends[equal[apart]]


def drop_vanished(
    problem: solver.Problem, theta: np.ndarray, weight: np.ndarray, spec: FitSpec, deltas: tuple[float, ...]
) -> tuple[np.ndarray, float]:
    """Set terms that tend to zero to zero, where that is no worse: parameters and objective.

    A prefactor of zero lies at minus infinity of its logarithm; steps towards it get lost in rounding before the end.
    """

    def objective(point: np.ndarray) -> float:
        return float((weight * spec.objective.value(problem.residuals(point[None])[0])).sum())

    value = objective(theta)
    logs = problem.log_terms(theta[None])[:, 0]
    share = np.exp(logs - logs.max(axis=0)).max(axis=1)
    for k in np.flatnonzero((share < 0.2) & (theta[: problem.terms] > problem.bounds()[0][: problem.terms])):
        without = theta.copy()
        without[k] = problem.bounds()[0][k]
        without = solver.minimise(problem, without[None], weight, deltas)[0]
        if objective(without) <= value * (1 + 1e-9) + 1e-21 * weight.sum():
            theta, value = without, objective(without)
    return theta, value


def stationarity(problem: solver.Problem, theta: np.ndarray, weight: np.ndarray, delta: float, lad: bool) -> float:
    """Scaled gradient at `theta`; 0 where every residual is zero to rounding.

    Least absolute deviations have a slope that jumps at rows with zero residual. There, what counts is the smallest
    element of the subdifferential: those rows may pull with any weight up to their own.
    """
    rows = (1, len(weight))
    residual = problem.residuals(theta[None])[0]
    scale = np.exp(problem.target.max()) if problem.raw else 1.0
    if np.max(np.abs(residual)) < 1e-10 * scale:
        return 0.0
    local = solver.expand(
        problem, theta[None], np.broadcast_to(weight, rows), np.broadcast_to(problem.target, rows), delta
    )
    free = solver.free_parameters(theta[None], local.gradient, problem.bounds())
    smooth = float(solver.cancellation(local, free)[0])
    zero = np.abs(residual) < ZERO_RESIDUAL * scale
    if not lad or smooth <= STATIONARY or not zero.any():
        return smooth
    from scipy.optimize import lsq_linear

    predicted, _, jacobian = solver.linearise(problem, theta[None])
    slopes = (weight * (np.exp(predicted[0]) if problem.raw else 1.0) * jacobian[0])[free[0]]
    slopes = slopes / np.maximum(np.abs(slopes).sum(axis=1, keepdims=True), 1e-300)
    pull = slopes[:, ~zero] @ np.sign(residual[~zero])
    answer = lsq_linear(slopes[:, zero], -pull, bounds=(-1.0, 1.0), tol=1e-14)
    return float(np.abs(pull + slopes[:, zero] @ answer.x).max())


def certify(
    problem: solver.Problem,
    theta: np.ndarray,
    weight: np.ndarray,
    rivals: np.ndarray,
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
    if len(rivals):
        weak = weak | (np.abs(rivals - theta).max(axis=0) > DIFFERENT)
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


def main(argv: list[str]) -> None:
    """The command line."""
    from rich.console import Console

    console = Console(soft_wrap=True)
    values = flags.FLAGS
    if values.laws:
        list_laws(console)
        return
    if len(argv) != 1:
        raise InputError(
            f"GRID: {len(argv)} files given ({' '.join(argv) or 'none'}); expected one Parquet or CSV file"
        )
    if values.out is None:
        raise InputError("--out is missing; expected the path of the JSON file to write, for example --out=fit.json")
    spec, law = options.spec(values.interpolation), load_law(values.law)
    check_writable(values.out, "--out")
    grid = load_grid(argv[0])
    columns = select(grid, law.ROLES, optional=law.OPTIONAL, columns=values.columns, where=values.where)
    result = fit(columns, law, spec)
    write(values.out, to_json(result, grid.sha256, command("analysis.fit")), "--out")
    show(result, console)
    console.print(f"written: {values.out}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    options.define()
    flags.adopt_module_key_flags(options)
    flags.DEFINE_string("law", "chinchilla", "The law to fit; --laws lists them.")
    flags.DEFINE_string("interpolation", "quadratic", "Curve through an IsoFLOP budget: quadratic, cubic, akima.")
    flags.DEFINE_string("out", None, "The JSON file to write.")
    flags.DEFINE_bool("laws", False, "List the laws with formula, columns and source.")
    cli.run(main)
