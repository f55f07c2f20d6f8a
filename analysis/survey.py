"""Everything that a report states, computed once: fits under several laws and conventions, optima, back-test, verdict.

Reads no files and draws nothing.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from analysis import backtest, laws
from analysis import fit as fitting
from analysis.result import INTERPOLATIONS, FitError, FitResult, FitSpec, Interval, finite, ranges
from analysis.table import Columns, Grid, select
from experiments.cli import InputError

FACTORS = (1, 10, 100)  # of the largest budget
PARAMS = ("params_total", "params_no_embed", "params_non_embedding", "params_active")
FLOPS = ("flops_total", "flops_causal", "flops_6nd", "flops_kaplan", "flops_chinchilla", "flops_deepseek", "flops")
FEWER = 200  # bootstrap replicates of side computations


@dataclasses.dataclass(frozen=True)
class Rates:
    """Loss against learning rate at one size, sorted by rate; the fitted best rate and the rate of the law's rows."""

    label: str
    rate: np.ndarray
    loss: np.ndarray
    best: float | None  # minimum of a parabola in ln rate through the lowest point and its neighbours
    best_loss: float | None
    used: float | None  # rate of the rows in the fit at this size
    excess: float | None  # relative loss that the used rate gives away


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
    rates: list[Rates]
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
    if not results:
        raise InputError(f"GRID: no law can be fitted ({'; '.join(dict.fromkeys(failures.values()))})")
    headline = "chinchilla" if "chinchilla" in results else next(iter(results))
    _, largest = backtest.largest_budget(columns)
    optima = [optimum_row(results[name], name, factor, largest) for name in results for factor in FACTORS]
    law = laws.load("chinchilla")
    quick = dataclasses.replace(spec, bootstrap=min(spec.bootstrap, FEWER))
    test, no_test = backtest.try_back_test(columns, law, quick)
    verdict, reasons = judge(results, test)
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
        rates=learning_rates(grid, columns),
        verdict=verdict,
        reasons=reasons,
    )


def _fit_all(columns: Columns, spec: FitSpec) -> tuple[dict[str, FitResult], dict[str, str]]:
    wanted = [("chinchilla", "chinchilla", spec)]
    for interpolation in INTERPOLATIONS:
        name = "isoflop" if interpolation == "quadratic" else f"isoflop_{interpolation}"
        wanted.append((name, "isoflop", dataclasses.replace(spec, interpolation=interpolation)))
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

    def allocate(law: Any) -> dict[str, Any]:
        N, D = law.optimum(C, result.flops_per_param_token)
        return {"N": N, "D": D, "tokens_per_param": D / N, "loss": law.loss({"C": C}, result.flops_per_param_token)}

    values = allocate(result.law)
    draws = allocate(result.stacked()) if len(result.draws) else {}
    intervals = {key: Interval.of(value, result.spec.level) for key, value in draws.items()}
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


def learning_rates(grid: Grid, columns: Columns) -> list[Rates]:
    """Loss against learning rate for the rows with group == 'lr_bracket', by size; empty without such rows."""
    frame = grid.frame
    if "group" not in frame.columns or "lr" not in frame.columns or columns.sources["loss"] not in frame.columns:
        return []
    bracket = frame[frame["group"].astype(str) == "lr_bracket"]
    if "status" in frame.columns:
        bracket = bracket[bracket["status"].astype(str) == "complete"]
    rates = []
    keys = [name for name in (columns.sources["N"], columns.sources["D"]) if name in frame.columns]
    for size, rows in bracket.groupby(keys) if keys else []:
        used = frame.iloc[columns.row]
        same = used[
            np.all([np.isclose(used[key], value) for key, value in zip(keys, np.atleast_1d(size), strict=True)], axis=0)
        ]
        rule = float(same["lr"].iloc[0]) if len(same) else None
        together = [rows, same] if len(same) else [rows]
        rate = np.concatenate([part["lr"].to_numpy(float) for part in together])
        loss = np.concatenate([part[columns.sources["loss"]].to_numpy(float) for part in together])
        good = np.isfinite(rate) & np.isfinite(loss) & (rate > 0) & (loss > 0)
        rates.append(_rates(f"{float(np.atleast_1d(size)[0]):.3g} parameters", rate[good], loss[good], rule))
    return [one for one in rates if len(one.rate) >= 2]


def _rates(label: str, rate: np.ndarray, loss: np.ndarray, used: float | None) -> Rates:
    rate, inverse = np.unique(rate, return_inverse=True)
    loss = np.bincount(inverse, weights=loss) / np.bincount(inverse)
    at = int(np.argmin(loss)) if len(loss) else 0
    best = best_loss = excess = None
    if 0 < at < len(rate) - 1:
        near = slice(at - 1, at + 2)
        curve = np.polyfit(np.log(rate[near]), np.log(loss[near]), 2)
        middle = -curve[1] / (2 * curve[0])
        best, best_loss = float(np.exp(middle)), float(np.exp(np.polyval(curve, middle)))
        if used is not None:
            excess = float(loss[np.argmin(np.abs(np.log(rate / used)))] / best_loss - 1)
    return Rates(label, rate, loss, best, best_loss, used, excess)


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
