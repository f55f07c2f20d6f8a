"""Which way a series goes, whether it turns, and whether rows refuse a value of a coefficient."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.grid.table import Columns
from analysis.laws.kaplan import KaplanN
from analysis.laws.superposition import Superposition
from analysis.questions import nested_test, trend
from experiments.cli import InputError
from tests.support.commands import command


def table(**values: np.ndarray) -> Columns:
    arrays = {role: np.asarray(value) for role, value in values.items()}
    return Columns(arrays, np.arange(len(next(iter(arrays.values())))), {role: role for role in arrays}, ())


@pytest.mark.parametrize(
    ("verdict", "curve"),
    [
        ("falls", lambda t: -t),
        ("falls", lambda t: np.exp(-3 * (t + 1))),  # levels off: not U-shaped
        ("falls", lambda t: -1 / (1 + np.exp(-8 * (t - 0.3)))),  # no family of the curves fits it
        ("rises", lambda t: np.maximum(t, 0)),
        ("U-shaped", lambda t: (t - 0.2) ** 2),
        ("U-shaped", lambda t: -t / 2 + np.exp(6 * (t - 1))),
        ("inverted U", lambda t: -((t + 0.3) ** 2)),
        ("flat", lambda t: 0 * t),
    ],
)
def test_trends_are_told_apart(verdict, curve):
    stream, found = np.random.default_rng(0), []
    for seed in range(12):
        x = 10 ** np.sort(stream.uniform(7, 11, 24))
        y = 3 + curve((np.log10(x) - 9) / 2) + 0.05 * stream.standard_normal(24)
        found.append(trend.find_trend(x, y, replicates=199, seed=seed))
    assert sum(one.verdict == verdict for one in found) >= 10


def test_a_turning_point_lies_in_its_interval():
    stream, hits = np.random.default_rng(1), 0
    x = np.geomspace(1e7, 1e11, 15)
    for seed in range(60):
        y = (np.log10(x) - 9.5) ** 2 + 0.3 * stream.standard_normal(15)
        found = trend.find_trend(x, y, replicates=199, seed=seed)
        assert found.verdict == "U-shaped"
        hits += found.interval.low <= 10**9.5 <= found.interval.high
    assert 44 <= hits <= 60  # 90% of 60, and the error of 60 draws


def test_a_late_turn_is_where_the_curve_is_lowest():
    x = np.geomspace(1e7, 1e11, 41)
    t = (np.log10(x) - 9) / 2
    found = trend.find_trend(x, -t / 2 + np.exp(6 * (t - 1)) + 1e-3 * np.random.default_rng(0).standard_normal(41))
    assert found.verdict == "U-shaped"
    assert np.log10(found.turning_point) == pytest.approx(9 + 2 * (1 - np.log(12) / 6), abs=0.05)


def test_rows_without_a_reversal_never_turn():
    x = np.geomspace(1, 1e6, 9)
    y = np.array([9.0, 5, 3, 2.2, 2.0, 1.95, 1.94, 1.935, 1.93])
    found = trend.find_trend(x, y)
    assert (found.verdict, found.p_turn, found.turning_point) == ("falls", 1.0, None)


def test_trends_of_odd_rows():
    x = np.repeat(np.geomspace(1e6, 1e12, 7), 3)  # seeds
    assert trend.find_trend(x, np.full(21, 2.5)).verdict == "flat"
    assert trend.find_trend(x, (np.log10(x) - 9) ** 2).verdict == "U-shaped"
    shuffled = np.random.default_rng(0).permutation(21)
    assert trend.find_trend(x[shuffled], -x[shuffled]).verdict == "falls"
    for bad in (([1.0, 2, 3], [1.0, 2, 3]), ([1.0, 1, 2, 2], [1.0, 2, 3, 4]), ([0.0, 1, 2, 3], [1.0, 2, 3, 4])):
        with pytest.raises(InputError, match="expected"):
            trend.find_trend(*bad)


def test_rows_that_cannot_tell_a_trend_or_a_turn_say_so():
    x = np.geomspace(1e6, 1e9, 4)
    found = trend.find_trend(x, [4.0, 3, 2, 1])
    assert found.verdict == "not known" and np.isnan(found.p_trend) and "1 of 12 cases" in found.line
    x = np.geomspace(1e6, 1e9, 5)
    found = trend.find_trend(x, [5.0, 4, 3, 2, 1.5])
    assert found.verdict == "falls" and np.isnan(found.p_turn) and "whether it turns: 5 values of x" in found.line
    x = np.geomspace(1e6, 1e9, 20)
    assert trend.find_trend(x, -x).line == "the rows support a trend and a turn"


def test_a_turn_at_the_edge_has_no_place():
    """Many refits turn beyond the last row: an interval of those that turn within would be a choice among them."""
    x = np.geomspace(1e6, 1e9, 30)
    t = np.linspace(-1, 1, 30)
    places = []
    for seed in range(40):
        y = (t - 0.9) ** 2 + 0.25 * np.random.default_rng(seed).standard_normal(30)
        found = trend.find_trend(x, y, replicates=199, seed=seed)
        if "turning point" in found.withheld:
            assert found.turning_point is None and found.interval is None and "do not turn within" in found.line
            places.append(seed)
        elif found.interval is not None:
            assert found.interval.high <= x[-1]
    assert places


def test_rows_of_one_run_are_one_row():
    stream = np.random.default_rng(0)
    run = np.repeat(np.arange(4), 10)
    of_run = 0.2 * stream.standard_normal(4)
    y = 3 + of_run[run] + 0.001 * stream.standard_normal(40)
    x = np.geomspace(1e6, 1e9, 4)[run]
    found = trend.trend_of(table(X=x, loss=y, run=run))
    assert found.verdict == "not known" and "4 rows" in found.line
    tokens = x * np.tile(np.geomspace(1, 10, 10), 4)
    found = trend.trend_of(table(X=tokens, loss=y, run=run))
    assert found.verdict == "not known" and "40 rows are those of 4 runs" in found.line


def test_the_trend_command(tmp_path):
    x = np.geomspace(1e7, 1e11, 15)
    y = (np.log10(x) - 9) ** 2 - 0.5 + 0.02 * np.random.default_rng(0).standard_normal(15)  # scores may be negative
    pd.DataFrame({"params": x, "score": y}).to_csv(tmp_path / "grid.csv", index=False)
    arguments = [str(tmp_path / "grid.csv"), "--columns=X=params,loss=score", f"--json={tmp_path / 'trend.json'}"]
    done = command("analysis.trend", *arguments)
    assert done.returncode == 0 and "U-shaped" in done.stdout, done.stderr
    assert done.stdout.startswith("verdict: the rows support a trend and a turn")
    found = json.loads((tmp_path / "trend.json").read_text())
    assert found["interval"]["low"] < found["turning_point"] < found["interval"]["high"]
    assert found["turning_point"] == pytest.approx(1e9, rel=0.1)
    done = command("analysis.trend", arguments[0], "--columns=X=params,loss=score,weight=params")
    assert done.returncode == 2 and "--columns: weight: a trend has no use for it" in done.stderr


def test_superposition_is_tested_against_one_over_width():
    """The p-value of a true exponent is spread evenly; a false one is refused."""
    width = np.repeat(2.0 ** np.arange(5, 12), 2)
    stream, true, false = np.random.default_rng(0), [], []
    for _ in range(10):
        noise = np.exp(0.002 * stream.standard_normal(len(width)))
        true.append(
            nested_test.nested_test(
                table(width=width, loss=Superposition(2.0, 30.0, 1.0).predict(width) * noise), Superposition, gamma=1.0
            )
        )
        false.append(
            nested_test.nested_test(
                table(width=width, loss=Superposition(2.0, 30.0, 0.8).predict(width) * noise), Superposition, gamma=1.0
            )
        )
    assert sum(test.p_value < 0.1 for test in true) <= 4
    assert 0.2 < np.mean([test.p_value for test in true]) < 0.8
    assert all(test.p_value < 0.01 for test in false)
    assert np.mean([test.free["gamma"] for test in false]) == pytest.approx(0.8, abs=0.02)
    with pytest.raises(InputError, match="no coefficient"):
        nested_test.nested_test(table(width=width, loss=width), Superposition)


def test_a_nested_test_is_the_f_test_of_a_straight_line():
    from scipy import stats

    stream = np.random.default_rng(3)
    N = np.geomspace(1e6, 1e9, 12)
    loss = 30 * N**-0.1 * np.exp(0.05 * stream.standard_normal(12))
    line = stats.linregress(np.log(N), np.log(loss))
    expected = 2 * stats.t.sf(abs((-line.slope - 0.09) / line.stderr), 10)
    found = nested_test.nested_test(table(N=N, loss=loss), KaplanN, alpha_N=0.09)
    assert found.p_value == pytest.approx(expected, rel=1e-5)
