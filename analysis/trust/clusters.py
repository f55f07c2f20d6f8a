"""Ask whether rows that no column says are of one run are so: checkpoints of a run miss a law together.

Rows of one size, ordered by their tokens, are neighbours. Residuals of independent runs change from neighbour to neighbour
as much as they scatter; those of one run hardly change (the ratio of von Neumann 1941).
"""

import math

import numpy as np

from analysis.grid.table import Columns
from analysis.trust.misfit import is_rounding
from analysis.trust.residuals import Residuals

PROGRESS = ("D", "S", "C")  # what grows along a run; the first that varies among rows of one size
FEWEST_PAIRS = 8  # of neighbours
RARE = 1e-3  # share of grids of independent runs that are asked about
ALIKE = 0.2  # correlation of neighbours, from which on a reader is asked
FEW_SIZES = 1  # more than coefficients: so few runs, if a size is one run, hide their own scatter in the coefficients
MANY_ROWS = 8  # of each size


def warn_of_clusters(columns: Columns, residuals: Residuals, coefficients: int) -> list[str]:
    """Ask for the run where rows of one size look like those of one run, and no column says which rows are one run.

    Their residuals are alike, or there are so many rows of so few sizes that coefficients could hide what runs share.
    """
    if "run" in columns or "N" not in columns:
        return []
    counting = residuals.counting
    size = columns["N"][counting]
    value = residuals.standardised
    role = next((one for one in PROGRESS if _grows(columns, one, size, counting)), None)
    if role is None or is_rounding(value):
        return []
    before, after = neighbours(size, columns[role][counting])
    if len(before) < FEWEST_PAIRS:
        return []
    correlation, p = likeness(value, before, after)
    sizes = len(np.unique(size))
    is_few = sizes <= coefficients + FEW_SIZES and len(size) >= MANY_ROWS * sizes
    if p >= RARE or correlation < ALIKE:
        told = f"few sizes ({sizes}) for {coefficients} coefficients, with {len(size) // sizes} rows each"
        asked = "if the rows of one size are checkpoints of one run, name it with --columns=run=COLUMN, or intervals are too narrow"
        return [f"{told}: {asked}"] if is_few else []
    alike = (
        f"residuals of rows of one N are alike from {role} to {role} (correlation {correlation:.2f} over {sizes} sizes)"
    )
    asked = (
        "as those of checkpoints of one run are: name what makes rows one run with --columns=run=COLUMN, or intervals are "
        "too narrow; if every row is a run of its own, the form misses something"
    )
    return [f"{alike}, {asked}"]


def _grows(columns: Columns, role: str, size: np.ndarray, counting: np.ndarray) -> bool:
    """Say whether a role is there and takes several values among rows of one size."""
    if role not in columns:
        return False
    points = np.stack([size, columns[role][counting]])
    return len(np.unique(points, axis=1).T) > len(np.unique(size))


def neighbours(size: np.ndarray, progress: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of rows [pairs] that are next to each other in progress among rows of one size.

    Where rows of one size come in several runs one after the other, a run is as many rows as its progress grows.
    """
    rows = np.arange(len(size))
    continues = (size[1:] == size[:-1]) & (progress[1:] > progress[:-1])
    repeated = _repeats(size, progress)
    if repeated and continues.sum() >= len(size) / 2:  # the file has them run by run
        first = rows[:-1][continues]
        return first, first + 1
    order = np.lexsort((progress, size))
    same = (size[order][1:] == size[order][:-1]) & (progress[order][1:] > progress[order][:-1])
    return order[:-1][same], order[1:][same]


def _repeats(size: np.ndarray, progress: np.ndarray) -> bool:
    """Say whether several rows have one size and one progress: then they are of several runs."""
    points = np.stack([size, progress])
    return len(np.unique(points, axis=1).T) < len(size)


def likeness(value: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Return the rank correlation of neighbours, and how rarely independent residuals are so alike.

    Ranks, so that a few wild rows decide nothing. Every residual is drawn once, so that the mean product of two different
    ranks has a small negative expectation.
    """
    from scipy.special import ndtr
    from scipy.stats import rankdata

    ranks = rankdata(value)
    centred = ranks - ranks.mean()
    spread = centred.std()
    if spread == 0:
        return 0.0, 1.0
    standard = centred / spread
    pairs = len(before)
    correlation = float(np.mean(standard[before] * standard[after]))
    z = (correlation + 1 / (len(value) - 1)) * math.sqrt(pairs)
    return correlation, float(ndtr(-z))
