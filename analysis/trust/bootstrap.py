"""What a fit would have been on other rows: resampled ones, and all but one.

What is independent is resampled: runs where a grid names them, else rows.
"""

import dataclasses

import numpy as np

from analysis.solve import newton
from analysis.solve.optimum import Optimum
from experiments.cli import InputError

AT_ONCE = 10_000_000  # draws that are kept in memory
FEWEST_LEFT_OUT, MOST_WORK = 50, 100_000  # refits of a jackknife, and rows in all of them
MOST_LEFT_OUT = 400  # refits of a jackknife; of more units several are left out at a time


def units(rows: int, run: np.ndarray | None = None) -> np.ndarray:
    """To which independent unit each row belongs [rows], counted from 0."""
    if run is None:
        return np.arange(rows)
    return np.unique(np.asarray(run).astype(str), return_inverse=True)[1]


def row_counts(rows: int, replicates: int, seed: int, run: np.ndarray | None = None, fewest: int = 1) -> np.ndarray:
    """How often each row is drawn in each replicate: [replicates, rows]. Rows, or whole runs, are drawn with replacement.

    The stream is numpy's RandomState(seed).randint, which is that of np.random.seed(seed); np.random.choice(rows).
    A replicate with fewer than `fewest` different rows cannot be fitted and is drawn again; with `fewest` or fewer
    rows in the grid there is no scatter to resample and no replicate: [0, rows].
    """
    stream = np.random.RandomState(seed)
    member = units(rows, run)
    count = int(member.max()) + 1
    if rows <= fewest or count < 2:
        return np.empty((0, rows))
    if replicates * count <= AT_ONCE:  # the same stream, all at once
        picks = stream.randint(0, count, size=(replicates, count)) + count * np.arange(replicates)[:, None]
        drawn = np.bincount(picks.ravel(), minlength=replicates * count).reshape(replicates, count)[:, member]
        if (np.count_nonzero(drawn, axis=1) >= fewest).all():
            return drawn.astype(np.float64)
        stream = np.random.RandomState(seed)
    counts = np.empty((replicates, rows))
    for replicate in range(replicates):
        for _ in range(1000):
            counts[replicate] = np.bincount(stream.randint(0, count, size=count), minlength=count)[member]
            if np.count_nonzero(counts[replicate]) >= fewest:
                break
    return counts


def left_out(rows: int, run: np.ndarray | None = None) -> np.ndarray:
    """Weights [refits, rows] of the jackknife: 0 for the units that are left out, 1 for the others."""
    member = units(rows, run)
    refits = min(int(member.max()) + 1, MOST_LEFT_OUT, max(FEWEST_LEFT_OUT, MOST_WORK // rows))
    return (member % refits != np.arange(refits)[:, None]).astype(np.float64)


def refits(
    found: Optimum, kind: str, replicates: int, seed: int, run: np.ndarray | None, leverage: np.ndarray
) -> np.ndarray:
    """Parameters [replicates, p] of fits to resampled rows, each from the fit of the rows themselves.

    paired: rows (or runs) are drawn with replacement. wild: every row keeps its inputs, and its residual, enlarged by
    what its leverage hides, keeps or changes its sign, together with those of its run (Wu 1986; Davidson & Flachaire
    2008). residual: every row keeps its inputs and takes the residual of another; only where rows are independent and
    scatter alike. Raises InputError for `residual` with runs of several rows.
    """
    problem, theta, weight = found.problem, found.theta, found.weight
    rows, count = len(weight), problem.size
    if kind == "paired" or replicates == 0:
        counts = row_counts(rows, replicates, seed, run, count)
        return newton.minimise(problem, np.repeat(theta[None], len(counts), axis=0), counts * weight, found.deltas)
    member = units(rows, run)
    if rows <= count or member.max() < 1:
        return np.empty((0, count))
    stream = np.random.default_rng(seed)
    fitted = problem.predicted(theta[None]).real[0]
    error = problem.target - fitted
    if kind == "wild":
        sign = stream.choice([-1.0, 1.0], size=(replicates, int(member.max()) + 1))[:, member]
        error = sign * error / np.sqrt(np.maximum(1 - leverage, 1e-2))
    elif member.max() + 1 < rows:
        raise InputError(
            "--resample: 'residual' takes rows as independent and this grid has runs of several; expected paired or wild"
        )
    else:
        error = stream.choice((error - error.mean()) * np.sqrt(rows / (rows - count)), size=(replicates, rows))
    other = dataclasses.replace(problem, target=fitted + error)
    return newton.minimise(other, np.repeat(theta[None], replicates, axis=0), weight, found.deltas)


def jackknife(found: Optimum, run: np.ndarray | None) -> np.ndarray:
    """Parameters [refits, p] of fits without one unit; none where that leaves too few rows."""
    keep = left_out(len(found.weight), run)
    if keep.sum(axis=1).min() < found.problem.size:
        return np.empty((0, found.problem.size))
    start = np.repeat(found.theta[None], len(keep), axis=0)
    return newton.minimise(found.problem, start, keep * found.weight, found.deltas)
