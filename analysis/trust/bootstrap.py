"""Fit to other rows: resampled ones, and all but one.

What is independent is resampled: runs where a grid names them, else rows. A unit is either.
"""

import numpy as np

from analysis.solve import newton
from analysis.solve.optimum import Optimum
from experiments.cli import InputError

AT_ONCE = 10_000_000  # draws that are kept in memory
FEWEST_LEFT_OUT = 50  # refits of a jackknife
MOST_LEFT_OUT = 400  # refits of a jackknife; of more units several are left out at a time
MOST_WORK = 100_000  # rows in all refits of a jackknife
MOST_TRIES = 1000  # at one replicate


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
        if (np.count_nonzero(drawn, axis=1) >= fewest).all():
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
            drawn[replicate] = np.bincount(picks, minlength=count)[member]
            if np.count_nonzero(drawn[replicate]) >= fewest:
                break
    return drawn


def left_out(rows: int, run: np.ndarray | None = None) -> np.ndarray:
    """Return the weights [refits, rows] of the jackknife: 0 for the units that are left out, 1 for the others."""
    member = units(rows, run)
    affordable = max(FEWEST_LEFT_OUT, MOST_WORK // rows)
    refits = min(int(member.max()) + 1, MOST_LEFT_OUT, affordable)
    kept = member % refits != np.arange(refits)[:, None]
    return kept.astype(np.float64)


def refits(
    found: Optimum,
    kind: str,
    replicates: int,
    seed: int,
    run: np.ndarray | None,
    leverage: np.ndarray,
) -> np.ndarray:
    """Fit to resampled rows, each time from the fit of the rows themselves: parameters [replicates, p].

    paired: rows (or runs) are drawn with replacement. wild: every row keeps its inputs, and its residual, enlarged by
    what its leverage hides, keeps or changes its sign, together with those of its run (Wu 1986; Davidson & Flachaire
    2008). residual: every row keeps its inputs and takes the residual of another; only where rows are independent and
    scatter alike. Raises InputError for `residual` with runs of several rows.
    """
    problem = found.problem
    rows = len(found.weight)
    if kind == "paired" or replicates == 0:
        drawn = row_counts(rows, replicates, seed, run, problem.size)
        starts = _repeated(found.theta, len(drawn))
        return newton.minimise(problem, starts, drawn * found.weight, found.deltas)

    member = units(rows, run)
    count = int(member.max()) + 1
    if rows <= problem.size or count < 2:
        return np.empty((0, problem.size))
    stream = np.random.default_rng(seed)
    fitted = np.real(problem.predicted(found.theta[None]))[0]
    error = problem.target - fitted
    if kind == "wild":
        sign = stream.choice([-1.0, 1.0], size=(replicates, count))[:, member]
        error = sign * error / np.sqrt(np.maximum(1 - leverage, 1e-2))
    elif count < rows:
        raise InputError(
            "--resample: 'residual' takes rows as independent and this grid has runs of several; expected paired or wild"
        )
    else:
        enlarged = (error - error.mean()) * np.sqrt(rows / (rows - problem.size))
        error = stream.choice(enlarged, size=(replicates, rows))
    other = problem.with_target(fitted + error)
    return newton.minimise(other, _repeated(found.theta, replicates), found.weight, found.deltas)


def jackknife(found: Optimum, run: np.ndarray | None) -> np.ndarray:
    """Fit without one unit at a time: parameters [refits, p]; none where that leaves too few rows."""
    keep = left_out(len(found.weight), run)
    if keep.sum(axis=1).min() < found.problem.size:
        return np.empty((0, found.problem.size))
    starts = _repeated(found.theta, len(keep))
    return newton.minimise(found.problem, starts, keep * found.weight, found.deltas)


def _repeated(theta: np.ndarray, times: int) -> np.ndarray:
    """Repeat one point [p] as starts [times, p]."""
    return np.repeat(theta[None], times, axis=0)
