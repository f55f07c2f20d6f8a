"""From scale to what a model can do: two steps, pass rates, emergence, predictable tasks. All on planted data."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.downstream import Accuracy, Difficulty, TaskLoss, TwoStepAccuracy, TwoStepCompute, TwoStepLog
from analysis.procedures import difficulty, emergence
from analysis.questions import fit as fitting
from analysis.questions import predict
from analysis.solve.objective import Objective
from experiments.cli import InputError
from tests.support.commands import command

TWO = TwoStepAccuracy(0.4, 50, 300, 0.3, 0.33, 0.7, -4.0, 1.1, 0.25)
FAR = {"N": 7e10, "D": 1.4e12}


def two_step(rows: int = 40, seed: int = 0, noise: float = 0.01) -> Columns:
    draw = np.random.default_rng(seed)
    N = 10 ** draw.uniform(7.5, 9.5, rows)
    D = 20 * N * 10 ** draw.uniform(-0.3, 0.7, rows)
    first, second = TWO.steps()
    loss = first.predict(N, D) * np.exp(noise * draw.standard_normal(rows))
    accuracy = second.predict(loss) + noise * draw.standard_normal(rows)
    return Columns({"N": N, "D": D, "task_loss": loss, "accuracy": accuracy}, np.arange(rows), {}, ())


@pytest.mark.parametrize(
    "truth",
    [TwoStepCompute(0.4, 3000, 0.18, 0.7, -4.0, 1.1, 0.25), TwoStepLog(5.5, 0.1, 0.7, -4.0, 1.1, 0.25)],
    ids=lambda law: law.NAME,
)
def test_both_steps_are_recovered_from_compute(truth):
    C = np.geomspace(1e18, 1e22, 25)
    loss = truth.steps()[0].predict(C)
    columns = Columns({"C": C, "task_loss": loss, "accuracy": truth.predict(C=C)}, np.arange(25), {}, ())
    found = fitting.fit(columns, type(truth), FitSpec(bootstrap=0)).law
    assert found.coefficients() == pytest.approx(truth.coefficients(), rel=1e-6)


def test_the_interval_of_an_accuracy_carries_both_steps():
    columns = two_step()
    result = fitting.fit(columns, TwoStepAccuracy, FitSpec(bootstrap=100))
    draws = result.stacked().target_at(FAR)
    assert np.quantile(draws, 0.02) <= TWO.target_at(FAR) <= np.quantile(draws, 0.98)
    count = len(TaskLoss.names())
    best = np.tile([result.law.coefficients()[name] for name in result.law.names()], (100, 1))
    first_only, second_only = best.copy(), best.copy()
    first_only[:, :count], second_only[:, count:] = result.draws[:, :count], result.draws[:, count:]
    spread = [np.std(TwoStepAccuracy.stack(part).target_at(FAR)) for part in (first_only, second_only)]
    assert min(spread) > 0 and np.std(draws) > 0.8 * max(spread)
    # Replicates of both steps are fits to the same rows: refitting replicate 0 alone gives it back.
    from analysis.trust.bootstrap import row_counts

    keep = np.repeat(np.arange(40), row_counts(40, 100, 42, None, 5)[0].astype(int))
    alone = fitting.fit(
        Columns({k: v[keep] for k, v in columns.values.items()}, np.arange(40), {}, ()), Accuracy, FitSpec(bootstrap=0)
    )
    assert alone.law.predict(0.9) == pytest.approx(Accuracy.stack(result.draws[:, count:]).predict(0.9)[0], abs=1e-4)


@pytest.mark.slow
def test_the_interval_of_an_accuracy_is_honest():
    inside = 0
    for seed in range(10):
        draws = fitting.fit(two_step(seed=seed), TwoStepAccuracy, FitSpec(bootstrap=100)).stacked().target_at(FAR)
        inside += np.quantile(draws, 0.05) <= TWO.target_at(FAR) <= np.quantile(draws, 0.95)
    assert inside >= 7


def test_two_steps_from_the_command_line(tmp_path):
    grid, out = tmp_path / "grid.csv", tmp_path / "fit.json"
    pd.DataFrame(two_step().values).rename(columns={"N": "params", "D": "tokens", "accuracy": "acc"}).to_csv(
        grid, index=False
    )
    flags = ["--law=two_step", "--bootstrap=20", "--noback_test"]
    done = command("analysis.fit", grid, *flags, f"--out={out}")
    assert done.returncode == 0, done.stderr
    fitted = predict.read(str(out))
    assert set(json.loads(out.read_text())["details"]["steps"]) == {"task_loss", "accuracy"}
    found = predict.predict(fitted, predict.parse_at("N=7e10,D=1.4e12", fitted.law))
    assert (
        found.loss == pytest.approx(TWO.target_at(FAR), abs=0.02)
        and found.interval.low < found.loss < found.interval.high
    )


def test_the_pass_rate_is_unbiased_and_knows_its_error():
    samples = 5 + np.random.default_rng(0).negative_binomial(5, 0.03, 20_000)
    found = [emergence.pass_rate(5, int(count)) for count in samples]
    rates = np.array([one.rate for one in found])
    assert rates.mean() == pytest.approx(0.03, abs=4 * rates.std() / 141)
    assert (5 / samples).mean() > 0.036  # the plain share is not
    assert np.mean([one.error**2 for one in found]) == pytest.approx(rates.var(), rel=0.1)


def test_sampling_until_enough_passes():
    draw = np.random.default_rng(1)
    found = emergence.sample_until(lambda: draw.random() < 0.02, 50)
    assert found.passes == 50 and abs(found.rate - 0.02) < 4 * found.error
    rare = emergence.sample_until(lambda: False, 3, most=100)
    assert (rare.rate, rare.passes, rare.samples) == (0.0, 0, 100)
    with pytest.raises(InputError, match="at least 2"):
        emergence.pass_rate(1, 10)
    mean, error = emergence.mean_rate([emergence.pass_rate(11, 101), emergence.pass_rate(21, 101)])
    assert mean == pytest.approx(0.15) and error == pytest.approx(np.hypot(0.3 / 99**0.5, 0.4 / 99**0.5) / 2)


SIZES = np.geomspace(1e7, 2e9, 8)


def emerged(bend: float, known: bool) -> list[emergence.Emergence]:
    """40 tasks with -ln PU = 8 exp(-0.3 x - bend x^2), x = ln(N/N0), measured by sampling until 200 pass."""
    found = []
    for seed in range(40):
        draw, x = np.random.default_rng(seed), np.log(SIZES / SIZES[0])
        rate = np.exp(-8 * np.exp(-0.3 * x - bend * x**2))
        task = [emergence.pass_rate(200, 200 + int(draw.negative_binomial(200, p))) for p in rate]
        error = np.array([one.error for one in task]) if known else None
        found.append(emergence.emergence(SIZES, np.array([one.rate for one in task]), error, draws=400))
    return found


@pytest.mark.parametrize("known", [False, True])
def test_emergence_is_found_where_it_is_and_nowhere_else(known):
    for bend, verdict in ((0.05, "accelerated"), (-0.02, "slowed"), (0.0, "power law")):
        found = emerged(bend, known)
        assert [one.verdict for one in found].count(verdict) >= 34
        held = [one.bend_interval.low <= -bend <= one.bend_interval.high for one in found]
        assert np.mean(held) > 0.75


def test_emergence_of_too_little_says_so():
    with pytest.raises(InputError, match="3 sizes"):
        emergence.emergence(SIZES[:3], np.array([0.1, 0.2, 0.3]))
    with pytest.raises(InputError, match="not between 0 and 1"):
        emergence.emergence(SIZES, np.ones(8))
    few = emergence.emergence(SIZES[:4], np.exp(-8 * (SIZES[:4] / 1e7) ** -0.3))
    assert few.aicc is None and few.alpha == pytest.approx(0.3)


C, TARGET = np.geomspace(1e19, 3e21, 7), 3e23
KINDS = ((3e3, 0.2, 0.02, 140), (1.5e5, 0.27, 0.02, 120), (2e6, 0.31, 0.05, 80))


def benchmark(seed: int, guess: float = 0.0) -> tuple[np.ndarray, float, float]:
    """Scores [tasks, models] of three kinds of tasks and 60 tasks that jump from 0 to 1 somewhere; the truth at TARGET."""
    draw, scores, end = np.random.default_rng(seed), [], []
    for a, b, c, count in KINDS:
        law = Difficulty(guess, a, b, c)
        scores.append(np.clip(law.predict(C) + 0.05 * draw.standard_normal((count, 7)), 0, 1))
        end += [float(law.predict(TARGET))] * count
    jump = draw.uniform(np.log(1e19), np.log(TARGET), 60)
    scores.append(np.clip((np.log(C) > jump[:, None]) + 0.05 * draw.standard_normal((60, 7)), 0, 1))
    return np.vstack(scores), float(np.mean(end)), float(np.mean(end + [1.0] * 60))


@pytest.mark.parametrize("guess", [0.0, 0.25])
def test_predictable_tasks_are_found_and_carry_the_benchmark(guess):
    scores, subset, whole = benchmark(0, guess)
    found = difficulty.forecast(scores, C, TARGET, guess=guess, draws=60)
    for first, last in ((0, 140), (140, 260), (260, 340)):  # each kind in one cluster of its own
        assert len(set(found.labels[first:last])) == 1 and found.labels[first] >= 0
    kept = np.concatenate([one.tasks for one in found.clusters if one.law is not None])
    assert np.isin(np.arange(340), kept).mean() == 1
    assert found.subset == pytest.approx(subset, abs=0.02)
    assert found.whole == pytest.approx(whole, abs=0.05)
    assert found.interval.low < found.whole < found.interval.high < found.interval.low + 0.1


def test_clusters_that_fall_or_stand_still_are_left_out():
    draw = np.random.default_rng(2)
    falling = np.linspace(0.6, 0.2, 7) + 0.03 * draw.standard_normal((40, 7))
    still = 0.9 + 0.03 * draw.standard_normal((40, 7))
    rising = Difficulty(0.0, 3e3, 0.2, 0.02).predict(C) + 0.03 * draw.standard_normal((40, 7)) - 0.25
    found = difficulty.forecast(np.clip(np.vstack([falling, still, rising]), 0, 1), C, TARGET, diameter=0.2, draws=20)
    reasons = {int(one.tasks[0]) // 40: one.reason for one in found.clusters}
    assert "falls" in reasons[0] and "does not rise" in reasons[1] and reasons[2] == ""
    with pytest.raises(InputError, match="no tasks can be extrapolated"):
        difficulty.forecast(np.clip(falling, 0, 1), C, TARGET)


def test_the_map_goes_through_both_corners_and_finds_a_quartic():
    x = np.linspace(0.2, 0.7, 9)
    p = difficulty.anchored(x, difficulty.whole_from([0.3, -0.2, 0.4], x))
    assert p == pytest.approx([0.3, -0.2, 0.4])
    assert difficulty.whole_from(p, [0.0, 1.0]) == pytest.approx([0.0, 1.0])
    assert len(difficulty.anchored(x, x)) == 0
    assert difficulty.cluster(np.array([[0.1, 0.2], [0.9, 0.9]]), least=2).tolist() == [-1, -1]


def near_one(seed: int = 0, top: float = 1.06) -> Columns:
    """Accuracies whose best curve without the constraint ends above 1."""
    stream = np.random.default_rng(seed)
    task_loss = np.linspace(0.35, 1.6, 40)
    accuracy = Accuracy(top - 0.25, -4.0, 0.8, 0.25).predict(task_loss) + 0.005 * stream.standard_normal(40)
    values = {"task_loss": task_loss, "accuracy": np.minimum(accuracy, 1.0)}
    return Columns(values, np.arange(40), {}, ())


@pytest.mark.parametrize("fixed", [{}, {"b": 0.2}, {"a": 0.8}])
def test_no_accuracy_is_above_1_as_a_part_of_the_fit(fixed):
    """The optimum is that of the constrained problem (SLSQP), which the certificate speaks of, and the bound is told."""
    from scipy.optimize import minimize

    columns = near_one()
    spec = FitSpec(Objective("least_squares", "raw"), fixed=fixed, bootstrap=60, thorough=False)
    found = fitting.fit(columns, Accuracy, spec)
    law = found.law
    assert law.a + law.b <= 1 + 1e-12
    assert found.certificate.gradient < 1e-6
    held = {name: getattr(law, name) for name in fixed}
    assert held == fixed

    def misfit(point: np.ndarray) -> float:
        one = Accuracy(
            *np.where([name in fixed for name in Accuracy.names()], list(law.coefficients().values()), point)
        )
        return 1e4 * float(np.sum((one.predict(columns["task_loss"]) - columns["accuracy"]) ** 2)) / 2

    theirs = minimize(
        misfit,
        [0.6, -3.5, 0.8, 0.2],
        method="SLSQP",
        bounds=[(0, 1), (-30, 0), (0.1, 2), (0, 1)],
        constraints={"type": "ineq", "fun": lambda point: 1 - fixed.get("a", point[0]) - fixed.get("b", point[3])},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert 1e4 * found.objective == pytest.approx(theirs.fun, rel=1e-4)  # SLSQP keeps to 1 within 1e-6
    assert law.a + law.b == pytest.approx(1, abs=1e-9)
    assert any("a + b is 1" in text for text in found.certificate.warnings)
    ends = found.draws[:, 0] + found.draws[:, 3]
    assert ends.max() <= 1 + 1e-12


def test_a_curve_that_ends_below_1_is_fitted_as_before():
    columns = near_one(top=0.9)
    found = fitting.fit(columns, Accuracy, FitSpec(bootstrap=100))
    assert not found.certificate.at_bound
    assert found.law.a + found.law.b == pytest.approx(0.9, abs=0.02)
    assert set(found.profiles) == {"a", "k", "L0", "b"}
    for name, profile in found.profiles.items():
        assert profile.low < getattr(found.law, name) < profile.high
