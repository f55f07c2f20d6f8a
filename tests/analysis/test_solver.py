"""The Newton steps behind every fit, beside plain linear algebra; many starts; and the benchmark that times them."""

import numpy as np
import pytest

from analysis import benchmark
from analysis.fitting import formula_fit
from analysis.fitting.spec import FitSpec
from analysis.laws.chinchilla import Chinchilla
from analysis.published import scipy_fit
from analysis.questions import fit as fitting
from analysis.solve import least_squares, newton, optimum, sums
from analysis.solve.problem import Local
from analysis.trust import bootstrap
from analysis.trust.certificate import Certificate
from tests.support import planted

SPEC = FitSpec(bootstrap=0, thorough=False)


def rows(noise: float = 5e-3):
    draw = np.random.default_rng(2)
    N, D = 10 ** draw.uniform(7, 10, 60), 10 ** draw.uniform(9, 11, 60)
    return planted.columns(N, D, planted.TRUTH.predict(N, D) * np.exp(noise * draw.standard_normal(60)))


def expansion(at: np.ndarray) -> tuple[sums.SumProblem, Local]:
    columns = rows()
    problem = formula_fit.pose(columns, Chinchilla, SPEC.for_law(Chinchilla))
    wide = np.ones((len(at), 60))
    return problem, problem.expand(at, wide, np.broadcast_to(problem.target, wide.shape), 1e-3)


def starts() -> np.ndarray:
    problem, _ = expansion(np.zeros((1, 5)))
    return problem.starts(np.ones(60), 40)


def test_pivots_tell_what_eigenvalues_tell():
    draw = np.random.default_rng(0)
    matrices = draw.standard_normal((300, 5, 5))
    matrices = matrices @ matrices.transpose(0, 2, 1) / 5 - draw.uniform(0, 0.05, 300)[:, None, None] * np.eye(5)
    lowest = np.linalg.eigvalsh(matrices)[:, 0]
    clear = np.abs(lowest) > 1e-6
    assert np.array_equal(newton.positive(matrices)[clear], (lowest > 0)[clear])
    assert 20 < (lowest > 0).sum() < 280


def test_a_step_solves_the_damped_system_where_the_curvature_is_positive():
    _, local = expansion(starts())
    free = np.ones(local.gradient.shape, dtype=bool)
    damping = np.full(len(free), 0.3)
    moves = newton.step(local, free, damping)
    damped = local.curvature + 0.3 * local.metric
    easy = np.array(
        [
            np.linalg.eigvals(np.linalg.solve(m, c)).real.min() > 1e-3
            for m, c in zip(local.metric, local.curvature, strict=True)
        ]
    )
    assert easy.any() and not easy.all()
    expected = -np.linalg.solve(damped[easy], local.gradient[easy][:, :, None])[:, :, 0]
    assert moves[easy] == pytest.approx(expected, rel=1e-6, abs=1e-10)
    assert (np.einsum("bp,bp->b", moves, local.gradient) < 0).all()  # downhill from everywhere


def test_steps_over_exponents_lead_down_to_the_minima_of_steps_in_all_parameters():
    problem, _ = expansion(np.zeros((1, 5)))
    weight = np.ones(60)
    begin = starts()
    near = problem.approach(begin, weight, 1e-3, 30)
    before = newton.values_at(problem, begin, weight, 1e-3)
    after = newton.values_at(problem, near, weight, 1e-3)
    assert (after <= before * (1 + 1e-12)).all()
    ends = newton.minimise(problem, begin, weight, (1e-3,))
    least = newton.values_at(problem, ends, weight, 1e-3).min()
    assert np.mean(after < least * (1 + 1e-3)) > 0.8
    low, high = problem.bounds()
    by_some_rows = problem.approach(begin, weight, 1e-3, 4, rows=20)
    assert ((by_some_rows >= low) & (by_some_rows <= high)).all() and (by_some_rows != begin).any()


def test_prefactors_are_those_of_non_negative_least_squares():
    from scipy.optimize import nnls

    draw = np.random.default_rng(5)
    basis = draw.standard_normal((60, 4, 12))
    weight = draw.uniform(0.1, 2.0, (60, 12))
    found = least_squares.non_negative(basis, weight)
    root = np.sqrt(weight)
    expected = [nnls((one * w).T, w)[0] for one, w in zip(basis, root, strict=True)]
    assert found == pytest.approx(np.array(expected), rel=1e-6, abs=1e-9)
    assert (found == 0).any(axis=1).sum() > 10 and (found > 0).any()


def test_an_exact_fit_does_not_boast_of_a_gradient():
    exact = Certificate(True, 1.0, 0.0, rms_log_residual=1e-15)
    assert exact.ending == "every row is met to rounding, where a gradient means nothing"
    assert Certificate(True, 1.0, 3e-12).ending == "scaled gradient 3e-12"
    assert Certificate(None, None, None).ending == ""


def test_held_parameters_do_not_move():
    _, local = expansion(starts())
    free = np.ones(local.gradient.shape, dtype=bool)
    free[:, 2] = False
    moves = newton.step(local, free, np.full(len(free), 0.1))
    assert (moves[:, 2] == 0).all() and np.isfinite(moves).all() and (moves[:, :2] != 0).any()


def test_thousands_of_starts_are_a_grid_of_thousands_and_end_where_few_do():
    columns = rows()
    problem = formula_fit.pose(columns, Chinchilla, SPEC.for_law(Chinchilla))
    assert len(problem.starts(np.ones(60), 4500)) >= 4500 * 0.99
    few = fitting.fit(columns, Chinchilla, SPEC)
    many = fitting.fit(columns, Chinchilla, FitSpec(bootstrap=0, thorough=False, starts=2000))
    assert many.objective == pytest.approx(few.objective, rel=1e-9)
    assert many.law.coefficients() == pytest.approx(few.law.coefficients(), rel=1e-6)
    assert many.certificate.gradient <= optimum.STATIONARY


@pytest.mark.parametrize("fewest", [1, 4])
def test_rows_are_drawn_as_one_by_one(fewest, monkeypatch):
    at_once = bootstrap.row_counts(6, 200, 42, fewest=fewest)
    monkeypatch.setattr(bootstrap, "AT_ONCE", 0)
    assert np.array_equal(at_once, bootstrap.row_counts(6, 200, 42, fewest=fewest))
    assert (np.count_nonzero(at_once, axis=1) >= fewest).all()


def test_the_benchmark_compares_like_with_like(monkeypatch):
    monkeypatch.setattr(benchmark, "REPLICATES", 40)
    monkeypatch.setattr(benchmark, "STARTS", 300)
    monkeypatch.setattr(scipy_fit, "STARTS", ((6, 6.2), (7.5, 7.6), (0.5, 0.6), (0.34, 0.35), (0.36, 0.37)))
    fit, refits = benchmark.bench_analysis(1)
    assert fit["lower"].startswith(("ours", "equal"))  # so few of scipy's starts may miss the optimum
    assert refits["apart"] < 0.02 and "scipy in 0 refits" in refits["lower"]
    assert all(
        row["times_faster"] == pytest.approx(row["scipy_seconds"] / row["ours_seconds"]) for row in (fit, refits)
    )


def test_one_fit_ends_where_variable_projection_does_or_lower():
    squares, huber = benchmark.bench_one_fit(1)
    assert squares["lower"] == "equal to 1e-9" and squares["apart"] < 1e-4
    assert huber["lower"].startswith(("ours", "equal"))
