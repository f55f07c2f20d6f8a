"""Compute everything that a report states, once: fits under several laws and conventions, optima, back-test.

Reads no files and draws nothing. The verdict on the fits is in verdict.py.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from analysis import laws
from analysis.fitting.result import FitError, FitResult, finite
from analysis.fitting.spec import INTERPOLATIONS, FitSpec
from analysis.grid.selection import select
from analysis.grid.table import Columns, Grid
from analysis.laws.base import FormulaLaw, Law
from analysis.laws.chinchilla import Chinchilla
from analysis.questions import backtest
from analysis.questions import fit as fitting
from analysis.questions.compare import Comparison, compare
from analysis.reporting.rates import Cell, Rates, learning_rates, rate_and_batch
from analysis.reporting.verdict import judge
from experiments.cli import InputError

FACTORS = (1, 10, 100)  # of the largest budget
PARAMS = ("params_total", "params_no_embed", "params_non_embedding", "params_active")
FLOPS = ("flops_total", "flops_causal", "flops_6nd", "flops_kaplan", "flops_chinchilla", "flops_deepseek", "flops")
FEWER = 200  # bootstrap replicates of side computations


@dataclasses.dataclass(frozen=True)
class Survey:
    """Results by name (chinchilla, isoflop, isoflop_cubic, ...), and for those that failed the reason."""

    columns: Columns
    results: dict[str, FitResult]
    failures: dict[str, str]
    headline: str
    largest: float  # FLOPs of the largest budget
    optima: list[dict[str, Any]]
    conventions: list[dict[str, Any]]
    test: backtest.BackTest | None
    no_test: str
    rolling: backtest.Rolling | None
    rates: list[Rates]
    cells: list[Cell]
    comparison: Comparison | None
    verdict: str  # good, care, poor
    reasons: list[str]  # behind the verdict
    calculated: dict[str, FitResult] = dataclasses.field(default_factory=dict)  # further laws of the calculator

    def __getitem__(self, name: str) -> FitResult:
        """Return the fit of an approach by its name."""
        return self.results[name]


def survey(
    grid: Grid,
    spec: FitSpec,
    columns_text: str | None,
    where: str | None,
    formulas: Sequence[type[FormulaLaw]] = (),
    calculator: Sequence[type[Law]] = (),
) -> Survey:
    """Compute everything. formulas: further laws of N and D; calculator: laws of N, D and more for the calculator alone.

    Formulas of the loss by N and D are set beside the approaches, others are in the calculator. Raises InputError when no
    law can be fitted, and for a law without N and D.
    """
    _check_sizes([*formulas, *calculator])
    compared = [law for law in formulas if set(law.inputs()) == {"N", "D"} and law.TARGET == "loss"]
    further = [*calculator, *(law for law in formulas if law not in compared)]
    columns = select(
        grid,
        ("N", "D", "loss", "C"),
        optional=("group", "weight", "run", "censored"),
        columns=columns_text,
        where=where,
    )
    results, failures = _fit_all(columns, spec, compared)
    if set(results) <= {"envelope"}:  # a hull goes through any runs: alone it is no law
        why = "; ".join(dict.fromkeys(failures.values()))
        raise InputError(f"GRID: no law can be fitted ({why})")
    headline = "chinchilla" if "chinchilla" in results else next(iter(results))
    _, largest = backtest.largest_budget(columns)
    optima = []
    for name, result in results.items():
        optima += [optimum_row(result, name, factor, largest) for factor in FACTORS]

    calculated, not_calculated = _fit_for_calculator(grid, spec, columns_text, where, further)
    failures |= not_calculated
    quick = dataclasses.replace(spec, bootstrap=min(spec.bootstrap, FEWER), thorough=False)
    test, no_test, every = backtest.hindsight(columns, laws.load("chinchilla"), quick)
    comparison = compare_families(grid, quick, columns_text, where)
    verdict, reasons = judge(results, test, comparison, narrow_intervals(columns, quick, every))
    return Survey(
        columns=columns,
        results=results,
        failures=failures,
        headline=headline,
        largest=largest,
        optima=optima,
        conventions=compare_conventions(grid, columns, quick, columns_text, where),
        test=test,
        no_test=no_test,
        rolling=every,
        rates=learning_rates(grid, columns),
        cells=rate_and_batch(grid, columns),
        comparison=comparison,
        verdict=verdict,
        reasons=reasons,
        calculated=calculated,
    )


def narrow_intervals(columns: Columns, spec: FitSpec, of_chinchilla: backtest.Rolling | None) -> list[str]:
    """Say which approaches were too sure of the larger runs, or of the optima of larger budgets, in hindsight."""
    isoflop = laws.load("isoflop")
    try:
        of_isoflop = backtest.rolling(usable(columns, isoflop), isoflop, spec)
    except (InputError, FitError):
        of_isoflop = None
    found = []
    for name, test in (("approach 3", of_chinchilla), ("approach 2", of_isoflop)):
        why = test.caution if test else ""
        if why:
            found.append(f"{name}: {why}")
    return found


def _reason(error: Exception) -> str:
    """Return an error's text for a page that is about the grid anyway."""
    return str(error).removeprefix("GRID: ")


def _check_sizes(laws_of_user: Sequence[type[Law]]) -> None:
    """Raise InputError for a law that is none of N and D, which all of a report is about."""
    for law in laws_of_user:
        if not any({"N", "D"} <= set(names) for names in law.INPUTS):
            of = " or ".join(", ".join(names) for names in law.INPUTS)
            flag = "--calculator" if law.DEFINITION is None else "--formula"
            raise InputError(
                f"{flag}: {law.NAME} gives {law.TARGET} by {of}; a report takes laws of N and D, and of more"
            )


def _fit_for_calculator(
    grid: Grid, spec: FitSpec, columns_text: str | None, where: str | None, chosen: Sequence[type[Law]]
) -> tuple[dict[str, FitResult], dict[str, str]]:
    """Fit laws that may have more roles than N and D, each to the rows that it can use: results, and why others failed."""
    results: dict[str, FitResult] = {}
    failures: dict[str, str] = {}
    for law in chosen:
        try:
            columns = select(
                grid,
                (*law.ROLES, "N", "D"),
                optional=law.OPTIONAL,
                columns=columns_text,
                where=where,
                signed=law.SIGNED,
            )
            plain = spec if issubclass(law, FormulaLaw) else dataclasses.replace(spec, objective=None, fixed={})
            results[law.NAME] = fitting.fit(columns, law, plain)
        except (InputError, FitError) as error:
            failures[law.NAME] = _reason(error)
    return results, failures


def _fit_all(
    columns: Columns, spec: FitSpec, formulas: Sequence[type[FormulaLaw]]
) -> tuple[dict[str, FitResult], dict[str, str]]:
    """Fit the three approaches, the second one with every interpolation, and formulas: results, and why others failed."""
    isoflop = laws.load("isoflop")
    wanted: list[tuple[str, type[Law], FitSpec]] = [("chinchilla", Chinchilla, spec)]
    # Approaches 1 and 2 have no objective of single runs, and resample in their own way.
    plain = dataclasses.replace(spec, objective=None, fixed={}, resample=FitSpec.resample)
    for interpolation in INTERPOLATIONS:
        name = "isoflop" if interpolation == "quadratic" else f"isoflop_{interpolation}"
        choice = dataclasses.replace(plain, interpolation=interpolation)
        wanted.append((name, isoflop, choice))
    wanted.append(("envelope", laws.load("envelope"), plain))
    wanted += [(formula.NAME, formula, spec) for formula in formulas]
    results: dict[str, FitResult] = {}
    failures: dict[str, str] = {}
    for name, law, choice in wanted:
        try:
            results[name] = fitting.fit(usable(columns, law), law, choice)
        except (InputError, FitError) as error:
            failures[name] = _reason(error)
    return results, failures


def usable(columns: Columns, law: type[Law]) -> Columns:
    """Leave out runs that were stopped early, for a law that has no use for a bound. Raises InputError for unused weights."""
    if "weight" in columns and "weight" not in law.OPTIONAL:
        raise InputError(f"GRID: rows have weights, and {law.NAME} has no use for them")
    if "censored" not in columns or "censored" in law.OPTIONAL:
        return columns
    rest = columns.take(
        columns["censored"] <= 0, "the run was stopped early (censored), and this law has no use for a bound"
    )
    if not len(rest):
        raise InputError(f"GRID: all {len(columns)} rows were stopped early, and {law.NAME} has no use for a bound")
    values = {role: value for role, value in rest.values.items() if role != "censored"}
    return dataclasses.replace(rest, values=values)


def optimum_row(result: FitResult, name: str, factor: float, largest: float) -> dict[str, Any]:
    """Return compute-optimal N, D, tokens per parameter and loss at `factor` times the largest budget, with intervals.

    None for what the rows do not tell; `why` says why.
    """
    C = factor * largest
    ratio = result.flops_per_param_token

    def allocate(law: Any) -> dict[str, Any]:
        N, D = law.optimum(C, ratio)
        return {"N": N, "D": D, "tokens_per_param": D / N, "loss": law.target_at({"C": C}, ratio)}

    values = {}
    intervals = {}
    why = {}
    for key, value in allocate(result.law).items():
        judged = result.judged(lambda law, key=key: allocate(law)[key], is_derived=True)
        values[key] = float(value) if judged.is_known else math.nan
        if judged.interval is not None:
            intervals[key] = dataclasses.asdict(judged.interval)
        if judged.why:
            why[key] = judged.why
    return {
        "law": name,
        "times_largest": factor,
        "C": C,
        **finite(values),
        "intervals": intervals,
        "why": why,
    }


def compare_conventions(
    grid: Grid, columns: Columns, spec: FitSpec, columns_text: str | None, where: str | None
) -> list[dict[str, Any]]:
    """Fit the laws under every parameter and FLOP count that the grid has; empty when there is only one of each."""
    sources = columns.sources
    params = _distinct(grid, [sources["N"], *PARAMS], columns)
    flops = _distinct(grid, [sources["C"], *FLOPS], columns)
    if len(params) * len(flops) < 2:
        return []
    given = {}
    for role in ("D", "loss", "group", "weight", "run", "censored"):
        if role in sources:
            given[role] = sources[role]
    plain = dataclasses.replace(spec, objective=None, fixed={}, resample=FitSpec.resample)
    cubic = dataclasses.replace(plain, interpolation="cubic")
    wanted = (
        ("chinchilla", "chinchilla", spec),
        ("isoflop", "isoflop", plain),
        ("isoflop_cubic", "isoflop", cubic),
    )
    rows = []
    for count, compute in itertools.product(params, flops):
        chosen = given | {"N": count, "C": compute}
        text = ",".join(f"{role}={source}" for role, source in chosen.items())
        part = select(grid, ("N", "D", "loss", "C"), optional=("group",), columns=text, where=where)
        row: dict[str, Any] = {"N": count, "C": compute}
        for label, law, choice in wanted:
            row[label] = _fit_in_brief(part, law, choice)
        rows.append(row)
    return rows


def _fit_in_brief(columns: Columns, law: str, spec: FitSpec) -> dict[str, Any]:
    """Return what one way of counting says of the allocation, or why it says nothing."""
    try:
        chosen = laws.load(law)
        result = fitting.fit(usable(columns, chosen), chosen, spec)
    except (InputError, FitError) as error:
        return {"reason": _reason(error)}
    interval = result.intervals().get("exponent_N")
    values = result.values()
    return {
        "exponent_N": values["exponent_N"],
        "interval": dataclasses.asdict(interval) if interval else None,
        "E": values["E"],
        "flops_per_param_token": result.flops_per_param_token,
    }


def compare_families(grid: Grid, spec: FitSpec, columns_text: str | None, where: str | None) -> Comparison | None:
    """Return exchange rates between the families of the grid; None when fewer than two of them can be fitted."""
    law = Chinchilla
    try:
        columns = select(
            grid,
            (*law.ROLES, "family"),
            optional=(*law.OPTIONAL, "C"),
            columns=columns_text,
            where=where,
        )
        families = set(columns["family"].astype(str))
        return compare(columns, law, spec) if len(families) > 1 else None
    except (InputError, FitError):
        return None


def _distinct(grid: Grid, names: Sequence[str], columns: Columns) -> list[str]:
    """Return columns of the grid among `names` that are positive on the rows used and differ from each other."""
    found: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(names):
        if name not in grid.frame.columns or name in grid.repeated:
            continue
        value = grid.numbers(name, "columns")[columns.row]
        if not np.isfinite(value).all() or not (value > 0).all():
            continue
        known = any(np.allclose(value, other, rtol=1e-6) for other in found.values())
        if not known:
            found[name] = value
    return list(found)
