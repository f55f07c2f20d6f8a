"""The accuracy of a large model on a benchmark, from the tasks in it whose accuracy follows a law.

Source: Xu et al. 2025 (arXiv 2502.17262), clustering on difficulty. Tasks that rise alike over the small models form a
cluster; clusters that rise steadily and follow the law of analysis/laws/downstream.py are extrapolated; a smooth curve
through (0, 0) and (1, 1) takes the accuracy on them to that on the whole benchmark.
Clusters are those of complete linkage: as with the source's variant of mean shift, no two tasks of one are far apart
and what belongs nowhere stays out; unlike it, the result does not depend on the order of the tasks.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.formula_fit import fit_one_formula
from analysis.fitting.result import FitError
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.downstream import Difficulty
from analysis.procedures.downstream import parameters
from analysis.solve import formula, newton
from analysis.trust.interval import Interval
from experiments.cli import InputError

MODELS = 4  # that a cluster's curve needs
MOST_DROP = 2.0  # standard errors that a rising curve may fall by
MOST_MISFIT = 0.03  # rms of accuracy around the law, beyond what the number of tasks explains


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Tasks that are alike, their mean accuracy per model, the law that it follows, or why it is not extrapolated."""

    tasks: np.ndarray  # positions
    curve: np.ndarray  # [models]
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
    labels: np.ndarray
    clusters: tuple[Cluster, ...]
    map: np.ndarray  # coefficients of `anchored`


def cluster(scores: np.ndarray, diameter: float = 0.3, least: int = 10) -> np.ndarray:
    """Cluster of each task [tasks] by its scores [tasks, models]; -1 for those in clusters of fewer than `least`.

    diameter: the largest distance within a cluster, the root mean square over models of a difference in accuracy.
    Clusters are numbered from the easiest.
    """
    from scipy.cluster import hierarchy

    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or len(scores) < 2 or not np.isfinite(scores).all():
        raise InputError(f"scores: shape {scores.shape}; expected finite numbers [tasks, models], at least 2 tasks")
    tree = hierarchy.linkage(scores / np.sqrt(scores.shape[1]), "complete")
    found = hierarchy.fcluster(tree, diameter, "distance")
    names, sizes = np.unique(found, return_counts=True)
    kept = sorted(names[sizes >= least], key=lambda name: -scores[found == name].mean())
    labels = np.full(len(scores), -1)
    for label, name in enumerate(kept):
        labels[found == name] = label
    return labels


def extrapolatable(scores: np.ndarray, C: np.ndarray, guess: float) -> tuple[Difficulty | None, str]:
    """The law of a cluster's tasks, scores [tasks, models], or why its accuracy cannot be extrapolated."""
    order = np.argsort(C)
    curve = scores.mean(axis=0)
    error = np.sqrt(np.maximum(scores.var(axis=0, ddof=1), 1e-6) / len(scores))
    rising = curve[order]
    drop, near = np.maximum.accumulate(rising) - rising, np.maximum(error[order], 0.005)
    if (drop > MOST_DROP * np.sqrt(2) * near).any():
        return None, f"its accuracy falls by {drop.max():.3f} on the way up"
    if rising[-1] - rising[0] <= MOST_DROP * np.sqrt(2) * near.max():
        return None, "its accuracy does not rise"
    columns = Columns({"C": C, "accuracy": curve}, np.arange(len(C)), {}, ())
    try:
        result = fit_one_formula(columns, Difficulty, FitSpec(bootstrap=0, fixed={"g": guess}))
    except (FitError, InputError) as failure:
        return None, str(failure)
    misfit = float(np.sqrt(np.mean((result.law.predict(C) - curve) ** 2)))
    if misfit > MOST_MISFIT + 2 * float(error.mean()):
        return None, f"its accuracy misses the law by {misfit:.3f}"
    return result.law, ""


def anchored(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Coefficients [at most 3] of y = x + x (1 - x) (p0 + p1 x + p2 x^2) through points, a quartic at most.

    The degree is the one that leaves the least error on points held out one at a time, among those that rise from
    (0, 0) to (1, 1). No coefficients, y = x, where none does better.
    """
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    bend = part * (1 - part)
    best, least = np.empty(0), float(np.mean((whole - part) ** 2))
    for degree in range(1, min(3, len(part) - 1) + 1):
        design = bend[:, None] * part[:, None] ** np.arange(degree)
        p, _, rank, _ = np.linalg.lstsq(design, whole - part, rcond=1e-9)
        root = np.linalg.qr(design)[0]
        free = 1 - (root**2).sum(axis=1)
        if rank < degree or free.min() < 1e-9:
            continue
        left_out = float(np.mean(((whole - part - design @ p) / free) ** 2))
        if left_out < least and np.diff(whole_from(p, np.linspace(0, 1, 101))).min() >= 0:
            best, least = p, left_out
    return best


def whole_from(p: np.ndarray, part: Any) -> Any:
    """Accuracy on all tasks from that on a part, by the coefficients of `anchored`."""
    part = np.asarray(part, dtype=np.float64)
    return part + part * (1 - part) * sum(value * part**power for power, value in enumerate(p))


def forecast(
    scores: np.ndarray,
    C: np.ndarray,
    target: float,
    *,
    guess: float = 0.0,
    diameter: float = 0.3,
    least: int = 10,
    draws: int = 200,
    seed: int = 42,
    level: float = 0.9,
) -> SubsetForecast:
    """Accuracy at `target` FLOPs from scores [tasks, models] of models trained with C [models] FLOPs, 0 to 1.

    The interval is that of other tasks of the same kind and of the models' scatter around the law. Raises InputError
    where no cluster can be extrapolated.
    """
    scores, C = np.asarray(scores, dtype=np.float64), np.asarray(C, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(C) or len(np.unique(C)) < MODELS or not (C > 0).all():
        raise InputError(
            f"C: {len(np.unique(C))} sizes for scores {scores.shape}; expected at least {MODELS}, one a model"
        )
    if not 0 <= guess < 1:
        raise InputError(f"guess: {guess} is not at least 0 and below 1")
    labels = cluster(scores, diameter, least)
    clusters = []
    for label in range(labels.max() + 1):
        tasks = np.flatnonzero(labels == label)
        law, reason = extrapolatable(scores[tasks], C, guess)
        clusters.append(Cluster(tasks, scores[tasks].mean(axis=0), law, reason))
    kept = [one for one in clusters if one.law is not None]
    if not kept:
        why = (
            "; ".join(f"cluster {at}: {one.reason}" for at, one in enumerate(clusters)) or "no cluster is large enough"
        )
        raise InputError(f"scores: no tasks can be extrapolated ({why})")
    size = np.array([len(one.tasks) for one in kept], dtype=np.float64)
    at_target = np.array([float(one.law.predict(target)) for one in kept])
    curve = np.average([one.curve for one in kept], axis=0, weights=size)
    p = anchored(curve, scores.mean(axis=0))
    subset = float(np.average(at_target, weights=size))
    return SubsetForecast(
        subset=subset,
        whole=float(whole_from(p, subset)),
        interval=Interval.of(_replicates(scores, C, target, kept, guess, draws, seed), level),
        share=float(size.sum() / len(scores)),
        labels=labels,
        clusters=tuple(clusters),
        map=p,
    )


def _replicates(
    scores: np.ndarray, C: np.ndarray, target: float, kept: list[Cluster], guess: float, draws: int, seed: int
) -> np.ndarray:
    """The forecast [draws] on tasks drawn again, models' residuals with random signs: luck that clusters share."""
    stream = np.random.default_rng(seed)
    sign = stream.choice([-1.0, 1.0], size=(draws, len(C)))
    fixed: Mapping[str, float] = {"g": guess}
    rest = np.setdiff1d(np.arange(len(scores)), np.concatenate([one.tasks for one in kept]))
    total = _resampled(scores[rest], draws, stream) * len(rest) if len(rest) else np.zeros((draws, len(C)))
    ends, part = np.zeros(draws), np.zeros((draws, len(C)))
    for one in kept:
        drawn = _resampled(scores[one.tasks], draws, stream)
        fitted = one.law.predict(C)
        problem = formula.problem(Difficulty, {"C": C, "accuracy": one.curve}, True, fixed)
        theta = parameters(problem, one.law)
        spread = np.sqrt(len(C) / max(len(C) - problem.size, 1))
        other = dataclasses.replace(problem, target=fitted + drawn - one.curve + sign * spread * (one.curve - fitted))
        theta = newton.minimise(other, np.repeat(theta[None], draws, axis=0), np.ones(len(C)), (np.inf,))
        found = Difficulty(*problem.coefficients(theta).T).predict(target)
        ends, part, total = ends + found * len(one.tasks), part + drawn * len(one.tasks), total + drawn * len(one.tasks)
    size = sum(len(one.tasks) for one in kept)
    return np.array(
        [
            float(whole_from(anchored(few, all_), end))
            for few, all_, end in zip(part / size, total / len(scores), ends / size, strict=True)
        ]
    )


def _resampled(scores: np.ndarray, draws: int, stream: np.random.Generator) -> np.ndarray:
    """Mean scores [draws, models] of as many tasks, drawn with replacement."""
    counts = stream.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), size=draws)
    return counts @ scores / len(scores)
