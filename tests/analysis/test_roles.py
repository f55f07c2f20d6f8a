"""Roles find their columns, and say what else could have been meant."""

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import laws
from analysis.fitting.spec import FitSpec
from analysis.grid.selection import select
from analysis.grid.table import Columns
from analysis.laws.chinchilla import Chinchilla
from analysis.questions import fit as fitting
from experiments.cli import InputError
from tests.support import planted


def checkpoints(runs: int = 8, each: int = 6, scatter: float = 0.006, seed: int = 0) -> pd.DataFrame:
    """Runs of growing size, `each` checkpoints of every one, and scatter from run to run."""
    stream = np.random.default_rng(seed)
    rows = []
    for run, N in enumerate(np.geomspace(1e7, 1e9, runs)):
        luck = np.exp(scatter * stream.normal())
        for D in 20 * N * np.geomspace(0.05, 1, each):
            rows.append({"run": f"r{run}", "params": N, "tokens": D, "loss": planted.TRUTH.predict(N, D) * luck})
    return pd.DataFrame(rows)


def chosen(frame: pd.DataFrame, columns: str | None = None) -> Columns:
    return select(planted.grid(frame), Chinchilla.ROLES, optional=Chinchilla.OPTIONAL, columns=columns)


@pytest.mark.parametrize(
    ("names", "offered"),
    [(["train/params"], "train/params"), (["train/params", "eval/params"], "COLUMN"), (["size"], "COLUMN")],
)
def test_a_missing_role_offers_the_one_column_that_a_logger_put_in_a_folder(names, offered):
    frame = pd.DataFrame({name: [1e8, 2e8] for name in names} | {"tokens": [1e9, 2e9], "loss": [3.0, 2.9]})
    with pytest.raises(InputError, match=f"name it with --columns=N={offered}$"):
        chosen(frame)


@pytest.mark.parametrize("name", ["note", "group", "status", "family"])
def test_a_column_of_text_may_have_gaps(name):
    """As formats have in a grid in which some runs are not rounded."""
    frame = planted.isoflop_frame(noise=0.003, seed=2, budgets=4)
    frame[name] = ["int4", None] * (len(frame) // 2) + ["int8"] * (len(frame) % 2)
    assert len(chosen(frame)["N"]) == len(frame)


@pytest.mark.parametrize("name", ["run", "run_id", "run_name"])
def test_rows_of_one_run_are_found_by_the_name_of_their_column(name):
    frame = checkpoints().rename(columns={"run": name})
    assert chosen(frame).sources["run"] == name
    spec = FitSpec(bootstrap=60, thorough=False, starts=8)
    of_runs = fitting.fit(chosen(frame), Chinchilla, spec)
    assert of_runs.freedom == 8 - 5


@pytest.mark.parametrize("role", ["weight", "X", "censored", "run", "lr", "proportion", "task_loss", "accuracy"])
def test_the_own_name_of_a_role_is_always_tried(role):
    frame = planted.isoflop_frame().assign(**{role: np.linspace(0.5, 1, 35)})
    assert select(planted.grid(frame), (role,)).sources[role] == role


def test_one_quantity_is_found_by_its_name():
    X = np.geomspace(1, 1e3, 20)
    frame = pd.DataFrame({"X": X, "loss": 1.5 + 3 * X**-0.5})
    assert pytest.approx(1.5, rel=1e-4) == analysis.fit(frame, "plateau", bootstrap=0).law.E


@pytest.mark.parametrize("name", ["name", "ID", "experiment", "variant"])
def test_columns_that_look_like_runs_are_asked_about(name):
    frame = checkpoints(runs=4)
    again = frame.assign(run="again " + frame["run"], loss=1.001 * frame["loss"])
    both = pd.concat([frame, again], ignore_index=True).rename(columns={"run": name})
    columns = chosen(both)
    assert "run" not in columns
    assert any(f"--columns=run={name}" in note for note in columns.notes)
    assert not any("--columns=run" in note for note in chosen(both, f"run={name}").notes)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(lambda frame: [f"row {at}" for at in range(len(frame))], id="one a row"),
        pytest.param(lambda frame: ["mine"] * len(frame), id="one for all"),
        pytest.param(lambda frame: [f"{N / 1e6:.0f}M" for N in frame["params"]], id="sizes"),
    ],
)
def test_other_labels_are_not_asked_about(labels):
    frame = planted.isoflop_frame()
    frame = frame.assign(variant=labels(frame))
    assert not any("--columns=run" in note for note in chosen(frame).notes)


def test_a_run_that_holds_all_rows_marks_nothing():
    columns = chosen(planted.isoflop_frame().assign(run="sweep"))
    assert "run" not in columns and "run" not in columns.sources
    assert any("column run has one value in all rows" in note for note in columns.notes)


def test_two_candidates_for_a_role_are_named():
    frame = planted.isoflop_frame()
    frame["N"] = 0.8 * frame["params"]
    note = next(note for note in chosen(frame).notes if note.startswith("N is N"))
    assert "also there: params (--columns=N=params takes that)" in note
    assert not any(note.startswith("N is") for note in chosen(frame, "N=params").notes)
    assert not any(note.startswith("N is") for note in chosen(frame.assign(N=frame["params"])).notes)


def test_a_group_is_a_budget_where_its_rows_have_one_cost():
    law = laws.load("isoflop")
    frame = planted.isoflop_frame()
    budgets = frame.assign(group=np.repeat(list("abcde"), 7))
    others = frame.assign(group="all_data")
    for one, expected in ((budgets, True), (others, False)):
        columns = select(planted.grid(one), law.ROLES, optional=law.OPTIONAL)
        assert ("group" in columns) is expected
