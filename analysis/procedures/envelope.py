"""Fit the compute-optimal allocation to the lower convex hull of ln loss over ln C (approach 1)."""

import numpy as np

from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.allocation import Envelope
from analysis.laws.base import Array
from analysis.procedures import allocation
from analysis.procedures.cost import log_tokens
from analysis.trust import bootstrap
from analysis.trust.certificate import Certificate
from experiments.cli import InputError

SAME = 0.01  # of ln C: runs of one budget
FEWEST_ON_HULL = 2


def lower_hull(x: Array, y: Array) -> Array:
    """Return positions of the lower convex hull of the points, left to right, as far as y decreases.

    A far point (x + ln 2, y + ln 2 beyond the largest) closes the hull, as in Gemstones; it is not returned. Of points
    closer than SAME in x only the lowest counts: runs of one budget whose C differ by rounding are no frontier.
    """
    lowest = _lowest_of_windows(x, y)
    hull_x = np.r_[x[lowest], x.max() + np.log(2)]
    hull_y = np.r_[y[lowest], y.max() + np.log(2)]
    hull = [point for point in _convex_chain(hull_x, hull_y) if point < len(lowest)]
    heights = hull_y[hull]
    before = np.minimum.accumulate(heights)[:-1]
    decreases = np.r_[True, heights[1:] < before]
    return lowest[np.array(hull)[decreases]]


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
        while len(hull) > 1 and not _turns_left(x, y, hull[-2], hull[-1], point):
            hull.pop()
        if not hull or x[point] > x[hull[-1]]:
            hull.append(point)
    return hull


def _turns_left(x: Array, y: Array, first: int, second: int, third: int) -> bool:
    """Say whether the way over three points turns left at the second."""
    forward = (x[second] - x[first]) * (y[third] - y[first])
    sideways = (y[second] - y[first]) * (x[third] - x[first])
    return forward - sideways > 0


def fit_envelope(columns: Columns, law: type[Envelope], spec: FitSpec) -> FitResult:
    """Fit approach 1. Raises InputError when the hull has fewer than two points."""
    log_c = np.log(columns["C"])
    log_loss = np.log(columns["loss"])
    log_n = np.log(columns["N"])
    points = np.stack([log_n, log_tokens(columns), log_loss], axis=1)
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
    loss_residual = log_loss[hull] - np.log(fitted.predict(columns["C"][hull]))
    return FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=float(squares[0]),
        residual=log_n[hull] - on_the_line,
        certificate=Certificate(
            converged=True,
            agreeing_starts=1.0,
            gradient=0.0,
            not_identified=not_identified,
            rms_log_residual=float(np.std(loss_residual)),
            warnings=tuple(warnings),
        ),
        draws=_draws(columns, log_c, points, spec, len(law.names())),
        details={"hull_rows": [int(row) for row in columns.row[hull]]},
    )


def _draws(columns: Columns, log_c: Array, points: Array, spec: FitSpec, coefficients: int) -> Array:
    """Regress the hulls of resampled rows [replicates, coefficients]; points [rows, 3] are ln N, ln D, ln loss."""
    log_loss = points[:, 2]
    counts = bootstrap.row_counts(len(columns), spec.bootstrap, spec.seed, columns.values.get("run"))
    on_hull = np.zeros(counts.shape, dtype=bool)
    for replicate, count in enumerate(counts):
        drawn = np.flatnonzero(count)
        on_hull[replicate, drawn[lower_hull(log_c[drawn], log_loss[drawn])]] = True
    on_hull = on_hull[on_hull.sum(axis=1) >= FEWEST_ON_HULL]
    if not len(on_hull):
        return np.empty((0, coefficients))
    # Only rows that are on some hull take part; a row that is not on the hull of a replicate is missing there.
    ever = np.flatnonzero(on_hull.any(axis=0))
    copies = np.where(on_hull[:, ever, None], points[ever], np.nan)
    draws, _ = allocation.regress(log_c[ever], copies)
    return draws
