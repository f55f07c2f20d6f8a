"""Fit the small, predict the large: the error of a law on runs that it has not seen, against how far it had to reach.

Which rows are held out is the affair of held_out.py.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np

from analysis.fitting.result import FitError, FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.allocation import Allocation
from analysis.laws.base import Array, FormulaLaw, Law
from analysis.questions import fit as fitting
from analysis.questions.held_out import effort, held_out, largest_budget
from experiments.cli import InputError

FACTORS = (1.0, 2.0, 5.0, 10.0, 30.0, 100.0, np.inf)  # bins of the summary
STARTS = 40  # of each split; the whole grid was searched from more
MARGIN = 2  # rows beyond the coefficients that a split leaves to fit
REPLICATES = 200  # of each fit of a back-test for fit.json
ROUNDING = 1e-9  # relative: a factor of 2 is in the bin that ends at 2


@dataclasses.dataclass(frozen=True)
class BackTest:
    """Held-out rows, what the law fitted to the others predicts for them, and how far it had to reach.

    All arrays are [held-out rows]; low and high are the interval for a new run. reach: the largest held-out compute over
    the largest that was fitted, factor: the same row by row.
    """

    law: str
    rows: Array
    compute: Array
    observed: Array
    predicted: Array
    low: Array
    high: Array
    trained_rows: int
    reach: float
    quantity: str = "loss"  # N* for laws of the optimum alone: what is held out are the optima of larger budgets

    @property
    def error(self) -> Array:
        """Relative error of each held-out row."""
        return self.predicted / self.observed - 1

    @property
    def factor(self) -> Array:
        """How many times the compute of the largest row fitted each held-out row has."""
        return self.compute / self.compute.max() * self.reach

    @property
    def inside(self) -> Array:
        """Whether each held-out row lies in its interval."""
        return (self.observed >= self.low) & (self.observed <= self.high)

    def summary(self) -> dict[str, float | str | int]:
        """Return numbers for the report."""
        size = np.abs(self.error)
        return {
            "law": self.law,
            "quantity": self.quantity,
            "rows_fitted": self.trained_rows,
            "rows_held_out": len(self.rows),
            "extrapolation": self.reach,
            "mean_error": float(self.error.mean()),
            "mean_absolute_error": float(size.mean()),
            "largest_absolute_error": float(size.max()),
            "covered": float(self.inside.mean()),
        }


@dataclasses.dataclass(frozen=True)
class Rolling:
    """Back-tests at every budget in turn: fitted up to it, held out beyond it."""

    law: str
    splits: tuple[BackTest, ...]

    def gathered(self, name: str) -> Array:
        """Return one array of the splits (`error`, `factor`, `inside`, `rows`, ...) end to end."""
        return np.concatenate([getattr(split, name) for split in self.splits])

    def by_factor(self) -> list[dict[str, float]]:
        """Return errors by how many times the compute of a row is that of the largest row fitted."""
        factor = self.gathered("factor")
        error = self.gathered("error")
        inside = self.gathered("inside")
        found = []
        for low, high in itertools.pairwise(FACTORS):
            is_in_bin = (factor > low * (1 + ROUNDING)) & (factor <= high * (1 + ROUNDING))
            if not is_in_bin.any():
                continue
            errors = error[is_in_bin]
            summary = {
                "from": low,
                "to": float(factor[is_in_bin].max()) if np.isinf(high) else high,
                "predictions": len(errors),
                "mean_error": float(errors.mean()),
                "rms_error": float(np.sqrt(np.mean(errors**2))),
                "covered": float(inside[is_in_bin].mean()),
            }
            found.append(summary)
        return found

    def summary(self) -> dict[str, Any]:
        """Return numbers for fit.json: of all splits, and by extrapolation factor."""
        error = self.gathered("error")
        return {
            "quantity": self.splits[0].quantity,
            "splits": len(self.splits),
            "predictions": len(error),
            "rms_error": float(np.sqrt(np.mean(error**2))),
            "covered": float(self.gathered("inside").mean()),
            "by_factor": self.by_factor(),
        }


def back_test(columns: Columns, law: type[Law], spec: FitSpec, held: Array | None = None) -> BackTest:
    """Fit without the `held` rows [booleans] (by default the largest budget) and predict them.

    Raises InputError or FitError when too little is left to fit.
    """
    if held is None:
        held, _ = largest_budget(columns)
    if held.all() or not held.any():
        raise InputError("GRID: a back-test needs rows below the largest budget")
    spec = dataclasses.replace(spec, thorough=False, starts=min(spec.starts, STARTS))
    result = fitting.fit(columns.take(~held), law, spec)
    if issubclass(law, Allocation):
        whole = fitting.fit(columns, law, dataclasses.replace(spec, bootstrap=0))
        return _back_test_optima(columns, result, whole)
    return _back_test_runs(columns.take(held), result)


def _back_test_runs(rows: Columns, result: FitResult) -> BackTest:
    """Predict held-out rows by a law of single runs."""
    predicted, low, high = predict_runs(result, rows)
    compute = effort(rows)
    return BackTest(
        law=result.law.NAME,
        rows=rows.row,
        compute=compute,
        observed=rows[result.law.TARGET],
        predicted=predicted,
        low=low,
        high=high,
        trained_rows=len(result.columns),
        reach=float(compute.max() / effort(result.columns).max()),
    )


def _back_test_optima(columns: Columns, small: FitResult, whole: FitResult) -> BackTest:
    """Compare N* that the fit of the smaller budgets gives for the larger ones with the optima found there."""
    largest = float(effort(small.columns).max())
    C, N = _optima(columns, whole)
    is_beyond = largest * 1.01 < C
    C = C[is_beyond]
    N = N[is_beyond]
    if not len(C):
        raise InputError(f"GRID: no back-test of {small.law.NAME}: no optimum is found beyond the budgets fitted")
    predicted, _ = small.law.optimum(C)
    predicted = np.asarray(predicted)
    low = predicted
    high = predicted
    if len(small.draws):
        replicates = type(small.law)(*(column[:, None] for column in small.draws.T))
        draws, _ = replicates.optimum(C)
        low, high = _ends(draws, small.spec.level)
    distance = np.abs(np.log(columns["C"][:, None] / C))
    return BackTest(
        law=small.law.NAME,
        rows=columns.row[distance.argmin(axis=0)],
        compute=C,
        observed=N,
        predicted=predicted,
        low=low,
        high=high,
        trained_rows=len(small.columns),
        reach=float(C.max() / largest),
        quantity="N*",
    )


def _optima(columns: Columns, whole: FitResult) -> tuple[Array, Array]:
    """Return compute and parameters of the optima that a fit of the whole grid found: minima of budgets, or the hull."""
    if "budgets" in whole.details:
        found = [budget for budget in whole.details["budgets"] if budget["N"]]
        C = np.array([budget["flops"] for budget in found], dtype=np.float64)
        N = np.array([budget["N"] for budget in found], dtype=np.float64)
        return C, N
    is_on_hull = np.isin(columns.row, whole.details["hull_rows"])
    return columns["C"][is_on_hull], columns["N"][is_on_hull]


def predict_runs(result: FitResult, rows: Columns) -> tuple[Array, Array, Array]:
    """Predict other rows [rows]. Returns the law there, and the ends of the interval of a new run.

    The interval is the law's own and its scatter. Raises InputError for a law that does not predict rows.
    """
    law = result.law
    if not isinstance(law, FormulaLaw):
        raise InputError(f"{law.NAME}: it predicts optima, not runs; a back-test needs a law of single runs")
    made = [role for role in law.inputs() if role not in rows]
    if made:
        raise InputError(f"{law.NAME}: {', '.join(made)} come from whole runs, not from rows; there is no back-test")
    at = {role: rows[role] for role in law.inputs()}
    with np.errstate(all="ignore"):
        predicted = np.broadcast_to(np.asarray(law.predict(**at), dtype=np.float64), (len(rows),))
    if not len(result.draws):
        return predicted, predicted, predicted
    replicates = type(law)(*(column[:, None] for column in result.draws.T))
    with np.errstate(all="ignore"):
        draws = replicates.predict(**at)
    scatter = result.certificate.rms_log_residual or 0.0
    noise = np.random.default_rng(0).standard_normal((len(draws), 1)) * scatter
    runs = draws + noise if result.additive else draws * np.exp(noise)
    low, high = _ends(runs, result.spec.level)
    return predicted, np.broadcast_to(low, predicted.shape), np.broadcast_to(high, predicted.shape)


def _ends(draws: Array, level: float) -> tuple[Array, Array]:
    """Return the ends [points] of the interval of draws [replicates, points]."""
    low, high = np.nanpercentile(draws, [50 * (1 - level), 50 * (1 + level)], axis=0)
    return low, high


def rolling(columns: Columns, law: type[Law], spec: FitSpec, fewest: int | None = None) -> Rolling:
    """Back-test at every budget of the grid; splits whose fit fails are left out.

    `fewest` rows are left to fit in each. Raises InputError when no split is possible.
    """
    if fewest is None:
        fewest = len(law.of(columns.parts).names()) + MARGIN
    splits = []
    why = "too few rows below the largest budget"
    for held in held_out(columns, fewest):
        try:
            splits.append(back_test(columns, law, spec, held))
        except (InputError, FitError) as error:
            why = str(error).removeprefix("GRID: ")
    if not splits:
        raise InputError(f"GRID: no back-test of {law.NAME} ({why})")
    return Rolling(law.NAME, tuple(splits))


def try_back_test(columns: Columns, law: type[Law], spec: FitSpec) -> tuple[BackTest | None, str]:
    """Return the back-test, or why there is none."""
    try:
        return back_test(columns, law, spec), ""
    except (InputError, FitError) as error:
        return None, str(error)


def try_rolling(columns: Columns, law: type[Law], spec: FitSpec) -> tuple[Rolling | None, str]:
    """Return the rolling back-test, or why there is none."""
    try:
        return rolling(columns, law, spec), ""
    except (InputError, FitError) as error:
        return None, str(error)


def hindsight(columns: Columns, law: type[Law], spec: FitSpec) -> tuple[BackTest | None, str, Rolling | None]:
    """Return the test on the largest budget (or why there is none) and those on all.

    The former is the last of the latter where both hold out the same rows.
    """
    every, _ = try_rolling(columns, law, spec)
    held, _ = largest_budget(columns)
    if every and np.array_equal(every.splits[-1].rows, columns.row[held]):
        return every.splits[-1], "", every
    last, why = try_back_test(columns, law, spec)
    return last, why, every


def hindsight_summary(columns: Columns, law: type[Law], spec: FitSpec) -> dict[str, Any]:
    """Return the rolling back-test of a fit for its JSON, or the reason why there is none."""
    quick = dataclasses.replace(spec, bootstrap=min(spec.bootstrap, REPLICATES))
    test, why = try_rolling(columns, law, quick)
    return test.summary() if test else {"reason": why.removeprefix("GRID: ")}
