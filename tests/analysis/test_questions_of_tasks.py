"""Emergence, difficulty, density, speed-up, trajectories and ranks as commands, on planted tables as our grids name their columns."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest

from analysis.laws.critical_batch import BatchTrajectory
from analysis.laws.density import Density
from analysis.laws.downstream import Accuracy, AnswerLoss, Difficulty
from tests.support.commands import run_command


def asked(command: str, frame: pd.DataFrame, folder: pathlib.Path, *flags: str) -> dict:
    """What a command says of a table, as it writes it."""
    path = folder / "grid.csv"
    frame.to_csv(path, index=False)
    out = folder / "answer.json"
    done = run_command(f"analysis.{command}", str(path), f"--json={out}", *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()) | {"said": done.stdout}


def refused(command: str, frame: pd.DataFrame, folder: pathlib.Path, *flags: str) -> str:
    path = folder / "grid.csv"
    frame.to_csv(path, index=False)
    done = run_command(f"analysis.{command}", str(path), *flags)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


SIZES = np.geomspace(1e5, 1e8, 8)


@pytest.mark.parametrize(("bend", "verdict"), [(0.0, "power law"), (-0.25, "accelerated")])
def test_emergence(bend: float, verdict: str, tmp_path: pathlib.Path):
    """A task of a grid of ours is found by its name; the only one without it."""
    x = np.log(SIZES / 3e6)
    rate = np.exp(-np.exp(0.8 - 0.3 * x + bend * x**2))
    frame = pd.DataFrame({"params_total": SIZES, "status": "complete", "task_facts_loss": -np.log(rate)})
    frame["task_facts_pass_rate"] = rate * (1 + 0.004 * np.random.default_rng(0).standard_normal(8))
    frame["task_facts_pass_rate_sem"] = 0.005 * rate
    found = asked("emergence", frame, tmp_path)
    assert found["verdict"] == verdict
    if bend == 0:
        assert found["alpha"] == pytest.approx(0.3, rel=0.02)
    assert found["columns"]["pass_rate_error"] == "task_facts_pass_rate_sem"
    assert found["bend_interval"]["low"] <= bend <= found["bend_interval"]["high"]


def test_emergence_keeps_rates_of_nothing_and_rows_without_an_error(tmp_path: pathlib.Path):
    """A small model that never passes bends nothing: it says no more than its questions do. Without them it is named."""
    rate = np.exp(-6 * (SIZES / 1e5) ** -0.25)
    observed = np.where(np.arange(8) == 0, 0.0, rate)
    frame = pd.DataFrame({"params_total": SIZES, "pass_rate": observed, "pass_rate_sem": 0.01 * rate})
    frame.loc[3, "pass_rate_sem"] = np.nan
    said = refused("emergence", frame, tmp_path)
    assert "pass_rate: 0 in row 0" in said and "--columns=questions=" in said
    kept = asked("emergence", frame.assign(questions=200), tmp_path)
    assert kept["rows_used"] == 8 and kept["verdict"] == "power law" and kept["dropped"] == []
    assert kept["alpha"] == pytest.approx(0.25, rel=0.05)
    assert "note: 1 rate of 0 or 1" in kept["said"] and "note: 1 row without an error" in kept["said"]
    without = asked("emergence", frame, tmp_path, "--where=pass_rate > 0")
    assert without["rows_used"] == 7 and "the fewest passes" in without["said"]
    assert "dropped: 1 row: --where" in without["said"] and without["dropped"][0]["row"] == 0


def test_difficulty(tmp_path: pathlib.Path):
    """Sixteen tasks of one kind that follow the law, twelve that never rise: the forecast of the first is the planted one."""
    C = np.geomspace(1e17, 1e21, 7)
    stream = np.random.default_rng(1)
    law = Difficulty(0.25, 4e5, 0.3, 0.05)
    frame = pd.DataFrame({"flops_total": C})
    for number in range(28):
        own = law.predict(C) if number < 16 else np.full(7, 0.25)
        frame[f"task_{number}_accuracy"] = np.clip(own + 0.01 * stream.standard_normal(7), 0, 1)
    found = asked("difficulty", frame, tmp_path, "--target=1e22", "--guess=0.25", "--diameter=0.1")
    assert found["accuracy_of_predictable"] == pytest.approx(law.predict(1e22), abs=0.02)
    assert found["share_predictable"] == pytest.approx(16 / 28)
    assert "--tasks=nothing_*" in refused("difficulty", frame, tmp_path, "--target=1e22", "--tasks=nothing_*")


def test_density(tmp_path: pathlib.Path):
    """Models that are worth three times their size say so, by the reference models among the rows."""
    reference = AnswerLoss(30.0, 60.0, 0.25, 0.3)
    accuracy = Accuracy(0.7, -3.0, 1.2, 0.25)
    N = np.concatenate([np.tile(np.geomspace(1e6, 1e9, 6), 3), np.geomspace(1e7, 1e8, 4)])
    D = np.concatenate([np.repeat([1e9, 1e10, 1e11], 6), np.full(4, 1e11)])
    kind = ["old"] * 18 + ["new"] * 4
    loss = reference.predict(np.where(np.array(kind) == "new", 3 * N, N), D)
    frame = pd.DataFrame({"params_total": N, "tokens": D, "family": kind, "task_qa_loss": loss})
    frame["task_qa_accuracy"] = accuracy.predict(loss)
    found = asked("density", frame, tmp_path, "--task=qa", "--reference=family=='old'", "--guess=0.25")
    assert found["tokens"] == 1e11
    np.testing.assert_allclose(found["density"][-4:], 3.0, rtol=0.02)
    planted = Density(reference, accuracy, 1e11)
    np.testing.assert_allclose(found["effective_N"], planted.effective_size(frame["task_qa_accuracy"]), rtol=0.02)


def test_density_of_a_model_that_is_never_right_is_bounded(tmp_path: pathlib.Path):
    """It keeps its row, and is worth at most what its questions could have missed."""
    reference = AnswerLoss(30.0, 60.0, 0.25, 0.3)
    N = np.concatenate([np.tile(np.geomspace(1e6, 1e9, 6), 3), [1e4]])
    D = np.concatenate([np.repeat([1e9, 1e10, 1e11], 6), [1e11]])
    loss = reference.predict(N, D)
    right = Accuracy(0.95, -3.0, 1.2, 0.0).predict(loss)
    frame = pd.DataFrame({"params_total": N, "tokens": D, "task_qa_loss": loss})
    frame["task_qa_accuracy"] = np.where(N == 1e4, 0.0, right)
    found = asked("density", frame.assign(questions=1_000), tmp_path, "--guess=0")
    assert found["rows"] == list(range(19)) and found["density"][-1] is None
    assert found["density_at_most"][:-1] == [None] * 18
    assert 0.3 < found["density_at_most"][-1] < 10
    assert "row 18: accuracy 0" in found["said"] and "worth at most" in found["said"]
    unknown = asked("density", frame, tmp_path, "--guess=0")
    assert unknown["density_at_most"] == [None] * 19 and "1 rows have no density" in unknown["said"]


def test_speedup(tmp_path: pathlib.Path):
    """Grown runs that pay half of what runs from scratch do; the cost is that of all ancestors."""
    cost = np.geomspace(1e12, 1e14, 9)
    frame = pd.DataFrame({"flops_lineage": cost, "group": "scratch"})
    frame["loss_nats"] = 1.5 + 40 * cost**-0.15
    grown = pd.DataFrame({"flops_lineage": cost[2:6] / 2, "group": "grown", "loss_nats": frame["loss_nats"][2:6]})
    frame = pd.concat([frame, grown], ignore_index=True).assign(flops_total=1.0, loss_nats_sem=1e-3)
    sets = ("--of=group=='grown'", "--over=group=='scratch'")
    found = asked("speedup", frame, tmp_path, *sets)
    assert found["columns"]["C"] == "flops_lineage"
    np.testing.assert_allclose(found["speedup"], 1.0, rtol=1e-6)
    assert all(one["low"] < 1 < one["high"] for one in found["intervals"])
    other = frame.assign(width=8, loss_nats=frame["loss_nats"] + 0.01 * (frame["group"] == "grown"))
    both = pd.concat([frame.assign(width=4), other], ignore_index=True)
    apart = asked("speedup", both, tmp_path, *sets, "--by=width")
    np.testing.assert_allclose(apart["speedup"][:4], 1.0, rtol=1e-6)
    assert max(apart["speedup"][4:]) < 1
    far = frame.assign(loss_nats=np.where(frame["group"] == "grown", 99.0, frame["loss_nats"]))
    assert "lies outside of those compared with" in refused("speedup", far, tmp_path, *sets)


def test_trajectory(tmp_path: pathlib.Path):
    """Curves of a planted law at several batches: a size and a batch that are held out are predicted."""
    law = BatchTrajectory(5e9, 0.08, 2e3, 0.7, 3e6, 0.2)
    rows = []
    for N in (3e5, 1e6, 3e6, 1e7):
        for batch in (1e4, 4e4, 1.6e5):
            steps = np.unique(np.geomspace(1e3, 2e6, 24).astype(int))
            loss = law.predict(N, steps.astype(float), batch)
            rows.append(pd.DataFrame({"params_total": N, "step": steps, "batch_tokens": batch, "loss_nats": loss}))
            rows[-1]["run"] = f"{N:g} {batch:g}"
    found = asked("trajectory", pd.concat(rows), tmp_path, "--held=params_total > 5e6")
    assert found["coefficients"]["alpha_N"] == pytest.approx(0.08, rel=0.05)
    assert found["coefficients"]["alpha_B"] == pytest.approx(0.2, rel=0.1)
    assert len(found["held"]) == 3 and max(one["error_last_half"] for one in found["held"]) < 0.015


def test_ranks(tmp_path: pathlib.Path):
    """An order that is kept, one that is reversed, and one of two variants alone."""
    order = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    rows = [{"recipe": name, "params_total": 3e6, "loss": value} for name, value in order.items()]
    rows += [{"recipe": name, "params_total": 2e6, "loss": value + 5} for name, value in order.items()]
    rows += [{"recipe": name, "params_total": 1e6, "loss": -value} for name, value in order.items()]
    rows += [{"recipe": name, "params_total": 5e5, "loss": order[name]} for name in "ab"]
    found = asked("ranks", pd.DataFrame(rows), tmp_path, "--of=recipe", "--over=params_total")
    assert [one["tau"] for one in found["levels"]] == [None, -1.0, 1.0]
    assert [one["is_best_kept"] for one in found["levels"]] == [False, False, True]
    assert "tau 1 (p 0.083, 4 variants), the best is the same" in found["said"]
    said = refused("ranks", pd.DataFrame(rows[:4]), tmp_path, "--of=recipe", "--over=params_total")
    assert "--over=params_total: 1 level; expected two or more" in said


@pytest.mark.parametrize("command", ["emergence", "difficulty", "density", "speedup", "trajectory", "ranks"])
def test_each_says_what_it_is_for(command: str):
    done = run_command(f"analysis.{command}", "--help")
    assert done.returncode in (0, 1) and f"python -m analysis.{command}" in done.stdout


def test_a_task_that_is_not_there_is_named(tmp_path: pathlib.Path):
    frame = pd.DataFrame({"params_total": SIZES, "task_facts_loss": 1.0, "task_facts_pass_rate": 0.5})
    assert "--task=fact: the grid has no column task_fact_loss; did you mean" in refused(
        "emergence", frame, tmp_path, "--task=fact"
    )
    said = refused("emergence", frame, tmp_path, "--columns=N=params_total,accuracy=task_facts_loss")
    assert "--columns: accuracy: there is no use for it" in said
