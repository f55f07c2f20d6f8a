"""Pass rates too small for a test set, and whether a task improves faster than its own scaling law.

Source: Hu et al. 2023 (arXiv 2310.03262): sample an answer until it passes `passes` times. A task that follows
-ln PU = c N^-alpha is a straight line in ln(-ln PU) over ln N. One that bends downwards improves faster than any
power law of its small models would say: accelerated emergence.
"""

from collections.abc import Callable
import dataclasses
import math

import numpy as np

from analysis.trust.interval import Interval
from experiments.cli import InputError

SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class PassRate:
    """An estimated pass rate with its standard error, and the samples that it took."""

    rate: float
    error: float
    passes: int
    samples: int


def pass_rate(passes: int, samples: int) -> PassRate:
    """The pass rate when the last of `samples` samples was pass number `passes`, at least 2.

    (passes - 1)/(samples - 1) is unbiased (Haldane 1945), passes/samples is not; the squared error
    rate (1 - rate)/(samples - 2) is an unbiased estimate too (Finney 1949). The relative error is about passes^-0.5
    however rare a pass is. Raises InputError for fewer than 2 passes or fewer samples than passes.
    """
    if passes < 2 or samples < passes:
        raise InputError(f"passes: {passes} of {samples} samples; expected at least 2, and as many samples")
    rate = (passes - 1) / (samples - 1)
    return PassRate(rate, math.sqrt(rate * (1 - rate) / max(samples - 2, 1)), passes, samples)


def sample_until(attempt: Callable[[], bool], passes: int, most: int = 1_000_000) -> PassRate:
    """Call `attempt` until it has returned True `passes` times.

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
    return PassRate(rate, math.sqrt(rate * (1 - rate) / (most - 1)), found, most)


def mean_rate(rates: list[PassRate]) -> tuple[float, float]:
    """Mean pass rate over the instances of a task, and the standard error that sampling leaves in it."""
    errors = np.array([rate.error for rate in rates])
    return float(np.mean([rate.rate for rate in rates])), float(np.sqrt((errors**2).sum()) / len(rates))


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


def emergence(
    N: np.ndarray,
    rate: np.ndarray,
    error: np.ndarray | None = None,
    *,
    draws: int = 2000,
    seed: int = 42,
    level: float = 0.9,
) -> Emergence:
    """Does a task improve faster than its power law? N [models], pass rates and their standard errors [models].

    With errors, models count by them, and scatter smaller than they allow is not believed; without, all rates are taken
    to rest on as many passes, which makes their relative errors equal. The p-values come from
    residuals of the power law, resampled and fitted again. Raises InputError for fewer than 4 sizes or a rate that is
    not between 0 and 1.
    """
    N, rate = np.asarray(N, dtype=np.float64), np.asarray(rate, dtype=np.float64)
    if len(np.unique(N)) < 4 or not (N > 0).all():
        raise InputError(f"N: {len(np.unique(N))} sizes; expected at least 4 positive ones to see a bend")
    if not ((rate > 0) & (rate < 1)).all():
        raise InputError(f"pass_rate: {rate[~((rate > 0) & (rate < 1))][0]} is not between 0 and 1")
    y = np.log(-np.log(rate))
    known = None if error is None else np.asarray(error, dtype=np.float64) / (rate * -np.log(rate))
    if known is not None and not (np.isfinite(known) & (known > 0)).all():
        raise InputError("error: standard errors must be positive numbers")
    scale = np.sqrt(1 - rate) / -np.log(rate) if known is None else known
    x = np.log(N) - np.log(N).mean()
    line, curve = np.column_stack([np.ones_like(x), x]), np.column_stack([np.ones_like(x), x, x**2])
    straight, bent = _solve(line, y, scale), _solve(curve, y, scale)
    stream = np.random.default_rng(seed)
    null = line @ straight + scale * _noise(line, y, scale, known is not None, draws, stream)
    noise = scale * _noise(curve, y, scale, known is not None, draws, stream)
    bend, spread = (one[0] for one in _bend(curve, y[None], scale, known is not None))
    observed, simulated = bend / spread, np.divide(*_bend(curve, null, scale, known is not None))
    other, others = _bend(curve, curve @ bent + noise, scale, known is not None)
    low, high = np.percentile((other - bend) / others, [50 * (1 + level), 50 * (1 - level)])
    faster = float((1 + (simulated <= observed).sum()) / (draws + 1))
    slower = float((1 + (simulated >= observed).sum()) / (draws + 1))
    aicc = _aicc((y - line @ straight) / scale, 3) - _aicc((y - curve @ bent) / scale, 4) if len(y) >= 6 else None
    alone = aicc is None or aicc > 0
    verdict = "accelerated" if faster < SIGNIFICANT and alone else "slowed" if slower < SIGNIFICANT and alone else ""
    return Emergence(
        c=float(np.exp(straight[0] - straight[1] * np.log(N).mean())),
        alpha=float(-straight[1]),
        bend=float(bend),
        bend_interval=Interval(level, float(bend - low * spread), float(bend - high * spread), float(spread)),
        aicc=aicc,
        p_faster=faster,
        p_slower=slower,
        verdict=verdict or "power law",
    )


def _solve(design: np.ndarray, y: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(design / scale[:, None], y / scale, rcond=None)[0]


def _noise(
    design: np.ndarray, y: np.ndarray, scale: np.ndarray, known: bool, draws: int, stream: np.random.Generator
) -> np.ndarray:
    """Scatter [draws, models] like that around a fit, in units of `scale`, and no smaller than that where it is known.

    Residuals enlarged by what their leverage hides, drawn again. A handful of models has too few values for that alone:
    a normal part keeps the variance and fills the gaps.
    """
    left = (y - design @ _solve(design, y, scale)) / scale
    leverage = (np.linalg.qr(design / scale[:, None])[0] ** 2).sum(axis=1)
    pool = left / np.sqrt(np.maximum(1 - leverage, 1e-3))
    pool = pool - pool.mean()
    if known:
        pool = pool * max(1.0, 1 / max(float(pool.std()), 1e-12))
    normal = stream.standard_normal((draws, len(y))) * np.sqrt(np.mean(pool**2))
    return 0.8 * stream.choice(pool, (draws, len(y))) + 0.6 * normal


def _bend(curve: np.ndarray, y: np.ndarray, scale: np.ndarray, known: bool) -> tuple[np.ndarray, np.ndarray]:
    """The bend and its standard error, of y [sets, models]; a known error is not made smaller by a lucky fit."""
    design = curve / scale[:, None]
    inverse = np.linalg.pinv(design)
    found = (y / scale) @ inverse.T
    left = y / scale - found @ design.T
    spread = np.maximum((left**2).sum(axis=1) / max(len(scale) - 3, 1), 1.0 if known else 1e-24)
    return found[:, 2], np.sqrt(spread * (inverse[2] ** 2).sum())


def _aicc(left: np.ndarray, k: int) -> float:
    n = len(left)
    return n * math.log(max(float(np.mean(left**2)), 1e-300)) + 2 * k * n / (n - k - 1)
