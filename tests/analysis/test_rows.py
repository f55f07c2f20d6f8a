"""Rows that do not count do not count anywhere, and what is said of one more run holds what is said of the law."""

import datetime
import json

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import laws
from analysis.command_line.answers import fit as fit_answer
from analysis.command_line.answers import predict as predict_answer
from analysis.figures import quality
from analysis.fitting.result import FitResult, to_json
from analysis.fitting.spec import FitSpec
from analysis.grid.selection import select
from analysis.grid.table import Columns
from analysis.laws.chinchilla import Chinchilla
from analysis.questions import backtest, forecast, predict, scoreboard
from analysis.questions import fit as fitting
from analysis.questions.held_out import held_out, run_of
from analysis.reporting.survey import narrow_intervals, survey
from analysis.trust.interval import Interval
from analysis.trust.misfit import aicc
from analysis.trust.one_run import Noise, interval_of_run, quantiles_of_run
from analysis.trust.residuals import Residuals
from tests.support import planted
from tests.support.printed import text_of

QUICK = FitSpec(bootstrap=100, thorough=False, starts=16)
STOPPED = [1, 8, 11, 16, 19, 22, 25, 27, 30, 31, 33, 34]
AT = {"N": 1e9, "D": 2e10}


def chosen(frame: pd.DataFrame, columns: str | None = None) -> Columns:
    return select(planted.grid(frame), Chinchilla.ROLES, optional=Chinchilla.OPTIONAL, columns=columns)


@pytest.fixture(scope="module")
def frame():
    return planted.isoflop_frame(noise=3e-3, seed=1)


def stopped(frame: pd.DataFrame) -> pd.DataFrame:
    """The same runs, of which a third was stopped early, well above what they would have reached."""
    rows = frame.assign(censored=0)
    rows.loc[STOPPED, "censored"] = 1
    rows.loc[STOPPED, "loss"] *= np.linspace(1.15, 1.65, len(STOPPED))
    return rows


def weightless(frame: pd.DataFrame) -> pd.DataFrame:
    """The same runs, of which a third has next to no weight and a wrong loss."""
    rows = frame.assign(weight=1.0)
    rows.loc[STOPPED, "weight"] = 1e-12
    rows.loc[STOPPED, "loss"] *= np.linspace(1.15, 1.65, len(STOPPED))
    return rows


@pytest.fixture(scope="module")
def fits(frame):
    dropped = frame.drop(index=STOPPED).reset_index(drop=True)
    tables = {"dropped": dropped, "stopped": stopped(frame), "weightless": weightless(frame)}
    return {name: fitting.fit(chosen(rows), Chinchilla, QUICK) for name, rows in tables.items()}


@pytest.mark.parametrize("kind", ["stopped", "weightless"])
def test_rows_that_do_not_count_change_no_diagnostic(fits, kind):
    plain, found = fits["dropped"], fits[kind]
    assert found.certificate.rms_log_residual == pytest.approx(plain.certificate.rms_log_residual, rel=0.2)
    assert not any("robust standard deviations" in text for text in found.certificate.warnings)
    width = {}
    for name, fit in (("plain", plain), ("found", found)):
        run = predict.predict(predict.of_result(fit), AT).new_run
        width[name] = run.high - run.low
    assert width["found"] == pytest.approx(width["plain"], rel=0.35)


def test_a_bound_is_not_drawn_as_a_run(fits):
    figure = quality.residuals(fits["stopped"])
    lowest, highest = figure.axes[0].get_ylim()
    assert -5 < lowest < highest < 5  # per cent


def test_a_bound_is_no_row_of_the_criterion(fits):
    assert fits["stopped"].certificate.aicc == pytest.approx(fits["dropped"].certificate.aicc, abs=8)
    assert fits["stopped"].freedom == fits["dropped"].freedom
    worst = fits["stopped"].certificate.worst_row
    assert worst not in STOPPED
    assert "35 rows used (12 of them only bound the law)" in text_of(fit_answer.show, fits["stopped"])


def test_a_held_out_bound_is_scored_on_one_side(frame):
    spec = FitSpec(bootstrap=60, thorough=False, starts=8)
    plain = backtest.rolling(chosen(frame.drop(index=STOPPED).reset_index(drop=True)), Chinchilla, spec)
    bounded = backtest.rolling(chosen(stopped(frame)), Chinchilla, spec)
    assert bounded.rms_error < 2 * plain.rms_error
    assert bounded.summary()["predictions"] < 35
    low = stopped(frame)
    low.loc[34, "loss"] = 1.0  # far below the law: it has to lie below this
    last = backtest.back_test(chosen(low), Chinchilla, spec)
    at = last.rows.tolist().index(34)
    assert last.counts[at] == 1 and last.error[at] > 1 and not last.inside[at]
    beside = last.rows.tolist().index(33)
    assert last.counts[beside] == 0 and last.error[beside] == 0 and last.inside[beside]


def test_scores_are_those_of_rows_that_count(frame):
    spec = FitSpec(bootstrap=0, thorough=False, starts=8)
    scores = {}
    for name, rows in (("stopped", stopped(frame)), ("dropped", frame.drop(index=STOPPED).reset_index(drop=True))):
        scores[name] = scoreboard.score_law(chosen(rows), Chinchilla, spec, 7)
    assert scores["stopped"].rms_residual == pytest.approx(scores["dropped"].rms_residual, rel=0.2)
    assert scores["stopped"].held_out_rms < 2 * scores["dropped"].held_out_rms


def test_the_report_fits_what_fit_fits(frame):
    spec = FitSpec(bootstrap=0, thorough=False, starts=16)
    rows = stopped(frame)
    alone = fitting.fit(chosen(rows), Chinchilla, spec).law
    report = survey(planted.grid(rows), spec, None, None)
    assert report["chinchilla"].law.coefficients() == pytest.approx(alone.coefficients(), rel=1e-4)
    assert not set(report["isoflop"].columns.row) & set(STOPPED)


def test_fewer_rows_than_coefficients_that_count(frame):
    rows = stopped(frame).iloc[[0, 1, 8, 11, 16, 19, 22]].reset_index(drop=True)
    with pytest.raises(Exception, match=r"1 usable rows \(6 more only bound the law\)"):
        fitting.fit(chosen(rows), Chinchilla, QUICK)


@pytest.mark.parametrize("kind", ["wild", "residual"])
def test_a_bound_stays_where_it_is_in_every_bootstrap(frame, kind):
    spec = FitSpec(bootstrap=60, thorough=False, starts=16, resample=kind)
    plain = fitting.fit(chosen(frame.drop(index=STOPPED).reset_index(drop=True)), Chinchilla, spec)
    found = fitting.fit(chosen(stopped(frame)), Chinchilla, spec)
    of_plain = plain.draws.std(axis=0)
    assert found.draws.std(axis=0)[3:] == pytest.approx(of_plain[3:], rel=0.6)


# --- runs of several rows


def test_a_back_test_never_splits_a_run():
    rows = []
    for run, N in enumerate(np.geomspace(1e7, 1e10, 10)):
        for D in 20 * N * np.geomspace(0.02, 1, 8):
            rows.append({"run": run, "params": N, "tokens": D, "loss": planted.TRUTH.predict(N, D)})
    columns = chosen(pd.DataFrame(rows))
    run = run_of(columns)
    splits = held_out(columns, 7)
    assert splits
    for held in splits:
        assert not set(run[held]) & set(run[~held])
    spec = FitSpec(bootstrap=0, thorough=False, starts=8)
    last = backtest.back_test(columns, Chinchilla, spec, splits[-1])
    assert (last.factor > 0).all() and last.compute.min() > 6 * 20 * 1e7**2


def test_rows_of_one_run_count_as_one_in_the_criterion():
    stream = np.random.default_rng(0)
    value = 0.01 * stream.standard_normal(12)
    alone = Residuals(value, np.ones(12), np.arange(12))
    copies = Residuals(np.repeat(value, 5), np.ones(60), np.repeat(np.arange(12), 5))
    for loss in ("least_squares", "huber"):
        assert aicc(copies, 3, loss) == pytest.approx(aicc(alone, 3, loss))


def test_a_useless_coefficient_costs_what_it_gains_under_robust_losses():
    """A robust criterion favours the smaller law as often as that of least squares does: half a unit on average."""
    from scipy.optimize import linprog

    stream = np.random.default_rng(1)
    rows = 40
    gains = []
    prices = []
    for _ in range(60):
        y = stream.standard_normal(rows)
        x = stream.standard_normal(rows)
        flat = np.abs(y - np.median(y))
        design = np.column_stack([np.ones(rows), x])
        cost = np.r_[np.zeros(4), np.ones(2 * rows)]
        parts = np.hstack([design, -design, np.eye(rows), -np.eye(rows)])
        sloped = linprog(cost, A_eq=parts, b_eq=y, method="highs").fun
        gains.append(2 * rows * np.log(flat.sum() / sloped))
        small = Residuals(flat, np.ones(rows), np.arange(rows))
        prices.append((aicc(small, 2, "lad") or 0) - (aicc(small, 1, "lad") or 0))
    # Akaike's criterion asks twice what a useless coefficient gains.
    assert np.mean(prices) / np.mean(gains) == pytest.approx(2, rel=0.3)


# --- one more run


@settings(max_examples=60, deadline=None)
@given(
    estimate=st.floats(0.5, 5),
    below=st.floats(0, 0.5),
    above=st.floats(0, 0.5),
    offset=st.floats(-0.6, 0.6),
    noise=st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=30),
    spare=st.integers(1, 40),
    additive=st.booleans(),
)
def test_an_interval_of_a_run_holds_that_of_the_law(estimate, below, above, offset, noise, spare, additive):
    middle = estimate * np.exp(offset)
    of_law = Interval(0.9, middle * np.exp(-below), middle * np.exp(above), 0.1)
    value = np.array(noise)
    runs = Noise(value, np.ones(len(value)), spare, float(np.std(value)), additive)
    of_run = interval_of_run(estimate, of_law, runs)
    assert of_run is not None
    assert of_run.low <= of_law.low * (1 + 1e-12) and of_run.high >= of_law.high * (1 - 1e-12)


def test_the_interval_of_a_run_is_the_usual_one_for_normal_noise():
    """A mean of n normal numbers: one more lies within t s sqrt(1 + 1/n)."""
    from scipy.stats import t

    n, sd, level = 8, 0.3, 0.9
    reach = t.ppf(0.95, n - 1)
    of_law = Interval(level, 5 - reach * sd / np.sqrt(n), 5 + reach * sd / np.sqrt(n), sd / np.sqrt(n))
    noise = Noise(np.empty(0), np.empty(0), n - 1, sd, additive=True)
    found = interval_of_run(5.0, of_law, noise)
    assert found is not None
    assert found.high - 5 == pytest.approx(reach * sd * np.sqrt(1 + 1 / n))


@pytest.mark.parametrize(("budgets", "noise"), [(2, 3e-3), (5, 0.02)])
def test_predictions_of_a_run_hold_those_of_the_law(budgets, noise):
    columns = chosen(planted.isoflop_frame(budgets=budgets, noise=noise, seed=4))
    fitted = predict.of_result(fitting.fit(columns, Chinchilla, FitSpec(bootstrap=200, starts=16)))
    for at in (AT, {"C": 1e21}, {"N": 1e11, "D": 1e13}):
        found = predict.predict(fitted, at)
        if found.interval is None or found.new_run is None:
            continue
        assert found.new_run.low <= found.interval.low < found.interval.high <= found.new_run.high


def test_a_forecast_has_the_interval_of_the_prediction(tmp_path):
    columns = chosen(planted.isoflop_frame(noise=3e-3, seed=5))
    result = fitting.fit(columns, Chinchilla, FitSpec(bootstrap=200, starts=16, thorough=False))
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(to_json(result, "", "")))
    made = forecast.freeze(str(path), AT, datetime.datetime.now(datetime.UTC))
    run = predict.predict(predict.read(str(path)), AT).new_run
    assert run is not None
    assert made.interval(0.9) == pytest.approx((run.low, run.high), rel=1e-9)


def test_quantiles_of_a_run_increase():
    shares = np.arange(1, 100) / 100
    noise = Noise(np.random.default_rng(0).standard_normal(30), np.ones(30), 25, 1.0, additive=True)

    def law_interval(level: float) -> Interval:
        return Interval(level, -0.2 - level, 0.1 + 2 * level, 1.0)

    found = quantiles_of_run(0.5, law_interval, noise, shares)
    assert (np.diff(found) >= 0).all()


# --- accuracies


@pytest.fixture(scope="module")
def tasks() -> FitResult:
    stream = np.random.default_rng(0)
    rows = []
    for N in np.geomspace(1e7, 1e9, 6):
        for D in N * np.array([10, 40, 160]):
            loss = 0.4 + 60 / N**0.25 + 80 / D**0.25
            score = 0.25 + 0.9 / (1 + np.exp(4 * (loss - 0.9))) + 0.01 * stream.normal()
            rows.append({"N": N, "D": D, "task_loss": loss, "accuracy": min(score, 0.99)})
    return analysis.fit(pd.DataFrame(rows), "two_step", bootstrap=100, thorough=False)


def test_accuracies_stay_between_chance_and_one(tasks):
    assert tasks.law.b >= 0 and tasks.law.a <= 1
    found = predict.predict(predict.of_result(tasks), {"N": 1e14, "D": 1e17})
    assert found.loss <= 1 and found.interval.high <= 1 and found.new_run.high <= 1
    assert found.interval.low >= 0 and found.new_run.low >= 0
    if found.notes:
        assert "accuracy ends at 1" in text_of(predict_answer.show, found, predict.of_result(tasks))


def test_two_steps_predict_runs_and_are_tested_on_them(tasks):
    law = laws.load("two_step")
    summary = backtest.hindsight_summary(tasks.columns, law, FitSpec(bootstrap=20, starts=8))
    assert summary["quantity"] == "accuracy" and summary["predictions"] > 0
    assert "predictions of accuracy" in text_of(fit_answer.show_back_test, summary)


def test_a_back_test_far_below_its_level_is_said(tmp_path):
    """Losses that bend: a law of the small runs is sure and wrong."""
    rows = planted.isoflop_frame(noise=1e-4)
    rows["loss"] *= 1 + 0.02 * np.log10(rows["flops"] / 1e18) ** 2
    columns = chosen(rows)
    summary = backtest.hindsight_summary(columns, Chinchilla, FitSpec(bootstrap=40, thorough=False, starts=8))
    assert summary["covered"] < 0.5 and "too narrow" in summary["caution"]
    assert "too narrow" in text_of(fit_answer.show_back_test, summary)
    result = fitting.fit(columns, Chinchilla, QUICK)
    data = to_json(result, "", "") | {"back_test": summary}
    fitted = predict.from_json(json.loads(json.dumps(data)))
    assert "too narrow" in text_of(predict_answer.show, predict.predict(fitted, AT), fitted)


def test_accuracies_count_by_their_binomial_errors():
    """Tests of few questions say less: the fit is that of weights 1/variance."""
    stream = np.random.default_rng(0)
    loss = np.linspace(0.4, 2.0, 60)
    truth = 0.25 + 0.7 / (1 + np.exp(4 * (loss - 1.0)))
    questions = np.where(np.arange(60) % 2, 20, 5000).astype(float)
    frame = pd.DataFrame({"task_loss": loss, "questions": questions})
    frame["accuracy"] = stream.binomial(questions.astype(int), truth) / questions
    errors = {}
    for name, rows in (("counted", frame), ("alike", frame.drop(columns="questions"))):
        law = analysis.fit(rows, "accuracy", bootstrap=0).law
        errors[name] = np.sqrt(np.mean((law.predict(loss) - truth) ** 2))
    assert errors["counted"] < 0.6 * errors["alike"]


def test_families_are_judged_by_the_rows_that_count(frame):
    rows = []
    for family in ("a", "b"):
        rows.append(stopped(planted.isoflop_frame(noise=3e-3, seed=6)).assign(family=family))
    both = pd.concat(rows, ignore_index=True)
    sharing = {}
    for name, table in (("bounds", both), ("dropped", both[both["censored"] == 0].reset_index(drop=True))):
        sharing[name] = analysis.compare(table, bootstrap=0, starts=4).families.sharing
    assert sharing["bounds"].justified and sharing["dropped"].justified
    assert sharing["bounds"].statistic == pytest.approx(sharing["dropped"].statistic, abs=1)


def test_an_approach_that_was_too_sure_is_said_in_the_report():
    """The best size bends: the smaller budgets are sure of an exponent that the larger ones do not have."""
    rows = planted.isoflop_frame(budgets=7)
    log_c = np.log(rows["flops"] / 1e18)
    best = 1e8 * np.exp(0.5 * log_c + 0.03 * log_c**2)
    rows["params"] = best * np.tile(np.geomspace(0.3, 3, 7), 7)
    rows["tokens"] = rows["flops"] / 6 / rows["params"]
    noise = 1e-5 * np.random.default_rng(0).standard_normal(len(rows))
    rows["loss"] = 3 * np.exp(-0.03 * log_c + 0.02 * np.log(rows["params"] / best) ** 2 + noise)
    columns = select(planted.grid(rows), ("N", "D", "loss", "C"), optional=("group",))
    law = laws.load("isoflop")
    test = backtest.rolling(columns, law, FitSpec(bootstrap=100))
    assert test.covered < 0.5
    told = narrow_intervals(columns, FitSpec(bootstrap=100, thorough=False, starts=8), None)
    assert len(told) == 1 and told[0].startswith("approach 2: the back-test held") and "(N*)" in told[0]


def test_no_share_lies_in_intervals_that_there_are_not(frame):
    summary = backtest.hindsight_summary(chosen(frame), Chinchilla, FitSpec(bootstrap=0, thorough=False, starts=8))
    assert summary["covered"] is None and summary["by_factor"][0]["covered"] is None and summary["caution"] == ""
    assert "interval" not in text_of(fit_answer.show_back_test, summary)
