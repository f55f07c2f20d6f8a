"""Fit critical batch sizes from runs of several batch sizes."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from analysis.fitting.formula_fit import fit_one_formula
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.laws.critical_batch import BatchTrajectory, CriticalBatch, StepsExamples
from analysis.laws.kaplan import KaplanN
from analysis.solve.objective import Objective
from experiments.cli import InputError

QUICK = FitSpec(bootstrap=0)
LEAST_CONSTANT = 1e-9  # of S_min and E_min; below, the curve is a power law without a critical batch


def contours(columns: Columns, losses: Sequence[float]) -> Columns:
    """Find where each run first reaches each of the losses: rows with roles loss, batch, S, and the run they come from.

    `columns` holds checkpoints: roles run, S, batch, loss. ln S is interpolated straight in the loss between the
    checkpoints on either side, along the least loss so far. A run that starts below a loss, or never reaches it, gives
    no row for it. Raises InputError when no run crosses any of them.
    """
    found: dict[str, list[float]] = {"loss": [], "batch": [], "S": []}
    runs = []
    file_rows: list[int] = []
    for run in dict.fromkeys(columns["run"]):
        rows = np.flatnonzero(columns["run"] == run)
        rows = rows[np.argsort(columns["S"][rows], kind="stable")]
        least = np.minimum.accumulate(columns["loss"][rows])
        log_steps = np.log(columns["S"][rows])
        for loss in losses:
            if not least[-1] <= loss < least[0]:
                continue
            after = int(np.argmax(least <= loss))
            found["loss"].append(loss)
            found["batch"].append(float(columns["batch"][rows[after]]))
            found["S"].append(_steps_to(loss, least, log_steps, after))
            runs.append(run)
            file_rows.append(int(columns.row[rows[after]]))
    if not runs:
        raise InputError(
            f"losses: no run crosses any of {list(losses)}; expected losses within the range of the curves"
        )
    values = {role: np.array(column) for role, column in found.items()} | {"run": np.array(runs)}
    return Columns(values, np.array(file_rows), {role: role for role in values}, ())


def _steps_to(loss: float, least: Array, log_steps: Array, after: int) -> float:
    """Return the steps at which a curve reaches a loss between the checkpoints `after` - 1 and `after`."""
    before = after - 1
    share = (least[before] - loss) / (least[before] - least[after])
    return float(np.exp(log_steps[before] + share * (log_steps[after] - log_steps[before])))


def critical_batches(columns: Columns, spec: FitSpec | None = None) -> Columns:
    """Fit (loss, critical_batch) to rows (loss, batch, S): one trade-off curve for each loss with two or more batches.

    Raises InputError where no loss has two.
    """
    spec = dataclasses.replace(spec or FitSpec(), bootstrap=0, objective=None)
    found: dict[str, list[float]] = {"loss": [], "critical_batch": []}
    file_rows: list[int] = []
    for loss in np.unique(columns["loss"]):
        rows = columns.take(columns["loss"] == loss)
        if len(np.unique(rows["batch"])) < 2:
            continue
        law = fit_one_formula(rows, StepsExamples, spec).law
        critical = float(law.critical_batch())
        has_both_limits = law.S_min > LEAST_CONSTANT and law.E_min > LEAST_CONSTANT
        if 0 < critical < np.inf and has_both_limits:
            found["loss"].append(float(loss))
            found["critical_batch"].append(critical)
            file_rows.append(int(rows.row[0]))
    if not file_rows:
        raise InputError("GRID: no loss is reached at two batch sizes that differ in steps and in tokens; expected one")
    values = {role: np.array(column) for role, column in found.items()}
    return Columns(values, np.array(file_rows), {role: role for role in values}, ())


def three_steps(converged: Columns, tradeoff: Columns, curves: Columns) -> BatchTrajectory:
    """Fit the constants of BatchTrajectory in the three steps of Su et al. 2024, each to runs that suit it.

    1. N_c and alpha_N from the losses of `converged` small models (roles N, loss) on data without end.
    2. B_star and alpha_B from `tradeoff` (roles loss, batch, S): steps to equal losses at several batch sizes.
    3. S_c and alpha_S from loss `curves` (roles N, S, batch, loss), with the steps turned into S_min by step 2.
    A joint fit of BatchTrajectory uses every row for every constant; this shows which runs decide which.
    """
    least_squares = dataclasses.replace(QUICK, objective=Objective("least_squares", "log"))
    size = fit_one_formula(converged, KaplanN, least_squares).law
    critical = fit_one_formula(critical_batches(tradeoff), CriticalBatch, QUICK).law
    known = {"N_c": size.A_N ** (1 / size.alpha_N), "alpha_N": size.alpha_N} | critical.coefficients()
    return fit_one_formula(curves, BatchTrajectory, dataclasses.replace(QUICK, fixed=known)).law
