"""Find the FLOP budgets of a grid, and average the runs of each into one IsoFLOP curve.

Where the minimum of a curve lies, and what the minima say, is the affair of isoflop.py.
"""

import dataclasses
import math

import numpy as np

from analysis.fitting.weights import row_weights
from analysis.grid.cost import log_tokens
from analysis.grid.table import Columns
from analysis.laws.base import Array
from experiments.cli import InputError

BANDWIDTH = 0.04  # of ln C: budgets that jitter by a few per cent are one
SHARE_IN_BUDGETS = 0.5  # of the rows; below, clusters of C are chance and not a design
WIDEST = 0.16  # of ln C around the middle of a budget
SAME_SIZE = 1e-3  # of ln N: runs of one size
SAME_COMPUTE = 1e-6  # of ln C: nothing to carry to a common budget


@dataclasses.dataclass(frozen=True)
class Budget:
    """One IsoFLOP curve and its minimum.

    log_n, log_loss, log_d [sizes] are means over the runs of one size, sorted by size. A minimum on the edge has a
    reason and is not used.
    """

    flops: float
    log_n: Array
    log_loss: Array
    log_d: Array
    repeats: Array  # what the runs of each size count together: how many they are, where all count alike
    rows: Array
    weight: Array  # [runs], with mean 1 over all rows
    run_log_loss: Array  # [runs], carried to the budget's C
    minimum: float = math.nan  # ln N*
    loss: float = math.nan  # ln L*
    reason: str = ""  # why the minimum is not used

    @property
    def middle(self) -> float:
        """The mean of ln N over the sizes."""
        return float(self.log_n.mean())

    def tokens(self, log_n: Array | float) -> Array | float:
        """Return ln D at ln N, along the budget."""
        return np.interp(log_n, self.log_n, self.log_d)


def split_budgets(columns: Columns, fewest_sizes: int) -> tuple[Columns, list[Array]]:
    """Split the rows into FLOP budgets, by the role `group` or else by clusters of ln C.

    Returns the columns of the rows that lie in a budget, and the rows of each budget (positions in those columns), by
    increasing FLOPs. Rows of no budget with at least `fewest_sizes` sizes are dropped with a reason. Raises InputError
    when no row is left, or when most rows belong to no budget (then clusters of C are chance).
    """
    total = len(columns)
    is_named = "group" in columns
    if is_named:
        _, label = np.unique(columns["group"].astype(str), return_inverse=True)
    else:
        label, is_near = cluster(np.log(columns["C"]))
        columns = columns.take(is_near, "its C is not near an IsoFLOP budget")
        label = label[is_near]

    sizes_of = {}
    for one in np.unique(label):
        params = columns["N"][label == one]
        sizes_of[one] = count_sizes(params)
    has_enough = np.array([sizes_of[one] >= fewest_sizes for one in label], dtype=bool)
    in_budgets = int(has_enough.sum())
    is_chance = not is_named and in_budgets < SHARE_IN_BUDGETS * total
    if in_budgets == 0 or is_chance:
        fullest = max(sizes_of.values(), default=0)
        raise InputError(
            f"GRID: {in_budgets} of {total} rows lie in FLOP budgets of {fewest_sizes} or more sizes (the fullest has "
            f"{fullest}); isoflop needs budgets: mark them with --columns=group=COLUMN, or use --law=chinchilla"
        )
    columns = columns.take(has_enough, f"its budget has fewer than {fewest_sizes} sizes")
    label = label[has_enough]

    log_c = np.log(columns["C"])
    groups = [np.flatnonzero(label == one) for one in np.unique(label)]
    groups.sort(key=lambda rows: float(log_c[rows].mean()))
    return columns, groups


def cluster(log_c: Array) -> tuple[Array, Array]:
    """Cluster rows by the peaks of a density of ln C.

    Returns the cluster of each row [rows], and whether the row lies near the middle of its cluster.
    """
    low = log_c.min() - 3 * BANDWIDTH
    high = log_c.max() + 4 * BANDWIDTH
    grid = np.arange(low, high, BANDWIDTH / 8)
    distance = (grid[:, None] - np.sort(log_c)) / BANDWIDTH
    density = np.exp(-0.5 * distance**2).sum(axis=1)
    inner = density[1:-1]
    is_valley = (inner <= density[:-2]) & (inner < density[2:])
    borders = grid[np.flatnonzero(is_valley) + 1]
    label = np.searchsorted(borders, log_c)

    middle = np.full(len(borders) + 1, np.nan)
    for one in np.unique(label):
        own = log_c[label == one]
        middle[one] = np.median(own)
    from_middle = np.abs(log_c - middle[label])
    return label, from_middle <= WIDEST


def size_labels(log_n: Array) -> Array:
    """Number the sizes of runs [rows], from the smallest: sizes are different when 0.1% or more apart."""
    order = np.argsort(log_n, kind="stable")
    is_new = np.diff(log_n[order]) > SAME_SIZE
    label = np.empty(len(log_n), dtype=int)
    label[order] = np.r_[0, np.cumsum(is_new)]
    return label


def count_sizes(params: Array) -> int:
    """Count the different sizes among runs with these parameters [rows]."""
    label = size_labels(np.log(params))
    return int(label.max()) + 1


def compute_slopes(columns: Columns, groups: list[Array]) -> Array:
    """Estimate d ln loss / d ln C at fixed size [rows], between -0.5 and 0.

    Budgets of real grids jitter by a few per cent; the slopes carry the runs of a budget to one and the same C. They are
    those of a quadratic surface of ln loss in ln N and ln C through all rows: good to a fifth or so, of a correction
    that is small.
    """
    log_n = np.log(columns["N"])
    log_c = np.log(columns["C"])
    widest = max(np.ptp(log_c[rows]) for rows in groups)
    if widest < SAME_COMPUTE:
        return np.zeros(len(columns))
    n = log_n - log_n.mean()
    c = log_c - log_c.mean()
    design = np.stack([np.ones_like(n), n, c, n * n, n * c, c * c], axis=1)
    log_loss = np.log(columns["loss"])
    root = np.sqrt(row_weights(columns, "loss"))
    surface, *_ = np.linalg.lstsq(design * root[:, None], log_loss * root, rcond=None)
    _, _, by_c, _, by_nc, by_cc = surface
    slopes = by_c + by_nc * n + 2 * by_cc * c
    return np.clip(slopes, -0.5, 0.0)


def make_budget(columns: Columns, rows: Array, slopes: Array) -> Budget:
    """Average the runs of one size (seeds), in logarithms, carried to the budget's mean C along `slopes` [all rows]."""
    log_n = np.log(columns["N"][rows])
    log_c = np.log(columns["C"][rows])
    log_d = log_tokens(columns)[rows]
    log_loss = np.log(columns["loss"][rows])
    label = size_labels(log_n)
    weight = row_weights(columns, "loss")[rows]
    repeats = np.bincount(label, weights=weight)

    def mean_by_size(values: Array) -> Array:
        return np.bincount(label, weights=weight * values) / repeats

    middle = float(np.mean(log_c))
    run_log_loss = log_loss + slopes[rows] * (middle - log_c)
    # At fixed size, tokens are proportional to compute.
    tokens_at_middle = mean_by_size(log_d) + (middle - mean_by_size(log_c))
    return Budget(
        flops=math.exp(middle),
        log_n=mean_by_size(log_n),
        log_loss=mean_by_size(run_log_loss),
        log_d=tokens_at_middle,
        repeats=repeats,
        rows=rows,
        weight=weight,
        run_log_loss=run_log_loss,
    )
