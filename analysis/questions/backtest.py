"""Fit the small, predict the large: the error of a law on runs that it has not seen, against how far it had to reach.

Which rows are held out is the affair of held_out.py.
"""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from analysis.fitting.result import FitError, FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.allocation import Allocation
from analysis.laws.base import Array, Law
from analysis.questions import fit as fitting
from analysis.questions.held_out import ROUNDING, beyond, effort, held_out, largest_budget
from analysis.trust.interval import FEWEST_SPARE
from analysis.trust.one_run import widen
from analysis.trust.residuals import row_counts
from analysis.writing.strict_json import finite_or_null
from experiments.cli import InputError

FACTORS = (1.0, 2.0, 5.0, 10.0, 30.0, 100.0, np.inf)  # bins of the summary
STARTS = 40  # of each split; the whole grid was searched from more
MARGIN = 2  # rows beyond the coefficients that a split leaves to fit
FEWEST_PREDICTIONS = 5  # below, a share of them says nothing
FAR_BELOW = 0.6  # of the level: covering less is more than bad luck
REPLICATES = 200  # of each fit of a back-test for fit.json
SAME_EFFORT = 0.01  # relative: runs of one budget
PRINTED = 1e-6  # relative: losses are written down to about seven digits, and no interval can be finer


@dataclasses.dataclass(frozen=True)
class BackTest:
    """Held-out rows, what the law fitted to the others predicts for them, and how far it had to reach.

    All arrays are [held-out rows]; low and high are the interval for a new run. weight: what a row counts. is_bound:
    rows of runs that were stopped early, whose loss is an upper bound: they miss only where the law lies above them.
    low and high are NaN where the fit had no interval. reach: the largest held-out compute over the largest that was
    fitted, factor: the same row by row.
    """

    law: str
    rows: Array
    compute: Array
    observed: Array
    predicted: Array
    low: Array
    high: Array
    weight: Array
    is_bound: Array
    trained_rows: int
    reach: float
    quantity: str = "loss"  # N* for laws of the optimum alone: what is held out are the optima of larger budgets

    @property
    def error(self) -> Array:
        """Relative error of each held-out row; of a bound, that by which the law lies above it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = (self.predicted - self.observed) / np.abs(self.observed)
        error = np.where(self.observed == 0, 0.0, relative)
        return np.where(self.is_bound, np.maximum(error, 0.0), error)

    @property
    def counts(self) -> Array:
        """How much each held-out row counts: a bound that holds says nothing of the error."""
        holds = self.is_bound & (self.predicted <= self.observed)
        says_nothing = holds | (self.observed == 0)  # nothing is relative to 0
        return np.where(says_nothing, 0.0, self.weight)

    @property
    def factor(self) -> Array:
        """How many times the compute of the largest row fitted each held-out row has."""
        return self.compute / self.compute.max() * self.reach

    @property
    def inside(self) -> Array:
        """Whether each held-out row lies in its interval."""
        slack = PRINTED * np.abs(self.observed)
        is_above = self.observed >= self.low - slack
        is_below = self.observed <= self.high + slack
        return is_above & (is_below | self.is_bound)

    @property
    def mean_error(self) -> float:
        """Mean error of the rows that count."""
        return float(np.average(self.error, weights=self.counts))

    @property
    def covered(self) -> float:
        """Share of the rows that count that lie in their interval; NaN where none has one."""
        return share_covered(self.inside, self.counts, self.low)

    def summary(self) -> dict[str, float | str | int]:
        """Return numbers for the report."""
        size = np.abs(self.error)
        counting = self.counts > 0
        return {
            "law": self.law,
            "quantity": self.quantity,
            "rows_fitted": self.trained_rows,
            "rows_held_out": int(counting.sum()),
            "extrapolation": self.reach,
            "mean_error": self.mean_error,
            "mean_absolute_error": float(np.average(size, weights=self.counts)),
            "largest_absolute_error": float(size[counting].max()),
            "covered": self.covered,
        }


@dataclasses.dataclass(frozen=True)
class Rolling:
    """Back-tests at every budget in turn: fitted up to it, held out beyond it."""

    law: str
    splits: tuple[BackTest, ...]
    level: float = 0.9  # of the intervals

    def gathered(self, name: str) -> Array:
        """Return one array of the splits (`error`, `factor`, `inside`, `rows`, ...) end to end."""
        return np.concatenate([getattr(split, name) for split in self.splits])

    def by_factor(self) -> list[dict[str, float]]:
        """Return errors by how many times the compute of a row is that of the largest row fitted."""
        factor = self.gathered("factor")
        error = self.gathered("error")
        inside = self.gathered("inside")
        counts = self.gathered("counts")
        low_end = self.gathered("low")
        found = []
        for low, high in itertools.pairwise(FACTORS):
            is_in_bin = (factor > low * (1 + ROUNDING)) & (factor <= high * (1 + ROUNDING))
            weight = np.where(is_in_bin, counts, 0.0)
            if not weight.any():
                continue
            is_in_bin = weight > 0
            summary = {
                "from": low,
                "to": float(factor[is_in_bin].max()) if np.isinf(high) else high,
                "predictions": int(is_in_bin.sum()),
                "mean_error": float(np.average(error, weights=weight)),
                "rms_error": float(np.sqrt(np.average(error**2, weights=weight))),
                "covered": share_covered(inside, weight, low_end),
            }
            found.append(summary)
        return found

    def summary(self) -> dict[str, Any]:
        """Return numbers for fit.json: of all splits, and by extrapolation factor."""
        counting = self.gathered("counts") > 0
        return {
            "quantity": self.splits[0].quantity,
            "splits": len(self.splits),
            "predictions": int(counting.sum()),
            "rows": len(np.unique(self.gathered("rows")[counting])),
            "rms_error": self.rms_error,
            "mean_error": self.mean_error,
            "covered": self.covered,
            "by_factor": self.by_factor(),
            "caution": self.caution,
        }

    @property
    def caution(self) -> str:
        """Say that intervals were too narrow: where they held far fewer of the larger runs than they state."""
        has_intervals = np.isfinite(self.covered)
        counting = self.gathered("counts") > 0
        predictions = int(counting.sum())
        is_enough = has_intervals and predictions >= FEWEST_PREDICTIONS
        if not is_enough or self.covered >= FAR_BELOW * self.level:
            return ""
        return (
            f"the back-test held {self.covered:.0%} of {predictions} numbers ({self.splits[0].quantity}) of larger runs in "
            f"their {self.level:.0%} intervals, with an error of {self.rms_error:.2%}: beyond the rows, they are too narrow"
        )

    def mean(self, values: Array) -> float:
        """Average one number over all predictions that count [predictions]."""
        return float(np.average(values, weights=self.gathered("counts")))

    @property
    def rms_error(self) -> float:
        """Root mean square error of all predictions."""
        return float(np.sqrt(self.mean(self.gathered("error") ** 2)))

    @property
    def mean_error(self) -> float:
        """Mean error of all predictions."""
        return self.mean(self.gathered("error"))

    @property
    def covered(self) -> float:
        """Share of all predictions with an interval that it held; NaN where there are none."""
        inside = self.gathered("inside")
        counts = self.gathered("counts")
        return share_covered(inside, counts, self.gathered("low"))


def share_covered(inside: Array, counts: Array, low: Array) -> float:
    """Return the share of the predictions that have an interval, and count, that lie in it; NaN where there are none."""
    has_interval = np.isfinite(low)
    weight = np.where(has_interval, counts, 0.0)
    if not weight.any():
        return math.nan
    return float(np.average(inside, weights=weight))


def back_test(columns: Columns, law: type[Law], spec: FitSpec, held: Array | None = None) -> BackTest:
    """Fit without the `held` rows [booleans] (by default the largest budget) and predict them.

    Raises InputError or FitError when too little is left to fit.
    """
    if held is None:
        held, _ = largest_budget(columns)
    if held.all() or not held.any():
        raise InputError("GRID: a back-test needs rows below the largest budget")
    spec = dataclasses.replace(spec, thorough=False, judge=False, starts=min(spec.starts, STARTS))
    result = fitting.fit(columns.take(~held), law, spec)
    if issubclass(law, Allocation):
        whole = fitting.fit(columns, law, dataclasses.replace(spec, bootstrap=0))
        return _back_test_optima(columns, result, whole)
    return _back_test_runs(columns.take(held), result)


def _back_test_runs(rows: Columns, result: FitResult) -> BackTest:
    """Predict held-out rows by a law of single runs. Raises InputError where none of them says more than a bound."""
    rows = beyond(rows, result.columns)
    predicted, low, high = predict_runs(result, rows)
    compute = effort(rows)
    is_bound = rows["censored"] > 0 if "censored" in rows else np.zeros(len(rows), dtype=bool)
    test = BackTest(
        law=result.law.NAME,
        rows=rows.row,
        compute=compute,
        observed=rows[result.law.TARGET],
        predicted=predicted,
        low=low,
        high=high,
        weight=rows["weight"] if "weight" in rows else np.ones(len(rows)),
        is_bound=is_bound,
        trained_rows=int((row_counts(result.columns) > 0).sum()),
        reach=float(compute.max() / effort(result.columns).max()),
        quantity=result.law.TARGET,
    )
    if not test.counts.any():
        raise InputError(f"GRID: no back-test of {result.law.NAME}: the larger runs only bound the law")
    return test


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
    low = np.full(len(C), np.nan)
    high = low
    if len(small.draws):
        draws, _ = _replicates(small).optimum(C)
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
        weight=np.ones(len(C)),
        is_bound=np.zeros(len(C), dtype=bool),
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

    The interval is the law's own (percentiles of its refits) and its scatter. Raises InputError for a law that does not
    predict rows.
    """
    law = result.law
    if not law.inputs():
        raise InputError(f"{law.NAME}: what it predicts is no number of single runs; there is no back-test")
    made = [role for role in law.inputs() if role not in rows]
    if made:
        raise InputError(f"{law.NAME}: {', '.join(made)} come from whole runs, not from rows; there is no back-test")
    at = {role: rows[role] for role in law.inputs()}
    with np.errstate(all="ignore"):
        predicted = np.broadcast_to(np.asarray(law.predict(**at), dtype=np.float64), (len(rows),))
    predicted = law.within_range(predicted)
    has_few = result.freedom is not None and result.freedom < FEWEST_SPARE
    if has_few or not len(result.draws):
        none = np.full(len(rows), np.nan)
        return predicted, none, none
    with np.errstate(all="ignore"):
        draws = _replicates(result).predict(**at)
    low, high = _ends(draws, result.spec.level)
    low = np.broadcast_to(low, predicted.shape)
    high = np.broadcast_to(high, predicted.shape)
    low, high = widen(predicted, low, high, result.noise, result.spec.level)
    return predicted, law.within_range(low), law.within_range(high)


def _replicates(result: FitResult) -> Any:
    """Return the law of a fit with all of its refits at once: each coefficient is a column [replicates, 1]."""
    columns = [draws[:, None] for draws in result.draws.T]
    return type(result.law)(*columns)


def _ends(draws: Array, level: float) -> tuple[Array, Array]:
    """Return the ends [points] of the interval of draws [replicates, points]."""
    percentiles = [50 * (1 - level), 50 * (1 + level)]
    low, high = np.nanpercentile(draws, percentiles, axis=0)
    return low, high


def rolling(columns: Columns, law: type[Law], spec: FitSpec, fewest: int | None = None) -> Rolling:
    """Back-test at every budget of the grid; splits whose fit fails are left out.

    `fewest` rows are left to fit in each. Raises InputError when no split is possible.
    """
    if fewest is None:
        fewest = len(law.of(columns.parts).names()) + MARGIN
    splits = []
    sizes = effort(columns)
    is_one = sizes.max() <= sizes.min() * (1 + SAME_EFFORT)
    why = "all runs are of one compute" if is_one else "too few rows below the largest budget"
    for held in held_out(columns, fewest):
        try:
            splits.append(back_test(columns, law, spec, held))
        except (InputError, FitError) as error:
            why = str(error).removeprefix("GRID: ")
    if not splits:
        raise InputError(f"GRID: no back-test of {law.NAME} ({why})")
    return Rolling(law.NAME, tuple(splits), spec.level)


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
    return finite_or_null(test.summary()) if test else {"reason": why.removeprefix("GRID: ")}
