"""Which rows a bootstrap replicate holds. What is independent is resampled: runs where a grid names them, else rows."""

import numpy as np


def row_counts(rows: int, replicates: int, seed: int, run: np.ndarray | None = None, fewest: int = 1) -> np.ndarray:
    """How often each row is drawn in each replicate: [replicates, rows]. Rows, or whole runs, are drawn with replacement.

    The stream is numpy's RandomState(seed).randint, which is that of np.random.seed(seed); np.random.choice(rows).
    A replicate with fewer than `fewest` different rows cannot be fitted and is drawn again; with `fewest` or fewer
    rows in the grid there is no scatter to resample and no replicate: [0, rows].
    """
    stream = np.random.RandomState(seed)
    if run is None:
        member = np.arange(rows)
        units = rows
    else:
        _, member = np.unique(np.asarray(run).astype(str), return_inverse=True)
        units = int(member.max()) + 1
    if rows <= fewest or units < 2:
        return np.empty((0, rows))
    counts = np.empty((replicates, rows))
    for replicate in range(replicates):
        for _ in range(1000):
            counts[replicate] = np.bincount(stream.randint(0, units, size=units), minlength=units)[member]
            if np.count_nonzero(counts[replicate]) >= fewest:
                break
    return counts
