"""Which runs next: those that shrink the interval of one stated number most for their FLOPs.

    python -m analysis.design GRID --target="loss@N=7e10,D=1.4e12" --budget=1e20 [--candidates=runs.csv] --out=design.json

Targets: loss@N=..,D=.. (or loss@C=..), N@C=.., D@C=.., tokens_per_param@C=.., exponent_N, or a coefficient of a law.
Candidates are a table with the columns of a grid but without losses: `python -m sweeps.plan --study=.. --runs=runs.csv`
writes those of a study. Without one, a lattice of sizes and tokens around the grid's is taken.

The bootstrap refits of all plausible laws (those whose back-test is nearly as good as the best one's) are one cloud of
possible truths. A run at a candidate is
worth how much of the cloud's spread in the target it explains, given the noise of a run (a Kalman update of the cloud;
optimal design in the sense of Chaloner & Verdinelli 1995). Runs are taken one after the other, each given those before.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from analysis.fitting import formula_fit
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns, Grid
from analysis.laws.base import Law
from analysis.questions import fit as fitting
from analysis.questions import scoreboard
from analysis.solve.objective import Objective
from experiments.cli import InputError, nearest

SCHEMA = 1
DEFAULT_LAWS = ("chinchilla", "overtraining", "kaplan")
LATTICE = 16  # sizes, and token counts, of the candidates when none are given
TRIM = 0.01  # share of the refits at either end that is moved to the rest: a few of them run away
PLAUSIBLE = 2.5  # times the least back-test error: laws up to there are taken as possible


@dataclasses.dataclass(frozen=True)
class Target:
    """A number that a law gives: a quantity, and where."""

    name: str
    at: Mapping[str, float]

    @classmethod
    def parse(cls, text: str) -> "Target":
        """`loss@N=7e10,D=1.4e12`; InputError when it is not of that form."""
        name, _, place = (part.strip() for part in text.partition("@"))
        at = {}
        for part in filter(None, (part.strip() for part in place.split(","))):
            role, _, value = (piece.strip() for piece in part.partition("="))
            try:
                at[role] = float(value)
            except ValueError:
                raise InputError(f"--target: {part!r} is not ROLE=NUMBER, for example loss@N=7e10,D=1.4e12") from None
            if not (math.isfinite(at[role]) and at[role] > 0):
                raise InputError(f"--target: {part!r} is not a positive finite number")
        if not name:
            raise InputError(f"--target: {text!r} names no quantity; expected for example loss@N=7e10,D=1.4e12")
        return cls(name, at)

    def of(self, law: Any, flops_per_param_token: float) -> Any:
        """Its value under a law, which may be a stack of them. Raises InputError when the law has no such number."""
        if self.name == type(law).TARGET:
            if not any(set(self.at) == set(names) for names in type(law).INPUTS):
                choices = " or ".join(",".join(f"{name}=.." for name in names) for names in type(law).INPUTS)
                raise InputError(f"--target: {self.name} of {law.NAME} is taken at {choices}")
            return law.target_at(self.at, flops_per_param_token)
        if self.name in law.optimum_exponents():
            return law.optimum_exponents()[self.name]
        if self.name in ("N", "D", "tokens_per_param"):
            if set(self.at) != {"C"}:
                raise InputError(f"--target: {self.name} is that of the optimum at a budget; expected {self.name}@C=..")
            N, D = law.optimum(self.at["C"], flops_per_param_token)
            return {"N": N, "D": D, "tokens_per_param": D / N}[self.name]
        if self.name in law.names():
            return getattr(law, self.name)
        known = [type(law).TARGET, "N", "D", "tokens_per_param", *law.optimum_exponents(), *law.names()]
        raise InputError(f"--target: {law.NAME} has no {self.name!r}; {nearest(self.name, known, 'target')}")


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


def propose(
    columns: Columns,
    chosen: Sequence[type[Law]],
    target: Target,
    candidates: Columns,
    spec: FitSpec,
    budget: float,
    count: int,
) -> Design:
    """At most `count` more runs for rows `columns`. `candidates` hold the laws' inputs and C; `budget` are FLOPs for all.

    Raises InputError when no law fits, or when no law has the target.
    """
    for law in chosen:
        with np.errstate(all="ignore"):
            target.of(law(*np.ones(len(law.names()))), 6.0)  # fails before anything is fitted
    results, weights = _fit(columns, chosen, spec)
    clouds, targets, noise = [], [], []
    for result in results:
        at = {role: candidates[role] for role in type(result.law).inputs()}
        stacked = type(result.law)(*(column[:, None] for column in result.draws.T))
        with np.errstate(all="ignore"):
            clouds.append(np.log(stacked.predict(**at)) * np.ones((len(result.draws), len(candidates))))
            value = np.asarray(target.of(result.stacked(), result.flops_per_param_token), dtype=np.float64)
        targets.append(value)
        noise.append(1.4826 * np.median(np.abs(result.residual - np.median(result.residual))))
    logs = all((value > 0).all() for value in targets)
    spread = [np.log(value) if logs else value for value in targets]
    share = np.concatenate(
        [np.full(len(result.draws), weights[result.law.NAME] / len(result.draws)) for result in results]
    )
    joint = np.column_stack([np.concatenate(spread), np.concatenate(clouds)])
    covariance, centre = _moments(joint, share)
    sigma = max(float(np.sum([weights[r.law.NAME] * s for r, s in zip(results, noise, strict=True)])), 1e-6)
    cost = candidates["C"]
    z = _normal_quantile(spec.level)

    def interval(variance: float) -> tuple[float, float]:
        reach = z * math.sqrt(max(variance, 0.0))
        ends = centre[0] - reach, centre[0] + reach
        return (math.exp(ends[0]), math.exp(ends[1])) if logs else ends

    orders = [_greedy(covariance, cost, sigma, budget, count, per_flop) for per_flop in (True, False)]
    order = min(orders, key=lambda picks: picks[-1][1] if picks else covariance[0, 0])
    spent, steps = 0.0, []
    for candidate, variance in order:
        spent += float(cost[candidate])
        steps.append(Step(candidate, spent, *interval(variance)))
    low, high = interval(covariance[0, 0])
    value = float(np.exp(centre[0]) if logs else centre[0])
    return Design(target, value, low, high, spec.level, weights, candidates, tuple(steps))


def _fit(columns: Columns, chosen: Sequence[type[Law]], spec: FitSpec) -> tuple[list[FitResult], dict[str, float]]:
    """The plausible laws, fitted, and equal weights: AICc would often leave one law, and be as wrong as that one is."""
    spec = dataclasses.replace(spec, objective=spec.objective or Objective(), thorough=False)
    scores = scoreboard.scoreboard(columns, chosen, dataclasses.replace(spec, bootstrap=0))
    errors = {score.law: score.held_out_rms for score in scores if np.isfinite(score.aicc)}
    best = np.nanmin([*errors.values(), np.inf])
    plausible = [name for name, error in errors.items() if not error > PLAUSIBLE * best]
    fits = [fitting.fit(columns, law, spec) for law in chosen if law.NAME in plausible]
    results = [result for result in fits if len(result.draws) > 1]
    if not results:
        why = "; ".join(dict.fromkeys(score.reason for score in scores if score.reason)) or "too few rows"
        raise InputError(f"GRID: no law can be fitted with intervals ({why})")
    return results, {result.law.NAME: 1 / len(results) for result in results}


def _moments(joint: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted covariance [1 + m, 1 + m] and mean of [target, candidates], refits that ran away moved to the rest."""
    joint = np.where(np.isfinite(joint), joint, np.nan)
    joint = np.where(np.isnan(joint).all(axis=0), 0.0, joint)  # a candidate that no law can speak of tells nothing
    low, high = np.nanpercentile(joint, [100 * TRIM, 100 * (1 - TRIM)], axis=0)
    joint = np.clip(np.where(np.isnan(joint), high, joint), low, high)
    centre = share @ joint
    apart = joint - centre
    return (apart * share[:, None]).T @ apart, centre


def _greedy(
    covariance: np.ndarray, cost: np.ndarray, sigma: float, budget: float, count: int, per_flop: bool
) -> list[tuple[int, float]]:
    """Candidates in order, each with the variance of the target after it; none twice, none beyond the budget."""
    covariance = covariance.copy()
    spent, picks = 0.0, []
    free = np.ones(len(cost), bool)
    while len(picks) < count:
        usable = free & (spent + cost <= budget * (1 + 1e-9))
        if not usable.any():
            break
        own = np.diag(covariance)[1:] + sigma**2
        gain = covariance[0, 1:] ** 2 / own
        worth = np.sqrt(covariance[0, 0]) - np.sqrt(np.maximum(covariance[0, 0] - gain, 0.0))
        best = int(np.argmax(np.where(usable, worth / cost if per_flop else worth, -np.inf)))
        if gain[best] <= 1e-6 * covariance[0, 0]:
            break
        column = covariance[:, 1 + best].copy()
        covariance -= np.outer(column, column) / own[best]
        spent, free[best] = spent + float(cost[best]), False
        picks.append((best, float(covariance[0, 0])))
    return picks


def _normal_quantile(level: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(0.5 + 0.5 * level))


def lattice(columns: Columns, largest: float) -> Columns:
    """Candidates where none are given: sizes and tokens of the grid and three times beyond, up to `largest` FLOPs.

    Tokens per parameter stay where the grid's are: at other ratios nothing says that the laws hold.
    """
    if "N" not in columns or "D" not in columns:
        raise InputError("--candidates is missing; without one the grid needs N and D")
    N, D = (np.geomspace(columns[role].min() / 1.5, columns[role].max() * 3, LATTICE) for role in ("N", "D"))
    N, D = (side.ravel() for side in np.meshgrid(N, D))
    ratio = formula_fit.flops_factor(columns)[0]
    seen = columns["D"] / columns["N"]
    keep = (ratio * N * D <= largest) & (seen.min() / 1.5 <= D / N) & (seen.max() * 1.5 >= D / N)
    if not keep.any():
        raise InputError(f"--budget: {largest:g} FLOPs is less than the smallest run of the lattice costs")
    values = {"N": N[keep], "D": D[keep], "C": ratio * N[keep] * D[keep]}
    return Columns(values, np.arange(int(keep.sum())), {role: role for role in values}, ())


def to_json(design: Design, grid: Grid, text: str) -> dict[str, Any]:
    """design.json: the runs in order, with the interval of the target after each."""
    inputs = {role: value for role, value in design.candidates.values.items() if value.dtype.kind == "f"}
    return {
        "schema": SCHEMA,
        "target": {"name": design.target.name, "at": dict(design.target.at)},
        "now": {"value": design.value, "low": design.low, "high": design.high, "level": design.level},
        "laws": design.weights,
        "runs": [
            {
                "row": int(design.candidates.row[step.candidate]),
                **{role: float(value[step.candidate]) for role, value in inputs.items() if value.ndim == 1},
                "spent": step.spent,
                "low": step.low,
                "high": step.high,
            }
            for step in design.steps
        ],
        "data_sha256": grid.sha256,
        "command": text,
    }
