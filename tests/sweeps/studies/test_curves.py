"""Laws of curves are fitted to recorded evaluations of our own studies, by the names that their columns have.

recorded/batches.csv, wsd_curves.csv and scaling_nxd_curves.csv are what `sweeps.collect --evaluations` wrote of sweeps/studies/batches.py,
wsd.py and scaling.py:nxd, each in an earlier and smaller design, without the columns that no test looks at.
"""

import functools
import pathlib

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.selection import select
from analysis.grid.table import load
from analysis.laws import LAWS, schedules
from analysis.questions import trajectory
from analysis.questions.fit import fit
from tests.support import planted

RECORDED = pathlib.Path(__file__).parent / "recorded"


@functools.cache
def recorded(name: str) -> pd.DataFrame:
    return pd.read_csv(RECORDED / f"{name}.csv")


def fitted(frame: pd.DataFrame, law: str, where: str | None = None) -> FitResult:
    """A law fitted to a table, as the command does it without --columns."""
    kind = LAWS[law]
    grid = planted.grid(frame)
    columns = select(grid, kind.ROLES, optional=kind.OPTIONAL, signed=kind.SIGNED, where=where)
    return fit(columns, kind, FitSpec(bootstrap=0))


def test_the_annealing_law_tells_what_a_cooldown_gives():
    """Fitted to the areas and, from the rates alone, to whole curves; a cooldown lowers the loss in both."""
    frame = recorded("wsd_curves")
    areas = fitted(frame, "annealing", "width==32 and inherited==0").law
    curves = fitted(frame, "annealing_curve", "width==32 and group=='cooldown'")
    assert 0.05 < areas.C < 0.5 and 0.1 < curves.law.C < 1.0
    assert curves.details["decay"] in schedules.DECAYS
    used = curves.columns
    off = curves.law.predict(used["S1"], used["S2"]) / used["loss"] - 1
    assert np.abs(off).max() < 0.03 and len(used) == 38


def test_three_steps_predict_a_size_and_its_batches():
    """Curves of the largest size are left out of all three steps, and predicted over their last half."""
    grid = load(str(RECORDED / "batches.csv"))
    small = select(grid, trajectory.ROLES, where="width!=48")
    large = select(grid, trajectory.ROLES, where="width==48")
    found = trajectory.ask(small, large)
    assert found.crossings > 50 and len(found.held) == 5
    assert 1e3 < found.law.critical_batch(2.1) < 1e4, "between the batches whose curves part, and those that agree"
    assert np.median([one.error_last_half for one in found.held]) < 0.05


@pytest.mark.slow
def test_all_constants_of_a_trajectory_are_told_by_curves():
    found = fitted(recorded("batches"), "batch_trajectory")
    assert not found.verdict.unknown and found.law.alpha_B == pytest.approx(0.37, rel=0.2)


def test_checkpoints_as_rows_extrapolate_no_worse_than_ends_alone():
    """Fitted to all runs but the larger and longer ones, whose ends are predicted (Choshen et al. 2024, arXiv 2410.11840)."""
    frame = recorded("scaling_nxd_curves")
    is_target = (frame["width"] >= 32) & (frame["run_tokens"] >= 512 * 500)
    ends = frame[is_target & (frame["last"] == 1)]
    small = frame[~is_target]
    errors = {}
    for name, rows in (("ends", small[small["last"] == 1]), ("checkpoints", small)):
        law = fitted(rows, "chinchilla").law
        said = law.predict(N=ends["params_total"].to_numpy(float), D=ends["tokens"].to_numpy(float))
        errors[name] = float(np.abs(said / ends["loss_nats"].to_numpy() - 1).mean())
    assert len(ends) == 6 and errors["checkpoints"] <= errors["ends"] < 0.1
