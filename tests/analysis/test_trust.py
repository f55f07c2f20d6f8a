"""Whether the numbers can be believed: intervals, profiles, certificates, back-tests, forecasts, designs, units."""

import dataclasses
import datetime
import itertools
import json

import numpy as np
import pandas as pd
import pytest

from analysis import laws
from analysis.fitting import formula_fit
from analysis.fitting.result import to_json
from analysis.fitting.spec import RESAMPLE, FitSpec
from analysis.grid import units
from analysis.grid.selection import select
from analysis.grid.table import Columns
from analysis.laws.chinchilla import Chinchilla
from analysis.questions import backtest, design, forecast, scoreboard
from analysis.questions import fit as fitting
from analysis.questions import planted as planting
from analysis.solve import newton, optimum
from analysis.solve.objective import Objective
from analysis.trust import bootstrap, influence
from analysis.trust.interval import Interval
from experiments.cli import InputError
from tests.support import planted

PLAIN = FitSpec(bootstrap=0)
PLATEAU = laws.load("plateau")


def chinchilla(frame: pd.DataFrame, columns: str | None = None) -> Columns:
    return select(planted.grid(frame), Chinchilla.ROLES, optional=(*Chinchilla.OPTIONAL, "C"), columns=columns)


def plateau(noise: float, rows: int = 30, seed: int = 0, repeats: int = 1) -> Columns:
    """A law that is linear when its exponent is held: textbook formulas apply."""
    stream = np.random.default_rng(seed)
    X = np.repeat(np.geomspace(1, 1e3, rows), repeats)
    loss = 1.5 + 3.0 * X**-0.5 + noise * stream.standard_normal(len(X))
    return Columns({"X": X, "loss": loss}, np.arange(len(X)), {"X": "X", "loss": "loss"}, ())


LINEAR = FitSpec(objective=Objective("least_squares", "raw"), bootstrap=400, fixed={"alpha": 0.5})


# --- objectives


def test_runs_that_were_not_tuned_lie_above_the_law():
    frame = planted.isoflop_frame(noise=1e-3, seed=1)
    stream = np.random.default_rng(2)
    untuned = stream.random(len(frame)) < 0.5
    frame.loc[untuned, "loss"] *= np.exp(stream.exponential(0.05, int(untuned.sum())))
    columns = chinchilla(frame)
    both, lower = (fitting.fit(columns, Chinchilla, FitSpec(Objective(above=a), bootstrap=0)).law for a in (1.0, 0.05))
    at = {"N": frame["params"].to_numpy(), "D": frame["tokens"].to_numpy()}
    truth = planted.TRUTH.predict(**at)
    assert np.mean(np.abs(lower.predict(**at) / truth - 1)) < 0.3 * np.mean(np.abs(both.predict(**at) / truth - 1))


def test_a_censored_run_only_bounds_the_law():
    frame = planted.isoflop_frame()
    frame["stopped"] = 0
    frame.loc[[2, 9, 20], "stopped"] = 1
    frame.loc[[2, 9, 20], "loss"] *= 1.2
    found = fitting.fit(chinchilla(frame, "censored=stopped"), Chinchilla, PLAIN)
    assert found.law.coefficients() == pytest.approx(planted.TRUTH.coefficients(), rel=1e-5)
    at = {"N": frame["params"][2], "D": frame["tokens"][2]}
    frame.loc[2, "loss"] = 0.9 * planted.TRUTH.predict(**at)  # a bound that the law should not exceed
    assert fitting.fit(chinchilla(frame, "censored=stopped"), Chinchilla, PLAIN).law.predict(**at) < found.law.predict(
        **at
    )


def test_a_law_that_cannot_use_a_bound_leaves_censored_runs_out():
    law = laws.load("isoflop")
    frame = planted.isoflop_frame().assign(censored=0)
    frame.loc[3, ["censored", "loss"]] = 1, 9.0
    columns = select(planted.grid(frame), law.ROLES, optional=law.OPTIONAL)
    assert 3 not in columns.row and "stopped early" in columns.dropped[0].reason
    assert 3 in chinchilla(frame).row


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_that_is_none(value):
    with pytest.raises(InputError, match="--above"):
        Objective(above=value)


def test_a_coefficient_can_be_held():
    found = fitting.fit(chinchilla(planted.isoflop_frame()), Chinchilla, FitSpec(bootstrap=20, fixed={"E": 1.7}))
    assert found.law.coefficients() == pytest.approx(planted.TRUTH.coefficients(), rel=1e-6)
    assert (found.draws[:, 0] == 1.7).all()
    with pytest.raises(InputError, match="'F' is not a coefficient of chinchilla"):
        fitting.fit(chinchilla(planted.isoflop_frame()), Chinchilla, FitSpec(fixed={"F": 1.0}))


# --- intervals


@pytest.mark.parametrize("kind", RESAMPLE)
def test_every_bootstrap_gives_the_standard_error_of_least_squares(kind):
    columns = plateau(0.01, rows=60)
    found = fitting.fit(columns, PLATEAU, dataclasses.replace(LINEAR, resample=kind))
    design_matrix = np.stack([np.ones(60), columns["X"] ** -0.5], axis=1)
    error = columns["loss"] - found.law.predict(X=columns["X"])
    covariance = np.linalg.inv(design_matrix.T @ design_matrix) * (error @ error) / 58
    for name, variance in zip(("E", "A"), np.diag(covariance), strict=True):
        assert found.intervals()[name].se == pytest.approx(np.sqrt(variance), rel=0.25)


def test_rows_of_one_run_are_not_independent():
    columns = plateau(0.0, rows=20, repeats=5)
    stream = np.random.default_rng(3)
    values = {
        **columns.values,
        "run": np.repeat(np.arange(20), 5),
        "loss": columns["loss"] + np.repeat(0.01 * stream.standard_normal(20), 5),
    }
    runs = Columns(values, columns.row, {}, ())
    rows = Columns({role: values[role] for role in ("X", "loss")}, columns.row, {}, ())
    for kind in ("paired", "wild"):
        spec = dataclasses.replace(LINEAR, resample=kind)
        wide, narrow = (fitting.fit(grid, PLATEAU, spec).intervals()["E"].se for grid in (runs, rows))
        assert wide > 1.6 * narrow  # sqrt(5) is 2.2
    with pytest.raises(InputError, match="--resample: 'residual'"):
        fitting.fit(runs, PLATEAU, dataclasses.replace(LINEAR, resample="residual"))


def resampled_mean(data: np.ndarray, replicates: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """The mean of resampled data, and of all but one: draws [replicates] and left_out [rows]."""
    picks = np.random.default_rng(1).integers(0, len(data), size=(replicates, len(data)))
    without = (data.sum() - data) / (len(data) - 1)
    return data[picks].mean(axis=1), without


def test_an_interval_lies_between_percentiles_and_students():
    """Its width is the geometric mean of both; the more rows, the less they differ."""
    from scipy import stats

    for rows, apart in ((8, 0.35), (400, 0.03)):
        data = 10 + np.random.default_rng(0).standard_normal(rows)
        draws, without = resampled_mean(data)
        mean = data.mean()
        plain = Interval.of(draws, 0.9)
        assert (plain.low, plain.high) == pytest.approx(tuple(np.percentile(draws, [5, 95])))
        student = stats.t.interval(0.9, rows - 1, mean, stats.sem(data))
        found = Interval.of(draws, 0.9, mean, without)
        widths = [plain.high - plain.low, found.high - found.low, student[1] - student[0]]
        assert widths[1] == pytest.approx(np.sqrt(widths[0] * widths[2]), rel=0.1)
        assert widths[2] / widths[0] == pytest.approx(1, abs=apart)


def test_an_interval_of_few_rows_holds_the_truth_as_often_as_it_says():
    """The mean of eight skewed rows, 600 times; percentiles alone hold it in 80%."""
    hits = []
    for seed in range(600):
        data = np.random.default_rng(seed).gamma(4.0, size=8)
        draws, without = resampled_mean(data, 200)
        found = Interval.of(draws, 0.9, data.mean(), without)
        hits.append(found.low <= 4.0 <= found.high)
    assert 0.83 < np.mean(hits) < 0.93


def test_intervals_of_higher_levels_hold_those_of_lower_ones():
    """Also where the draws lie in two heaps, one far from the other."""
    stream = np.random.default_rng(0)
    draws = np.r_[stream.normal(1.0, 0.1, 900), stream.normal(30.0, 1.0, 100)]
    without = 1.0 + 0.05 * stream.standard_normal(20)
    found = [Interval.of(draws, level, 1.0, without) for level in (0.5, 0.8, 0.9, 0.95, 0.99)]
    for inner, outer in itertools.pairwise(found):
        assert outer.low <= inner.low <= inner.high <= outer.high


@pytest.mark.parametrize(("runs", "is_printed"), [(6, False), (7, True)])
def test_where_few_runs_are_left_for_the_scatter_there_is_no_interval(runs, is_printed):
    """Five coefficients: one more run than coefficients does not measure how much runs scatter; two do, if not well."""
    columns = planting.plant_runs(runs, np.random.default_rng(0)).columns
    found = fitting.fit(columns, Chinchilla, FitSpec(bootstrap=200))
    assert found.freedom == runs - 5
    assert bool(found.intervals()) == is_printed
    assert (found.interval_of(lambda law: law.predict(N=1e9, D=2e10)) is not None) == is_printed


def test_replicates_reach_other_valleys():
    """On a ladder many a replicate fits best where the fit of the rows is not: no start far away leads lower."""
    columns = planting.plant_ladder(0.01, np.random.default_rng(2)).columns
    spec = FitSpec().for_law(Chinchilla)
    problem = formula_fit.pose(columns, Chinchilla, spec)
    weight = np.ones(len(columns))
    deltas = spec.objective.stages(1.0)
    found = optimum.find(problem, weight, spec.objective, deltas, 32)
    ends = bootstrap.refits(found, "paired", 16, 0, None, np.zeros(len(columns)))
    drawn = bootstrap.row_counts(len(columns), 16, 0, fewest=problem.size)
    sample = bootstrap.Resampled(problem, drawn, deltas)
    target = np.broadcast_to(problem.target, drawn.shape)
    values = newton.value(problem, ends, drawn, target, deltas[-1])
    _, from_the_fit = sample.fit(found.theta)
    reached = np.min([sample.fit(start)[1] for start in problem.starts(weight, 8)], axis=0)
    assert np.mean(reached < 0.999 * from_the_fit) > 0.2
    assert np.mean(reached < 0.999 * values) < 0.1  # one of them


def test_a_profile_of_a_linear_law_is_the_t_interval():
    from scipy import stats

    columns = plateau(0.01, rows=30)
    found = fitting.fit(columns, PLATEAU, LINEAR)
    matrix = np.stack([np.ones(30), columns["X"] ** -0.5], axis=1)
    error = columns["loss"] - found.law.predict(X=columns["X"])
    errors = np.sqrt(np.diag(np.linalg.inv(matrix.T @ matrix)) * (error @ error) / 28)
    for name, error_of in zip(("E", "A"), errors, strict=True):
        profile, estimate = found.profiles[name], getattr(found.law, name)
        reach = stats.t.ppf(0.95, 28) * error_of
        assert (profile.low, profile.high) == pytest.approx((estimate - reach, estimate + reach), rel=1e-3)
        assert (np.diff(profile.values) > 0).all() and profile.objective.min() == pytest.approx(found.objective)


def test_a_profile_says_when_nothing_bounds_a_coefficient():
    frame = planted.isoflop_frame(noise=0.003)
    one = frame.assign(params=frame["params"].iloc[0])
    found = fitting.fit(chinchilla(one), Chinchilla, FitSpec(bootstrap=50))
    assert "alpha" in found.certificate.not_identified
    assert found.profiles["alpha"].high is None


def test_profiles_and_bootstraps_agree_where_rows_are_many():
    frame = planted.isoflop_frame(noise=0.003, sizes=25, seed=5)
    found = fitting.fit(chinchilla(frame), Chinchilla, FitSpec(bootstrap=400))
    for name, interval in found.intervals().items():
        if name in found.profiles:
            profile = found.profiles[name]
            assert 0.6 < (profile.high - profile.low) / (interval.high - interval.low) < 1.6
            assert profile.low < getattr(found.law, name) < profile.high


# --- certificates


def test_the_certificate_names_the_row_that_decides():
    frame = planted.isoflop_frame(noise=0.002, seed=3)
    frame.loc[0, ["params", "tokens"]] = [1e6, 1e9]  # far from all others, and wrong
    frame.loc[0, "loss"] = 1.06 * planted.TRUTH.predict(1e6, 1e9)
    found = fitting.fit(chinchilla(frame, "C=6*N*D"), Chinchilla, FitSpec(Objective("least_squares"), bootstrap=200))
    first = found.certificate.influential[0]
    assert first["rows"] == [0] and abs(first["standard_errors"]) > 1 and first["leverage"] > 0.5
    assert len(found.certificate.influential) == influence.MOST_NAMED
    json.dumps(to_json(found, "ab", "c"), allow_nan=False)


def test_leverages_add_up_to_the_coefficients():
    columns = plateau(0.01, rows=30)
    objective = LINEAR.objective
    problem = formula_fit.pose(columns, PLATEAU, LINEAR)
    found = optimum.find(problem, np.ones(30), objective, objective.stages(1.0), LINEAR.starts)
    matrix = np.stack([np.ones(30), columns["X"] ** -0.5], axis=1)
    hat = np.diag(matrix @ np.linalg.inv(matrix.T @ matrix) @ matrix.T)
    np.testing.assert_allclose(influence.leverage(found), hat, rtol=1e-6)
    assert found.invariance < 1e-6


def test_residuals_that_follow_an_input_are_named():
    frame = planted.isoflop_frame(sizes=12)
    found = fitting.fit(chinchilla(frame), laws.load("kaplan_c"), FitSpec(bootstrap=0))
    assert any("residuals follow" in text for text in found.certificate.warnings)
    right = fitting.fit(chinchilla(planted.isoflop_frame(sizes=12, noise=0.003)), Chinchilla, PLAIN)
    assert all(trend["p"] > 0.01 for trend in right.certificate.trends.values())


def test_seeds_tell_noise_from_a_wrong_form():
    frame = pd.concat([planted.isoflop_frame(noise=0.003, seed=seed) for seed in range(3)], ignore_index=True)
    right = fitting.fit(chinchilla(frame), Chinchilla, PLAIN).certificate
    assert right.seed_noise["standard_deviation"] == pytest.approx(0.003, rel=0.2)
    assert right.seed_noise["repeats"] == 70 and right.seed_noise["p"] > 0.01
    wrong = fitting.fit(chinchilla(frame), laws.load("kaplan_c"), PLAIN).certificate
    assert wrong.seed_noise["p"] < 1e-6 and any("scatter between seeds" in text for text in wrong.warnings)


def test_akaikes_criterion():
    columns = plateau(0.01, rows=30)
    spec = FitSpec(Objective("least_squares"), bootstrap=0)
    found = fitting.fit(columns, PLATEAU, spec)
    from scipy import stats

    likelihood = stats.norm.logpdf(found.residual, scale=found.residual.std(ddof=0)).sum()
    assert found.certificate.aicc == pytest.approx(-2 * likelihood + 8 + 2 * 4 * 5 / 25, abs=0.05)


# --- back-tests


def test_a_rolling_back_test_knows_how_far_it_reached():
    columns = chinchilla(planted.isoflop_frame(noise=0.002, seed=1))
    right, wrong = (
        backtest.rolling(columns, laws.load(name), FitSpec(bootstrap=50)) for name in ("chinchilla", "kaplan_c")
    )
    assert [split.trained_rows for split in right.splits] == [14, 21, 28]
    assert right.splits[0].reach == pytest.approx(10**1.5) and right.splits[-1].reach == pytest.approx(10**0.5)
    for split in right.splits:
        assert not set(split.rows) & set(np.flatnonzero(split.compute.min() > columns["C"]))
    errors = [
        np.abs(wrong.splits[0].error[wrong.splits[0].compute == C]).mean() for C in np.unique(wrong.splits[0].compute)
    ]
    assert errors == sorted(errors)  # a law without a floor misses the more, the further it reaches
    assert right.summary()["rms_error"] < 0.3 * wrong.summary()["rms_error"]
    assert [part["from"] for part in right.by_factor()] == [2.0, 5.0, 30.0]


def test_the_scoreboard_finds_the_law_that_made_the_grid():
    columns = chinchilla(planted.isoflop_frame(noise=0.002, seed=1))
    names = ("kaplan_n", "kaplan_c", "chinchilla", "kaplan")
    scores = scoreboard.scoreboard(columns, [laws.load(name) for name in names], FitSpec(bootstrap=50))
    assert scores[0].law == "chinchilla" and scores[0].aicc == min(score.aicc for score in scores)
    share = scoreboard.weights({score.law: score.aicc for score in scores})
    assert share["chinchilla"] > 0.99 and sum(share.values()) == pytest.approx(1)


def test_the_scoreboard_says_why_a_law_is_not_on_it():
    columns = chinchilla(planted.isoflop_frame(noise=0.002, budgets=1, sizes=4))
    scores = scoreboard.scoreboard(columns, [Chinchilla, laws.load("kaplan_n")], PLAIN)
    assert {score.law for score in scores if score.reason} == {"chinchilla", "kaplan_n"}
    assert "4 usable rows" in next(score.reason for score in scores if score.law == "chinchilla")


# --- forecasts


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A fit of all budgets but the largest, and forecasts of the largest."""
    folder = tmp_path_factory.mktemp("forecasts")
    frame = planted.isoflop_frame(noise=0.004, seed=7)
    found = fitting.fit(chinchilla(frame[:28]), Chinchilla, FitSpec(bootstrap=300))
    (folder / "fit.json").write_text(json.dumps(to_json(found, "of the small runs", "command")))
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    paths = []
    for at, row in frame[28:].iterrows():
        made = forecast.freeze(str(folder / "fit.json"), {"N": row["params"], "D": row["tokens"]}, now)
        paths.append(folder / f"{at}.json")
        paths[-1].write_text(json.dumps({**made.content(), "sha256": made.sha256()}))
    return frame, [str(path) for path in paths]


def test_forecasts_are_scored_when_their_runs_are_there(frozen):
    frame, paths = frozen
    forecasts = [forecast.read(path) for path in paths]
    outcomes, waiting = forecast.score(forecasts, planted.grid(frame), "N=params,D=tokens,loss=loss", None, 0.01)
    assert [outcome.row for outcome in outcomes] == list(range(28, 35)) and not waiting
    for outcome in outcomes:
        assert outcome.observed == frame["loss"][outcome.row]
        assert outcome.error == pytest.approx(outcome.forecast.prediction / outcome.observed - 1)
        low, high = outcome.forecast.interval(0.9)
        assert (low <= outcome.observed <= high) == (abs(outcome.rank - 0.5) <= 0.45)
    assert outcomes[0].forecast.made == "2026-01-02T03:04:05+00:00"
    levels = forecast.calibration(outcomes)
    assert [one["level"] for one in levels] == list(forecast.LEVELS)
    assert all(one["covered"] <= other["covered"] for one, other in itertools.pairwise(levels))
    early, waiting = forecast.score(forecasts, planted.grid(frame[:28]), "N=params,D=tokens,loss=loss", None, 0.01)
    assert not early and set(waiting.values()) == {"no row has its inputs yet"}


def test_a_forecast_that_was_changed_is_refused(frozen, tmp_path):
    _, paths = frozen
    for change in ({"prediction": 2.0}, {"made": "2020-01-01T00:00:00+00:00"}):
        data = json.loads(open(paths[0]).read()) | change
        (tmp_path / "changed.json").write_text(json.dumps(data))
        with pytest.raises(InputError, match="was changed after it was frozen"):
            forecast.read(str(tmp_path / "changed.json"))
    (tmp_path / "changed.json").write_text('{"schema": 1}')
    with pytest.raises(InputError, match="is not a forecast"):
        forecast.read(str(tmp_path / "changed.json"))


def test_a_grid_that_was_fitted_tests_no_forecast(frozen):
    frame, paths = frozen
    grid = dataclasses.replace(planted.grid(frame), sha256="of the small runs")
    outcomes, waiting = forecast.score([forecast.read(paths[0])], grid, None, None, 0.01)
    assert not outcomes and waiting == {paths[0]: "was fitted to this very grid"}


@pytest.mark.slow
def test_forecasts_hold_as_often_as_they_say():
    """Of the outcomes of 200 forecasts beyond the grid 90% lie in the 90% interval, within the error of such a share."""
    ranks = []
    for seed in range(200):
        columns = chinchilla(planted.isoflop_frame(noise=0.004, seed=seed))
        last = columns.take(columns["C"] > 0.9 * columns["C"].max())
        test = fitting.fit(
            columns.take(columns["C"] < 0.9 * columns["C"].max()),
            Chinchilla,
            FitSpec(bootstrap=100, thorough=False, starts=24),
        )
        draws = test.stacked().target_at({"N": last["N"][0], "D": last["D"][0]})
        runs = draws * np.exp(test.certificate.rms_log_residual * np.random.default_rng(seed).standard_normal(100))
        ranks.append(np.mean(runs < last["loss"][0]))
    inside = np.mean(np.abs(np.array(ranks) - 0.5) <= 0.45)
    assert 0.85 <= inside <= 0.96


# --- designs


def propose(columns: Columns, text: str, budget: float, count: int = 6) -> design.Design:
    candidates = design.lattice(columns, budget)
    return design.propose(
        columns, [Chinchilla], design.Target.parse(text), candidates, FitSpec(bootstrap=300), budget, count
    )


def test_a_design_shrinks_the_interval_within_its_budget():
    columns = chinchilla(planted.isoflop_frame(noise=0.004, seed=2))
    found = propose(columns, "loss@C=1e22", 5e20)
    widths = [found.high - found.low, *(step.high - step.low for step in found.steps)]
    assert (np.diff(widths) < 0).all() and widths[-1] < 0.7 * widths[0]
    assert found.steps[-1].spent <= 5e20 and len({step.candidate for step in found.steps}) == len(found.steps) <= 6


def test_designed_runs_tell_more_than_others_for_the_same_flops():
    """The design is made on one grid and tried on 12 others of the same law: the target scatters less than with runs that
    repeat the grid's own shape at the same cost."""
    target = "exponent_N"
    columns = chinchilla(planted.isoflop_frame(noise=0.004, seed=2))
    found = propose(columns, target, 2e20)
    chosen = [step.candidate for step in found.steps]
    designed = {role: found.candidates[role][chosen] for role in ("N", "D")}
    spent = found.steps[-1].spent
    middle = planted.TRUTH.optimum(spent / 6)[0] * np.geomspace(10**-0.25, 10**0.25, 6)
    plain = {"N": middle, "D": spent / 6 / 6 / middle}
    scatter = {"designed": [], "plain": []}
    for seed in range(12):
        frame = planted.isoflop_frame(noise=0.004, seed=100 + seed)
        stream = np.random.default_rng(seed)
        for name, more in (("designed", designed), ("plain", plain)):
            N, D = np.r_[frame["params"], more["N"]], np.r_[frame["tokens"], more["D"]]
            noise = stream.standard_normal(len(more["N"])) * 0.004
            loss = np.r_[frame["loss"], planted.TRUTH.predict(**more) * np.exp(noise)]
            spec = FitSpec(bootstrap=0, starts=8)
            scatter[name].append(
                fitting.fit(planted.columns(N, D, loss), Chinchilla, spec).law.optimum_exponents()[target]
            )
    truth = planted.TRUTH.optimum_exponents()[target]
    designed_error, plain_error = (np.median(np.abs(np.array(values) - truth)) for values in scatter.values())
    assert designed_error < 0.85 * plain_error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss@N=1e9", "loss of chinchilla is taken at N=..,D=.. or C=.."),
        ("N@D=1e9", "expected N@C=.."),
        ("gamma", "chinchilla has no 'gamma'"),
        ("loss@N=x", "is not ROLE=NUMBER"),
        ("loss@C=-1", "not a positive finite number"),
        ("@C=1", "names no quantity"),
    ],
)
def test_targets_that_do_not_exist(text, message):
    with pytest.raises(InputError, match=message):
        propose(chinchilla(planted.isoflop_frame(noise=0.004)), text, 1e20)


def test_a_budget_that_buys_nothing():
    with pytest.raises(InputError, match="--budget: 1000 FLOPs is less than"):
        propose(chinchilla(planted.isoflop_frame(noise=0.004)), "E", 1000.0)


# --- units


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 1e-9}, "too few for tokens: in millions or billions"),
        ({"params": 1e-9}, "too few for parameters"),
        ({"flops": 1 / 8.64e19}, "not about 6 N D"),
        ({"loss": 10.0}, "above the loss of a guess"),
        ({"loss": 0.2}, "low for nats per token"),
    ],
)
def test_units_that_cannot_be_right_are_doubted(change, message):
    frame = planted.isoflop_frame(noise=0.003)
    for name, factor in change.items():
        frame[name] *= factor
    notes = fitting.fit(chinchilla(frame), Chinchilla, PLAIN).columns.notes
    assert any(message in note for note in notes)


def test_usual_units_are_not_doubted():
    assert units.doubts(chinchilla(planted.isoflop_frame(noise=0.003))) == []


# --- approach 2


def test_sure_minima_count_more():
    """Two budgets are noisy; weighting brings the exponent nearer to the planted one than equal weights do."""
    errors = {True: [], False: []}
    truth = planted.TRUTH.optimum_exponents()["exponent_N"]
    law = laws.load("isoflop")
    for seed in range(12):
        frame = planted.isoflop_frame(noise=0.0005, budgets=6, sizes=9, seed=seed)
        stream = np.random.default_rng(seed)
        edge = frame["flops"] >= 0.9 * frame["flops"].max()
        narrow = edge & (np.arange(len(frame)) % 9 > 2) & (np.arange(len(frame)) % 9 < 6)  # few sizes, close together
        frame = frame[~edge | narrow].reset_index(drop=True)
        last = frame["flops"] >= 0.9 * frame["flops"].max()
        frame.loc[last, "loss"] *= np.exp(0.0005 * stream.standard_normal(int(last.sum())))
        columns = select(planted.grid(frame), law.ROLES, optional=law.OPTIONAL)
        for weighted in errors:
            try:
                found = fitting.fit(columns, law, FitSpec(bootstrap=200, weighted=weighted, interpolation="akima"))
            except InputError:
                continue
            errors[weighted].append(abs(found.law.a - truth))
            weights = np.array(found.details["weights"])
            assert weights.mean() == pytest.approx(1) and (np.ptp(weights) > 0) == weighted
    assert np.mean(errors[True]) < np.mean(errors[False])


@pytest.mark.parametrize("name", ["isoflop", "envelope"])
def test_laws_of_the_optimum_are_tested_on_the_optima_of_larger_budgets(name):
    law = laws.load(name)
    columns = select(planted.grid(planted.isoflop_frame(noise=3e-4, sizes=11)), law.ROLES, optional=law.OPTIONAL)
    test = backtest.rolling(columns, law, FitSpec(bootstrap=100))
    last = test.splits[-1]
    assert last.quantity == test.summary()["quantity"] == "N*" and last.reach == pytest.approx(10**0.5, rel=1e-3)
    truth = planted.TRUTH.optimum(last.compute)[0]
    np.testing.assert_allclose(last.observed, truth, rtol=0.25)
    np.testing.assert_allclose(last.predicted, truth, rtol=0.25)
    assert len(test.splits) == 3 and (last.low <= last.high).all()
