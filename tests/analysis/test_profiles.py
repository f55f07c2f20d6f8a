"""Profile likelihoods: each point is the best fit with its coefficient held, and the ends are where they say."""

import numpy as np
import pytest
from scipy import stats

from analysis.fitting import formula_fit
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.chinchilla import Chinchilla
from analysis.laws.moe import RoutedLM
from analysis.laws.one_quantity import Plateau
from analysis.questions import fit as fitting
from analysis.questions.planted import plant_runs
from analysis.solve import formula, newton, optimum
from analysis.trust import profile
from analysis.trust.held_fits import HeldFits
from tests.support import planted

TRUTH = Chinchilla(1.69, 406.4, 410.7, 0.34, 0.28)
SPEC = FitSpec(bootstrap=0, thorough=False).for_law(Chinchilla)
JUST_THRESHOLD = 0.02  # of the threshold: how far two fits of one point may lie apart


def ladder(jitter: float, seed: int) -> Columns:
    """20 sizes with D about 20 N, noise 0.3%."""
    draw = np.random.default_rng(seed)
    N = np.geomspace(1e7, 1e10, 20)
    D = 20 * N * np.exp(jitter * draw.standard_normal(20))
    return planted.columns(N, D, TRUTH.predict(N, D) * np.exp(0.003 * draw.standard_normal(20)))


def isoflop(seed: int) -> Columns:
    frame = planted.isoflop_frame(noise=0.003, sizes=8, seed=seed)
    N, D, loss = (frame[name].to_numpy() for name in ("params", "tokens", "loss"))
    return planted.columns(N, D, loss)


def best(columns: Columns) -> optimum.Optimum:
    problem = formula_fit.pose(columns, Chinchilla, SPEC)
    return optimum.find(problem, np.ones(len(columns)), SPEC.objective, SPEC.objective.stages(), 128)


def held(columns: Columns, name: str, value: float) -> float:
    """The objective of a fit from scratch with the coefficient held, by the way of formulas and not that of sums."""
    problem = formula.problem(Chinchilla, columns.values, False, {name: value})
    return optimum.find(problem, np.ones(len(columns)), SPEC.objective, SPEC.objective.stages(), 64).value


def one_profile(found: optimum.Optimum, name: str) -> tuple[profile.Profile, np.ndarray]:
    """A profile, and its rises over the threshold."""
    worth, errors = profile.spread(found)
    at = found.problem.names.index(name)
    drawn = profile.profile(HeldFits(found, at, 1.5 * worth), errors[at], 0.9)
    return drawn, (drawn.objective - found.value) / drawn.threshold


@pytest.mark.parametrize("seed", range(1))
def test_a_profile_of_isoflop_curves_only_rises_away_from_the_estimate(seed):
    found = fitting.fit(isoflop(seed), Chinchilla, FitSpec(bootstrap=2))
    for name, drawn in found.profiles.items():
        rise = (drawn.objective - found.objective) / drawn.threshold
        middle = int(np.argmin(rise))
        assert (np.diff(rise[middle:]) > -1e-3).all() and (np.diff(rise[: middle + 1]) < 1e-3).all()
        assert drawn.values[rise <= 1].min() >= drawn.low > drawn.values[rise > 1].min()
        assert drawn.low < getattr(found.law, name) < drawn.high


@pytest.mark.parametrize(("jitter", "seed", "name"), [(0.03, 0, "A"), (0.1, 1, "beta")])
def test_each_point_of_a_profile_of_a_ladder_is_a_fit_with_its_coefficient_held(jitter, seed, name):
    columns = ladder(jitter, seed)
    found = best(columns)
    drawn, rise = one_profile(found, name)
    jumps = np.r_[np.abs(np.diff(rise)), 0]
    most_doubtful = np.argsort(np.where(rise < 8, -jumps, 0))[:3]
    again = [(held(columns, name, drawn.values[at]) - found.value) / drawn.threshold for at in most_doubtful]
    assert rise[most_doubtful] == pytest.approx(again, abs=JUST_THRESHOLD)


@pytest.mark.parametrize("name", ["A", "beta"])
def test_the_ends_of_a_profile_are_where_a_fit_from_scratch_is_as_much_worse_as_they_say(name):
    columns = isoflop(3)
    found = best(columns)
    drawn, _ = one_profile(found, name)
    rises = [held(columns, name, end) - found.value for end in (drawn.low, drawn.high)]
    assert rises == pytest.approx([drawn.threshold] * 2, rel=0.02)


def test_fits_far_above_the_threshold_are_not_refined_round_by_round(monkeypatch):
    """Searches that creep along a valley, thousands of thresholds up, took most of the time of a fit and moved no end."""
    N, experts = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 7), 2.0 ** np.arange(10)))
    noise = 0.003 * np.random.default_rng(1).standard_normal(N.size)
    truth = RoutedLM(-0.082, -0.108, 0.009, 1.104, 1.847, 314.478)
    values = {"N": N, "experts": experts, "loss": truth.predict(N, experts) * np.exp(noise)}
    columns = Columns(values, np.arange(N.size), {}, ())
    spec = FitSpec(bootstrap=0, thorough=False).for_law(RoutedLM)
    problem = formula_fit.pose(columns, RoutedLM, spec)
    found = optimum.find(problem, np.ones(N.size), spec.settled_objective, spec.settled_objective.stages(), 64)
    rounds = []
    best_of = HeldFits._best_of

    def counted(self: HeldFits, starts: np.ndarray, enough: float) -> tuple[np.ndarray, np.ndarray]:
        rounds.append(len(starts))
        return best_of(self, starts, enough)

    monkeypatch.setattr(HeldFits, "_best_of", counted)
    drawn, _ = one_profile(found, "a")
    assert len(rounds) <= 20
    assert drawn.low < truth.a < drawn.high


@pytest.mark.slow
@pytest.mark.parametrize("jitter", [0.01, 0.03, 0.1])
def test_no_profile_of_a_ladder_has_a_spike(jitter):
    """12 grids: of each profile the points beside the largest jumps, refitted from scratch."""
    wrong = []
    for seed in range(12):
        columns = ladder(jitter, seed)
        found = best(columns)
        for name in ("E", "A", "B", "alpha", "beta"):
            drawn, rise = one_profile(found, name)
            jumps = np.r_[np.abs(np.diff(rise)), 0]
            for at in np.argsort(np.where(rise < 2, -jumps, 0))[:3]:
                again = (held(columns, name, drawn.values[at]) - found.value) / drawn.threshold
                if rise[at] > again + JUST_THRESHOLD:
                    wrong.append((seed, name, drawn.values[at], rise[at], again))
    assert not wrong


def test_checkpoints_of_one_run_are_not_independent_for_a_profile():
    """Ten runs, of which the checkpoints share most of their error: no surer than the interval that resamples runs.

    The rise of a robust loss is not quadratic so far out: the ends may lie beyond those of the interval.
    """
    columns = plant_runs(10, np.random.default_rng(0)).columns
    found = fitting.fit(columns, Chinchilla, FitSpec(bootstrap=200))
    own = found.profiles["alpha"]
    interval = found.intervals()["alpha"]
    assert 0.7 < (own.high - own.low) / (interval.high - interval.low) < 3.0


@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_the_law_that_made_the_rows_lies_in_the_likelihood_region(tails):
    """A rise of the objective is worth what it says, also where the loss has a kink and rows are few: 20, 60 times."""
    held_truth = []
    for seed in range(60):
        draw = np.random.default_rng(seed)
        noise = draw.standard_normal(20) if tails == "normal" else draw.standard_t(1.5, 20)
        X = np.geomspace(1, 1e3, 20)
        values = {"X": X, "loss": (1.5 + 3.0 * X**-0.5) * np.exp(0.003 * noise)}
        problem = formula_fit.pose(Columns(values, np.arange(20), {}, ()), Plateau, SPEC)
        found = optimum.find(problem, np.ones(20), SPEC.objective, SPEC.objective.stages(), 8)
        worth, _ = profile.spread(found)
        truth = np.array([[np.log(1.5), np.log(3.0) - 0.5 * np.log(X).mean(), 0.5]])
        assert problem.coefficients(truth)[0] == pytest.approx([1.5, 3.0, 0.5])
        reached = newton.values_at(problem, np.r_[truth, found.theta[None]], np.ones(20), found.deltas[-1])
        rise = 2 * (reached[0] - reached[1]) / worth / 3
        held_truth.append(rise <= stats.f.ppf(0.9, 3, 17))
    assert 0.84 < np.mean(held_truth) < 0.97
