"""Learn from IsoFLOP curves how far single runs scatter, and disturb the curves by as much: a bootstrap of minima."""

import dataclasses
import math

import numpy as np

from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.procedures.budgets import Budget, size_labels
from analysis.trust.bootstrap import units

FEWEST_REPEATS = 4  # spare runs of repeated sizes from which the noise is taken
HIDING = 0.75  # power of what a curve leaves of a scatter, by which it is made good: between HC2 (0.5) and HC3 (1)
MOST_HIDDEN = 0.99  # share of a residual that a curve may take up


@dataclasses.dataclass(frozen=True)
class Noise:
    """The standard deviation of ln loss of one run of weight 1, and the degrees of freedom that it was estimated from.

    runs: how many runs the rows are of, where some run has several; 0 where every row is a run.
    """

    sd: float
    freedom: int
    runs: int = 0


def estimate_noise(columns: Columns, budgets: list[Budget], interpolation: str) -> Noise:
    """Estimate the noise of one run: from repeated sizes (seeds) where there are enough, else from scatter around curves."""
    repeated = _noise_of_repeats(columns, budgets)
    found = repeated
    if repeated.freedom < FEWEST_REPEATS:
        found = _noise_around_curves(budgets, interpolation)
    runs = _count_runs(columns)
    if not runs:
        return found
    # Rows of one run are one draw: what is left to judge the noise by are runs, less those that a curve takes.
    most = runs - 1 - max(degree_of(budget, interpolation) for budget in budgets)
    return Noise(found.sd, max(min(found.freedom, most), 0), runs)


def _count_runs(columns: Columns) -> int:
    """Return the number of runs where some of them have several rows; 0 where every row is a run of its own."""
    if "run" not in columns:
        return 0
    member = units(len(columns), columns["run"])
    runs = int(member.max()) + 1
    return runs if runs < len(columns) else 0


def degree_of(budget: Budget, interpolation: str) -> int:
    """Return the degree of the polynomial that scatter is measured from.

    That of the curve that is fitted, or, for an Akima curve, which goes through every point, a cubic (a parabola for 4
    sizes).
    """
    return 2 if interpolation == "quadratic" or len(budget.log_n) <= 4 else 3


def _noise_of_repeats(columns: Columns, budgets: list[Budget]) -> Noise:
    """Estimate the noise from runs of one size: how far each lies from their mean."""
    squares = 0.0
    freedom = 0
    for budget in budgets:
        log_n = np.log(columns["N"][budget.rows])
        label = size_labels(log_n)
        from_mean = budget.run_log_loss - budget.log_loss[label]
        squares += float(budget.weight @ from_mean**2)
        freedom += len(from_mean) - len(budget.log_n)
    return _noise(squares, freedom)


def _noise_around_curves(budgets: list[Budget], interpolation: str) -> Noise:
    """Estimate the noise from the scatter around each budget's polynomial."""
    squares = 0.0
    freedom = 0
    for budget in budgets:
        sizes = len(budget.log_n)
        degree = degree_of(budget, interpolation)
        if sizes <= degree + 1:
            continue
        residual, _ = _from_curve(budget, degree)
        squares += float(budget.repeats @ residual**2)
        freedom += sizes - degree - 1
    return _noise(squares, freedom)


def _from_curve(budget: Budget, degree: int) -> tuple[Array, Array]:
    """Return how far each size lies from the budget's polynomial, and the share of its scatter that this takes up: [sizes]."""
    root = np.sqrt(budget.repeats)  # a size counts as much as its runs do together
    x = budget.log_n - budget.middle
    design = np.vander(x, degree + 1) * root[:, None]
    basis, _ = np.linalg.qr(design)
    goal = budget.log_loss * root
    residual = goal - basis @ (basis.T @ goal)
    hidden = np.sum(basis**2, axis=1)
    return residual / root, hidden


def _noise(squares: float, freedom: int) -> Noise:
    """Return the noise of a sum of squares; none where nothing is left to judge it by."""
    if not freedom:
        return Noise(0.0, 0)
    return Noise(math.sqrt(squares / freedom), freedom)


def disturbances(columns: Columns, used: list[Budget], spec: FitSpec, noise: Noise) -> list[Array]:
    """Return the noise to add to the losses of each budget's curve [sizes, replicates]; none without noise.

    It is normal, and each replicate has a noise level of its own, as uncertain as the degrees of freedom leave it. Where
    runs have several rows, whole runs are disturbed: all distances of a run from the curves are multiplied by one number
    (the wild bootstrap of clusters, Cameron, Gelbach & Miller 2008).
    """
    if noise.sd == 0 or noise.freedom == 0 or not spec.bootstrap:
        return []
    stream = np.random.RandomState(spec.seed)
    # Of a variance with so many degrees of freedom, the truth is this many times the estimate.
    ratio = noise.freedom / stream.chisquare(noise.freedom, spec.bootstrap)
    level = np.sqrt(ratio)
    if noise.runs:
        return _by_run(columns, used, spec, level, stream)
    found = []
    for budget in used:
        sizes = len(budget.log_n)
        of_size = 1 / np.sqrt(budget.repeats)
        scale = noise.sd * level * of_size[:, None]
        draw = stream.standard_normal((sizes, spec.bootstrap))
        found.append(scale * draw)
    return found


def _by_run(
    columns: Columns, used: list[Budget], spec: FitSpec, level: Array, stream: np.random.RandomState
) -> list[Array]:
    """Return what disturbs each budget [sizes, replicates] where a run is in several; level [replicates] of the noise."""
    member = units(len(columns), columns["run"])
    draw = level * stream.standard_normal((int(member.max()) + 1, spec.bootstrap))
    found = []
    for budget in used:
        distance, hidden = _from_curve(budget, degree_of(budget, spec.interpolation))
        label = size_labels(np.log(columns["N"][budget.rows]))
        from_mean = budget.run_log_loss - budget.log_loss[label]
        left = 1 - np.minimum(hidden, MOST_HIDDEN)
        enlarged = distance / left**HIDING
        of_row = enlarged[label] + from_mean
        share = budget.weight / budget.repeats[label]
        of_run = draw[member[budget.rows]]
        moved = (share * of_row)[:, None] * of_run
        noise = np.zeros((len(budget.log_n), spec.bootstrap))
        np.add.at(noise, label, moved)
        found.append(noise)
    return found
