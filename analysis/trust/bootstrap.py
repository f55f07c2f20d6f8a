"""Fit to other rows: resampled ones, and all but one.

What is independent is resampled: runs where a grid names them, else rows. A unit is either.
"""

import dataclasses

import numpy as np

from analysis.solve import newton
from analysis.solve.optimum import Optimum
from analysis.solve.problem import Problem
from experiments.cli import InputError

AT_ONCE = 10_000_000  # draws that are kept in memory
FEWEST_LEFT_OUT = 50  # refits of a jackknife
MOST_LEFT_OUT = 400  # refits of a jackknife; of more units several are left out at a time
MOST_WORK = 100_000  # rows in all refits of a jackknife
MOST_TRIES = 1000  # at one replicate
FAR_APART = 4  # ends of other replicates that are tried as starts, in each round
FROM_ROWS = 8  # starts of the fit of the rows
FEWEST_TRIED = 4  # replicates that another start is tried on; it is left where it helps none of them
MOST_TRIED = 20
TRIED_SHARE = 25  # one replicate of so many
TRIAL_STEPS = 60
ROUNDS = 2
NEAR = 0.01  # share of the objective; what lies no further above the lowest one after a trial may end below it
LOWER = 1e-6  # share of the objective; less is rounding and the end of a search


def units(rows: int, run: np.ndarray | None = None) -> np.ndarray:
    """Return to which independent unit each row belongs [rows], counted from 0."""
    if run is None:
        return np.arange(rows)
    _, member = np.unique(np.asarray(run).astype(str), return_inverse=True)
    return member


def unit_count(rows: int, run: np.ndarray | None = None) -> int:
    """Return the number of independent units."""
    return int(units(rows, run).max()) + 1


def row_counts(
    rows: int,
    replicates: int,
    seed: int,
    run: np.ndarray | None = None,
    fewest: int = 1,
) -> np.ndarray:
    """Draw rows, or whole runs, with replacement: how often each row is in each replicate [replicates, rows].

    The stream is numpy's RandomState(seed).randint, which is that of np.random.seed(seed); np.random.choice(rows).
    A replicate with fewer than `fewest` different rows cannot be fitted and is drawn again; with `fewest` or fewer
    rows in the grid there is no scatter to resample and no replicate: [0, rows].
    """
    member = units(rows, run)
    count = int(member.max()) + 1
    if rows <= fewest or count < 2:
        return np.empty((0, rows))
    if replicates * count <= AT_ONCE:
        drawn = _drawn_at_once(replicates, count, seed)[:, member]
        different = np.count_nonzero(drawn, axis=1)
        if (different >= fewest).all():
            return drawn.astype(np.float64)
    return _drawn_one_by_one(replicates, member, seed, fewest)


def _drawn_at_once(replicates: int, count: int, seed: int) -> np.ndarray:
    """Count draws of units [replicates, units], from the same stream as one by one: numbers are shifted by replicate."""
    stream = np.random.RandomState(seed)
    picks = stream.randint(0, count, size=(replicates, count))
    shifted = picks + count * np.arange(replicates)[:, None]
    drawn = np.bincount(shifted.ravel(), minlength=replicates * count)
    return drawn.reshape(replicates, count)


def _drawn_one_by_one(replicates: int, member: np.ndarray, seed: int, fewest: int) -> np.ndarray:
    """Count draws of rows [replicates, rows], drawing a replicate of too few different rows again."""
    stream = np.random.RandomState(seed)
    count = int(member.max()) + 1
    drawn = np.empty((replicates, len(member)))
    for replicate in range(replicates):
        for _ in range(MOST_TRIES):
            picks = stream.randint(0, count, size=count)
            times = np.bincount(picks, minlength=count)
            drawn[replicate] = times[member]
            different = np.count_nonzero(drawn[replicate])
            if different >= fewest:
                break
    return drawn


def left_out(rows: int, run: np.ndarray | None = None) -> np.ndarray:
    """Return the weights [refits, rows] of the jackknife: 0 for the units that are left out, 1 for the others."""
    member = units(rows, run)
    count = int(member.max()) + 1
    affordable = max(FEWEST_LEFT_OUT, MOST_WORK // rows)
    refits = min(count, MOST_LEFT_OUT, affordable)
    turn = member % refits  # the refit that a unit is left out of
    is_kept = turn != np.arange(refits)[:, None]
    return is_kept.astype(np.float64)


def refits(
    found: Optimum,
    kind: str,
    replicates: int,
    seed: int,
    run: np.ndarray | None,
    leverage: np.ndarray,
) -> np.ndarray:
    """Fit to resampled rows, from the fit of the rows themselves and from other modes: parameters [replicates, p].

    paired: rows (or runs) are drawn with replacement. wild: every row keeps its inputs, and its residual, enlarged by
    what its leverage hides, keeps or changes its sign, together with those of its run (Wu 1986; Davidson & Flachaire
    2008). residual: every row keeps its inputs and takes the residual of another; only where rows are independent and
    scatter alike. Raises InputError for `residual` with runs of several rows.
    """
    problem = found.problem
    rows = len(found.weight)
    if kind == "paired" or replicates == 0:
        drawn = row_counts(rows, replicates, seed, run, problem.size)
        sample = Resampled(problem, drawn * found.weight, found.deltas)
        return _fit_all(sample, found)

    member = units(rows, run)
    count = int(member.max()) + 1
    if rows <= problem.size or count < 2:
        return np.empty((0, problem.size))
    stream = np.random.default_rng(seed)
    fitted = problem.predicted(found.theta[None])[0]
    observed = problem.target - fitted
    is_bound = _is_bound(problem, rows)
    if kind == "wild":
        sign = stream.choice([-1.0, 1.0], size=(replicates, count))[:, member]
        hidden = np.sqrt(np.maximum(1 - leverage, 1e-2))
        error = sign * observed / hidden
    elif count < rows:
        raise InputError(
            "--resample: 'residual' takes rows as independent and this grid has runs of several; expected paired or wild"
        )
    else:
        enlarged = _enlarged(observed[~is_bound], problem.size)
        error = stream.choice(enlarged, size=(replicates, rows))
    # A bound (a run that was stopped early) has no scatter of its own: it stays where it is.
    error = np.where(is_bound, observed, error)
    resampled = problem.with_target(fitted + error)
    weight = np.broadcast_to(found.weight, error.shape)
    sample = Resampled(resampled, weight, found.deltas)
    return _fit_all(sample, found)


def _is_bound(problem: Problem, rows: int) -> np.ndarray:
    """Say which rows only bound the law [rows]: a residual above it costs nothing."""
    if problem.above is None:
        return np.zeros(rows, dtype=bool)
    return np.broadcast_to(np.asarray(problem.above) == 0, (rows,))


def _enlarged(error: np.ndarray, parameters: int) -> np.ndarray:
    """Return residuals around their mean, enlarged by what so many fitted parameters take off their scatter."""
    centred = error - error.mean()
    spare = max(len(error) - parameters, 1)
    return centred * np.sqrt(len(error) / spare)


@dataclasses.dataclass(frozen=True)
class Resampled:
    """Hold what replicates are fitted to: weight [replicates, rows], and the target [rows] or [replicates, rows]."""

    problem: Problem
    weight: np.ndarray
    deltas: tuple[float, ...]

    def __len__(self) -> int:
        """Return the number of replicates."""
        return len(self.weight)

    def only(self, which: np.ndarray) -> "Resampled":
        """Return some of the replicates."""
        problem = self.problem
        if problem.target.ndim == 2:
            problem = problem.with_target(problem.target[which])
        return Resampled(problem, self.weight[which], self.deltas)

    def fit(self, starts: np.ndarray, steps: int = newton.MAX_STEPS) -> tuple[np.ndarray, np.ndarray]:
        """Fit from starts [replicates, p] or [p]: parameters [replicates, p], values of the objective [replicates]."""
        starts = np.broadcast_to(starts, (len(self), self.problem.size))
        ends = newton.minimise(self.problem, starts, self.weight, self.deltas, max_steps=steps)
        target = np.broadcast_to(self.problem.target, self.weight.shape)
        return ends, newton.value(self.problem, ends, self.weight, target, self.deltas[-1])


def _fit_all(sample: Resampled, found: Optimum) -> np.ndarray:
    """Fit all replicates: from the fit of the rows, and from starts in other valleys where they lead lower [replicates, p].

    Where rows hardly tell two valleys apart, many a replicate has its best fit in the other one, and intervals from ends in
    the first alone are too narrow. Starts in other valleys are some of those that the rows were fitted from, the other
    minima of the rows, and where other replicates ended. They are tried on a few replicates, and on all where they helped.
    """
    if not len(sample):
        return np.empty((0, sample.problem.size))
    ends, values = sample.fit(found.theta)
    places = _evenly(len(found.starts), FROM_ROWS)
    some = found.starts[places]
    of_other_replicates = _far_apart(ends, found.theta)
    starts = np.concatenate([found.minima, some, of_other_replicates])
    for _ in range(ROUNDS):
        if not _try_starts(sample, starts, ends, values):
            break
        starts = _far_apart(ends, found.theta)
    return ends


def _try_starts(sample: Resampled, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> bool:
    """Move `ends` and `values` of replicates to where starts [k, p] lead lower; whether any of the starts did.

    Starts that lead to one valley help once: the next is the one that still helps most of the few it was tried on.
    """
    wanted = np.clip(len(sample) // TRIED_SHARE, FEWEST_TRIED, MOST_TRIED)
    few = _evenly(len(sample), int(wanted))
    # Every start with every one of the few, in one call of the solver: start by start.
    each = np.tile(few, len(starts))
    start_of_each = np.repeat(starts, len(few), axis=0)
    _, reached = sample.only(each).fit(start_of_each, TRIAL_STEPS)
    reached = reached.reshape(len(starts), len(few))
    left = np.ones(len(starts), dtype=bool)
    has_helped = False
    while True:
        lower = reached < values[few] * (1 - LOWER)
        helped = np.where(left, lower.sum(axis=1), 0)
        best = int(np.argmax(helped))
        if not helped[best]:
            return has_helped
        left[best] = False
        has_helped |= _move_lower(sample, starts[best], ends, values)


def _move_lower(sample: Resampled, start: np.ndarray, ends: np.ndarray, values: np.ndarray) -> bool:
    """Move `ends` and `values` of the replicates that a start [p] leads lower; whether it was any.

    What comes near within the steps of a trial goes on under the narrowest loss: a wider one could leave the valley.
    """
    tried, reached = sample.fit(start, TRIAL_STEPS)
    promising = np.flatnonzero(reached < values * (1 + NEAR))
    if not len(promising):
        return False
    narrow = dataclasses.replace(sample.only(promising), deltas=sample.deltas[-1:])
    settled, objective = narrow.fit(tried[promising])
    is_lower = objective < values[promising] * (1 - LOWER)
    lower = promising[is_lower]
    ends[lower] = settled[is_lower]
    values[lower] = objective[is_lower]
    return len(lower) > 0


def _evenly(count: int, wanted: int) -> np.ndarray:
    """Return at most `wanted` of `count` places, evenly spaced."""
    wanted = min(wanted, count)
    places = np.linspace(0, count - 1, wanted)
    return np.unique(places.astype(int))


def _far_apart(ends: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Pick ends [k, p] of [replicates, p] that lie far from `theta` [p] and from each other, in units of their spread."""
    middle = np.median(ends, axis=0)
    spread = np.median(np.abs(ends - middle), axis=0)
    unit = np.maximum(spread, 1e-6)
    nearest = np.abs((ends - theta) / unit).max(axis=1)
    picked = []
    for _ in range(FAR_APART):
        at = int(np.argmax(nearest))
        picked.append(ends[at])
        distance = np.abs((ends - ends[at]) / unit).max(axis=1)
        nearest = np.minimum(nearest, distance)
    return np.array(picked)


def jackknife(found: Optimum, run: np.ndarray | None) -> np.ndarray:
    """Fit without one unit at a time: parameters [refits, p]; none where that leaves too few rows."""
    keep = left_out(len(found.weight), run)
    rows_left = keep.sum(axis=1)
    if rows_left.min() < found.problem.size:
        return np.empty((0, found.problem.size))
    starts = _repeated(found.theta, len(keep))
    return newton.minimise(found.problem, starts, keep * found.weight, found.deltas)


def _repeated(theta: np.ndarray, times: int) -> np.ndarray:
    """Repeat one point [p] as starts [times, p]."""
    return np.repeat(theta[None], times, axis=0)
