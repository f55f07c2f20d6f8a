"""Fit the small, predict the large: the error of a law on runs that it has not seen."""

import dataclasses

import numpy as np

from analysis import fit as fitting
from analysis.isoflop import cluster
from analysis.laws.base import Law
from analysis.result import FitError, FitSpec, Interval
from analysis.table import Columns
from experiments.cli import InputError

LARGEST_SHARE = 0.2  # of the rows, when the grid has no budgets


@dataclasses.dataclass(frozen=True)
class BackTest:
    """Held-out rows, what the law fitted to the others predicts for them, and how far it had to reach.

    All arrays are [held-out rows]. covered: share of the held-out losses inside the interval for a new run.
    """

    law: str
    rows: np.ndarray
    compute: np.ndarray
    observed: np.ndarray
    predicted: np.ndarray
    low: np.ndarray
    high: np.ndarray
    trained_rows: int
    reach: float  # largest held-out C over the largest C that was fitted

    @property
    def error(self) -> np.ndarray:
        """Relative error of each held-out row."""
        return self.predicted / self.observed - 1

    def summary(self) -> dict[str, float | str | int]:
        """Numbers for the report."""
        inside = (self.observed >= self.low) & (self.observed <= self.high)
        return {
            "law": self.law,
            "rows_fitted": self.trained_rows,
            "rows_held_out": len(self.rows),
            "extrapolation": self.reach,
            "mean_error": float(self.error.mean()),
            "mean_absolute_error": float(np.abs(self.error).mean()),
            "largest_absolute_error": float(np.abs(self.error).max()),
            "covered": float(inside.mean()),
        }


def largest_budget(columns: Columns) -> tuple[np.ndarray, float]:
    """Rows [booleans] of the largest FLOP budget and its FLOPs.

    When the grid has no clear budgets: the rows with the largest fifth of C, and the largest C.
    """
    if "group" in columns:
        _, label = np.unique(columns["group"].astype(str), return_inverse=True)
    else:
        label, near = cluster(np.log(columns["C"]))
        if not near.all() or np.bincount(label).max() < 3:
            return columns["C"] >= np.quantile(columns["C"], 1 - LARGEST_SHARE), float(columns["C"].max())
    middle = {one: np.log(columns["C"][label == one]).mean() for one in np.unique(label)}
    largest = max(middle, key=middle.__getitem__)
    return label == largest, float(np.exp(middle[largest]))


def back_test(columns: Columns, law: type[Law], spec: FitSpec) -> BackTest:
    """Fit without the largest budget and predict it. `columns` need N, D, C and loss.

    Raises InputError or FitError when too little is left to fit.
    """
    held, _ = largest_budget(columns)
    if held.all() or not held.any():
        raise InputError("GRID: a back-test needs rows below the largest budget")
    result = fitting.fit(columns.take(~held), law, spec)
    out = columns.take(held)
    at = {role: out[role] for role in ("N", "D")}
    predicted = np.asarray(result.law.loss(at))
    stream = np.random.default_rng(0)
    low, high = predicted.copy(), predicted.copy()
    for row in range(len(out)):
        draws = result.stacked().loss({role: value[row] for role, value in at.items()})
        noise = stream.standard_normal(len(draws)) * (result.certificate.rms_log_residual or 0.0)
        interval = Interval.of(draws * np.exp(noise), spec.level)
        if interval is not None:
            low[row], high[row] = interval.low, interval.high
    return BackTest(
        law=law.NAME,
        rows=out.row,
        compute=out["C"],
        observed=out["loss"],
        predicted=predicted,
        low=low,
        high=high,
        trained_rows=len(result.columns),
        reach=float(out["C"].max() / result.columns["C"].max()),
    )


def try_back_test(columns: Columns, law: type[Law], spec: FitSpec) -> tuple[BackTest | None, str]:
    """The back-test, or why there is none."""
    try:
        return back_test(columns, law, spec), ""
    except (InputError, FitError) as error:
        return None, str(error)
