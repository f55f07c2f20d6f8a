"""Sweeps of what was tuned: the best run of each cell, and cells resampled whole."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import laws
from analysis.fitting.spec import FitSpec
from analysis.grid.selection import select
from analysis.grid.table import Columns
from analysis.laws.chinchilla import Chinchilla
from analysis.laws.lr_batch import StepLaw
from analysis.procedures.lr_batch import fit_lr_batch
from analysis.questions import fit as fitting
from experiments.cli import InputError
from tests.support import planted

QUICK = FitSpec(bootstrap=0, thorough=False, starts=16)
RATES = np.array([1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2])


def sweep(rates: np.ndarray = RATES, batches: tuple[int, ...] = (256, 512, 1024), seed: int = 0) -> pd.DataFrame:
    """Every run of an IsoFLOP grid at several learning rates and batches; tokens are rounded to whole steps."""
    stream = np.random.default_rng(seed)
    rows = []
    for run in planted.isoflop_frame(budgets=4, sizes=5, noise=1e-3, seed=1).to_dict("records"):
        for lr in rates:
            for batch in batches:
                off = np.log2(lr / 4e-3) ** 2 + np.log2(batch / 512) ** 2
                tokens = np.round(run["tokens"] / (2048 * batch)) * 2048 * batch
                loss = run["loss"] * (1 + 0.02 * off) * np.exp(1e-4 * stream.normal())
                rows.append({**run, "tokens": tokens, "loss": loss, "learning_rate": lr, "batch_tokens": 2048 * batch})
    return pd.DataFrame(rows)


def chosen(frame: pd.DataFrame, *best_of: str) -> Columns:
    grid = dataclasses.replace(planted.grid(frame), best_of=best_of)
    return select(grid, Chinchilla.ROLES, optional=Chinchilla.OPTIONAL)


@pytest.fixture(scope="module")
def frame():
    return sweep()


def test_the_best_run_of_each_cell_is_fitted(frame):
    best = chosen(frame, "lr", "batch")
    assert len(best) == 20 and len(best.dropped) == len(frame) - 20
    assert set(frame["learning_rate"].iloc[best.row]) == {4e-3} and set(frame["batch_tokens"].iloc[best.row]) == {2**20}
    assert all("is the best of its cell" in row.reason for row in best.dropped)
    law = fitting.fit(best, Chinchilla, QUICK).law
    assert law.optimum_exponents()["exponent_N"] == pytest.approx(
        planted.TRUTH.optimum_exponents()["exponent_N"], abs=0.03
    )


def test_names_are_those_of_columns_or_roles(frame):
    assert list(chosen(frame, "learning_rate", "batch_tokens").row) == list(chosen(frame, "lr", "batch").row)
    assert len(chosen(frame, "lr")) == 60  # a cell has one batch
    with pytest.raises(InputError, match="--best_of: 'learning_rat' is not a column"):
        chosen(frame, "learning_rat")
    with pytest.raises(InputError, match="--best_of: N is what the law depends on"):
        chosen(frame, "N")
    law = laws.load("accuracy")
    grid = dataclasses.replace(planted.grid(frame.assign(task_loss=1.0, accuracy=0.5)), best_of=("lr",))
    with pytest.raises(InputError, match="--best_of: takes the run of least loss"):
        select(grid, law.ROLES)


def test_from_python_names_stand_between_commas_or_one_by_one(frame):
    found = analysis.fit(frame, "chinchilla", best_of="lr, batch", bootstrap=0)
    assert len(found.columns) == 20 and found.columns.notes[0].startswith("the best of each of 20 cells is used")
    text = analysis.fit(frame, "chinchilla", best_of=("lr", "batch"), bootstrap=0)
    assert text.law == found.law


def test_a_sweep_is_noticed_and_its_rates_are_no_seeds(frame):
    columns = chosen(frame)
    assert any("--best_of=lr,batch" in note for note in columns.notes)
    certificate = fitting.fit(columns, Chinchilla, QUICK).certificate
    assert certificate.seed_noise is None
    assert not any("between seeds" in text for text in certificate.warnings)
    best = chosen(frame, "lr", "batch")
    assert not any("vary inside cells" in note for note in best.notes)


def test_seeds_are_still_seeds():
    frame = planted.isoflop_frame(noise=1e-3, seed=2).assign(lr=4e-3)
    twice = pd.concat([frame, frame.assign(loss=frame["loss"] * 1.001)], ignore_index=True)
    columns = chosen(twice)
    assert not any("--best_of" in note for note in columns.notes)
    assert fitting.fit(columns, Chinchilla, QUICK).certificate.seed_noise is not None


def test_a_best_rate_on_the_edge_is_said():
    columns = chosen(sweep(rates=np.array([4e-3, 8e-3, 1.6e-2])), "lr", "batch")
    assert any("in 20 of 20 cells the best lr is the smallest or largest tried" in note for note in columns.notes)
    assert not any("best batch is" in note for note in columns.notes)


def test_a_run_that_was_stopped_is_not_the_best(frame):
    rows = frame.assign(censored=0)
    first = rows.index[(rows["learning_rate"] == 1e-3) & (rows["batch_tokens"] == 2**20)][0]
    rows.loc[first, "censored"] = 1
    rows.loc[first, "loss"] *= 0.5
    assert first not in chosen(rows, "lr", "batch").row


# --- laws of learning rate and batch


def near_optimal(cells: int = 8, each: int = 12, seed: int = 0) -> pd.DataFrame:
    """Cells whose optima scatter from cell to cell, each with many runs that are as good."""
    stream = np.random.default_rng(seed)
    rows = []
    for at in range(cells):
        N = 1e8 * 2 ** (at % 4)
        D = 1e9 * 4 ** (at // 2)
        lr = 1.8 * N**-0.7 * D**0.3 * np.exp(0.15 * stream.normal())
        batch = 0.6 * D**0.57 * np.exp(0.15 * stream.normal())
        for _ in range(each):
            near = np.exp(0.01 * stream.standard_normal(2))
            loss = 3 + 1e-4 * stream.random()
            rows.append({"N": N, "D": D, "lr": lr * near[0], "batch": batch * near[1], "loss": loss})
    return pd.DataFrame(rows)


def test_cells_are_resampled_whole():
    columns = select(planted.grid(near_optimal()), StepLaw.ROLES)
    by_cell = fit_lr_batch(columns, StepLaw, FitSpec(bootstrap=200))
    by_point = fit_lr_batch(columns, StepLaw, FitSpec(bootstrap=200), resample="points")
    p = StepLaw.names().index("p")
    assert by_cell.draws[:, p].std() > 2 * by_point.draws[:, p].std()  # sqrt(12) is 3.5
    of_cell = by_cell.details["standard_errors"]["p"]
    assert of_cell > 2 * by_point.details["standard_errors"]["p"]
    assert of_cell == pytest.approx(by_cell.draws[:, p].std(), rel=0.6)
    with pytest.raises(InputError, match="resample: 'rows'"):
        fit_lr_batch(columns, StepLaw, FitSpec(bootstrap=0), resample="rows")
