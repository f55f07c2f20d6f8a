"""Fit the compute-optimal allocation to the lower convex hull of ln loss over ln C (approach 1)."""

import numpy as np

from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.cost import log_tokens
from analysis.grid.table import Columns
from analysis.laws.allocation import Envelope
from analysis.laws.base import Array
from analysis.procedures import allocation
from analysis.procedures.unsearched import certify
from analysis.trust import bootstrap
from experiments.cli import InputError

SAME = 0.01  # of ln C: runs of one budget
FEWEST_ON_HULL = 2


def lower_hull(x: Array, y: Array) -> Array:
    """Return positions of the lower convex hull of the points, left to right, as far as y decreases.

    A far point (x + ln 2, y + ln 2 beyond the largest) closes the hull, as in Gemstones; it is not returned. Of points
    closer than SAME in x only the lowest counts: runs of one budget whose C differ by rounding are no frontier.
    """
    lowest = _lowest_of_windows(x, y)
    far_x = x.max() + np.log(2)
    far_y = y.max() + np.log(2)
    hull_x = np.r_[x[lowest], far_x]
    hull_y = np.r_[y[lowest], far_y]
    chain = _convex_chain(hull_x, hull_y)
    hull = np.array([point for point in chain if point < len(lowest)])
    heights = hull_y[hull]
    least_so_far = np.minimum.accumulate(heights)
    decreases = np.r_[True, heights[1:] < least_so_far[:-1]]
    return lowest[hull[decreases]]


def _lowest_of_windows(x: Array, y: Array) -> Array:
    """Return positions of the lowest point of every window of x that is SAME wide, left to right."""
    order = np.lexsort((y, x))
    lowest: list[int] = []
    start = -np.inf
    for point in order:
        if x[point] - start > SAME:
            start = x[point]
            lowest.append(point)
        elif y[point] < y[lowest[-1]]:
            lowest[-1] = point
    return np.array(lowest)


def _convex_chain(x: Array, y: Array) -> list[int]:
    """Return the points that bend upwards from left to right (Andrew's monotone chain), for sorted x."""
    hull: list[int] = []
    for point in range(len(x)):
        # The last point of the chain goes as long as the way over it to the new one bends downwards.
        while len(hull) > 1:
            before, last = hull[-2:]
            if _turns_left(x, y, before, last, point):
                break
            hull.pop()
        if not hull or x[point] > x[hull[-1]]:
            hull.append(point)
    return hull


def _turns_left(x: Array, y: Array, first: int, second: int, third: int) -> bool:
    """Say whether the way over three points turns left at the second."""
    # The sign of the cross product of the two ways from the first point.
    x_to_second = x[second] - x[first]
    y_to_second = y[second] - y[first]
    x_to_third = x[third] - x[first]
    y_to_third = y[third] - y[first]
    return x_to_second * y_to_third - y_to_second * x_to_third > 0


def fit_envelope(columns: Columns, law: type[Envelope], spec: FitSpec) -> FitResult:
    """Fit approach 1. Raises InputError when the hull has fewer than two points."""
    log_c = np.log(columns["C"])
    log_loss = np.log(columns["loss"])
    log_n = np.log(columns["N"])
    log_d = log_tokens(columns)
    points = np.stack([log_n, log_d, log_loss], axis=1)
    hull = lower_hull(log_c, log_loss)
    if len(hull) < FEWEST_ON_HULL:
        raise InputError(f"GRID: the lower hull of {len(columns)} rows has {len(hull)} point, envelope needs 2")

    coefficients, squares = allocation.regress(log_c[hull], points[None, hull])
    fitted = law(*map(float, coefficients[0]))
    on_the_line = np.log(fitted.k_N) + fitted.a * log_c[hull]
    not_identified = {}
    if len(hull) < allocation.FEWEST_FOR_FLOOR:
        not_identified["E"] = f"{len(hull)} hull points: power law without a floor"
    warnings = []
    if "run" not in columns:
        warnings.append("runs of fixed length are used as points; whole loss curves give a denser hull")
    compute = columns["C"][hull]
    predicted = fitted.predict(compute)
    loss_residual = log_loss[hull] - np.log(predicted)
    scatter = float(np.std(loss_residual))
    certificate = certify(scatter, warnings, not_identified)
    coefficient_count = len(law.names())
    hull_rows = columns.row[hull].tolist()
    return FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=float(squares[0]),
        residual=log_n[hull] - on_the_line,
        certificate=certificate,
        draws=_draws(columns, log_c, points, spec, coefficient_count),
        details={"hull_rows": hull_rows},
    )


def _draws(columns: Columns, log_c: Array, points: Array, spec: FitSpec, coefficients: int) -> Array:
    """Regress the hulls of resampled rows [replicates, coefficients]; points [rows, 3] are ln N, ln D, ln loss."""
    log_loss = points[:, 2]
    run = columns.values.get("run")
    counts = bootstrap.row_counts(len(columns), spec.bootstrap, spec.seed, run)
    on_hull = np.zeros(counts.shape, dtype=bool)
    for replicate, count in enumerate(counts):
        drawn = np.flatnonzero(count)
        loss_drawn = log_loss[drawn]
        hull = lower_hull(log_c[drawn], loss_drawn)
        on_hull[replicate, drawn[hull]] = True
    hull_points = on_hull.sum(axis=1)
    has_enough = hull_points >= FEWEST_ON_HULL
    on_hull = on_hull[has_enough]
    if not len(on_hull):
        return np.empty((0, coefficients))
    # Only rows that are on some hull take part; a row that is not on the hull of a replicate is missing there.
    is_ever_on_hull = on_hull.any(axis=0)
    ever = np.flatnonzero(is_ever_on_hull)
    is_there = on_hull[:, ever, None]
    there = points[ever]
    copies = np.where(is_there, there, np.nan)
    draws, _ = allocation.regress(log_c[ever], copies)
    return draws
