"""Which rows a bootstrap replicate holds. What is independent is resampled: runs where a grid names them, else rows."""

import numpy as np


def row_counts(rows: int, replicates: int, seed: int, run: np.ndarray | None = None) -> np.ndarray:
    """How often each row is drawn in each replicate: [replicates, rows], by drawing rows (or whole runs) with replacement.

    The stream is numpy's RandomState(seed).randint, which is that of np.random.seed(seed); np.random.choice(rows).
    """
    stream = np.random.RandomState(seed)
    if run is None:
        member = np.arange(rows)
        units = rows
    else:
        _, member = np.unique(np.asarray(run).astype(str), return_inverse=True)
        units = int(member.max()) + 1
    counts = np.empty((replicates, rows))
    for replicate in range(replicates):
        drawn = np.bincount(stream.randint(0, units, size=units), minlength=units)
        counts[replicate] = drawn[member]
    return counts
