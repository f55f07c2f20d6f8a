"""What C means: every command counts the compute of one grid alike, and says which count it is."""

import json

import numpy as np
import pytest

import analysis
from analysis.command_line.answers import fit as fit_answer
from analysis.command_line.answers import predict as predict_answer
from analysis.fitting.result import to_json
from analysis.fitting.spec import FitSpec
from analysis.grid import cost
from analysis.grid.selection import select
from analysis.laws.chinchilla import Chinchilla
from analysis.questions import predict, scoreboard
from analysis.reporting.survey import survey
from experiments.cli import InputError
from tests.support import planted
from tests.support.printed import text_of

NINE = 9.0  # FLOPs per parameter and token, attention and head counted
PLAIN = FitSpec(bootstrap=0, thorough=False)


@pytest.fixture(scope="module")
def frame():
    runs = planted.isoflop_frame(noise=1e-3)
    return runs.assign(flops=NINE * runs["params"] * runs["tokens"])


def test_fit_takes_the_cost_of_a_parameter_and_token_from_the_grid(frame):
    result = analysis.fit(frame, "chinchilla", bootstrap=0)
    assert result.flops_per_param_token == pytest.approx(NINE, rel=1e-9)
    optimum = analysis.predict(result, C=4.5e21).optimum
    assert NINE * optimum["N"] * optimum["D"] == pytest.approx(4.5e21)


def test_every_question_has_one_cost(frame):
    grid = planted.grid(frame)
    fitted = analysis.fit(frame, "chinchilla", bootstrap=0)
    report = survey(grid, FitSpec(bootstrap=0, thorough=False, starts=8), None, None)
    board = scoreboard.together(grid, [Chinchilla], None, None)
    two = frame.assign(family=np.where(np.arange(len(frame)) % 2, "a", "b"))
    families = analysis.compare(two, bootstrap=20).families.families
    assert report["chinchilla"].flops_per_param_token == fitted.flops_per_param_token
    for family in families.values():
        assert family.flops_per_param_token == pytest.approx(NINE, rel=1e-9)
    assert cost.training_flops(board) == pytest.approx(frame["flops"].to_numpy())


def test_fit_and_predict_say_which_count_it_is(frame):
    result = analysis.fit(frame, "chinchilla", bootstrap=0)
    assert "C = flops, 9 N D on these rows" in text_of(fit_answer.show, result)
    data = json.loads(json.dumps(to_json(result, "", "")))
    assert data["cost"] == "C = flops, 9 N D on these rows"
    fitted = predict.from_json(data)
    prediction = predict.predict(fitted, {"C": 1e21})
    assert "C = flops, 9 N D on these rows" in text_of(predict_answer.show, prediction, fitted)
    without = analysis.fit(frame.drop(columns="flops"), "chinchilla", bootstrap=0)
    assert "C = 6 N D: no column gives FLOPs" in text_of(fit_answer.show, without)


def test_a_run_without_a_cost_is_still_a_run(frame):
    holes = frame.copy()
    holes.loc[[3, 7], "flops"] = [np.nan, 0.0]
    columns = select(planted.grid(holes), Chinchilla.ROLES)
    assert len(columns) == len(frame)
    assert columns["C"] == pytest.approx(frame["flops"].to_numpy())
    assert any("2 rows have no C" in note for note in columns.notes)
    with pytest.raises(InputError, match="did you mean 'flops'"):
        select(planted.grid(holes), Chinchilla.ROLES, columns="C=flop")
