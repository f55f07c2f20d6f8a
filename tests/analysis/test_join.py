"""A table of runs is joined to histories that do not hold the configuration."""

import pathlib

import numpy as np
import pandas as pd
import pytest

import analysis
from experiments.cli import InputError
from tests.support import planted
from tests.support.commands import command


def tables(runs: int = 12, steps: int = 6) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The chart of a loss that W&B exports (a column for each run), and its table of runs."""
    step = np.geomspace(100, 20000, steps).round()
    chart = pd.DataFrame({"Step": step})
    rows = []
    for run, N in enumerate(np.geomspace(1e7, 1e9, runs)):
        name = f"swift-sound-{run}"
        batch = 1e5 * 2 ** (run % 4)
        loss = planted.TRUTH.predict(N, step * batch)
        for end in ("", "__MIN", "__MAX"):
            chart[f"{name} - val/loss{end}"] = loss
        rows.append(
            {
                "Name": name,
                "ID": f"a{run:03d}",
                "State": "finished",
                "config.params": N,
                "config.batch": batch,
                "summary.best": loss.min(),
            }
        )
    return chart, pd.DataFrame(rows).sample(frac=1, random_state=0)


NAMED = "N=config.params,D=Step*config.batch,loss=`val/loss`"


def test_histories_of_wandb_find_the_configuration_of_their_runs(tmp_path):
    chart, runs = tables()
    chart.to_csv(tmp_path / "chart.csv", index=False)
    runs.to_csv(tmp_path / "runs.csv", index=False)
    out = tmp_path / "fit.json"
    flags = [f"--join={tmp_path / 'runs.csv'}", f"--columns={NAMED}", "--bootstrap=0", "--back_test=false"]
    done = command("analysis.fit", tmp_path / "chart.csv", *flags, f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "joined by run = Name" in " ".join(done.stdout.split())
    grid = analysis.read(str(tmp_path / "chart.csv"), join=str(tmp_path / "runs.csv"))
    names = {"N": "config.params", "D": "Step*config.batch", "loss": "val/loss"}
    found = analysis.fit(grid, bootstrap=0, **names)
    assert found.law.alpha == pytest.approx(planted.TRUTH.alpha, rel=1e-4)
    assert found.columns.sources["run"] == "run" and len(found.columns) == 72


def histories() -> tuple[pd.DataFrame, pd.DataFrame]:
    _, runs = tables()
    rows = [{"run": f"a{run:03d}", "step": step, "loss": 3.0} for run in range(12) for step in (1, 2)]
    return pd.DataFrame(rows), runs


def test_the_key_is_found_or_named_and_rows_without_a_run_are_told():
    history, runs = histories()
    history.loc[len(history)] = {"run": "other", "step": 1, "loss": 2.0}
    for on in (None, "run=ID"):
        grid = analysis.read(history, join=runs.assign(loss=9.0), on=on)
        assert grid.frame["config.params"].iloc[0] == runs.set_index("ID")["config.params"]["a000"]
        assert grid.frame["config.params"].isna().sum() == 1
        assert (grid.frame["loss"] < 4).all()
        notes = " ".join(grid.notes)
        assert "joined by run = ID" in notes
        assert "1 of 25 rows have no run" in notes
        assert "loss of DataFrame are left out: the rows have their own" in notes


@pytest.mark.parametrize(
    ("change", "on", "message"),
    [
        (lambda runs: runs.assign(ID="same"), "run=ID", "--join: ID 'same' stands in rows 0 and 1"),
        (lambda runs: runs, "run=Name", "--on: no run of DataFrame is a Name of DataFrame: 'a000' is none of swift"),
        (lambda runs: runs, "run=Id of run", "--on: 'Id of run' is not a column"),
        (
            lambda runs: runs.drop(columns="ID"),
            None,
            "--join: no column of DataFrame names runs as one of DataFrame does",
        ),
    ],
)
def test_tables_without_a_common_key_are_refused(change, on, message):
    history, runs = histories()
    with pytest.raises(InputError, match=message):
        analysis.read(history, join=change(runs), on=on)


def test_a_key_for_nothing_is_refused(tmp_path: pathlib.Path):
    path = tmp_path / "grid.csv"
    planted.isoflop_frame().to_csv(path, index=False)
    done = command("analysis.fit", path, "--on=run", f"--out={tmp_path / 'fit.json'}")
    assert done.returncode == 2 and "--on=run: nothing is joined" in done.stderr
    assert not (tmp_path / "fit.json").exists()
