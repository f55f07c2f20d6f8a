"""Vocabulary laws: the three approaches on planted and on published rows, and where their optimum lies."""

import json

import numpy as np
import pytest

from analysis.fitting.spec import FitSpec
from analysis.grid.selection import select
from analysis.grid.table import Columns, load
from analysis.laws import load as load_law
from analysis.laws.vocabulary import (
    VocabularyFrontier,
    VocabularyLoss,
    VocabularyPower,
    tokens_as_released,
    tokens_per_character,
    width_of,
)
from analysis.procedures import robust_line, vocabulary, vocabulary_points
from analysis.questions import fit as fitting
from analysis.solve.objective import Objective
from experiments.cli import InputError
from tests.support.commands import command
from tests.support.planted import GRIDS

FILE = GRIDS / "vocab_isoflop.csv"
published = pytest.mark.skipif(not FILE.exists(), reason="the published grids (../shared/grids) are not here")
TRUTH = VocabularyLoss(E=5.53, A1=1.83, A2=0.2, B=2.1, alpha2=0.67, beta=0.45)
PLAIN = FitSpec(bootstrap=0)
SIZES = np.array([33, 85, 151, 302, 631, 1130, 2870]) * 1e6


def grid(noise: float = 0.0) -> Columns:
    """Five models, seven vocabularies, twelve checkpoints each; losses from a planted law."""
    rows = []
    for N_nv in (33e6, 85e6, 151e6, 302e6, 631e6):
        for V in np.geomspace(4096, 96256, 7):
            for tokens in np.linspace(0.1, 1.2, 12) * 40 * N_nv:
                rows.append((N_nv, V * width_of(N_nv), V, tokens / tokens_per_character(V), tokens))
    N_nv, N_v, V, H, D = np.array(rows).T
    loss = TRUTH.predict(N_nv, N_v, D) + noise * np.random.default_rng(0).standard_normal(len(V))
    values = {"N_nv": N_nv, "N_v": N_v, "V": V, "H": H, "D": D, "C": 6 * (N_nv + N_v) * D, "loss": loss}
    return Columns(values, np.arange(len(V)), {}, ())


def published_columns(*roles: str) -> Columns:
    return select(load(FILE), (*VocabularyFrontier.ROLES, *roles), signed=("loss",))


# --- the loss over parameters, vocabulary and tokens


def test_losses_below_zero_are_fitted_on_their_own_scale():
    found = fitting.fit(grid(noise=1e-3), VocabularyLoss, FitSpec(bootstrap=40, thorough=False))
    assert found.additive and found.objective < 1e-3 * len(found.columns)
    for name, value in TRUTH.coefficients().items():
        assert getattr(found.law, name) == pytest.approx(value, rel=0.1)
        assert found.intervals()[name].low < value * 1.05 and found.intervals()[name].high > value * 0.95


@pytest.mark.parametrize("N_nv", [3e8, 7e10])
@pytest.mark.parametrize("times", [0.2, 1.0, 6.0])
def test_the_best_vocabulary_beats_its_neighbours(N_nv, times):
    C = times * 120 * N_nv**2
    best = float(TRUTH.best_vocabulary_params(N_nv, C))

    def loss(N_v):
        return TRUTH.predict(N_nv, N_v, C / 6 / (N_nv + N_v))

    assert loss(best) < min(loss(best * 1.01), loss(best / 1.01))
    assert TRUTH.target_at({"N_nv": N_nv, "C": C}) == pytest.approx(loss(best), rel=1e-12)
    derived = TRUTH.derived({"N_nv": N_nv, "C": C})
    assert derived["V"] == pytest.approx(best / width_of(N_nv)) and derived["N_v"] == pytest.approx(best)


def test_the_best_vocabulary_of_many_replicates_at_once():
    many = VocabularyLoss.stack(np.array([list(TRUTH.coefficients().values())] * 3) * [[1], [1.01], [0.99]])
    assert many.best_vocabulary(7e10, 7e23).shape == (3,)
    assert many.best_vocabulary(7e10, 7e23)[0] == pytest.approx(float(TRUTH.best_vocabulary(7e10, 7e23)), rel=1e-9)


def test_more_compute_wants_a_larger_vocabulary():
    sizes = np.array([1e9, 1e10, 1e11])
    assert (np.diff(TRUTH.best_vocabulary_params(sizes, 120 * sizes**2)) > 0).all()
    assert (np.diff([float(TRUTH.best_vocabulary(1e10, C)) for C in (1e21, 1e22, 1e23)]) > 0).all()


@published
@pytest.mark.parametrize("released", [True, False])
def test_published_constants_of_the_loss(released):
    """The two readings of f(V); the constants are those of an independent scipy fit of the same rows."""
    columns = published_columns("D")
    columns = columns.take(columns["C"] >= 2.18e17)
    right = columns["H"] * tokens_per_character(columns["V"])
    assert columns["D"] == pytest.approx(right, rel=1e-12)
    slip = tokens_as_released(columns["H"], columns["V"])
    assert 2.5 < (slip / right).min() < (slip / right).max() < 3.1
    columns.values["D"] = slip if released else right
    expected = (
        VocabularyLoss(5.534943, 1.828879, 0.190668, 2.121973, 0.663671, 0.445317)
        if released
        else VocabularyLoss(5.536927, 1.903453, 0.128654, 1.331342, 1.058823, 0.439790)
    )
    found = fitting.fit(columns, VocabularyLoss, FitSpec(bootstrap=0, starts=16))
    assert found.law.coefficients() == pytest.approx(expected.coefficients(), rel=3e-5)
    assert found.objective == pytest.approx(0.06229135 if released else 0.06678588, rel=1e-6)
    flops = VocabularyFrontier(-2.4846510, -1.5890313, 0.4163623, 1.86).flops(70e9)
    assert found.law.best_vocabulary(70e9, flops) == pytest.approx(219273 if released else 66402, rel=1e-4)


def test_width_is_the_papers_step_function():
    assert [width_of(N) for N in (33e6, 50e6, 51e6, 7e9, 13e9, 70e9, 300e9, 2e12)] == [
        512, 512, 768, 4096, 5120, 8192, 16384, 24576,
    ]  # fmt: skip


# --- approach 1


@published
def test_published_frontier():
    columns = published_columns()
    line = fitting.fit(columns, VocabularyFrontier, PLAIN)
    assert line.details["frontier_points"] == 125
    assert line.law.a == pytest.approx(0.41696, abs=1e-5) and line.law.K_v == pytest.approx(-1.5795, abs=1e-4)
    assert line.details["free_exponents"] == pytest.approx({"N_nv": 0.445, "N_v": 0.41696, "H": 0.591}, abs=5e-4)
    robust = fitting.fit(columns, VocabularyFrontier, FitSpec(Objective(), bootstrap=0)).law
    assert robust.a == pytest.approx(0.4356, abs=1e-4) and robust.K_v == pytest.approx(-2.4112, abs=1e-4)
    assert robust.K_nv == pytest.approx(-2.4838157, abs=2e-5)
    bare = vocabulary.fit_frontier(columns, VocabularyFrontier, FitSpec(Objective("least_squares"), bootstrap=0), False)
    assert bare.details["frontier_points"] == 111 and bare.law.a == pytest.approx(0.4365, abs=5e-5)


@published
def test_published_predictions_of_the_frontier():
    law = VocabularyFrontier(K_nv=-2.4846510, K_v=-1.5890313, a=0.4163623, K_H=1.859)
    sizes = np.array([2.87, 7, 13, 30, 70, 130, 300]) * 1e9
    expected = [37942, 62280, 83429, 141711, 211860, 236500, 355894]
    assert law.best_vocabulary(sizes) == pytest.approx(expected, rel=3e-5)
    assert law.derived({"N_nv": 7e10})["C"] == pytest.approx(law.flops(7e10))
    assert law.derived({"C": law.flops(7e10)})["N_nv"] == pytest.approx(7e10)


def test_the_frontier_keeps_what_beats_all_cheaper_points():
    points = vocabulary_points.Points(
        *(np.array([1.0, 2, 3, 4, 5]) for _ in range(3)), np.array([1.0, 2, 4, 3, 5]), np.array([5.0, 6, 2, 4, 2])
    )
    kept = vocabulary_points.frontier(points)
    assert kept.C.tolist() == [1, 3, 4] and kept.loss.tolist() == [5, 4, 2]


def test_points_between_lie_on_a_planted_surface():
    columns = grid()
    found = vocabulary_points.between(columns)
    tokens = found.C / 6 / (found.N_nv + found.N_v)
    inside = (tokens > 0.3 * 40 * found.N_nv) & (found.N_nv > 60e6)
    assert inside.sum() > 50
    assert np.median(np.abs(found.loss - TRUTH.predict(found.N_nv, found.N_v, tokens))[inside]) < 5e-3


def test_a_tokenizer_of_another_language_is_learned_from_the_grid():
    columns = grid()
    V = columns["V"]
    rate = 0.5 + 2.0 / np.log(V)
    columns.values["H"] = columns["C"] / 6 / (columns["N_nv"] + columns["N_v"]) / rate
    assert vocabulary_points.Tokenizer(columns).rate(V) == pytest.approx(rate, rel=2e-3)


def test_a_grid_of_one_vocabulary_still_has_a_frontier():
    columns = grid()
    one = columns.take(columns["V"] == columns["V"].min())
    found = vocabulary.fit_frontier(one, VocabularyFrontier, FitSpec(Objective("least_squares"), bootstrap=20))
    assert found.details["frontier_points"] >= 3 and np.isfinite(found.draws).all()
    with pytest.raises(InputError, match="frontier of 1 rows"):
        vocabulary.fit_frontier(columns.take(np.arange(len(columns)) == 0), VocabularyFrontier, PLAIN)


def test_runs_that_were_made_twice_change_no_vocabulary():
    """As with other seeds, or where a rule's tokenizer is one of the grid's."""
    columns = grid()
    twice = columns.take(np.repeat(np.arange(len(columns)), 2))
    for law in (VocabularyFrontier, VocabularyPower):
        once = fitting.fit(columns, law, PLAIN).law.coefficients()
        assert fitting.fit(twice, law, PLAIN).law.coefficients() == pytest.approx(once, rel=1e-6)


@pytest.mark.parametrize("loss", ["huber", "lad", "least_squares"])
def test_a_line_under_each_loss(loss):
    draw = np.random.default_rng(3)
    x = draw.uniform(40, 50, 60)
    y = 0.4 * x - 2 + 1e-3 * draw.standard_normal(60)
    intercept, slope = robust_line.line(x, y, Objective(loss))
    assert (intercept, slope) == pytest.approx((-2, 0.4), abs=0.02)
    objective = Objective(loss)

    def cost(a, b):
        return objective.value(a + b * x - y).sum()

    here = cost(intercept, slope)
    assert all(here <= cost(intercept + da, slope + da * k) + 1e-9 for da in (1e-3, -1e-3) for k in (0, -1 / 45))
    assert robust_line.line(x, y, Objective(loss), 0.4)[1] == 0.4


# --- approach 2


def test_published_stationary_vocabularies():
    found = [vocabulary.stationary_vocabulary(size) for size in SIZES]
    assert found == pytest.approx([10322.9, 15939.2, 24593.4, 32776.6, 40941.8, 49416.0, 65928.3], rel=1e-5)
    assert vocabulary.growth(SIZES) == pytest.approx(0.8353984, abs=1e-6)
    assert vocabulary.growth(SIZES, Objective("least_squares")) == pytest.approx(0.83314, abs=5e-6)


def test_the_stationary_vocabulary_has_the_least_flops_per_character():
    for size in (33e6, 1e9, 70e9):
        best, width = vocabulary.stationary_vocabulary(size), width_of(size)
        flops = [(size + width * V) * tokens_per_character(V) for V in (best / 1.01, best, best * 1.01)]
        assert flops[1] < min(flops[0], flops[2])
    with pytest.raises(InputError, match="above V = 200,000"):
        vocabulary.stationary_vocabulary(1e15, 1000)


@published
def test_published_anchor():
    columns = published_columns()
    N_nv, N_v, _ = vocabulary.anchor(columns, 2.7e17)
    assert (N_nv, N_v) == (33222784, 3145728)
    assert VocabularyPower(33e6, N_v, vocabulary.growth(SIZES)).best_vocabulary(70e9) == pytest.approx(230861, rel=2e-5)
    assert vocabulary.anchor(columns)[1] == 2097152  # at FLOPs that every vocabulary reached, the smallest one is best


@pytest.mark.parametrize(
    "name", [pytest.param("vocabulary", marks=pytest.mark.slow), "vocabulary_frontier", "vocabulary_power"]
)
def test_from_the_command_line(name, tmp_path):
    import pandas as pd

    columns = grid(noise=1e-3)
    columns = columns.take(np.arange(len(columns)) % 4 == 0)
    names = {"N_nv": "params_non_vocab", "N_v": "params_vocab", "V": "vocab_size", "H": "characters", "D": "tokens"}
    names |= {"C": "flops", "loss": "loss_unigram_normalised"}
    pd.DataFrame({names[role]: columns[role] for role in names}).to_csv(tmp_path / "grid.csv", index=False)
    out, at = tmp_path / "fit.json", tmp_path / "at.json"
    done = command("analysis.fit", tmp_path / "grid.csv", f"--law={name}", f"--out={out}", "--bootstrap=20")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(out.read_text())["coefficients"]) == set(load_law(name).names())
    where = "N_nv=7e10,C=7e23" if name == "vocabulary" else "N_nv=7e10"
    done = command("analysis.predict", out, f"--at={where}", f"--json={at}")
    assert done.returncode == 0, done.stderr
    data = json.loads(at.read_text())
    assert 1e3 < data["optimum"]["V"] < 1e7
    assert (data["prediction"] < 0) == (name == "vocabulary")
    if data["interval"]:
        assert data["interval"]["low"] <= data["prediction"] <= data["interval"]["high"]
