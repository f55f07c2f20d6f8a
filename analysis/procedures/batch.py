"""Fit critical batch sizes from runs of several batch sizes."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.formula_fit import fit_one_formula
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.critical_batch import BatchTrajectory, CriticalBatch, StepsExamples
from analysis.laws.kaplan import KaplanN
from analysis.solve.objective import Objective
from experiments.cli import InputError


def contours(columns: Columns, losses: Sequence[float]) -> Columns:
    """Where each run first reaches each of the losses: rows with roles loss, batch, S, and the run they come from.

    `columns` holds checkpoints: roles run, S, batch, loss. ln S is interpolated straight in the loss between the
    checkpoints on either side, along the least loss so far. A run that starts below a loss, or never reaches it, gives
    no row for it. Raises InputError when no run crosses any of them.
    """

    found: list[tuple[float, float, float, Any, int]] = []
    for run in dict.fromkeys(columns["run"]):
        rows = np.flatnonzero(columns["run"] == run)
        rows = rows[np.argsort(columns["S"][rows], kind="stable")]
        least = np.minimum.accumulate(columns["loss"][rows])
        for loss in losses:
            if not least[-1] <= loss < least[0]:
                continue
            after = int(np.argmax(least <= loss))
            share = (least[after - 1] - loss) / (least[after - 1] - least[after])
            before, behind = np.log(columns["S"][rows[after - 1]]), np.log(columns["S"][rows[after]])
            S = float(np.exp(before + share * (behind - before)))
            found.append((loss, float(columns["batch"][rows[after]]), S, run, int(columns.row[rows[after]])))
    if not found:
        raise InputError(
            f"losses: no run crosses any of {list(losses)}; expected losses within the range of the curves"
        )
    loss, batch, S, runs, row = zip(*found, strict=True)
    values = {"loss": np.array(loss), "batch": np.array(batch), "S": np.array(S), "run": np.array(runs)}
    return Columns(values, np.array(row), {role: role for role in values}, ())


def critical_batches(columns: Columns, spec: FitSpec | None = None) -> Columns:
    """(loss, critical_batch) from rows (loss, batch, S): one trade-off curve for each loss with two or more batches.

    Raises InputError where no loss has two.
    """

    spec = dataclasses.replace(spec or FitSpec(), bootstrap=0, objective=None)
    found: list[tuple[float, float, int]] = []
    for loss in np.unique(columns["loss"]):
        part = columns.take(columns["loss"] == loss)
        if len(np.unique(part["batch"])) < 2:
            continue
        law = fit_one_formula(part, StepsExamples, spec).law
        if 0 < law.critical_batch() < np.inf and law.S_min > 1e-9 and law.E_min > 1e-9:
            found.append((float(loss), float(law.critical_batch()), int(part.row[0])))
    if not found:
        raise InputError("GRID: no loss is reached at two batch sizes that differ in steps and in tokens; expected one")
    loss, critical, row = zip(*found, strict=True)
    values = {"loss": np.array(loss), "critical_batch": np.array(critical)}
    return Columns(values, np.array(row), {role: role for role in values}, ())


def three_steps(converged: Columns, tradeoff: Columns, curves: Columns) -> BatchTrajectory:
    """The constants of BatchTrajectory in the three steps of Su et al. 2024, each from runs that suit it.

    1. N_c and alpha_N from the losses of `converged` small models (roles N, loss) on data without end.
    2. B_star and alpha_B from `tradeoff` (roles loss, batch, S): steps to equal losses at several batch sizes.
    3. S_c and alpha_S from loss `curves` (roles N, S, batch, loss), with the steps turned into S_min by step 2.
    A joint fit of BatchTrajectory uses every row for every constant; this shows which runs decide which.
    """

    quick = FitSpec(bootstrap=0)
    size = fit_one_formula(
        converged, KaplanN, dataclasses.replace(quick, objective=Objective("least_squares", "log"))
    ).law
    critical = fit_one_formula(critical_batches(tradeoff), CriticalBatch, quick).law
    known = {"N_c": size.A_N ** (1 / size.alpha_N), "alpha_N": size.alpha_N} | critical.coefficients()
    return fit_one_formula(curves, BatchTrajectory, dataclasses.replace(quick, fixed=known)).law
