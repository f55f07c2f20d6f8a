"""The lower convex hull of ln loss over ln C and the allocation that its runs give (approach 1)."""

import numpy as np

from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.allocation import Envelope
from analysis.procedures import allocation
from analysis.trust import bootstrap
from analysis.trust.certificate import Certificate
from experiments.cli import InputError

SAME = 0.01  # of ln C


def lower_hull(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Positions of the lower convex hull of the points, left to right, as far as y decreases.

    A far point (x + ln 2, y + ln 2 beyond the largest) closes the hull, as in Gemstones; it is not returned. Of points
    closer than SAME in x only the lowest counts: runs of one budget whose C differ by rounding are no frontier.
    """
    order = np.lexsort((y, x))
    window = np.zeros(len(order), dtype=int)
    start = x[order[0]]
    for at, point in enumerate(order):
        if at and x[point] - start > SAME:
            start = x[point]
            window[at] = 1
    window = np.cumsum(window)
    lowest_first = np.lexsort((y[order], window))
    order = order[lowest_first[np.unique(window[lowest_first], return_index=True)[1]]]
    x, y = np.r_[x[order], x.max() + np.log(2)], np.r_[y[order], y.max() + np.log(2)]
    hull: list[int] = []
    for point in range(len(x)):
        while len(hull) > 1:
            first, second = hull[-2], hull[-1]
            turn = (x[second] - x[first]) * (y[point] - y[first]) - (y[second] - y[first]) * (x[point] - x[first])
            if turn > 0:
                break
            hull.pop()
        if not hull or x[point] > x[hull[-1]]:
            hull.append(point)
    hull = [point for point in hull if point < len(order)]
    lowest = np.minimum.accumulate(y[hull])
    keep = np.r_[True, y[hull][1:] < lowest[:-1]]
    return order[np.array(hull)[keep]]


def fit_envelope(columns: Columns, law: type[Envelope], spec: FitSpec) -> FitResult:
    """Fit approach 1. Raises InputError when the hull has fewer than two points."""
    log_c, log_loss, log_n = np.log(columns["C"]), np.log(columns["loss"]), np.log(columns["N"])
    log_d = np.log(columns["D"]) if "D" in columns else log_c - np.log(6.0) - log_n
    points = np.stack([log_n, log_d, log_loss], axis=1)
    hull = lower_hull(log_c, log_loss)
    if len(hull) < 2:
        raise InputError(f"GRID: the lower hull of {len(columns)} rows has {len(hull)} point, envelope needs 2")
    coefficients, objective = allocation.regress(log_c[hull], points[None, hull])
    counts = bootstrap.row_counts(len(columns), spec.bootstrap, spec.seed, columns.values.get("run"))
    on_hull = np.zeros(counts.shape, dtype=bool)
    for replicate, count in enumerate(counts):
        drawn = np.flatnonzero(count)
        on_hull[replicate, drawn[lower_hull(log_c[drawn], log_loss[drawn])]] = True
    on_hull = on_hull[on_hull.sum(axis=1) >= 2]
    ever = np.flatnonzero(on_hull.any(axis=0))
    copies = np.where(on_hull[:, ever, None], points[ever], np.nan)
    draws = allocation.regress(log_c[ever], copies)[0] if len(on_hull) else np.empty((0, len(law.names())))
    fitted = law(*map(float, coefficients[0]))
    residual = log_n[hull] - (np.log(fitted.k_N) + fitted.a * log_c[hull])
    warnings = (
        ["runs of fixed length are used as points; whole loss curves give a denser hull"]
        if "run" not in columns
        else []
    )
    return FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=float(objective[0]),
        residual=residual,
        certificate=Certificate(
            converged=True,
            agreeing_starts=1.0,
            gradient=0.0,
            not_identified={"E": f"{len(hull)} hull points: power law without a floor"} if len(hull) < 4 else {},
            rms_log_residual=float(np.std(log_loss[hull] - np.log(fitted.predict(columns["C"][hull])))),
            warnings=tuple(warnings),
        ),
        draws=draws,
        details={"hull_rows": [int(row) for row in columns.row[hull]]},
    )
