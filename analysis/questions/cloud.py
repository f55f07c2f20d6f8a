"""Gather what all plausible refits say of one number and of runs that could be made, and order the runs by their worth.

The refits are a cloud of possible truths. A run at a candidate is worth how much of the cloud's spread in the target it
explains, given the noise of a run (a Kalman update of the cloud; optimal design in the sense of Chaloner & Verdinelli
1995). Runs are taken one after the other, each given those before.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from analysis.fitting.result import FitResult
from analysis.grid.table import Columns
from analysis.laws.base import Array, FormulaLaw, Law
from analysis.questions.target import OF_OPTIMUM, Target
from analysis.solve.objective import Objective

TRIM = 0.01  # share of the refits at either end that is moved to the rest: a few of them run away
LEAST_NOISE = 1e-6  # of ln loss of one run
LEAST_GAIN = 1e-6  # share of the target's variance; a run that explains less is not proposed
VANISHING = 1e-9  # of the median of the refits: what is smaller has vanished
STRAY = 2.5  # standard deviations
STRAY_SQUARES = 0.9776  # mean of the squares of normal noise of unit size that is clipped there
NEARLY_SIGNS = 1e-3  # delta over noise below which Huber's loss counts signs
NORMAL_MAD = 1.4826  # standard deviations in the median absolute deviation of normal noise


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Possible truths: what every refit of every plausible law says of the target and of the candidates.

    covariance [1 + candidates, 1 + candidates] and centre [1 + candidates] are those of the target and of ln loss at
    each candidate; noise is the standard deviation of ln loss of one run. is_log: the target is taken as its logarithm,
    as every number that has to be positive is where it can. least: the least that the target may be.
    """

    covariance: Array
    centre: Array
    noise: float
    is_log: bool
    least: float = -math.inf

    def interval(self, variance: float, level: float) -> tuple[float, float]:
        """Return the interval of the target for a variance that is left."""
        from scipy.stats import norm

        deviations = float(norm.ppf(0.5 + 0.5 * level))
        reach = deviations * math.sqrt(max(variance, 0.0))
        low = self.centre[0] - reach
        high = self.centre[0] + reach
        return (math.exp(low), math.exp(high)) if self.is_log else (max(low, self.least), high)

    @property
    def value(self) -> float:
        """The target in the middle of the cloud."""
        return float(np.exp(self.centre[0]) if self.is_log else self.centre[0])


def make_cloud(results: Sequence[FitResult], target: Target, candidates: Columns) -> Cloud:
    """Gather what the refits of laws say of the target and of ln loss at the candidates; laws count alike."""
    of_law = 1 / len(results)
    targets = []
    log_losses = []
    shares = []
    noises = []
    for result in results:
        draws = _target_draws(result, target)
        refits = len(draws)
        of_refit = of_law / refits
        targets.append(draws)
        log_losses.append(_log_losses(result, candidates))
        shares.append(np.full(refits, of_refit))
        noises.append(_noise(result))
    of_target = np.concatenate(targets)
    of_runs = np.concatenate(log_losses)
    share = np.concatenate(shares)
    has_to_be_positive = all(_is_positive(target, type(result.law)) for result in results)
    is_log = has_to_be_positive and _has_logarithm(of_target)
    if is_log:
        with np.errstate(divide="ignore"):
            of_target = np.log(of_target)
    joint = np.column_stack([of_target, of_runs])
    covariance, centre = _moments(joint, share)
    noise = float(np.mean(noises))
    noise = max(noise, LEAST_NOISE)
    least = 0.0 if has_to_be_positive else -math.inf
    return Cloud(covariance, centre, noise, is_log, least)


def _is_positive(target: Target, law: type[Law]) -> bool:
    """Whether a number cannot be negative: sizes, tokens, losses, prefactors."""
    if target.name in OF_OPTIMUM or target.name == law.TARGET:
        return True
    if not issubclass(law, FormulaLaw):
        return False
    known = law.COEFFICIENTS.get(target.name)
    return known is not None and known.log


def _has_logarithm(draws: Array) -> bool:
    """Whether nearly all refits give a number of one size: a term that vanishes in many has no logarithm worth a name."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return False
    least = VANISHING * np.median(known)
    return float(np.mean(known > least)) > 0.5


def _noise(result: FitResult) -> float:
    """Return the standard deviation of ln loss of one run as the fit makes use of it.

    A fit has made residuals smaller than the noise. A fit that counts them by their sign, as Huber's does beyond delta,
    learns from a run as if its noise were up to sqrt(pi/2) times what it is (Huber 1964).
    """
    residuals = result.residuals
    rows = residuals.rows
    coefficients = len(result.law.names())
    freedom = max(rows - coefficients, 1)
    shrunk_by = math.sqrt(rows / freedom)
    noise = shrunk_by * _robust_deviation(residuals.standardised)
    return noise * _wasted(result.spec.settled_objective, noise)


def _wasted(objective: Objective, noise: float) -> float:
    """Return how many times larger than it is normal noise looks to an objective."""
    from scipy.stats import norm

    if objective.loss == "least_squares" or noise <= 0:
        return 1.0
    delta = objective.huber_delta if objective.loss == "huber" else 0.0
    reach = delta / noise
    if reach < NEARLY_SIGNS:
        return math.sqrt(math.pi / 2)
    inside = 2 * float(norm.cdf(reach)) - 1
    squares_inside = inside - 2 * reach * float(norm.pdf(reach))
    squares = squares_inside + reach**2 * (1 - inside)
    return math.sqrt(squares) / inside


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
    """Return the standard deviation of residuals [rows], of which stray ones count as if they lay nearer.

    The median absolute deviation says what is stray; by itself it scatters by a fifth on twenty rows.
    """
    middle = np.median(residual)
    from_middle = residual - middle
    rough = NORMAL_MAD * float(np.median(np.abs(from_middle)))
    near = np.clip(from_middle, -STRAY * rough, STRAY * rough)
    squares = float(np.mean(near**2))
    return math.sqrt(squares / STRAY_SQUARES)


def _moments(joint: Array, share: Array) -> tuple[Array, Array]:
    """Return the weighted covariance and mean of [refits, 1 + m], refits that ran away moved to the rest."""
    is_low = np.isneginf(joint)
    joint = np.where(np.isfinite(joint), joint, np.nan)
    is_unknown = np.isnan(joint).all(axis=0)
    joint = np.where(is_unknown, 0.0, joint)  # a candidate that no law can speak of tells nothing
    ends = [100 * TRIM, 100 * (1 - TRIM)]
    low, high = np.nanpercentile(joint, ends, axis=0)
    end = np.where(is_low, low, high)
    joint = np.where(np.isnan(joint), end, joint)
    joint = np.clip(joint, low, high)
    centre = share @ joint
    from_centre = joint - centre
    weighted = from_centre * share[:, None]
    covariance = weighted.T @ from_centre
    return covariance, centre


def best_order(cloud: Cloud, cost: Array, budget: float, count: int) -> list[tuple[int, float]]:
    """Return the better of two greedy orders: by what a run explains for its FLOPs, and by what it explains."""
    per_flop = _greedy(cloud, cost, budget, count, per_flop=True)
    per_run = _greedy(cloud, cost, budget, count, per_flop=False)
    if not per_flop or not per_run:
        return per_flop or per_run
    _, left_per_flop = per_flop[-1]
    _, left_per_run = per_run[-1]
    return per_flop if left_per_flop <= left_per_run else per_run


def _greedy(cloud: Cloud, cost: Array, budget: float, count: int, per_flop: bool) -> list[tuple[int, float]]:
    """Choose candidates one by one, each with the variance of the target after it; none twice, none beyond the budget."""
    covariance = cloud.covariance.copy()
    spent = 0.0
    picks: list[tuple[int, float]] = []
    is_free = np.ones(len(cost), bool)
    limit = budget * (1 + 1e-9)
    of_noise = cloud.noise**2
    while len(picks) < count:
        is_usable = is_free & (spent + cost <= limit)
        if not is_usable.any():
            break
        of_target = covariance[0, 0]
        with_target = covariance[0, 1:]
        of_run = np.diag(covariance)[1:] + of_noise
        explained = with_target**2 / of_run
        left = np.maximum(of_target - explained, 0.0)
        worth = np.sqrt(of_target) - np.sqrt(left)
        if per_flop:
            worth = worth / cost
        of_usable = np.where(is_usable, worth, -np.inf)
        best = int(np.argmax(of_usable))
        if explained[best] <= LEAST_GAIN * of_target:
            break
        # Kalman update: what the run's loss says of the target and of all other candidates is now known.
        with_run = covariance[:, 1 + best].copy()
        known = np.outer(with_run, with_run)
        covariance -= known / of_run[best]
        spent += float(cost[best])
        is_free[best] = False
        left_of_target = float(covariance[0, 0])
        picks.append((best, left_of_target))
    return picks
