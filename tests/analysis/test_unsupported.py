"""No answer has a number that the design of its rows does not support, unless it says so: whatever is asked, on any grid."""

import dataclasses
import io
import json
import math
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import analysis
from analysis import figures
from analysis.command_line.answers import report as answer
from analysis.figures.rows import tells_optimum
from analysis.fitting.result import to_json
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Grid
from analysis.laws.chinchilla import Chinchilla
from analysis.questions import compare as comparing
from analysis.questions import lifetime, predict
from analysis.reporting.numbers import numbers
from analysis.reporting.page import render
from analysis.reporting.survey import survey
from analysis.reporting.words import headline
from experiments.cli import InputError

TRUTH = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
WIDER = 2.5  # times its interval: how far off a number may be in one draw of a seed
BUDGET = 1e24


def ladder(jitter: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return sizes and tokens along D = 20 N, but for a jitter."""
    N = np.geomspace(1e7, 1e10, 20)
    off = np.random.default_rng([seed, 1]).standard_normal(20)
    return N, 20 * N * np.exp(jitter * off)


def checkpoints(runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sizes and tokens of 8 checkpoints of each run."""
    N = np.repeat(np.geomspace(2e7, 2e9, runs), 8)
    return N, N * np.tile(np.geomspace(2, 60, 8), runs)


def table(design: str, worth: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Plant the losses of a design; `worth` multiplies them all."""
    kind, _, amount = design.partition(" ")
    more = {}
    if kind == "ladder":
        N, D = ladder(float(amount), seed)
    elif kind == "checkpoints":
        N, D = checkpoints(int(amount))
        more = {"run": np.repeat([f"{worth} {at}" for at in range(int(amount))], 8)}
    else:
        N = np.full(20, 1e9)
        D = np.geomspace(1e9, 1e12, 20)
    loss = worth * TRUTH.predict(N, D) * np.exp(0.003 * np.random.default_rng(seed).standard_normal(len(N)))
    if kind in ("constant", "budgets"):
        N, D = ladder(0.5)
        if kind == "budgets":
            N = np.tile(np.geomspace(1e8, 1e9, 7), 4)
            D = np.repeat([1e18, 1e19, 1e20, 1e21], 7) / 6 / N
        loss = np.full(len(N), 2.5)
    return pd.DataFrame({"params": N, "tokens": D, "loss": loss, **more})


DESIGNS = [*(f"ladder {jitter}" for jitter in (0, 0.01, 0.02, 0.05, 0.1, 0.2)), "size", "checkpoints 4", "constant"]


@pytest.fixture(scope="module", params=DESIGNS)
def fitted(request):
    """One fit a design, for all questions."""
    return request.param, analysis.fit(table(request.param), "chinchilla", bootstrap=40, starts=32)


def said(shown) -> str:
    stream = io.StringIO()
    shown.show(Console(file=stream, width=300, color_system=None))
    return stream.getvalue()


def is_near(value: float, interval, truth: float) -> bool:
    """Say whether an interval, a few times as wide, holds the truth; in logarithms where it is of many sizes."""
    ends = [interval.low, value, interval.high, truth]
    low, middle, high, at = np.log(ends) if min(ends) > 0 else ends
    room = 1e-9 * abs(middle)
    return middle - WIDER * (middle - low) - room <= at <= middle + WIDER * (high - middle) + room


def check(why: str, value: float | None, interval, truth: float | None) -> None:
    """Check one number of an answer: it says why it has no interval, or has one that is near the truth."""
    is_told = value is not None and math.isfinite(value)
    if interval is None:
        assert why
        return
    assert is_told and not why and interval.low <= interval.high
    if truth is not None:
        assert is_near(value, interval, truth), (value, interval, truth)


def test_the_fit(fitted):
    design, fit = fitted
    intervals = fit.intervals()
    truths = TRUTH.coefficients() | TRUTH.optimum_exponents()
    for name, value in fit.values().items():
        truth = None if design == "constant" else truths[name]
        check(fit.verdict.remark(name), value, intervals.get(name), truth)
    assert said(fit).startswith(f"verdict: {fit.verdict.line}")
    content = json.loads(json.dumps(to_json(fit, "", "test"), allow_nan=False))
    frame = fit.to_frame()
    for name in truths:
        told = content["coefficients"].get(name, content["optimum"].get(name))
        assert (told is None) == math.isnan(frame["value"][name]) == (fit.values()[name] is None)
        assert (content["intervals"][name] is None) == (name not in intervals)


AT_RUNS = [{"C": BUDGET}, {"N": 1e9, "D": 2e10}, {"N": 1e11, "D": 1e10}]


@pytest.mark.parametrize("at", AT_RUNS, ids=str)
def test_a_prediction(fitted, at):
    design, fit = fitted
    found = fit.predict(**at)
    target = {} if design == "constant" else {"loss": float(TRUTH.target_at(at))}
    if "C" in at and target:
        N, D = TRUTH.optimum(BUDGET)
        target |= {"N": N, "D": D, "tokens_per_param": D / N}
    check(found.why.get("loss", ""), found.loss, found.interval, target.get("loss"))
    for name, value in found.optimum.items():
        check(found.why.get(name, ""), value, found.optimum_intervals[name], target.get(name))
    assert said(found).startswith("verdict: ")
    json.dumps(predict.to_json(found), allow_nan=False)


@pytest.mark.parametrize("at", [{"C": BUDGET}, {"loss": 2.3}], ids=str)
def test_a_life(fitted, at):
    design, fit = fitted
    try:
        found = fit.predict(serve_tokens=1e12, **at)
    except InputError as error:
        assert "not reached" in str(error)
        return
    truth = lifetime.serving(dataclasses.replace(predict.of_result(fit), law=TRUTH), 1e12)
    right = truth.law.derived(at)
    for name, value in found.optimum.items():
        is_given = name == "total_flops" and "C" in at
        if not is_given:
            check(
                found.why.get(name, ""),
                value,
                found.optimum_intervals[name],
                None if design == "constant" else float(right[name]),
            )
    assert said(found).startswith("verdict: ")


@pytest.mark.parametrize(
    ("design", "shared"),
    [
        ("size", None),
        ("checkpoints 4", None),
        ("ladder 0.05", ("E", "alpha", "beta")),
        *(pytest.param(f"ladder {jitter}", None, marks=pytest.mark.slow) for jitter in (0, 0.02, 0.05)),
        pytest.param("size", ("E", "alpha", "beta"), marks=pytest.mark.slow),
    ],
)
def test_a_comparison(design, shared):
    """A family whose losses are all 3% lower: rates and efficiencies are withheld, or near what was planted."""
    both = pd.concat([table(design).assign(family="dense"), table(design, 0.97, seed=1).assign(family="moe")])
    found = analysis.compare(both, baseline="dense", shared=shared, bootstrap=40, starts=16)
    rate = found.rates["moe"]
    for at, multiplier in enumerate(rate.multiplier):
        assert math.isfinite(multiplier) == math.isfinite(rate.low[at]) == (not rate.why[at])
    assert list(comparing.unknown(found)) == ["what compute of moe is worth"]
    if design != "size":
        assert not np.isfinite(rate.multiplier).any() and found.crossings["moe"].status == "not known"
        with pytest.raises(InputError, match="^plot: "):
            found.plot()
    assert said(found).startswith("verdict")
    written = comparing.to_json(found, Chinchilla, found.columns, 0.9, "", "test")
    content = json.loads(json.dumps(written, allow_nan=False))
    for name, family in found.families.families.items():
        described = content["families"][name]
        withheld = content["verdicts"][name]["withheld"]
        for coefficient, value in described["coefficients"].items():
            assert (value is None) == (coefficient in withheld)
            assert coefficient not in withheld or coefficient not in described["intervals"]
        assert family.verdict.line == content["verdicts"][name]["line"]
    for of_role in content["efficiency"].get("moe", {}).values():
        assert (of_role["value"] is None) == bool(of_role["why"])


def surveyed(design: str):
    grid = Grid("grid.csv", table(design), "0" * 64)
    return survey(grid, FitSpec(bootstrap=30, starts=32), None, None), grid


def check_report(found, grid) -> None:
    """Check what a report says first, its tables, and which figures it has."""
    fit = found[found.headline]
    verdict = fit.verdict
    words = headline(found)
    is_told = not verdict.nothing and "exponent_N" not in verdict.withheld
    assert words["title"].startswith("Compute-optimal parameters grow" if is_told else "These runs do not say")
    for name in fit.law.names():
        is_shown = name not in verdict.withheld
        assert is_shown or name in words["law"]
    for row in found.optima:
        for key in ("N", "D", "tokens_per_param", "loss"):
            assert (row[key] is None) <= bool(row["why"].get(key))
            assert key in row["intervals"] or row["why"].get(key)
    assert json.dumps(numbers(found, grid, "test"), allow_nan=False)
    stream = io.StringIO()
    answer.show(found, Console(file=stream, width=300, color_system=None))
    assert stream.getvalue().startswith(f"verdict: {verdict.line}")
    applies = {name for name, figure in figures.FIGURES.items() if figure.applies(found)}
    assert not verdict.nothing or not applies & {"surface", "cloud"}  # another approach may tell the allocation
    if not any(tells_optimum(result) for result in found.results.values()):
        assert "allocation" not in applies
    if "exponent_N" in verdict.withheld:
        assert "allocation" not in applies or found.headline != "chinchilla" or not tells_optimum(fit)


@pytest.mark.parametrize("design", [pytest.param("ladder 0.02", marks=pytest.mark.slow), "constant"])
def test_what_a_report_says(design):
    check_report(*surveyed(design))


@pytest.mark.parametrize(
    "design", ["budgets", *(pytest.param(one, marks=pytest.mark.slow) for one in (*DESIGNS, "checkpoints 8"))]
)
def test_a_report_is_drawn_without_warnings(design):
    found, grid = surveyed(design)
    check_report(found, grid)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = figures.draw_all(found)
        page = render(found, grid, "test", drawn)
    words = re.sub("<script.*?</script>", "", page, flags=re.DOTALL).lower()
    assert " 1 rows" not in words and "nan" not in words.replace("nanometre", "")
    if design == "ladder 0.05":
        assert "envelope" in drawn and "fitted to the hull" not in page
