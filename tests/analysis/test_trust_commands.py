"""The commands that compare laws, freeze forecasts and propose runs: what they write, and one line for bad input."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.support import planted
from tests.support.commands import command

QUICK = "--bootstrap=60"


@pytest.fixture(scope="module")
def grids(tmp_path_factory):
    """A grid, its rows below the largest budget, and a table of candidates without losses."""
    folder = tmp_path_factory.mktemp("trust")
    frame = planted.isoflop_frame(noise=0.004, seed=7)
    frame.to_csv(folder / "all.csv", index=False)
    frame[:28].to_csv(folder / "small.csv", index=False)
    frame[20:].drop(columns="loss").assign(name=lambda rows: [f"run {at}" for at in rows.index]).to_csv(
        folder / "candidates.csv", index=False
    )
    return folder


def test_scoreboard(grids):
    out = grids / "scoreboard.json"
    done = command("analysis.scoreboard", str(grids / "all.csv"), "--laws=chinchilla,kaplan_c", QUICK, f"--out={out}")
    assert done.returncode == 0, done.stderr
    data = json.loads(out.read_text())
    assert done.stdout.startswith("verdict: the rows support every coefficient")
    assert data["schema"] == 1 and data["rows_used"] == 35
    assert all(law["verdict"]["supported"] and not law["not_identified"] for law in data["laws"])
    assert [law["law"] for law in data["laws"]] == ["chinchilla", "kaplan_c"]
    assert sum(law["weight"] for law in data["laws"]) == pytest.approx(1)
    assert all(part["predictions"] > 0 for law in data["laws"] for part in law["by_factor"])
    assert "held-out error" in done.stdout and "chinchilla" in done.stdout


def test_a_forecast_is_frozen_and_scored(grids):
    fit, frozen, scores = grids / "fit.json", grids / "forecasts" / "big.json", grids / "scores.json"
    assert command("analysis.fit", str(grids / "small.csv"), QUICK, f"--out={fit}").returncode == 0
    row = planted.isoflop_frame(noise=0.004, seed=7).iloc[30]
    at = f"--at=N={row['params']},D={row['tokens']}"
    done = command("analysis.forecast", str(fit), at, f"--out={frozen}")
    assert done.returncode == 0 and "frozen" in done.stdout and "N = " in done.stdout, done.stderr
    again = command("analysis.forecast", str(fit), at, f"--out={frozen}")
    assert again.returncode == 2 and "never overwritten" in again.stderr
    figure = grids / "calibration.svg"
    done = command(
        "analysis.forecast",
        str(frozen),
        f"--score={grids / 'all.csv'}",
        f"--out={scores}",
        f"--figure={figure}",
    )
    assert done.returncode == 0, done.stderr
    assert 'data-run="30"' in figure.read_text()
    data = json.loads(scores.read_text())
    assert data["scores"][0]["row"] == 30 and data["scores"][0]["observed"] == pytest.approx(row["loss"])
    assert data["waiting"] == {} and [one["level"] for one in data["calibration"]] == [0.5, 0.8, 0.9, 0.95]


def test_design(grids):
    out = grids / "design.json"
    done = command(
        "analysis.design", str(grids / "small.csv"), "--target=loss@C=1e22", f"--candidates={grids / 'candidates.csv'}",
        "--budget=3e20", "--count=3", "--laws=chinchilla", "--bootstrap=200", f"--out={out}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads(out.read_text())
    assert data["target"] == {"name": "loss", "at": {"C": 1e22}} and data["laws"] == {"chinchilla": 1.0}
    assert 1 <= len(data["runs"]) <= 3 and data["runs"][-1]["spent"] <= 3e20
    assert all(run["low"] >= data["now"]["low"] and run["high"] <= data["now"]["high"] for run in data["runs"])
    candidates = (grids / "candidates.csv").read_text().splitlines()[1:]
    for run in data["runs"]:  # rows of the file, so that they can be found in it
        assert float(candidates[run["row"]].split(",")[0]) == pytest.approx(run["N"])


@pytest.fixture(scope="module")
def of_ladder(grids):
    """A grid whose tokens follow from its parameters, fitted by a command that demands every coefficient."""
    N = np.geomspace(1e7, 1e10, 12)
    table = pd.DataFrame({"params": N, "tokens": 20 * N, "loss": planted.TRUTH.predict(N, 20 * N)})
    table["loss"] *= np.exp(0.003 * np.random.default_rng(0).standard_normal(12))
    table.to_csv(grids / "ladder.csv", index=False)
    demand = ("--bootstrap=20", "--noback_test", "--require=identified")
    return command("analysis.fit", str(grids / "ladder.csv"), *demand, f"--out={grids / 'ladder.json'}")


def test_a_script_that_requires_an_answer_fails_where_the_rows_do_not_tell_it(grids, of_ladder):
    """What was found is written and printed all the same; without --require that the rows do not tell is an answer."""
    assert of_ladder.returncode == 1 and of_ladder.stdout.startswith("verdict: the rows do not tell E, ")
    (said,) = of_ladder.stderr.strip().splitlines()
    assert said.startswith("error: --require=identified: the rows do not tell E, A, B, alpha, beta, ")
    fit = str(grids / "ladder.json")
    for at, required, status in (
        ("C=1e24", (), 0),
        ("C=1e24", ("identified",), 1),
        ("N=2e10,D=4e11", ("identified",), 0),
    ):
        flags = [f"--require={word}" for word in required]
        done = command("analysis.predict", fit, f"--at={at}", *flags)
        assert done.returncode == status, done.stderr
        first, *_ = done.stdout.splitlines()
        assert first.startswith("verdict: the rows do not tell E, ") and first.endswith(")")  # one line, in a file too


@pytest.mark.slow
def test_other_questions_can_be_required_an_answer_too(grids, of_ladder):
    ladder = pd.read_csv(grids / "ladder.csv")
    both = pd.concat([ladder.assign(family="dense"), ladder.assign(family="moe")])
    both.to_csv(grids / "two.csv", index=False)
    demand = ("--bootstrap=20", "--require=identified", f"--out={grids / 'answer.json'}", "--overwrite")
    design = ("--target=E", "--laws=chinchilla,overtraining")
    for question, grid, options in (
        ("design", "ladder", design),
        ("compare", "two", ("--by=family",)),
        ("fit", "two", ("--by=family",)),
    ):
        done = command(f"analysis.{question}", str(grids / f"{grid}.csv"), *options, *demand)
        assert done.returncode == 1 and "error: --require=identified: the rows do not tell " in done.stderr, done.stderr
        assert (grids / "answer.json").exists() and done.stdout.startswith("verdict")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scoreboard", "{all}", "--laws=chinchila"), "did you mean 'chinchilla'"),
        (("scoreboard", "{all}", "--laws=isoflop"), "isoflop is not a law of the loss of single runs"),
        (("design", "{all}", "--target=loss@N=1"), "loss of chinchilla is taken at"),
        (("design", "{all}", "--target=E", "--budget=-1"), "--budget: -1.0 is not a positive number"),
        (("design", "{all}", "--target=E", "--candidates={missing}"), "does not exist"),
        (("forecast", "{missing}", "--at=N=1,D=1", "--out={new}"), "does not exist"),
        (("forecast", "{all}", "--score={all}", "--out={new}"), "is not a forecast"),
        (("fit", "{all}", "--resample=jack", "--out={new}"), "'jack' is not a bootstrap"),
        (("fit", "{all}", "--above=0", "--out={new}"), "--above: 0.0 is not above 0"),
        (("fit", "{all}", "--fix=E", "--out={new}"), "--fix: 'E' is not COEFFICIENT=NUMBER"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(grids, arguments, message):
    names = {"all": grids / "all.csv", "missing": grids / "missing.json", "new": grids / "new.json"}
    done = command(f"analysis.{arguments[0]}", *(argument.format(**names) for argument in arguments[1:]))
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (grids / "new.json").exists()


def test_a_flag_of_the_objective_leaves_the_rest_to_the_law(grids):
    """--above alone keeps the over-training law's own least squares of plain residuals."""
    out = grids / "over.json"
    done = command(
        "analysis.fit",
        str(grids / "all.csv"),
        "--law=overtraining",
        "--above=0.5",
        "--bootstrap=0",
        f"--out={out}",
    )
    assert done.returncode == 0, done.stderr
    chosen = json.loads(out.read_text())["options"]
    assert (chosen["loss"], chosen["residual"], chosen["above"]) == ("least_squares", "raw", 0.5)
