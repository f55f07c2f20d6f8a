"""Propose which runs to make next: those that shrink the interval of one stated number most for their FLOPs.

The bootstrap refits of all plausible laws (those whose back-test is nearly as good as the best one's) are one cloud of
possible truths (cloud.py). Asked again and again, each time with the runs that were made in the grid, it says when the
interval is small enough or the budget is gone.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from analysis.fitting.result import FitResult, judged_verdict
from analysis.fitting.spec import FitSpec
from analysis.grid.cost import flops_factor
from analysis.grid.table import Columns, Grid
from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Array, FormulaLaw, Law
from analysis.questions import fit as fitting
from analysis.questions import scoreboard
from analysis.questions.candidates import cost_of, line_of
from analysis.questions.cloud import best_order, make_cloud
from analysis.questions.scoreboard import Score
from analysis.questions.target import Target, Until
from analysis.solve.objective import Objective
from analysis.trust.verdict import Verdict
from analysis.writing.strict_json import finite_or_null
from experiments.cli import InputError

SCHEMA = 1
LATTICE = 16  # sizes, and token counts, of the candidates when none are given
BEYOND = 3.0  # times the largest size and token count of the grid, up to which the lattice reaches
AROUND = 1.5  # factor around the grid's ratios of tokens to parameters, and below its smallest runs
OFF_LINE = 8.0  # factor around the ratios of a grid along one line
PLAUSIBLE = 2.5  # times the least back-test error: laws up to there are taken as possible
FITS_WORSE = 10.0  # AICc: such a law has to extrapolate better to stay possible (Burnham & Anderson 2002, section 2.6)


@dataclasses.dataclass(frozen=True)
class Step:
    """One more run: which candidate, all that is spent with it, and the interval of the target after it."""

    candidate: int
    spent: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Design:
    """Runs in the order in which they are worth most. low, high: the interval of the target before any.

    why_done: why no run is proposed, and a loop over this question ends; empty where there is one. why_unknown: why the
    grid's own rows do not tell the target; empty where they do. Then there is no interval, before any run and after one:
    what refits say of it knows one corner of what the rows allow. notes: which runs would tell. verdicts: by law.
    """

    target: Target
    value: float
    low: float
    high: float
    level: float
    weights: dict[str, float]
    candidates: Columns
    steps: tuple[Step, ...]
    why_done: str = ""
    why_unknown: str = ""
    notes: tuple[str, ...] = ()
    verdicts: dict[str, Verdict] = dataclasses.field(default_factory=dict)


def propose(
    columns: Columns,
    chosen: Sequence[type[FormulaLaw]],
    target: Target,
    candidates: Columns,
    spec: FitSpec,
    budget: float,
    count: int,
    until: Until | None = None,
) -> Design:
    """Propose at most `count` more runs for the rows `columns`, no more than make the interval as small as `until`.

    `candidates` hold the laws' inputs and what each costs (`cost`, or C); `budget` is for all of them, in that unit.
    Raises InputError when no law fits, or when a law does not have the target.
    """
    for law in chosen:
        _check_target(target, law)
    results = fit_plausible(columns, chosen, spec)
    cloud = make_cloud(results, target, candidates)
    low, high = cloud.interval(cloud.covariance[0, 0], spec.level)
    why_unknown = _why_unknown(results, target)
    is_known = not why_unknown
    design = Design(
        target=target,
        value=cloud.value if is_known else math.nan,
        low=low if is_known else math.nan,
        high=high if is_known else math.nan,
        level=spec.level,
        weights={result.law.NAME: 1 / len(results) for result in results},
        candidates=candidates,
        steps=(),
        why_unknown=why_unknown,
        verdicts={result.law.NAME: judged_verdict(result) for result in results},
        notes=tuple(filter(None, [line_of(columns)])),
    )
    if until is not None and is_known and until.holds(low, high):
        return dataclasses.replace(design, why_done=f"the interval is as small as --until={until} asks")
    cost = cost_of(candidates)
    steps = []
    spent = 0.0
    for candidate, variance in best_order(cloud, cost, budget, count):
        spent += float(cost[candidate])
        low, high = cloud.interval(variance, spec.level) if is_known else (math.nan, math.nan)
        steps.append(Step(candidate, spent, low, high))
        if until is not None and is_known and until.holds(low, high):
            break
    return dataclasses.replace(design, steps=tuple(steps), why_done="" if steps else _why_none(cost, budget))


def _why_unknown(results: Sequence[FitResult], target: Target) -> str:
    """Say why the rows do not support an interval of the target under any of the laws; empty where one has one."""
    reasons = []
    for result in results:
        factor = result.flops_per_param_token
        is_run = target.name == result.law.TARGET and not result.law.derived(target.at, factor)
        judged = result.judged(lambda law, factor=factor: target.of(law, factor), is_derived=not is_run)
        if judged.interval is not None:
            return ""
        reasons.append(judged.why)
    return next(filter(None, reasons), "")


def _why_none(cost: Array, budget: float) -> str:
    """Say why no candidate is proposed."""
    if not len(cost):
        return "all candidates are made"
    if cost.min() > budget * (1 + 1e-9):
        return f"the budget is gone: {budget:.3g} is left, the cheapest candidate costs {cost.min():.3g}"
    return "no candidate within the budget would shrink the interval"


def budget_of(columns: Columns, candidates: Columns | None) -> float:
    """Return the budget where none is given: what the grid has cost; what all candidates cost where that is another unit."""
    if candidates is not None and ("cost" in candidates or "C" not in columns):
        return float(cost_of(candidates).sum())
    if "C" not in columns:
        raise InputError("--budget is missing; without one the grid needs N and D, or C")
    return float(columns["C"].sum())


def of_single_runs(laws: Sequence[type[Law]]) -> list[type[FormulaLaw]]:
    """Return the laws. Raises InputError for one that does not predict single runs."""
    found = []
    for law in laws:
        if not issubclass(law, FormulaLaw):
            raise InputError(f"--laws: {law.NAME} is not a law of single runs")
        found.append(law)
    return found


def _check_target(target: Target, law: type[FormulaLaw]) -> None:
    """Raise InputError when a law does not have the target, before anything is fitted."""
    ones = np.ones(len(law.names()))
    any_law = law(*ones)
    with np.errstate(all="ignore"):
        target.of(any_law, FLOPS_PER_PARAM_TOKEN)


def fit_plausible(columns: Columns, chosen: Sequence[type[FormulaLaw]], spec: FitSpec) -> list[FitResult]:
    """Fit the laws that the back-test leaves possible. Raises InputError when there is none with intervals.

    They count alike: weights by AICc would often leave one law, and be as wrong as that one is.
    """
    objective = spec.objective or Objective()
    spec = dataclasses.replace(spec, objective=objective, thorough=False)
    without_draws = dataclasses.replace(spec, bootstrap=0)
    scores = scoreboard.scoreboard(columns, chosen, without_draws)
    plausible = _plausible(scores)
    results = []
    for law in chosen:
        if law.NAME not in plausible:
            continue
        result = fitting.fit(columns, law, spec)
        if len(result.draws) > 1:
            results.append(result)
    if not results:
        reasons = dict.fromkeys(score.reason for score in scores if score.reason)
        why = "; ".join(reasons) or "too few rows"
        raise InputError(f"GRID: no law can be fitted with intervals ({why})")
    return results


def _plausible(scores: Sequence[Score]) -> set[str]:
    """Return the laws whose back-test is nearly as good as the best, and that fit as well or extrapolate better.

    A law without a back-test (its error is nan) stays: nothing speaks against it.
    """
    fitted = [score for score in scores if math.isfinite(score.aicc)]
    if not fitted:
        return set()
    best = np.nanmin([np.inf, *(score.held_out_rms for score in fitted)])
    closest = min(fitted, key=lambda score: score.aicc)
    found = set()
    for score in fitted:
        error = score.held_out_rms
        extrapolates_worse = error > PLAUSIBLE * best
        fits_worse = score.aicc > closest.aicc + FITS_WORSE
        if not extrapolates_worse and not (fits_worse and error >= closest.held_out_rms):
            found.add(score.law)
    return found


def lattice(columns: Columns, largest: float) -> Columns:
    """Return candidates where none are given: sizes and tokens of the grid and beyond, up to `largest` FLOPs.

    Tokens per parameter stay where the grid's are, for at other ratios nothing says that the laws hold; of a grid along
    one line they go beside it, for that is what is missing.
    """
    if "N" not in columns or "D" not in columns:
        raise InputError("--candidates is missing; without one the grid needs N and D")
    sizes, lengths = np.meshgrid(_steps(columns["N"]), _steps(columns["D"]))
    N = sizes.ravel()
    D = lengths.ravel()
    factor, _ = flops_factor(columns)
    C = factor * N * D
    seen = columns["D"] / columns["N"]
    ratio = D / N
    around = OFF_LINE if line_of(columns) else AROUND
    is_like_seen = (seen.min() / around <= ratio) & (seen.max() * around >= ratio)
    keep = (largest >= C) & is_like_seen
    if not keep.any():
        raise InputError(f"--budget: {largest:g} FLOPs is less than the smallest run of the lattice costs")
    values = {"N": N[keep], "D": D[keep], "C": C[keep]}
    sources = {role: role for role in values}
    return Columns(values, np.arange(int(keep.sum())), sources, ())


def _steps(values: Array) -> Array:
    """Return the steps of the lattice in one direction."""
    smallest = values.min() / AROUND
    largest = values.max() * BEYOND
    return np.geomspace(smallest, largest, LATTICE)


def to_json(design: Design, grid: Grid, command: str) -> dict[str, Any]:
    """Return design.json: the runs in order, with the interval of the target after each."""
    target = design.target
    described = {
        "schema": SCHEMA,
        "verdicts": {law: verdict.to_json() for law, verdict in design.verdicts.items()},
        "target": {"name": target.name, "at": dict(target.at)},
        "now": _describe_now(design),
        "laws": design.weights,
        "done": bool(design.why_done),
        "why_done": design.why_done or None,
        "notes": list(design.notes),
        "runs": [_describe(design.candidates, step) for step in design.steps],
        "data_sha256": grid.sha256,
        "command": command,
    }
    return finite_or_null(described)


def _describe_now(design: Design) -> dict[str, Any]:
    """Describe the target before any run for JSON."""
    return {
        "value": design.value,
        "low": design.low,
        "high": design.high,
        "level": design.level,
        "why": design.why_unknown or None,
    }


def _describe(candidates: Columns, step: Step) -> dict[str, Any]:
    """Describe a proposed run for JSON: its row in the table of candidates, and its numbers there."""
    described: dict[str, Any] = {"row": int(candidates.row[step.candidate])}
    for role, value in candidates.values.items():
        if value.dtype.kind == "f" and value.ndim == 1:
            described[role] = float(value[step.candidate])
    described |= {"spent": step.spent, "low": step.low, "high": step.high}
    return described
