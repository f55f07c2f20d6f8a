"""Measure pass rates too small for a test set, and judge whether a task improves faster than its own scaling law.

Source: Hu et al. 2023 (arXiv 2310.03262): sample an answer until it passes `passes` times. A task that follows
-ln PU = c N^-alpha is a straight line in ln(-ln PU) over ln N. One that bends downwards improves faster than any
power law of its small models would say: accelerated emergence.
"""

from collections.abc import Callable
import dataclasses
import math

import numpy as np

from analysis.laws.base import Array
from analysis.trust.information import aicc_of_squares
from analysis.trust.interval import Interval
from experiments.cli import InputError

SIGNIFICANT = 0.05
FEWEST_SIZES = 4
FEWEST_FOR_AICC = 6
LEAST_MEAN_SQUARE = 1e-300


@dataclasses.dataclass(frozen=True)
class PassRate:
    """An estimated pass rate with its standard error, and the samples that it took."""

    rate: float
    error: float
    passes: int
    samples: int


def pass_rate(passes: int, samples: int) -> PassRate:
    """Estimate the pass rate when the last of `samples` samples was pass number `passes`, at least 2.

    (passes - 1)/(samples - 1) is unbiased (Haldane 1945), passes/samples is not; the squared error
    rate (1 - rate)/(samples - 2) is an unbiased estimate too (Finney 1949). The relative error is about passes^-0.5
    however rare a pass is. Raises InputError for fewer than 2 passes or fewer samples than passes.
    """
    if passes < 2 or samples < passes:
        raise InputError(f"passes: {passes} of {samples} samples; expected at least 2, and as many samples")
    rate = (passes - 1) / (samples - 1)
    variance = rate * (1 - rate) / max(samples - 2, 1)
    return PassRate(rate, math.sqrt(variance), passes, samples)


def sample_until(attempt: Callable[[], bool], passes: int, most: int = 1_000_000) -> PassRate:
    """Call `attempt` until it has returned True `passes` times, and estimate its pass rate.

    After `most` samples the share that passed, which is unbiased for a fixed number of samples, has to do.
    """
    if passes < 2 or most < passes:
        raise InputError(f"passes: {passes} within {most} samples; expected at least 2 passes and as many samples")
    found = 0
    for samples in range(1, most + 1):
        found += bool(attempt())
        if found == passes:
            return pass_rate(passes, samples)
    rate = found / most
    variance = rate * (1 - rate) / (most - 1)
    return PassRate(rate, math.sqrt(variance), found, most)


def mean_rate(rates: list[PassRate]) -> tuple[float, float]:
    """Average the pass rates of a task's instances. Returns the mean, and the standard error that sampling leaves in it."""
    errors = np.array([rate.error for rate in rates])
    mean = float(np.mean([rate.rate for rate in rates]))
    return mean, float(np.sqrt((errors**2).sum()) / len(rates))


@dataclasses.dataclass(frozen=True)
class Emergence:
    """A power law and one that bends, in ln(-ln PU) = ln c - alpha ln N + bend (ln N - mean)^2.

    bend < 0: faster than a power law. aicc: of the power law minus that of the bent one (None on fewer than 6 models);
    positive speaks for the bend. p_faster, p_slower: share of data sets that follow the power law and bend that much.
    verdict: accelerated, slowed, or power law.
    """

    c: float
    alpha: float
    bend: float
    bend_interval: Interval
    aicc: float | None
    p_faster: float
    p_slower: float
    verdict: str


@dataclasses.dataclass(frozen=True)
class _Task:
    """A task as a regression: y [models] with errors proportional to scale [models], and whether those are known."""

    y: Array
    scale: Array
    is_scale_known: bool

    def solve(self, design: Array) -> Array:
        """Return the coefficients of weighted least squares."""
        found, *_ = np.linalg.lstsq(design / self.scale[:, None], self.y / self.scale, rcond=None)
        return found

    def residual(self, design: Array) -> Array:
        """Return what a fit leaves [models], in units of `scale`."""
        return (self.y - design @ self.solve(design)) / self.scale


def emergence(
    N: Array,
    rate: Array,
    error: Array | None = None,
    *,
    draws: int = 2000,
    seed: int = 42,
    level: float = 0.9,
) -> Emergence:
    """Judge whether a task improves faster than its power law: N [models], pass rates and their standard errors [models].

    With errors, models count by them, and scatter smaller than they allow is not believed; without, all rates are taken
    to rest on as many passes, which makes their relative errors equal. The p-values come from
    residuals of the power law, resampled and fitted again. Raises InputError for fewer than 4 sizes or a rate that is
    not between 0 and 1.
    """
    N = np.asarray(N, dtype=np.float64)
    task = _task(N, np.asarray(rate, dtype=np.float64), error)
    middle = np.log(N).mean()
    x = np.log(N) - middle
    line = np.column_stack([np.ones_like(x), x])
    curve = np.column_stack([np.ones_like(x), x, x**2])
    straight = task.solve(line)
    bent = task.solve(curve)

    stream = np.random.default_rng(seed)
    power_laws = line @ straight + task.scale * _noise(task, line, draws, stream)
    bent_ones = curve @ bent + task.scale * _noise(task, curve, draws, stream)
    bends, spreads = _bend(task, curve, task.y[None])
    bend = float(bends[0])
    spread = float(spreads[0])
    null_bends, null_spreads = _bend(task, curve, power_laws)
    simulated = null_bends / null_spreads
    observed = bend / spread
    as_fast = (simulated <= observed).sum()
    as_slow = (simulated >= observed).sum()
    # The observation counts as one more data set.
    p_faster = float((1 + as_fast) / (draws + 1))
    p_slower = float((1 + as_slow) / (draws + 1))
    # A studentised interval: the ends change sides, because the deviation is subtracted.
    other_bends, other_spreads = _bend(task, curve, bent_ones)
    deviation = (other_bends - bend) / other_spreads
    low, high = np.percentile(deviation, [50 * (1 + level), 50 * (1 - level)])
    low_bend = float(bend - low * spread)
    high_bend = float(bend - high * spread)
    aicc = _aicc_gain(task, line, curve)
    height, slope = straight
    return Emergence(
        c=float(np.exp(height - slope * middle)),
        alpha=float(-slope),
        bend=bend,
        bend_interval=Interval(level, low_bend, high_bend, spread),
        aicc=aicc,
        p_faster=p_faster,
        p_slower=p_slower,
        verdict=_verdict(aicc, p_faster, p_slower),
    )


def _task(N: Array, rate: Array, error: Array | None) -> _Task:
    """Return the task as a regression. Raises InputError for numbers that cannot be one."""
    sizes = len(np.unique(N))
    if sizes < FEWEST_SIZES or not (N > 0).all():
        raise InputError(f"N: {sizes} sizes; expected at least {FEWEST_SIZES} positive ones to see a bend")
    is_rate = (rate > 0) & (rate < 1)
    if not is_rate.all():
        wrong = rate[~is_rate]
        raise InputError(f"pass_rate: {wrong[0]} is not between 0 and 1")
    surprise = -np.log(rate)
    y = np.log(surprise)
    if error is None:
        # A rate from as many passes has a relative error that is proportional to sqrt(1 - rate).
        return _Task(y, np.sqrt(1 - rate) / surprise, is_scale_known=False)
    scale = np.asarray(error, dtype=np.float64) / (rate * surprise)
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise InputError("error: standard errors must be positive numbers")
    return _Task(y, scale, is_scale_known=True)


def _verdict(aicc: float | None, p_faster: float, p_slower: float) -> str:
    """Put the judgement in words."""
    speaks_for_bend = aicc is None or aicc > 0
    if p_faster < SIGNIFICANT and speaks_for_bend:
        return "accelerated"
    if p_slower < SIGNIFICANT and speaks_for_bend:
        return "slowed"
    return "power law"


def _aicc_gain(task: _Task, line: Array, curve: Array) -> float | None:
    """Return how much lower the criterion of the curve is than that of the line; None on too few models."""
    models = len(task.y)
    if models < FEWEST_FOR_AICC:
        return None
    found = []
    for design in (line, curve):
        residual = task.residual(design)
        mean_square = max(float(np.mean(residual**2)), LEAST_MEAN_SQUARE)
        found.append(aicc_of_squares(models, mean_square, design.shape[1] + 1))
    return found[0] - found[1]


def _noise(task: _Task, design: Array, draws: int, stream: np.random.Generator) -> Array:
    """Draw scatter [draws, models] like that around a fit, in units of `scale`, no smaller than that where it is known.

    Residuals enlarged by what their leverage hides, drawn again. A handful of models has too few values for that alone:
    a normal part keeps the variance and fills the gaps.
    """
    models = len(task.y)
    basis, _ = np.linalg.qr(design / task.scale[:, None])
    leverage = (basis**2).sum(axis=1)
    left = np.maximum(1 - leverage, 1e-3)
    pool = task.residual(design) / np.sqrt(left)
    pool = pool - pool.mean()
    if task.is_scale_known:
        pool = pool * max(1.0, 1 / max(float(pool.std()), 1e-12))
    normal = stream.standard_normal((draws, models)) * np.sqrt(np.mean(pool**2))
    # 0.8^2 + 0.6^2 = 1: the variance of the mixture is that of the pool.
    return 0.8 * stream.choice(pool, (draws, models)) + 0.6 * normal


def _bend(task: _Task, curve: Array, y: Array) -> tuple[Array, Array]:
    """Return the bend and its standard error, of y [sets, models]; a known error is not made smaller by a lucky fit."""
    models = len(task.scale)
    design = curve / task.scale[:, None]
    inverse = np.linalg.pinv(design)
    goal = y / task.scale
    found = goal @ inverse.T
    residual = goal - found @ design.T
    least = 1.0 if task.is_scale_known else 1e-24
    freedom = max(models - 3, 1)
    squares = (residual**2).sum(axis=1)
    variance = np.maximum(squares / freedom, least)
    of_bend = (inverse[2] ** 2).sum()
    return found[:, 2], np.sqrt(variance * of_bend)
