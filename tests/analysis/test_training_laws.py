"""Laws of training, shape and capacity: published numbers, invariants, and the procedures around the fits."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns, load
from analysis.laws import LAWS, growth, knowledge, schedules
from analysis.laws import critical_batch as batch
from analysis.laws.density import Density, DensityGrowth
from analysis.laws.downstream import Accuracy, AnswerLoss
from analysis.laws.translation import EncoderDecoder, LanguageWeight
from analysis.procedures import batch as batch_
from analysis.procedures import growth as growth_
from analysis.procedures import schedules as schedules_
from analysis.procedures.density import fit_density, records
from analysis.procedures.growth import speedup
from analysis.questions import fit as fitting
from analysis.questions.fit import select_for
from analysis.questions.speedup import check_used, with_leverage
from experiments.cli import InputError
from sweeps.study.rules import stacking_tokens

KAPLAN = batch.BatchTrajectory(N_c=6.5e13, alpha_N=0.077, S_c=2.1e3, alpha_S=0.76, B_star=2.1e8, alpha_B=0.21)
QUICK = FitSpec(bootstrap=0, starts=32)


def table(**values: np.ndarray) -> Columns:
    arrays = {role: np.asarray(value) for role, value in values.items()}
    return Columns(arrays, np.arange(len(next(iter(arrays.values())))), {role: role for role in arrays}, ())


# --- batch size


@pytest.mark.parametrize(
    ("N", "S", "B", "loss"),
    [
        (1e8, 1e5, 5e5, 2.9395509646197695),
        (1e8, 1e5, 5e4, 3.247470639877821),
        (1e9, 2.5e5, 5e5, 2.4605967813991563),
    ],
)
def test_the_loss_at_a_batch_size_solves_its_own_equation(N, S, B, loss):
    assert KAPLAN.predict(N, S, B) == pytest.approx(loss, rel=1e-12)
    effective = batch.least_steps(S, B, KAPLAN.critical_batch(loss))
    assert (KAPLAN.N_c / N) ** KAPLAN.alpha_N + (KAPLAN.S_c / effective) ** KAPLAN.alpha_S == pytest.approx(loss)
    assert KAPLAN.steps(N, B, loss) == pytest.approx(S)
    found = KAPLAN.derived({"N": N, "S": S, "batch": B})
    assert found["S_min"] == pytest.approx(effective)
    assert (S / found["S_min"] - 1) * (S * B / found["E_min"] - 1) == pytest.approx(1)
    assert found["C_min"] == pytest.approx(6 * N * found["E_min"])


def test_the_root_finder_agrees_with_bisection_where_batches_are_hopeless():
    from scipy.optimize import brentq

    stream = np.random.default_rng(0)
    for _ in range(200):
        size, step = 10 ** stream.uniform(-2, 1, 2)
        critical, alpha_S, alpha_B = 10 ** stream.uniform(-12, 12), stream.uniform(0.05, 3), stream.uniform(0.05, 3)
        arguments = (size, step, critical, alpha_S, alpha_B)

        def excess(x, size=size, step=step, critical=critical, alpha_S=alpha_S, alpha_B=alpha_B):
            return x - np.logaddexp(
                np.log(size), np.log(step) + alpha_S * np.logaddexp(0, np.log(critical) - x / alpha_B)
            )

        assert np.log(batch.settle(*arguments)) == pytest.approx(brentq(excess, -300, 300, xtol=1e-13), abs=1e-9)


def test_the_root_carries_first_and_second_derivatives_through():
    def at(shift):
        return batch.BatchTrajectory(6.5e13, 0.077 + shift, 2.1e3, 0.76 + shift, 2.1e8, 0.21 + shift).predict(
            1e8, 1e5, 5e4
        )

    complex_step, step = 1e-5, 2e-4
    moved = at(1j * complex_step)
    assert moved.imag / complex_step == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-4)
    bend = (at(step) + at(-step) - 2 * at(0.0)) / step**2
    assert 2 * (at(0.0) - moved.real) / complex_step**2 == pytest.approx(bend, rel=1e-3)


def test_batch_trade_off_limits():
    assert KAPLAN.predict(1e8, 1e4, 1e16) == pytest.approx((6.5e13 / 1e8) ** 0.077 + (2.1e3 / 1e4) ** 0.76)
    critical = KAPLAN.critical_batch(3.0)
    assert batch.least_steps(2e4, critical, critical) == 1e4  # twice the least steps at B_crit,
    assert batch.least_tokens(6e9, critical, critical) == 3e9  # and twice the least tokens
    assert batch.least_compute(1e20, critical, critical) == 5e19
    S, B = 10 ** np.random.default_rng(1).uniform([[3], [4]], [[6], [8]], (2, 50))
    base = KAPLAN.predict(1e8, S, B)
    assert (KAPLAN.predict(1e8, 1.1 * S, B) < base).all()
    assert (KAPLAN.predict(1.1e8, S, B) < base).all()
    assert (KAPLAN.predict(1e8, S, 1.1 * B) < base).all()
    law = batch.StepsExamples(S_min=4e3, E_min=5e9)
    steps = law.predict(B)
    np.testing.assert_allclose((steps / law.S_min - 1) * (steps * B / law.E_min - 1), 1.0)


def test_three_steps_recover_the_constants_from_curves():
    S = np.geomspace(3e2, 3e5, 400)
    runs = [(N, B) for N in (1e6, 1e7) for B in (2e4, 1e5, 4e5, 2e6)]
    curves = table(
        run=np.repeat(np.arange(len(runs)), len(S)),
        S=np.tile(S, len(runs)),
        N=np.repeat([N for N, _ in runs], len(S)),
        batch=np.repeat([B for _, B in runs], len(S)),
        loss=np.concatenate([KAPLAN.predict(N, S, B) for N, B in runs]),
    )
    sizes = np.geomspace(1e6, 6e7, 6)
    small = curves.take(curves["N"] == 1e7)
    crossings = batch_.contours(small, (3.6, 3.9, 4.3, 4.9))
    assert sorted(np.unique(crossings["loss"])) == [3.6, 3.9, 4.3, 4.9]
    np.testing.assert_allclose(crossings["S"], KAPLAN.steps(1e7, crossings["batch"], crossings["loss"]), rtol=1e-3)
    critical = batch_.critical_batches(crossings)
    np.testing.assert_allclose(critical["critical_batch"], KAPLAN.critical_batch(critical["loss"]), rtol=0.01)
    converged = table(N=sizes, loss=(6.5e13 / sizes) ** 0.077)
    found = batch_.three_steps(converged, crossings, curves.take(np.arange(len(curves)) % 40 == 0))
    for name, value in KAPLAN.coefficients().items():
        assert getattr(found, name) == pytest.approx(value, rel=0.03)


def test_contours_need_a_crossing():
    curve = table(run=np.zeros(3), S=np.array([1.0, 2, 3]), batch=np.ones(3), loss=np.array([4.0, 3, 2]))
    with pytest.raises(InputError, match="no run crosses"):
        batch_.contours(curve, [5.0, 1.0])
    with pytest.raises(InputError, match="two batch sizes"):
        batch_.critical_batches(batch_.contours(curve, [2.5]))


# --- schedules


def cosine(steps: int, peak: float, warmup: int) -> np.ndarray:
    at = np.arange(1, steps + 1)
    fall = 0.1 + 0.45 * (1 + np.cos(math.pi * np.clip((at - warmup) / (steps - warmup), 0, 1)))
    return peak * np.minimum(at / warmup, 1) * fall


def wsd(steps: int, peak: float, warmup: int, cooldown: int) -> np.ndarray:
    at = np.arange(1, steps + 1)
    return peak * np.minimum(at / warmup, 1) * np.clip((steps - at) / cooldown, 0.05, 1)


@pytest.mark.parametrize("decay", schedules.DECAYS)
@pytest.mark.parametrize("rate", [cosine(300, 2e-3, 20), wsd(300, 2e-3, 20, 60), np.tile(wsd(100, 1e-3, 9, 50), 2)])
def test_areas_are_the_double_sum(rate, decay):
    S1, S2 = schedules.areas(rate, decay)
    first = int(np.argmax(rate))  # the fall starts after the warm-up's peak
    slow = np.zeros(len(rate))
    for i in range(len(rate)):
        slow[i] = sum((rate[k - 1] - rate[k]) * decay ** (i - k) for k in range(first + 1, i + 1))
    np.testing.assert_allclose(S1, [rate[: i + 1].sum() for i in range(len(rate))])
    np.testing.assert_allclose(S2, np.cumsum(slow), atol=1e-15)
    assert (S2[: first + 1] == 0).all()


def test_a_law_of_cosine_curves_predicts_the_wsd_curve():
    truth, decay = schedules.Annealing(L0=2.6, A=0.4, alpha=0.5, C=2.0), 0.999
    at = np.arange(150, 3001, 15)
    stream = np.random.default_rng(0)
    curves = []
    for steps in (2000, 3000):
        rate, points = cosine(steps, 2e-4, 100), at[at <= steps]
        loss = truth.curve(rate, decay, points) * np.exp(1e-3 * stream.standard_normal(len(points)))
        curves.append(schedules.Curve(rate, points, loss))
    found = schedules_.fit_curves(curves, QUICK)
    assert found.details["decay"] == decay
    target = wsd(3000, 2e-4, 100, 600)
    planned, true = found.law.curve(target, decay, at), truth.curve(target, decay, at)
    assert np.abs(planned / true - 1).max() < 3e-3
    assert true[-1] < truth.curve(wsd(3000, 2e-4, 100, 1), decay)[-2] - 0.05  # what the cooldown is for


def test_a_log_with_gaps_gives_the_schedule_back():
    rate = wsd(300, 1.0, 1, 100)
    at = np.r_[1, 50, 200, 201, 250, 295]
    curve = schedules.Curve.logged(at, rate[at - 1], np.ones(len(at)))
    np.testing.assert_allclose(curve.rate, rate[:295], atol=1e-12)


def test_shuffled_logs_of_runs_are_fitted_without_their_warm_up():
    truth, stream = schedules.Annealing(L0=2.6, A=0.4, alpha=0.5, C=2.0), np.random.default_rng(0)
    parts = []
    for run, steps in enumerate((2000, 3000)):
        rate, at = np.r_[cosine(steps - 100, 2e-4, 100), np.zeros(100)], np.arange(1, steps + 1, 10)
        loss = truth.curve(rate, 0.99, at) * np.exp(1e-3 * stream.standard_normal(len(at)))
        loss[at < 90] = 9.0  # what the law does not speak of
        parts.append(np.stack([np.full(len(at), run), at, rate[at - 1], loss]))
    run, step, rate, loss = stream.permutation(np.hstack(parts), axis=1)
    rows = table(run=run, S=step, lr=rate, loss=loss)
    found = fitting.fit(rows, schedules.AnnealingCurve, FitSpec(bootstrap=0, starts=32))
    assert found.details["decay"] == 0.99
    assert found.law.coefficients() == pytest.approx(truth.coefficients(), rel=0.1)
    assert {row.reason for row in found.columns.dropped} == {"it is in the warm-up"}
    assert (step[[row.row for row in found.columns.dropped]] <= 101).all()
    np.testing.assert_array_equal(found.columns["loss"], rows["loss"][found.columns.row])
    with pytest.raises(InputError, match="tells runs apart"):
        fitting.fit(table(S=step, lr=rate, loss=loss), schedules.AnnealingCurve, QUICK)


@pytest.mark.parametrize("rate", [[], [0.0, 0.0], [1.0, -1.0], [1.0, np.nan]])
def test_what_is_no_schedule_is_refused(rate):
    with pytest.raises(InputError, match="not a schedule"):
        schedules.areas(rate)


def test_a_point_outside_the_schedule_is_refused():
    with pytest.raises(InputError, match="steps from 1 to 3"):
        schedules.Annealing(1, 1, 1, 1).curve([1.0, 1.0, 1.0], 0.99, [4])


def test_power_scheduler_caps_the_rate():
    law = schedules.PowerScheduler(eta_max=0.02, a=4.6 / 4096, b=-0.51)
    batch_tokens = 4096.0 * 512
    assert law.predict(1e6, batch_tokens) == pytest.approx(0.02)
    assert law.predict(1e12, batch_tokens) == pytest.approx(512 * 4.6 * 1e12**-0.51, rel=1e-6)


def test_power_scheduler_without_rows_at_the_cap_still_has_its_power():
    truth = schedules.PowerScheduler(1.0, 1e-3, -0.5)
    stream = np.random.default_rng(0)
    D, B = 10 ** stream.uniform(10, 12, 40), 2.0 ** stream.integers(16, 20, 40)
    rows = table(D=D, batch=B, lr=truth.predict(D, B) * np.exp(0.05 * stream.standard_normal(40)))
    found = fitting.fit(rows, schedules.PowerScheduler, QUICK).law
    assert found.b == pytest.approx(-0.5, abs=0.03)
    assert found.eta_max >= 0.9 * rows["lr"].max()


# --- growth


@pytest.mark.parametrize(
    ("N", "D", "tokens"),
    [
        (8e9, 15e12, 6.581387829e9),
        (7e9, 2e12, 11.112953127e9),
        (13e9, 2e12, 15.843690723e9),
        (70e9, 2e12, 42.475087122e9),
    ],
)
def test_stack_timing_is_the_published_table(N, D, tokens):
    law = growth.StackTiming(0.88, 163.27, -5.74)
    assert law.predict(N, 6 * N * D) == pytest.approx(tokens, rel=1e-9)
    assert law.predict(N, 6 * N * D) == pytest.approx(stacking_tokens(N, D))


def test_best_choices_are_the_vertices_and_edges_are_dropped():
    law = growth.StackTiming(0.88, 163.27, -5.74)
    rows = []
    for N in (4e8, 1.1e9, 3e9):
        for D in (1e11, 3e11):
            best = law.predict(N, 6 * N * D)
            rows += [(N, 6 * N * D, best * f, 2.5 + 0.01 * math.log(f) ** 2) for f in (0.1, 0.3, 0.8, 2.5, 6)]
    rows += [(7e9, 1e22, d, 2.0 + 1e-11 * d) for d in (1e9, 3e9, 9e9)]  # the earliest is best
    N, C, d, loss = np.array(rows).T
    found = growth_.best_choices(table(N=N, C=C, growth_tokens=d, loss=loss), "growth_tokens")
    np.testing.assert_allclose(found["growth_tokens"], law.predict(found["N"], found["C"]), rtol=1e-9)
    assert len(found) == 6
    assert [row.row for row in found.dropped] == [30, 31, 32]
    fitted = fitting.fit(found, growth.StackTiming, QUICK).law
    assert fitted.coefficients() == pytest.approx(law.coefficients(), rel=1e-6)
    with pytest.raises(InputError, match="both sides"):
        growth_.best_choices(table(N=N, C=C, growth_tokens=d, loss=d), "growth_tokens")


def test_costs_that_differ_by_rounding_are_one_cell():
    """Whole steps move each run's cost a little: wherever they lie, they belong together."""
    d = np.geomspace(1e3, 1e5, 5)
    for C in np.geomspace(1e10, 1e10 * math.exp(0.01), 11):
        costs = C * (1 + 1e-3 * np.array([1, -1, 1, -1, 1]))
        loss = 2.0 + 0.01 * np.log(d / 1e4) ** 2
        found = growth_.best_choices(table(N=np.full(5, 1e5), C=costs, growth_tokens=d, loss=loss), "growth_tokens")
        assert found["growth_tokens"] == pytest.approx([1e4])


def test_laws_of_best_choices_are_fitted_to_all_runs(tmp_path):
    law = growth.StackTiming(0.88, 163.27, -5.74)
    rows = []
    for N in (4e8, 1.1e9, 3e9):
        for C in (1e20, 1e21, 1e22):
            best = law.predict(N, C)
            rows += [(N, C, best * f, 2.5 + 0.01 * math.log(f) ** 2) for f in (0.1, 0.3, 0.8, 2.5, 6)]
    frame = pd.DataFrame(rows, columns=["N", "C", "growth_tokens", "loss"])
    frame.to_csv(tmp_path / "runs.csv", index=False)
    columns = select_for(load(str(tmp_path / "runs.csv")), growth.StackTiming, None, None)
    assert len(columns) == 9
    found = fitting.fit(columns, growth.StackTiming, QUICK).law
    assert found.coefficients() == pytest.approx(law.coefficients(), rel=1e-6)
    choices = table(N=columns["N"], C=columns["C"], growth_tokens=columns["growth_tokens"], loss=np.full(9, 2.0))
    assert growth_.best_of_runs(choices, growth.StackTiming) is choices, "a table of choices is fitted as it is"


def test_what_others_pay_becomes_columns(tmp_path):
    """Of the runs compared with, one that is dear and bad is no reference; a law that needs neither column is refused."""
    cost = np.geomspace(1e12, 1e14, 9)
    loss = 1.5 + 40 * cost**-0.15
    scratch = pd.DataFrame({"C": cost, "loss": loss, "group": "scratch"})
    wasted = pd.DataFrame({"C": [9e13], "loss": [loss[4]], "group": "scratch"})
    grown = pd.DataFrame({"C": cost[2:6] / 2, "loss": loss[2:6], "group": "grown"})
    pd.concat([wasted, scratch, grown]).to_csv(tmp_path / "runs.csv", index=False)
    grid = with_leverage(load(str(tmp_path / "runs.csv")), "group=='scratch'", None)
    columns = select_for(grid, growth.GrowthSpeedup, None, None)
    np.testing.assert_allclose(columns["speedup"], 1.0, rtol=1e-9)
    np.testing.assert_array_equal(columns.row, [10, 11, 12, 13])
    np.testing.assert_allclose(grid.frame["leverage"][10:], 2.0, rtol=1e-9)
    with pytest.raises(InputError, match="--over: chinchilla has no use for it"):
        check_used(LAWS["chinchilla"], None)
    with pytest.raises(InputError, match="holds in all rows"):
        with_leverage(load(str(tmp_path / "runs.csv")), "C>0", None)
    with pytest.raises(InputError, match="has a column leverage already"):
        with_leverage(grid, "group=='scratch'", None)


@pytest.mark.parametrize("p", [0.1, -0.1])
def test_growth_pays_up_to_or_from_the_break_even_point(p):
    truth = growth.GrowthSpeedup(C_even=1e21, p=p)
    scratch = np.geomspace(1e17, 1e24, 200)
    curve = 1.7 + 40 * scratch**-0.08
    grown = np.geomspace(1e18, 1e23, 6)
    loss = 1.7 + 40 * (grown * (1 + truth.predict(grown))) ** -0.08
    rows = growth_.speedup_rows([*grown, 1e26], [*loss, 1.0], scratch, curve)
    assert rows["speedup"][0] == speedup(grown[0], loss[0], scratch, curve)
    assert [row.row for row in rows.dropped] == [6]
    found = fitting.fit(rows, growth.GrowthSpeedup, QUICK)
    assert found.law.C_even == pytest.approx(1e21, rel=0.01)
    assert found.law.p == pytest.approx(p, rel=0.01)
    assert found.law.predict(found.law.C_even) == pytest.approx(0, abs=1e-12)
    assert (found.law.predict(1e19) > 0) == (p > 0)


def test_speedups_need_runs_from_scratch_around_them():
    with pytest.raises(InputError, match="both sides"):
        growth_.speedup_rows([1e18], [9.0], [1e17, 1e18], [3.0, 2.0])


# --- translation


def test_only_the_product_of_encoder_references_is_in_the_data():
    law = EncoderDecoder(L_inf=1.2, A=30.0, p_e=0.1, p_d=0.3)
    for N_e0, N_d0 in ((1e7, 1e7), (3e8, 2e6)):
        written = law.alpha(N_e0, N_d0) * (N_e0 / 5e8) ** 0.1 * (N_d0 / 4e7) ** 0.3 + 1.2
        assert written == pytest.approx(law.predict(5e8, 4e7))
    shares = np.linspace(0.01, 0.99, 99)
    best = shares[np.argmin(law.predict(shares * 1e9, (1 - shares) * 1e9))]
    assert best == pytest.approx(law.encoder_share())


def test_a_language_alone_has_all_parameters():
    law = LanguageWeight(beta=40.0, alpha=0.22, L_inf=0.9, c1=0.3, c2=0.5, c3=0.8)
    assert law.effective_share(1.0) == 1.0
    assert law.predict(1e9, 1.0) == pytest.approx(0.9 + 40 * 1e9**-0.22)
    share = np.linspace(0.05, 0.95, 19)
    assert (law.effective_share(share) > share).all()
    none = LanguageWeight(40.0, 0.22, 0.9, 0.0, 0.5, 0.8)
    np.testing.assert_allclose(none.effective_share(share), share)


# --- capacity


def test_biographies_hold_47_bits_a_person():
    """47.6 bits are in the attributes of a person (Allen-Zhu & Li); the names add log2(N_0/N)."""
    attributes = math.log2(math.prod(knowledge.PLAIN_ATTRIBUTES))
    assert attributes == pytest.approx(47.6, abs=0.05)
    people = 10_000
    limit = knowledge.biography_limit(people)
    assert limit == pytest.approx(people * (attributes + math.log2(1.6e8 / people)))
    chance = math.log(knowledge.PLAIN_NAMES), attributes * math.log(2)
    assert knowledge.biography_bits(people, *chance) == pytest.approx(0, abs=1e-6)
    assert knowledge.biography_bits(people, 30.0, 60.0) == 0  # worse than chance is no debt
    half = knowledge.biography_bits(people, math.log(people), attributes * math.log(2) / 2)
    assert limit - half == pytest.approx(people * attributes / 2)


def test_bits_of_random_data_count_values_and_their_sets():
    # K=2 attributes, C=3 chunks of L=4 tokens out of T=16, D=8 different ones: all known at zero loss
    bits = knowledge.random_bits(100, 1e6, (2, 3, 8, 4, 16), (math.log(100), 0.0, 0.0))
    assert bits == pytest.approx(100 * math.log2(1e4) + 100 * 2 * 3 * 3 + 2 * 8 * (16 - 3))
    with pytest.raises(InputError, match="does not fit"):
        knowledge.random_bits(100, 1e6, (2, 3, 8, 1, 4), (0.0, 0.0, 0.0))


def test_capacity_saturates_and_its_interval_covers_two_bits():
    stream = np.random.default_rng(0)
    N, H = 10 ** stream.uniform(5, 9, 60), 10 ** stream.uniform(6, 9, 60)
    bits = np.minimum(2 * N, H) * np.exp(0.05 * stream.standard_normal(60))  # a sharp corner
    found = fitting.fit(table(N=N, data_bits=H, bits=bits), knowledge.KnowledgeCapacity, FitSpec(bootstrap=200))
    interval = found.intervals()["k"]
    assert interval.low < 2 < interval.high
    assert interval.high - interval.low < 0.2
    law = knowledge.KnowledgeCapacity(k=2.0, q=4.0)
    assert law.predict(1e6, 1e12) == pytest.approx(2e6)
    assert law.predict(1e12, 1e6) == pytest.approx(1e6)
    assert law.predict(1e6, 2e6) == pytest.approx(2e6 * 2 ** (-1 / 4))


def test_density_of_a_reference_model_is_one():
    reference = AnswerLoss(a=20.0, b=300.0, alpha=0.2, beta=0.3)
    accuracy = Accuracy(a=0.7, k=-4.0, L0=0.55, b=0.25)
    measure = Density(reference, accuracy)
    N = np.geomspace(1e7, 1e11, 5)
    score = accuracy.predict(reference.predict(N, 1e12))
    np.testing.assert_allclose(measure.effective_size(score), N, rtol=1e-8)
    np.testing.assert_allclose(measure.density(score, N / 3), 3.0, rtol=1e-8)
    assert np.isnan(measure.effective_size([0.2, 0.25, 0.95, 0.99])).all()  # a guess, or more than D_0 allows


def test_density_is_fitted_in_two_steps():
    reference, accuracy = AnswerLoss(20.0, 300.0, 0.2, 0.3), Accuracy(0.7, -4.0, 0.55, 0.25)
    draw = np.random.default_rng(0)  # one for both: with D = 100 N, (a, alpha) and (b, beta) could change places
    N = 10 ** draw.uniform(7, 10, 40)
    D = 10 ** draw.uniform(9, 12, 40)
    loss = np.linspace(0.1, 2.5, 30)
    measure, fits = fit_density(
        table(N=N, D=D, task_loss=reference.predict(N, D)),
        table(task_loss=loss, accuracy=accuracy.predict(loss)),
        QUICK,
    )
    assert set(fits) == {"answer_loss", "accuracy"}
    assert measure.density(0.5, 1e8) == pytest.approx(Density(reference, accuracy).density(0.5, 1e8), rel=1e-4)


def test_density_growth_follows_the_records():
    stream = np.random.default_rng(0)
    days = stream.uniform(19_000, 20_000, 60)  # since 1970: far from the data
    record = np.exp(0.0073 * (days - 19_500))
    density = record * np.where(np.arange(60) % 3, stream.uniform(0.05, 0.6, 60), 1.0)
    kept = records(days, density)
    for row in range(60):
        assert kept[row] == (density[row] > density[days < days[row]].max(initial=-np.inf))
    found = fitting.fit(table(days=days, density=density), DensityGrowth, FitSpec(bootstrap=200))
    assert len(found.columns) == kept.sum()
    assert len(found.columns.dropped) == 60 - kept.sum()
    assert abs(found.law.A / 0.0073 - 1) < 0.15
    doubling = found.details["doubling_days"]
    assert doubling["value"] == pytest.approx(math.log(2) / found.law.A)
    assert doubling["interval"]["low"] <= doubling["value"] <= doubling["interval"]["high"]
    assert DensityGrowth(0.0073, 0.0).doubling_days() == pytest.approx(95, abs=0.1)
    np.testing.assert_allclose(
        found.law.predict(found.columns["days"]) / found.columns["density"], np.exp(found.residual)
    )


# --- what rows cannot tell is said, whatever the law


@pytest.mark.parametrize(
    ("law", "rows", "lost"),
    [
        (batch.StepsExamples, {"batch": lambda x: x * 1e5, "S": lambda x: 1e9 / x}, {"S_min"}),
        (knowledge.KnowledgeCapacity, {"N": lambda x: x * 1e9, "data_bits": lambda x: 1e6 + 0 * x, "bits": lambda x: 1e6 + 0 * x}, {"k", "q"}),
        (schedules.Annealing, {"S1": lambda x: x, "S2": lambda x: 0 * x, "loss": lambda x: 2 + 0.4 * x**-0.5}, {"C"}),
        (LanguageWeight, {"N": lambda x: 1e7 * x, "proportion": lambda x: 0.5 + 0 * x, "loss": lambda x: 1 + 40 * (6e6 * x) ** -0.25}, {"c1", "c2", "c3"}),
    ],
)  # fmt: skip
def test_coefficients_without_rows_are_named(law, rows, lost):
    x = np.geomspace(0.1, 1000, 30)
    values = {role: made(x) for role, made in rows.items()}
    values[law.TARGET] = values[law.TARGET] * np.exp(0.02 * np.random.default_rng(0).standard_normal(30))
    found = fitting.fit(table(**values), law, FitSpec(bootstrap=20, starts=32, thorough=False))
    assert lost <= set(found.certificate.not_identified)
    assert found.certificate.rms_log_residual < 0.03
