"""Fit critical batch sizes from runs of several batch sizes."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

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
    label = columns["run"]
    for run in dict.fromkeys(label):
        rows = np.flatnonzero(label == run)
        by_step = np.argsort(columns["S"][rows], kind="stable")
        rows = rows[by_step]
        own_losses = columns["loss"][rows]
        log_steps = np.log(columns["S"][rows])
        # Losses are noisy: along the least one so far, a run reaches each loss once.
        least = np.minimum.accumulate(own_losses)
        for loss in losses:
            if not least[-1] <= loss < least[0]:
                continue
            after = int(np.argmax(least <= loss))
            checkpoint = rows[after]
            batch = columns["batch"][checkpoint]
            found["loss"].append(loss)
            found["batch"].append(float(batch))
            found["S"].append(_steps_to(loss, least, log_steps, after))
            runs.append(run)
            file_rows.append(int(columns.row[checkpoint]))
    if not runs:
        raise InputError(
            f"losses: no run crosses any of {list(losses)}; expected losses within the range of the curves"
        )
    return _table(found | {"run": runs}, file_rows)


def _table(found: Mapping[str, list[Any]], file_rows: list[int]) -> Columns:
    """Return columns of what was found by role, with the rows of the file that each comes from."""
    values = {role: np.array(column) for role, column in found.items()}
    sources = {role: role for role in values}
    return Columns(values, np.array(file_rows), sources, ())


def _steps_to(loss: float, least: Array, log_steps: Array, after: int) -> float:
    """Return the steps at which a curve reaches a loss between the checkpoints `after` - 1 and `after`."""
    before = after - 1
    fall = least[before] - least[after]
    share = (least[before] - loss) / fall
    distance = log_steps[after] - log_steps[before]
    log_reached = log_steps[before] + share * distance
    return float(np.exp(log_reached))


def critical_batches(columns: Columns, spec: FitSpec | None = None) -> Columns:
    """Fit (loss, critical_batch) to rows (loss, batch, S): one trade-off curve for each loss with two or more batches.

    Raises InputError where no loss has two.
    """
    spec = dataclasses.replace(spec or FitSpec(), bootstrap=0, objective=None)
    found: dict[str, list[float]] = {"loss": [], "critical_batch": []}
    file_rows: list[int] = []
    for loss in np.unique(columns["loss"]):
        rows = columns.take(columns["loss"] == loss)
        batches = np.unique(rows["batch"])
        if len(batches) < 2:
            continue
        result = fit_one_formula(rows, StepsExamples, spec)
        law = result.law
        critical = float(law.critical_batch())
        has_both_limits = law.S_min > LEAST_CONSTANT and law.E_min > LEAST_CONSTANT
        if 0 < critical < np.inf and has_both_limits:
            found["loss"].append(float(loss))
            found["critical_batch"].append(critical)
            file_rows.append(int(rows.row[0]))
    if not file_rows:
        raise InputError("GRID: no loss is reached at two batch sizes that differ in steps and in tokens; expected one")
    return _table(found, file_rows)


def three_steps(converged: Columns | None, tradeoff: Columns, curves: Columns) -> BatchTrajectory:
    """Fit the constants of BatchTrajectory in the three steps of Su et al. 2024, each to runs that suit it.

    1. N_c and alpha_N from the losses of `converged` small models (roles N, loss) on data without end. None: there are no
       such models, and both come from the curves with step 3; the least loss of a run that still falls would do for neither.
    2. B_star and alpha_B from `tradeoff` (roles loss, batch, S): steps to equal losses at several batch sizes.
    3. S_c and alpha_S from loss `curves` (roles N, S, batch, loss), with the steps turned into S_min by step 2.
    A joint fit of BatchTrajectory uses every row for every constant; this shows which runs decide which.
    """
    batches = critical_batches(tradeoff)
    known = fit_one_formula(batches, CriticalBatch, QUICK).law.coefficients()
    if converged is not None:
        least_squares = dataclasses.replace(QUICK, objective=Objective("least_squares", "log"))
        size = fit_one_formula(converged, KaplanN, least_squares).law
        # BatchTrajectory has (N_c / N)^alpha_N where KaplanN has A_N N^-alpha_N.
        n_c = size.A_N ** (1 / size.alpha_N)
        known |= {"N_c": n_c, "alpha_N": size.alpha_N}
    held = dataclasses.replace(QUICK, fixed=known)
    return fit_one_formula(curves, BatchTrajectory, held).law
