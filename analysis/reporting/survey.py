"""Everything that a report states, computed once: fits under several laws and conventions, optima, back-test, verdict.

Reads no files and draws nothing.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from analysis import laws
from analysis.fitting.result import FitError, FitResult, finite, ranges
from analysis.fitting.spec import INTERPOLATIONS, FitSpec
from analysis.grid.table import Columns, Grid, select
from analysis.questions import backtest
from analysis.questions import fit as fitting
from analysis.questions.compare import Comparison, compare
from analysis.reporting.tuning import Cell, Rates, learning_rates, rate_and_batch
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

    def __getitem__(self, name: str) -> FitResult:
        return self.results[name]


def survey(grid: Grid, spec: FitSpec, columns_text: str | None, where: str | None) -> Survey:
    """Compute everything. Raises InputError when no law can be fitted."""
    columns = select(
        grid, ("N", "D", "loss", "C"), optional=("group", "weight", "run"), columns=columns_text, where=where
    )
    results, failures = _fit_all(columns, spec)
    if set(results) <= {"envelope"}:  # a hull goes through any runs: alone it is no law
        raise InputError(f"GRID: no law can be fitted ({'; '.join(dict.fromkeys(failures.values()))})")
    headline = "chinchilla" if "chinchilla" in results else next(iter(results))
    _, largest = backtest.largest_budget(columns)
    optima = [optimum_row(results[name], name, factor, largest) for name in results for factor in FACTORS]
    law = laws.load("chinchilla")
    quick = dataclasses.replace(spec, bootstrap=min(spec.bootstrap, FEWER), thorough=False)
    test, no_test, every = backtest.hindsight(columns, law, quick)
    verdict, reasons = judge(results, test)
    comparison = compare_families(grid, quick, columns_text, where)
    if comparison is not None:
        names = ", ".join(comparison.families.families)
        reasons.append(f"one law is fitted to runs of several families ({names}); choose one with --where")
        verdict = "care" if verdict == "good" else verdict
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
    )


def _fit_all(columns: Columns, spec: FitSpec) -> tuple[dict[str, FitResult], dict[str, str]]:
    wanted = [("chinchilla", "chinchilla", spec)]
    for interpolation in INTERPOLATIONS:
        name = "isoflop" if interpolation == "quadratic" else f"isoflop_{interpolation}"
        wanted.append((name, "isoflop", dataclasses.replace(spec, interpolation=interpolation)))
    wanted.append(("envelope", "envelope", spec))
    results: dict[str, FitResult] = {}
    failures: dict[str, str] = {}
    for name, law, choice in wanted:
        try:
            results[name] = fitting.fit(columns, laws.load(law), choice)
        except (InputError, FitError) as error:
            failures[name] = str(error).removeprefix("GRID: ")
    return results, failures


def optimum_row(result: FitResult, name: str, factor: float, largest: float) -> dict[str, Any]:
    """Compute-optimal N, D, tokens per parameter and loss at `factor` times the largest budget, with intervals."""
    C = factor * largest

    ratio = result.flops_per_param_token

    def allocate(law: Any) -> dict[str, Any]:
        N, D = law.optimum(C, ratio)
        return {"N": N, "D": D, "tokens_per_param": D / N, "loss": law.target_at({"C": C}, ratio)}

    values = allocate(result.law)
    intervals = {key: result.interval_of(lambda law, key=key: allocate(law)[key]) for key in values}
    return {
        "law": name,
        "times_largest": factor,
        "C": C,
        **finite({key: float(value) for key, value in values.items()}),
        "intervals": {key: dataclasses.asdict(value) for key, value in intervals.items() if value is not None},
    }


def compare_conventions(
    grid: Grid, columns: Columns, spec: FitSpec, columns_text: str | None, where: str | None
) -> list[dict[str, Any]]:
    """The laws under every parameter and FLOP count that the grid has; empty when there is only one of each."""
    params = _distinct(grid, [columns.sources["N"], *PARAMS], columns)
    flops = _distinct(grid, [columns.sources["C"], *FLOPS], columns)
    if len(params) * len(flops) < 2:
        return []
    given = {role: columns.sources[role] for role in ("D", "loss", "group", "weight", "run") if role in columns.sources}
    rows = []
    for count in params:
        for compute in flops:
            text = ",".join(f"{role}={source}" for role, source in {**given, "N": count, "C": compute}.items())
            row: dict[str, Any] = {"N": count, "C": compute}
            part = select(grid, ("N", "D", "loss", "C"), optional=("group",), columns=text, where=where)
            for label, law, choice in (
                ("chinchilla", "chinchilla", spec),
                ("isoflop", "isoflop", spec),
                ("isoflop_cubic", "isoflop", dataclasses.replace(spec, interpolation="cubic")),
            ):
                try:
                    result = fitting.fit(part, laws.load(law), choice)
                except (InputError, FitError) as error:
                    row[label] = {"reason": str(error).removeprefix("GRID: ")}
                    continue
                interval = result.intervals().get("exponent_N")
                row[label] = {
                    "exponent_N": float(result.law.optimum_exponents()["exponent_N"]),
                    "interval": dataclasses.asdict(interval) if interval else None,
                    "E": float(result.law.E),
                    "flops_per_param_token": result.flops_per_param_token,
                }
            rows.append(row)
    return rows


def compare_families(grid: Grid, spec: FitSpec, columns_text: str | None, where: str | None) -> Comparison | None:
    """Exchange rates between the families of the grid; None when it has fewer than two that can be fitted."""
    law = laws.load("chinchilla")
    try:
        columns = select(grid, (*law.ROLES, "family"), optional=(*law.OPTIONAL, "C"), columns=columns_text, where=where)
        return compare(columns, law, spec) if len(set(columns["family"].astype(str))) > 1 else None
    except (InputError, FitError):
        return None


def _distinct(grid: Grid, names: Sequence[str], columns: Columns) -> list[str]:
    """Columns of the grid among `names` that are positive on the rows used and differ from each other."""
    found: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(names):
        if name not in grid.frame.columns or name in grid.repeated:
            continue
        value = grid.numbers(name, "columns")[columns.row]
        usable = np.isfinite(value).all() and (value > 0).all()
        if usable and not any(np.allclose(value, other, rtol=1e-6) for other in found.values()):
            found[name] = value
    return list(found)


def judge(results: Mapping[str, FitResult], test: backtest.BackTest | None) -> tuple[str, list[str]]:
    """`good`, `care` or `poor`, with the reasons in words."""
    poor, care = [], []
    law = results.get("chinchilla")
    if law is None:
        care.append("approach 3 could not be fitted, so nothing checks the allocation")
    else:
        lost = law.certificate.not_identified
        if lost:
            poor.append(f"this grid does not determine {', '.join(lost)}")
        care.extend(law.certificate.warnings)
    first, second = (results[name].intervals().get("exponent_N") for name in ("chinchilla", "isoflop")) if (
        "chinchilla" in results and "isoflop" in results
    ) else (None, None)  # fmt: skip
    if first and second and (first.high < second.low or second.high < first.low):
        care.append("approaches 2 and 3 disagree on how parameters grow with compute: their intervals do not overlap")
    if "isoflop" not in results:
        care.append("approach 2 could not be fitted, so nothing checks approach 3")
    if test is None:
        care.append("there is no back-test")
    elif abs(test.summary()["mean_error"]) > 0.02:  # type: ignore[arg-type]
        poor.append(f"the back-test misses the largest budget by {test.error.mean():+.1%} on average")
    elif np.mean((test.observed >= test.low) & (test.observed <= test.high)) < 0.5:
        care.append("most runs of the largest budget lie outside the interval that the smaller ones gave")
    reach = law or next(iter(results.values()))
    span = ranges(reach.columns, reach.flops_per_param_token).get("C")
    if span and span[1] / span[0] < 30:
        care.append(f"the runs span a factor of {span[1] / span[0]:.3g} in compute; 100x beyond it is a long way")
    return ("poor" if poor else "care" if care else "good"), poor + care
