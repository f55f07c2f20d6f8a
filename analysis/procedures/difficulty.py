"""Forecast the accuracy of a large model on a benchmark from the tasks in it whose accuracy follows a law.

Source: Xu et al. 2025 (arXiv 2502.17262), clustering on difficulty. Tasks that rise alike over the small models form a
cluster; clusters that rise steadily and follow the law of analysis/laws/downstream.py are extrapolated; a smooth curve
through (0, 0) and (1, 1) takes the accuracy on them to that on the whole benchmark.
Clusters are those of complete linkage: as with the source's variant of mean shift, no two tasks of one are far apart
and what belongs nowhere stays out; unlike it, the result does not depend on the order of the tasks.
"""

import dataclasses

import numpy as np

from analysis.fitting.formula_fit import fit_one_formula
from analysis.fitting.result import FitError
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.laws.downstream import Difficulty
from analysis.procedures.downstream import parameters
from analysis.solve import formula, newton
from analysis.trust.interval import Interval
from experiments.cli import InputError

MODELS = 4  # that a cluster's curve needs
MOST_DROP = 2.0  # standard errors that a rising curve may fall by
LEAST_ERROR = 0.005  # of an accuracy that a fall is measured with
MOST_MISFIT = 0.03  # rms of accuracy around the law, beyond what the number of tasks explains
MOST_BENDS = 3  # coefficients of the map from some tasks to all of them


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Tasks that are alike, their mean accuracy per model, the law that it follows, or why it is not extrapolated."""

    tasks: Array  # positions
    curve: Array  # [models]
    law: Difficulty | None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class SubsetForecast:
    """Accuracy at the target compute on the predictable tasks and, by the map, on all of them.

    share: of the tasks that are predictable. labels [tasks]: their cluster, -1 for none.
    """

    subset: float
    whole: float
    interval: Interval | None
    share: float
    labels: Array
    clusters: tuple[Cluster, ...]
    map: Array  # coefficients of `anchored`


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Scores [tasks, models] from 0 to 1, of models trained with C [models] FLOPs; guess: the score of chance."""

    scores: Array
    C: Array
    guess: float


def cluster(scores: Array, diameter: float = 0.3, least: int = 10) -> Array:
    """Cluster tasks by their scores [tasks, models]. Returns the cluster of each task [tasks], from the easiest.

    Tasks in clusters of fewer than `least` have -1. diameter: the largest distance within a cluster, the root mean square
    over models of a difference in accuracy.
    """
    from scipy.cluster import hierarchy

    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or len(scores) < 2 or not np.isfinite(scores).all():
        raise InputError(f"scores: shape {scores.shape}; expected finite numbers [tasks, models], at least 2 tasks")
    models = scores.shape[1]
    tree = hierarchy.linkage(scores / np.sqrt(models), "complete")
    found = hierarchy.fcluster(tree, diameter, "distance")
    names, sizes = np.unique(found, return_counts=True)
    mean_scores = {}
    for name in names[sizes >= least]:
        own = scores[found == name]
        mean_scores[name] = own.mean()
    easiest_first = sorted(mean_scores, key=lambda name: -mean_scores[name])
    labels = np.full(len(scores), -1)
    for label, name in enumerate(easiest_first):
        labels[found == name] = label
    return labels


def extrapolatable(scores: Array, C: Array, guess: float) -> tuple[Difficulty | None, str]:
    """Return the law of a cluster's tasks, scores [tasks, models], or why its accuracy cannot be extrapolated."""
    curve = scores.mean(axis=0)
    variance = np.maximum(scores.var(axis=0, ddof=1), 1e-6)
    error = np.sqrt(variance / len(scores))
    smallest_first = np.argsort(C)
    reason = _does_not_rise(curve, error, smallest_first)
    if reason:
        return None, reason
    columns = Columns({"C": C, "accuracy": curve}, np.arange(len(C)), {}, ())
    spec = FitSpec(bootstrap=0, fixed={"g": guess})
    try:
        result = fit_one_formula(columns, Difficulty, spec)
    except (FitError, InputError) as failure:
        return None, str(failure)
    law = result.law
    residual = law.predict(C) - curve
    misfit = float(np.sqrt(np.mean(residual**2)))
    if misfit > MOST_MISFIT + 2 * float(error.mean()):
        return None, f"its accuracy misses the law by {misfit:.3f}"
    return law, ""


def _does_not_rise(curve: Array, error: Array, order: Array) -> str:
    """Say why a mean accuracy [models] with its standard error does not rise with compute; nothing where it does."""
    rising = curve[order]
    drop = np.maximum.accumulate(rising) - rising
    own_error = np.maximum(error[order], LEAST_ERROR)
    allowed = MOST_DROP * np.sqrt(2) * own_error  # of a difference of two
    if (drop > allowed).any():
        return f"its accuracy falls by {drop.max():.3f} on the way up"
    if rising[-1] - rising[0] <= allowed.max():
        return "its accuracy does not rise"
    return ""


def anchored(part: Array, whole: Array) -> Array:
    """Fit y = x + x (1 - x) (p0 + p1 x + p2 x^2) through points, a quartic at most. Returns p, at most 3 coefficients.

    The degree is the one that leaves the least error on points held out one at a time, among those that rise from
    (0, 0) to (1, 1). No coefficients, y = x, where none does better.
    """
    part = np.asarray(part, dtype=np.float64)
    whole = np.asarray(whole, dtype=np.float64)
    best = np.empty(0)
    least = float(np.mean((whole - part) ** 2))
    shares = np.linspace(0, 1, 101)
    most = min(MOST_BENDS, len(part) - 1)
    for count in range(1, most + 1):
        fitted = _fit_map(part, whole, count)
        if fitted is None:
            continue
        p, left_out = fitted
        steps = np.diff(whole_from(p, shares))
        rises = steps.min() >= 0
        if left_out < least and rises:
            best = p
            least = left_out
    return best


def _fit_map(part: Array, whole: Array, count: int) -> tuple[Array, float] | None:
    """Fit the map with `count` coefficients. Returns them and the mean squared error on points held out one at a time.

    None where the points do not determine them, or one point alone determines one.
    """
    bend = part * (1 - part)
    design = bend[:, None] * part[:, None] ** np.arange(count)
    p, _, rank, _ = np.linalg.lstsq(design, whole - part, rcond=1e-9)
    basis, _ = np.linalg.qr(design)
    leverage = (basis**2).sum(axis=1)
    free = 1 - leverage
    if rank < count or free.min() < 1e-9:
        return None
    residual = whole - part - design @ p
    # What a point misses when it is held out follows from its leverage, without another fit.
    left_out = residual / free
    return p, float(np.mean(left_out**2))


def whole_from(p: Array, part: Array | float) -> Array:
    """Return accuracy on all tasks from that on a part, by the coefficients of `anchored`."""
    part = np.asarray(part, dtype=np.float64)
    polynomial = sum(value * part**power for power, value in enumerate(p))
    return part + part * (1 - part) * polynomial


def forecast(
    scores: Array,
    C: Array,
    target: float,
    *,
    guess: float = 0.0,
    diameter: float = 0.3,
    least: int = 10,
    draws: int = 200,
    seed: int = 42,
    level: float = 0.9,
) -> SubsetForecast:
    """Forecast accuracy at `target` FLOPs from scores [tasks, models] of models trained with C [models] FLOPs, 0 to 1.

    The interval is that of other tasks of the same kind and of the models' scatter around the law. Raises InputError
    where no cluster can be extrapolated.
    """
    benchmark = _checked(scores, C, guess)
    labels = cluster(benchmark.scores, diameter, least)
    clusters = []
    for label in range(labels.max() + 1):
        tasks = np.flatnonzero(labels == label)
        own = benchmark.scores[tasks]
        law, reason = extrapolatable(own, benchmark.C, guess)
        clusters.append(Cluster(tasks, own.mean(axis=0), law, reason))
    kept = [one for one in clusters if one.law is not None]
    if not kept:
        reasons = [f"cluster {at}: {one.reason}" for at, one in enumerate(clusters)]
        why = "; ".join(reasons) or "no cluster is large enough"
        raise InputError(f"scores: no tasks can be extrapolated ({why})")

    size = np.array([len(one.tasks) for one in kept], dtype=np.float64)
    at_target = np.array([float(one.law.predict(target)) for one in kept if one.law is not None])
    curves = [one.curve for one in kept]
    curve = np.average(curves, axis=0, weights=size)
    mean_scores = benchmark.scores.mean(axis=0)
    p = anchored(curve, mean_scores)
    subset = float(np.average(at_target, weights=size))
    stream = np.random.default_rng(seed)
    replicates = _replicates(benchmark, target, kept, draws, stream)
    return SubsetForecast(
        subset=subset,
        whole=float(whole_from(p, subset)),
        interval=Interval.of(replicates, level),
        share=float(size.sum() / len(benchmark.scores)),
        labels=labels,
        clusters=tuple(clusters),
        map=p,
    )


def _checked(scores: Array, C: Array, guess: float) -> Benchmark:
    """Return the benchmark; InputError for shapes or numbers that cannot be one."""
    scores = np.asarray(scores, dtype=np.float64)
    C = np.asarray(C, dtype=np.float64)
    sizes = len(np.unique(C))
    has_shape = scores.ndim == 2 and scores.shape[1] == len(C)
    if not has_shape or sizes < MODELS or not (C > 0).all():
        raise InputError(f"C: {sizes} sizes for scores {scores.shape}; expected at least {MODELS}, one a model")
    if not 0 <= guess < 1:
        raise InputError(f"guess: {guess} is not at least 0 and below 1")
    return Benchmark(scores, C, guess)


def _replicates(
    benchmark: Benchmark, target: float, kept: list[Cluster], draws: int, stream: np.random.Generator
) -> Array:
    """Forecast [draws] on tasks drawn again, models' residuals with random signs: luck that clusters share."""
    tasks = len(benchmark.scores)
    models = len(benchmark.C)
    sign = stream.choice([-1.0, 1.0], size=(draws, models))
    predictable = np.concatenate([one.tasks for one in kept])
    rest = np.setdiff1d(np.arange(tasks), predictable)
    # Sums over tasks of the resampled scores: of all tasks and of the predictable ones, and of the latter's forecasts.
    total = np.zeros((draws, models))
    if len(rest):
        total = _resampled(benchmark.scores[rest], draws, stream) * len(rest)
    part = np.zeros((draws, models))
    forecasts = np.zeros(draws)
    for one in kept:
        drawn = _resampled(benchmark.scores[one.tasks], draws, stream)
        end = _refitted(one, benchmark, drawn, sign, target)
        own_tasks = len(one.tasks)
        forecasts = forecasts + end * own_tasks
        part = part + drawn * own_tasks
        total = total + drawn * own_tasks
    size = len(predictable)
    found = []
    for part_curve, whole_curve, end in zip(part / size, total / tasks, forecasts / size, strict=True):
        p = anchored(part_curve, whole_curve)
        found.append(float(whole_from(p, end)))
    return np.array(found)


def _refitted(one: Cluster, benchmark: Benchmark, drawn: Array, sign: Array, target: float) -> Array:
    """Forecast [draws] of a cluster's law, fitted again to the curves of drawn tasks [draws, models]."""
    assert one.law is not None
    C = benchmark.C
    fitted = one.law.predict(C)
    problem = formula.problem(Difficulty, {"C": C, "accuracy": one.curve}, True, {"g": benchmark.guess})
    start = parameters(problem, one.law)
    # Residuals are smaller than the noise by what the fitted coefficients took of it.
    models = len(C)
    freedom = max(models - problem.size, 1)
    enlarged = np.sqrt(models / freedom)
    residual = sign * enlarged * (one.curve - fitted)
    other = dataclasses.replace(problem, target=fitted + drawn - one.curve + residual)
    starts = np.repeat(start[None], len(drawn), axis=0)
    ends = newton.minimise(other, starts, np.ones(models), (np.inf,))
    laws = Difficulty(*problem.coefficients(ends).T)
    return laws.predict(target)


def _resampled(scores: Array, draws: int, stream: np.random.Generator) -> Array:
    """Return mean scores [draws, models] of as many tasks, drawn with replacement."""
    tasks = len(scores)
    counts = stream.multinomial(tasks, np.full(tasks, 1 / tasks), size=draws)
    return counts @ scores / tasks
