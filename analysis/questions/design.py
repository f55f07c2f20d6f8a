"""Propose which runs to make next: those that shrink the interval of one stated number most for their FLOPs.

The bootstrap refits of all plausible laws (those whose back-test is nearly as good as the best one's) are one cloud of
possible truths. A run at a candidate is worth how much of the cloud's spread in the target it explains, given the noise
of a run (a Kalman update of the cloud; optimal design in the sense of Chaloner & Verdinelli 1995). Runs are taken one
after the other, each given those before.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from analysis.fitting import formula_fit
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns, Grid
from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Array, FormulaLaw, Law
from analysis.questions import fit as fitting
from analysis.questions import scoreboard
from analysis.questions.target import Target
from analysis.solve.objective import Objective
from experiments.cli import InputError

SCHEMA = 1
LATTICE = 16  # sizes, and token counts, of the candidates when none are given
BEYOND = 3.0  # times the largest size and token count of the grid, up to which the lattice reaches
AROUND = 1.5  # factor around the grid's ratios of tokens to parameters, and below its smallest runs
TRIM = 0.01  # share of the refits at either end that is moved to the rest: a few of them run away
PLAUSIBLE = 2.5  # times the least back-test error: laws up to there are taken as possible
LEAST_NOISE = 1e-6  # of ln loss of one run
LEAST_GAIN = 1e-6  # share of the target's variance; a run that explains less is not proposed
NORMAL_MAD = 1.4826  # standard deviations in the median absolute deviation of normal noise


@dataclasses.dataclass(frozen=True)
class Step:
    """One more run: which candidate, all FLOPs spent with it, and the interval of the target after it."""

    candidate: int
    spent: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Design:
    """Runs in the order in which they are worth most. low, high: the interval of the target before any."""

    target: Target
    value: float
    low: float
    high: float
    level: float
    weights: dict[str, float]
    candidates: Columns
    steps: tuple[Step, ...]


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Possible truths: what every refit of every plausible law says of the target and of the candidates.

    covariance [1 + candidates, 1 + candidates] and centre [1 + candidates] are those of the target and of ln loss at
    each candidate; noise is the standard deviation of ln loss of one run. is_log: the target is taken as its logarithm.
    """

    covariance: Array
    centre: Array
    noise: float
    is_log: bool

    def interval(self, variance: float, level: float) -> tuple[float, float]:
        """Return the interval of the target for a variance that is left."""
        from scipy.stats import norm

        deviations = float(norm.ppf(0.5 + 0.5 * level))
        reach = deviations * math.sqrt(max(variance, 0.0))
        low = self.centre[0] - reach
        high = self.centre[0] + reach
        return (math.exp(low), math.exp(high)) if self.is_log else (low, high)

    @property
    def value(self) -> float:
        """The target in the middle of the cloud."""
        return float(np.exp(self.centre[0]) if self.is_log else self.centre[0])


def propose(
    columns: Columns,
    chosen: Sequence[type[FormulaLaw]],
    target: Target,
    candidates: Columns,
    spec: FitSpec,
    budget: float,
    count: int,
) -> Design:
    """Propose at most `count` more runs for the rows `columns`.

    `candidates` hold the laws' inputs and C; `budget` are FLOPs for all. Raises InputError when no law fits, or when a
    law does not have the target.
    """
    for law in chosen:
        _check_target(target, law)
    results = fit_plausible(columns, chosen, spec)
    cloud = make_cloud(results, target, candidates)
    cost = candidates["C"]
    steps = []
    spent = 0.0
    for candidate, variance in _best_order(cloud, cost, budget, count):
        spent += float(cost[candidate])
        low, high = cloud.interval(variance, spec.level)
        steps.append(Step(candidate, spent, low, high))
    variance_now = cloud.covariance[0, 0]
    low, high = cloud.interval(variance_now, spec.level)
    return Design(
        target=target,
        value=cloud.value,
        low=low,
        high=high,
        level=spec.level,
        weights={result.law.NAME: 1 / len(results) for result in results},
        candidates=candidates,
        steps=tuple(steps),
    )


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

    They count alike: AICc would often leave one law, and be as wrong as that one is.
    """
    objective = spec.objective or Objective()
    spec = dataclasses.replace(spec, objective=objective, thorough=False)
    without_draws = dataclasses.replace(spec, bootstrap=0)
    scores = scoreboard.scoreboard(columns, chosen, without_draws)
    errors = {score.law: score.held_out_rms for score in scores if math.isfinite(score.aicc)}
    best = np.nanmin([*errors.values(), np.inf])
    # A law without a back-test (its error is nan) stays: nothing speaks against it.
    implausible = {name for name, error in errors.items() if error > PLAUSIBLE * best}
    plausible = errors.keys() - implausible
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


def make_cloud(results: Sequence[FitResult], target: Target, candidates: Columns) -> Cloud:
    """Gather what the refits of laws say of the target and of ln loss at the candidates; laws count alike."""
    of_law = 1 / len(results)
    targets = []
    log_losses = []
    shares = []
    noises = []
    for result in results:
        draws = _target_draws(result, target)
        targets.append(draws)
        log_losses.append(_log_losses(result, candidates))
        shares.append(np.full(len(draws), of_law / len(draws)))
        noises.append(of_law * _robust_deviation(result.residual))
    is_log = all((draws > 0).all() for draws in targets)
    if is_log:
        targets = [np.log(draws) for draws in targets]
    joint = np.column_stack([np.concatenate(targets), np.concatenate(log_losses)])
    covariance, centre = _moments(joint, np.concatenate(shares))
    noise = float(np.sum(noises))
    return Cloud(covariance, centre, max(noise, LEAST_NOISE), is_log)


def _target_draws(result: FitResult, target: Target) -> Array:
    """Return the target under every refit [replicates]."""
    with np.errstate(all="ignore"):
        draws = target.of(result.stacked(), result.flops_per_param_token)
    return np.asarray(draws, dtype=np.float64)


def _log_losses(result: FitResult, candidates: Columns) -> Array:
    """Return ln loss at the candidates under every refit [replicates, candidates]."""
    law = type(result.law)
    at = {role: candidates[role] for role in law.inputs()}
    replicates = law(*(column[:, None] for column in result.draws.T))
    with np.errstate(all="ignore"):
        log_loss = np.log(replicates.predict(**at))
    return np.broadcast_to(log_loss, (len(result.draws), len(candidates)))


def _robust_deviation(residual: Array) -> float:
    """Return the standard deviation of residuals [rows] by their median absolute deviation."""
    from_middle = np.abs(residual - np.median(residual))
    return NORMAL_MAD * float(np.median(from_middle))


def _moments(joint: Array, share: Array) -> tuple[Array, Array]:
    """Return the weighted covariance and mean of [refits, 1 + m], refits that ran away moved to the rest."""
    joint = np.where(np.isfinite(joint), joint, np.nan)
    is_unknown = np.isnan(joint).all(axis=0)
    joint = np.where(is_unknown, 0.0, joint)  # a candidate that no law can speak of tells nothing
    low, high = np.nanpercentile(joint, [100 * TRIM, 100 * (1 - TRIM)], axis=0)
    joint = np.where(np.isnan(joint), high, joint)
    joint = np.clip(joint, low, high)
    centre = share @ joint
    from_centre = joint - centre
    covariance = (from_centre * share[:, None]).T @ from_centre
    return covariance, centre


def _best_order(cloud: Cloud, cost: Array, budget: float, count: int) -> list[tuple[int, float]]:
    """Return the better of two greedy orders: by what a run explains for its FLOPs, and by what it explains."""
    per_flop = _greedy(cloud, cost, budget, count, per_flop=True)
    per_run = _greedy(cloud, cost, budget, count, per_flop=False)
    before = float(cloud.covariance[0, 0])
    left_per_flop = per_flop[-1][1] if per_flop else before
    left_per_run = per_run[-1][1] if per_run else before
    return per_flop if left_per_flop <= left_per_run else per_run


def _greedy(cloud: Cloud, cost: Array, budget: float, count: int, per_flop: bool) -> list[tuple[int, float]]:
    """Choose candidates one by one, each with the variance of the target after it; none twice, none beyond the budget."""
    covariance = cloud.covariance.copy()
    spent = 0.0
    picks: list[tuple[int, float]] = []
    is_free = np.ones(len(cost), bool)
    while len(picks) < count:
        is_usable = is_free & (spent + cost <= budget * (1 + 1e-9))
        if not is_usable.any():
            break
        of_target = covariance[0, 0]
        of_run = np.diag(covariance)[1:] + cloud.noise**2
        explained = covariance[0, 1:] ** 2 / of_run
        left = np.maximum(of_target - explained, 0.0)
        worth = np.sqrt(of_target) - np.sqrt(left)
        if per_flop:
            worth = worth / cost
        best = int(np.argmax(np.where(is_usable, worth, -np.inf)))
        if explained[best] <= LEAST_GAIN * of_target:
            break
        # Kalman update: what the run's loss says of the target and of all other candidates is now known.
        column = covariance[:, 1 + best].copy()
        covariance -= np.outer(column, column) / of_run[best]
        spent += float(cost[best])
        is_free[best] = False
        picks.append((best, float(covariance[0, 0])))
    return picks


def lattice(columns: Columns, largest: float) -> Columns:
    """Return candidates where none are given: sizes and tokens of the grid and beyond, up to `largest` FLOPs.

    Tokens per parameter stay where the grid's are: at other ratios nothing says that the laws hold.
    """
    if "N" not in columns or "D" not in columns:
        raise InputError("--candidates is missing; without one the grid needs N and D")
    sizes, lengths = np.meshgrid(_steps(columns["N"]), _steps(columns["D"]))
    N = sizes.ravel()
    D = lengths.ravel()
    factor, _ = formula_fit.flops_factor(columns)
    C = factor * N * D
    seen = columns["D"] / columns["N"]
    ratio = D / N
    is_like_seen = (seen.min() / AROUND <= ratio) & (seen.max() * AROUND >= ratio)
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
    return {
        "schema": SCHEMA,
        "target": {"name": target.name, "at": dict(target.at)},
        "now": {"value": design.value, "low": design.low, "high": design.high, "level": design.level},
        "laws": design.weights,
        "runs": [_describe(design.candidates, step) for step in design.steps],
        "data_sha256": grid.sha256,
        "command": command,
    }


def _describe(candidates: Columns, step: Step) -> dict[str, Any]:
    """Describe a proposed run for JSON: its row in the table of candidates, and its numbers there."""
    described: dict[str, Any] = {"row": int(candidates.row[step.candidate])}
    for role, value in candidates.values.items():
        if value.dtype.kind == "f" and value.ndim == 1:
            described[role] = float(value[step.candidate])
    described |= {"spent": step.spent, "low": step.low, "high": step.high}
    return described
