"""Which runs to make next: never nonsense, driven in a loop, and worth what was promised."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.command_line.answers import design as answer
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.chinchilla import Chinchilla
from analysis.laws.overtraining import OverTraining
from analysis.questions import candidates as candidate_runs
from analysis.questions import cloud, design
from analysis.questions import fit as fitting
from analysis.questions.target import Target, Until
from experiments.cli import InputError
from tests.support import planted
from tests.support.commands import command
from tests.support.planted import TRUTH

SPEC = FitSpec(bootstrap=60, thorough=False, starts=16)


def ladder(jitter: float, noise: float = 0.004, seed: int = 0) -> Columns:
    """Twenty runs with D about 20 N."""
    draw = np.random.default_rng(seed)
    N = np.geomspace(1e7, 1e9, 20)
    D = 20 * N * np.exp(jitter * draw.standard_normal(20))
    return planted.columns(N, D, TRUTH.predict(N, D) * np.exp(noise * draw.standard_normal(20)))


def isoflop(seed: int, noise: float = 0.004) -> Columns:
    frame = planted.isoflop_frame(noise=noise, seed=seed)
    return planted.columns(*(frame[name].to_numpy() for name in ("params", "tokens", "loss")))


def budget_of(columns: Columns) -> float:
    return float((6 * columns["N"] * columns["D"]).sum())


def propose(columns: Columns, text: str, **options) -> design.Design:
    budget = budget_of(columns)
    lattice = design.lattice(columns, budget)
    return design.propose(columns, [Chinchilla], Target.parse(text), lattice, SPEC, budget, 4, **options)


@pytest.mark.parametrize("jitter", [0.0, 0.2])
@pytest.mark.parametrize("text", ["N@C=1e24", "tokens_per_param@C=1e24", "E"])
def test_a_ladder_has_no_negative_numbers_and_asks_for_runs_beside_it(jitter, text):
    columns = ladder(jitter)
    found = propose(columns, text)
    ends = [found.low, *(step.low for step in found.steps)]
    assert np.isnan(ends).all() if found.why_unknown else min(ends) >= 0
    assert found.steps and "beside it tell the two apart" in found.notes[0]
    described = design.to_json(found, planted.grid(pd.DataFrame({"params": [1.0]})), "")
    assert found.why_unknown or jitter
    assert (described["now"]["low"] is None) == bool(found.why_unknown)
    assert (described["runs"][0]["low"] is None) == bool(found.why_unknown)
    stream = io.StringIO()
    answer.show(found, Console(file=stream, width=200))
    assert stream.getvalue().startswith("verdict")
    ratio = found.candidates["D"] / found.candidates["N"]
    seen = columns["D"] / columns["N"]
    chosen = ratio[[step.candidate for step in found.steps]]
    assert (chosen > 2 * seen.max()).any() or (chosen < seen.min() / 2).any()


def test_a_grid_of_many_ratios_is_not_left():
    columns = isoflop(seed=2)
    found = propose(columns, "N@C=1e24")
    ratio = found.candidates["D"] / found.candidates["N"]
    seen = columns["D"] / columns["N"]
    assert not found.why_unknown and not found.notes and ratio.max() <= 1.5 * seen.max() * (1 + 1e-9)


def test_a_law_that_fits_far_worse_and_extrapolates_no_better_is_not_counted():
    columns = isoflop(seed=2, noise=0.001)
    budget = budget_of(columns)
    candidates = design.lattice(columns, budget)
    found = design.propose(
        columns, [Chinchilla, OverTraining], Target.parse("loss@C=1e22"), candidates, SPEC, budget, 1
    )
    assert found.weights == {"chinchilla": 1.0}


def test_it_stops_at_the_interval_that_is_asked_for():
    columns = isoflop(seed=2)
    plain = propose(columns, "loss@C=1e22")
    width = plain.steps[1].high - plain.steps[1].low
    found = propose(columns, "loss@C=1e22", until=Until.parse(f"{width * 1.0001}"))
    assert len(found.steps) == 2 and not found.why_done
    found = propose(columns, "loss@C=1e22", until=Until.parse("90%"))
    assert not found.steps and "--until=90%" in found.why_done
    for text in ("", "x", "-1", "0%"):
        with pytest.raises(InputError, match="--until"):
            Until.parse(text)


def test_a_loop_over_a_table_of_candidates_ends_when_the_budget_is_gone():
    """Prices are not FLOPs; runs that were made are not proposed again, however often the same table is read."""
    N, D = (values.ravel() for values in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
    table = pd.DataFrame({"params": N, "tokens": D, "cost": 1 + np.arange(36) % 3})
    draw = np.random.default_rng(0)
    loss = TRUTH.predict(N, D) * np.exp(0.004 * draw.standard_normal(36))
    made = list(range(0, 36, 4))
    budget = 7.0
    spent = 0.0
    for _ in range(20):
        columns = planted.columns(N[made], D[made], loss[made])
        left = candidate_runs.read(planted.grid(table), [Chinchilla], None, columns)
        assert not set(left.row) & set(made) and len(left) == 36 - len(made)
        found = design.propose(columns, [Chinchilla], Target.parse("E"), left, SPEC, budget - spent, 1)
        if found.why_done:
            break
        run = int(left.row[found.steps[0].candidate])
        made.append(run)
        spent += float(table["cost"][run])
    assert spent <= budget and found.why_done.startswith("the budget is gone")


def test_the_command_reads_prices_and_says_when_it_is_done(tmp_path):
    planted.isoflop_frame(noise=0.004, seed=2).to_csv(tmp_path / "grid.csv", index=False)
    table = pd.DataFrame({"params": [1e8, 1e9], "tokens": [1e10, 1e11], "price": [2.0, 9.0]})
    table.to_csv(tmp_path / "runs.csv", index=False)
    out = tmp_path / "design.json"
    done = command(
        "analysis.design", tmp_path / "grid.csv", "--target=loss@C=1e22", f"--candidates={tmp_path / 'runs.csv'}",
        "--budget=5", "--laws=chinchilla", "--bootstrap=60", f"--out={out}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads(out.read_text())
    assert not data["done"] and [(run["row"], run["cost"]) for run in data["runs"]] == [(0, 2.0)]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["loss@C=1e22", "N@C=1e23"])
def test_simulated_runs_are_worth_what_was_promised(text):
    """The interval after the proposed runs, simulated and fitted, over the one that was promised: 50 planted grids."""
    target = Target.parse(text)
    spec = FitSpec(bootstrap=150, thorough=False, starts=16)
    ratios = []
    for seed in range(50):
        draw = np.random.default_rng(seed)
        noise = float(draw.choice([0.002, 0.004, 0.008]))
        columns = isoflop(seed, noise)
        lattice = design.lattice(columns, budget_of(columns))
        found = design.propose(columns, [Chinchilla], target, lattice, spec, budget_of(columns), 4)
        chosen = [step.candidate for step in found.steps]
        N = np.r_[columns["N"], lattice["N"][chosen]]
        D = np.r_[columns["D"], lattice["D"][chosen]]
        more = TRUTH.predict(lattice["N"][chosen], lattice["D"][chosen])
        loss = np.r_[columns["loss"], more * np.exp(noise * draw.standard_normal(len(chosen)))]
        after = fitting.fit(planted.columns(N, D, loss), Chinchilla, spec)
        simulated = cloud.make_cloud([after], target, lattice)
        low, high = simulated.interval(simulated.covariance[0, 0], spec.level)
        promised = found.steps[-1]
        scale = np.log if simulated.is_log else float
        ratios.append((scale(high) - scale(low)) / (scale(promised.high) - scale(promised.low)))
    assert 1 / 1.5 < np.median(ratios) < 1.5
    assert np.mean((np.array(ratios) < 1.5) & (np.array(ratios) > 1 / 1.5)) > 0.75
