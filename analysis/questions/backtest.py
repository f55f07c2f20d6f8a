"""Fit the small, predict the large: the error of a law on runs that it has not seen, against how far it had to reach."""

import dataclasses
import itertools
from typing import Any

import numpy as np

from analysis.fitting.result import FitError, FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.allocation import Allocation
from analysis.laws.base import FormulaLaw, Law
from analysis.procedures.budgets import cluster
from analysis.questions import fit as fitting
from experiments.cli import InputError

LARGEST_SHARE = 0.2  # of the rows, when the grid has no budgets
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8)  # of the rows that are fitted, when the grid has no budgets
FACTORS = (1.0, 2.0, 5.0, 10.0, 30.0, 100.0, np.inf)  # bins of the summary
MOST_SPLITS = 8
STARTS = 40  # of each split; the whole grid was searched from more
MARGIN = 2  # rows beyond the coefficients that a split leaves to fit


@dataclasses.dataclass(frozen=True)
class BackTest:
    """Held-out rows, what the law fitted to the others predicts for them, and how far it had to reach.

    All arrays are [held-out rows]; low and high are the interval for a new run. reach: the largest held-out compute over
    the largest that was fitted, factor: the same row by row.
    """

    law: str
    rows: np.ndarray
    compute: np.ndarray
    observed: np.ndarray
    predicted: np.ndarray
    low: np.ndarray
    high: np.ndarray
    trained_rows: int
    reach: float
    quantity: str = "loss"  # N* for laws of the optimum alone: what is held out are the optima of larger budgets

    @property
    def error(self) -> np.ndarray:
        """Relative error of each held-out row."""
        return self.predicted / self.observed - 1

    @property
    def factor(self) -> np.ndarray:
        return self.compute / self.compute.max() * self.reach

    @property
    def inside(self) -> np.ndarray:
        return (self.observed >= self.low) & (self.observed <= self.high)

    def summary(self) -> dict[str, float | str | int]:
        """Numbers for the report."""
        return {
            "law": self.law,
            "quantity": self.quantity,
            "rows_fitted": self.trained_rows,
            "rows_held_out": len(self.rows),
            "extrapolation": self.reach,
            "mean_error": float(self.error.mean()),
            "mean_absolute_error": float(np.abs(self.error).mean()),
            "largest_absolute_error": float(np.abs(self.error).max()),
            "covered": float(self.inside.mean()),
        }


@dataclasses.dataclass(frozen=True)
class Rolling:
    """Back-tests at every budget in turn: fitted up to it, held out beyond it."""

    law: str
    splits: tuple[BackTest, ...]

    def gathered(self, name: str) -> np.ndarray:
        """One array of the splits (`error`, `factor`, `inside`, `rows`, ...) end to end."""
        return np.concatenate([getattr(split, name) for split in self.splits])

    def by_factor(self) -> list[dict[str, float]]:
        """Errors by how many times the compute of a row is that of the largest row fitted."""
        factor, error, inside = (self.gathered(name) for name in ("factor", "error", "inside"))
        found = []
        for low, high in itertools.pairwise(FACTORS):
            use = (factor > low * (1 + 1e-9)) & (factor <= high * (1 + 1e-9))
            if use.any():
                found.append({
                    "from": low,
                    "to": float(factor[use].max()) if np.isinf(high) else high,
                    "predictions": int(use.sum()),
                    "mean_error": float(error[use].mean()),
                    "rms_error": float(np.sqrt(np.mean(error[use] ** 2))),
                    "covered": float(inside[use].mean()),
                })  # fmt: skip
        return found

    def summary(self) -> dict[str, Any]:
        """For fit.json: all splits, and by extrapolation factor."""
        error = self.gathered("error")
        return {
            "quantity": self.splits[0].quantity,
            "splits": len(self.splits),
            "predictions": len(error),
            "rms_error": float(np.sqrt(np.mean(error**2))),
            "covered": float(self.gathered("inside").mean()),
            "by_factor": self.by_factor(),
        }


def effort(columns: Columns) -> np.ndarray:
    """What grows along the grid [rows]: training FLOPs, or what stands for them. Raises InputError without such a role."""
    if "C" in columns:
        return columns["C"]
    if "N" in columns and "D" in columns:
        return 6 * columns["N"] * columns["D"]
    for role in ("D", "N", "S", "X"):
        if role in columns:
            return columns[role]
    raise InputError("GRID: a back-test needs a column that says which runs are larger (C, N, D, S or X)")


def budgets(columns: Columns) -> np.ndarray | None:
    """The rank of each row's FLOP budget [rows], 0 for the smallest; None when the grid has no clear budgets."""
    size = effort(columns)
    if "group" in columns:
        _, label = np.unique(columns["group"].astype(str), return_inverse=True)
    else:
        label, near = cluster(np.log(size))
        if not near.all() or np.bincount(label).max() < 3:
            return None
    middle = np.array([np.log(size[label == one]).mean() for one in range(label.max() + 1)])
    return np.argsort(np.argsort(middle))[label]


def largest_budget(columns: Columns) -> tuple[np.ndarray, float]:
    """Rows [booleans] of the largest FLOP budget and its FLOPs.

    When the grid has no clear budgets: the rows with the largest fifth of C, and the largest C.
    """
    rank, size = budgets(columns), effort(columns)
    if rank is None:
        return size >= np.quantile(size, 1 - LARGEST_SHARE), float(size.max())
    largest = rank == rank.max()
    return largest, float(np.exp(np.log(size[largest]).mean()))


def held_out(columns: Columns, fewest: int) -> list[np.ndarray]:
    """Rows [booleans] to hold out, split by split, the last one the largest budget; at least `fewest` rows are left."""
    rank, size = budgets(columns), effort(columns)
    if rank is None:
        found = [size >= np.quantile(size, share) for share in SHARES]
    else:
        found = [rank >= first for first in range(min(2, rank.max()), rank.max() + 1)]  # one budget tells no exponent
    found = [held for held in found if held.any() and (~held).sum() >= fewest]
    return found[-MOST_SPLITS:]


def back_test(columns: Columns, law: type[Law], spec: FitSpec, held: np.ndarray | None = None) -> BackTest:
    """Fit without the `held` rows (the largest budget) and predict them.

    Raises InputError or FitError when too little is left to fit.
    """
    if held is None:
        held, _ = largest_budget(columns)
    if held.all() or not held.any():
        raise InputError("GRID: a back-test needs rows below the largest budget")
    spec = dataclasses.replace(spec, thorough=False, starts=min(spec.starts, STARTS))
    result = fitting.fit(columns.take(~held), law, spec)
    if issubclass(law, Allocation):
        return _back_test_optima(columns, result, fitting.fit(columns, law, dataclasses.replace(spec, bootstrap=0)))
    out, target = columns.take(held), law.TARGET
    predicted, low, high = predict_runs(result, out)
    return BackTest(
        law=law.NAME,
        rows=out.row,
        compute=effort(out),
        observed=out[target],
        predicted=predicted,
        low=low,
        high=high,
        trained_rows=len(result.columns),
        reach=float(effort(out).max() / effort(result.columns).max()),
    )


def _back_test_optima(columns: Columns, small: FitResult, whole: FitResult) -> BackTest:
    """N* that the fit of the smaller budgets gives for the larger ones, against the optima found there."""
    largest = float(effort(small.columns).max())
    if "budgets" in whole.details:
        C, N = np.array([(one["flops"], one["N"]) for one in whole.details["budgets"] if one["N"]]).reshape(-1, 2).T
    else:
        on_hull = np.isin(columns.row, whole.details["hull_rows"])
        C, N = columns["C"][on_hull], columns["N"][on_hull]
    C, N = C[largest * 1.01 < C], N[largest * 1.01 < C]
    if not len(C):
        raise InputError(f"GRID: no back-test of {small.law.NAME}: no optimum is found beyond the budgets fitted")
    predicted = np.asarray(small.law.optimum(C)[0])
    low = high = predicted
    if len(small.draws):
        draws = type(small.law)(*(column[:, None] for column in small.draws.T)).optimum(C)[0]
        level = small.spec.level
        low, high = np.nanpercentile(draws, [50 * (1 - level), 50 * (1 + level)], axis=0)
    nearest = np.abs(np.log(columns["C"][:, None] / C)).argmin(axis=0)
    return BackTest(
        law=small.law.NAME,
        rows=columns.row[nearest],
        compute=C,
        observed=N,
        predicted=predicted,
        low=low,
        high=high,
        trained_rows=len(small.columns),
        reach=float(C.max() / largest),
        quantity="N*",
    )


def predict_runs(result: FitResult, rows: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The law at other rows [rows], and the ends of the interval of a new run there: the law's own and its scatter."""
    law = result.law
    if not isinstance(law, FormulaLaw):
        raise InputError(f"{law.NAME}: it predicts optima, not runs; a back-test needs a law of single runs")
    made = [role for role in type(law).inputs() if role not in rows]
    if made:
        raise InputError(f"{law.NAME}: {', '.join(made)} come from whole runs, not from rows; there is no back-test")
    at = {role: rows[role] for role in type(law).inputs()}
    with np.errstate(all="ignore"):
        predicted = np.broadcast_to(np.asarray(law.predict(**at), dtype=np.float64), (len(rows),))
    if not len(result.draws):
        return predicted, predicted, predicted
    with np.errstate(all="ignore"):
        draws = type(law)(*(column[:, None] for column in result.draws.T)).predict(**at)
    noise = np.random.default_rng(0).standard_normal((len(draws), 1)) * (result.certificate.rms_log_residual or 0.0)
    spread = draws + noise if result.additive else draws * np.exp(noise)
    level = result.spec.level
    low, high = np.nanpercentile(spread, [50 * (1 - level), 50 * (1 + level)], axis=0)
    return predicted, np.broadcast_to(low, predicted.shape), np.broadcast_to(high, predicted.shape)


def rolling(columns: Columns, law: type[Law], spec: FitSpec, fewest: int | None = None) -> Rolling:
    """Back-tests at every budget of the grid; splits whose fit fails are left out.

    `fewest` rows are left to fit in each. Raises InputError when no split is possible.
    """
    fewest = len(law.of(columns.parts).names()) + MARGIN if fewest is None else fewest
    found, why = [], "too few rows below the largest budget"
    for held in held_out(columns, fewest):
        try:
            found.append(back_test(columns, law, spec, held))
        except (InputError, FitError) as error:
            why = str(error)
    if not found:
        raise InputError(f"GRID: no back-test of {law.NAME} ({why.removeprefix('GRID: ')})")
    return Rolling(law.NAME, tuple(found))


def try_back_test(columns: Columns, law: type[Law], spec: FitSpec) -> tuple[BackTest | None, str]:
    """The back-test, or why there is none."""
    try:
        return back_test(columns, law, spec), ""
    except (InputError, FitError) as error:
        return None, str(error)


def hindsight(columns: Columns, law: type[Law], spec: FitSpec) -> tuple[BackTest | None, str, Rolling | None]:
    """The test on the largest budget (or why there is none) and those on all: the former is the last of the latter."""
    every, _ = try_rolling(columns, law, spec)
    held, _ = largest_budget(columns)
    if every and np.array_equal(every.splits[-1].rows, columns.row[held]):
        return every.splits[-1], "", every
    return *try_back_test(columns, law, spec), every


def try_rolling(columns: Columns, law: type[Law], spec: FitSpec) -> tuple[Rolling | None, str]:
    """The rolling back-test, or why there is none."""
    try:
        return rolling(columns, law, spec), ""
    except (InputError, FitError) as error:
        return None, str(error)


REPLICATES = 200  # of each fit of a back-test


def hindsight_summary(columns: Columns, law: type[Law], spec: FitSpec) -> dict[str, Any]:
    """The rolling back-test of a fit for its JSON, or the reason why there is none."""
    from analysis.questions import backtest

    test, why = backtest.try_rolling(columns, law, dataclasses.replace(spec, bootstrap=min(spec.bootstrap, REPLICATES)))
    return test.summary() if test else {"reason": why.removeprefix("GRID: ")}
