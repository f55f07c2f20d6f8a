"""A law that is written as text is parsed and never evaluated, and is fitted and used as every named one."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.formula_fit import pose
from analysis.fitting.result import to_json
from analysis.fitting.spec import FitSpec
from analysis.grid.selection import select
from analysis.grid.table import Grid
from analysis.laws.base import FormulaLaw, SumLaw
from analysis.laws.chinchilla import Chinchilla
from analysis.laws.written import law_of
from analysis.laws.written_value import FUNCTIONS
from analysis.questions import fit as fitting
from analysis.questions import predict as predicting
from analysis.questions.compare import compare
from analysis.questions.scoreboard import scoreboard
from analysis.reporting.survey import survey
from analysis.solve import best_size
from analysis.solve.objective import Objective
from analysis.solve.optimum import total
from experiments.cli import InputError
from tests.support import planted
from tests.support.commands import command

POWERS = "L = E + A/N^alpha + B/D^beta"
STREAM = np.random.default_rng(0)
ROWS = 48
DATA = {
    "N": np.exp(STREAM.uniform(np.log(1e7), np.log(1e10), ROWS)),
    "D": np.exp(STREAM.uniform(np.log(1e9), np.log(1e12), ROWS)),
    "lr": np.exp(STREAM.uniform(np.log(1e-4), np.log(1e-2), ROWS)),
    "x": STREAM.uniform(-2, 3, ROWS),
}
NOISE = np.exp(0.001 * STREAM.standard_normal(ROWS))


def frame_of(loss: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({**DATA, "loss": loss})


def chinchilla() -> np.ndarray:
    return 1.7 + 400 / DATA["N"] ** 0.34 + 410 / DATA["D"] ** 0.28


def fit(text: str, frame: pd.DataFrame, **options):
    law = law_of(text, frame.columns)
    columns = select(Grid("grid.csv", frame, "0" * 64), law.ROLES, optional=law.OPTIONAL, signed=law.SIGNED)
    return fitting.fit(columns, law, FitSpec(**{"bootstrap": 0, "starts": 32, **options}))


N, D, lr, x = DATA.values()
PLANTED = {
    POWERS: (chinchilla(), {"E": 1.7, "A": 400, "alpha": 0.34, "B": 410, "beta": 0.28}),
    "loss = E + A*N^-alpha[0:1] + B*D**(-beta)": (chinchilla(), {"E": 1.7, "A": 400, "alpha": 0.34, "B": 410, "beta": 0.28}),
    "L = ((Nc/N)^(aN/aD) + Dc/D)^aD": (
        ((8.8e13 / N) ** (0.076 / 0.095) + 5.4e13 / D) ** 0.095, {"aN": 0.076, "aD": 0.095},
    ),
    "L = a - b*log(N)": (6 - 0.15 * np.log(N), {"a": 6, "b": 0.15}),
    "L = a + b*log(N)": (6 - 0.15 * np.log(N), {"a": 6, "b": -0.15}),
    "L = E + A/min(N, k*D)^alpha": (1.7 + 400 / np.minimum(N, 0.02 * D) ** 0.34, {"E": 1.7, "k": 0.02, "alpha": 0.34}),
    "L = E + max(A/N^alpha, B/D^beta)": (
        1.7 + np.maximum(400 / N**0.34, 410 / D**0.28), {"E": 1.7, "alpha": 0.34, "beta": 0.28},
    ),
    "L = E + A/N^alpha + c*abs(log(lr/lr0))^p": (
        1.7 + 400 / N**0.34 + 0.05 * np.abs(np.log(lr / 1e-3)) ** 1.5, {"E": 1.7, "lr0": 1e-3, "p": 1.5},
    ),
    "L = E + A/N^alpha + h*(log(lr) - m)^2": (
        1.7 + 400 / N**0.34 + 0.02 * (np.log(lr) + 6.5) ** 2, {"E": 1.7, "h": 0.02, "m": -6.5},
    ),
    "L = E + A*exp(-D/D0)": (2 + 1.5 * np.exp(-D / 5e10), {"E": 2, "A": 1.5, "D0": 5e10}),
    "L = E + A/N^alpha + g*x": (3 + 400 / N**0.34 - 0.1 * x, {"E": 3, "alpha": 0.34, "g": -0.1}),
    "L = E + A*N^a*D^b": (1.7 + 400 * N**-0.2 * D**-0.1, {"E": 1.7, "A": 400, "a": -0.2, "b": -0.1}),
    "L = E + A*N^-alpha + g*x": (3 + 400 / N**0.34 - 0.004 * x, {"E": 3, "alpha": 0.34, "g": -0.004}),
    "L = E + A/(1 + D/D0)^beta": (1.5 + 3 * (1 + D / 3e10) ** -0.5, {"E": 1.5, "A": 3, "D0": 3e10, "beta": 0.5}),
    "L = exp(a + b*log(N) + c*log(D))": (np.exp(2 - 0.03 * np.log(N) - 0.02 * np.log(D)), {"a": 2, "b": -0.03, "c": -0.02}),
    "L = E - A*sqrt(N)": (10 - 5e-5 * np.sqrt(N), {"E": 10, "A": 5e-5}),
    "x = a[:0] + b*N^c": (-3 + 0.02 * N**0.2, {"a": -3, "b": 0.02, "c": 0.2}),
}  # fmt: skip


@pytest.mark.parametrize("text", PLANTED)
def test_coefficients_that_were_planted_are_found(text):
    """Exactly from exact rows, whatever their signs and sizes: starts and bounds come from the form and the data."""
    exact, planted = PLANTED[text]
    frame = frame_of(exact)
    if text.startswith("x"):
        frame["x"] = exact
    plain = Objective("least_squares", "raw")  # a target of either sign
    result = fit(text, frame, objective=plain if text.startswith("x") else None)
    assert {name: getattr(result.law, name) for name in planted} == pytest.approx(planted, rel=1e-4)
    assert not any("misses" in warning for warning in result.certificate.warnings)  # rounding is no trend


@pytest.mark.parametrize("place", [18.0, 21.0])
def test_the_slope_over_sizes_follows_a_corner(place):
    """Left and right of where abs turns; min and max likewise."""
    size, least, most = FUNCTIONS["abs"], FUNCTIONS["min"], FUNCTIONS["max"]

    def loss(N, D):
        return 2 + 0.1 * size(np.log(N) - 20) + 300 / least(D, 1e12) ** 0.3 + most(1e-3 * np.log(N), 0.0)

    def value(log_N):
        N = np.exp(log_N)
        return loss(N, best_size.tokens_left(N, 1e21, 6.0, 0.0))

    found = best_size.slope(loss, np.array([place]), 1e21, 6.0, 0.0)
    assert found == pytest.approx((value(place + 1e-5) - value(place - 1e-5)) / 2e-5, rel=1e-6)


def test_an_optimum_at_a_corner_is_the_lowest_point_around():
    """A row lies where abs turns: the gradient does not vanish there, and no other point is lower."""
    rates = np.geomspace(1e-4, 1e-2, 7).repeat(4)
    spread = np.random.default_rng(3).standard_normal(len(rates))
    loss = (2 + 0.1 * np.abs(np.log(rates / 1e-3))) * np.exp(0.02 * spread)
    result = fit("L = E + c*abs(log(lr/lr0))", pd.DataFrame({"lr": rates, "loss": loss}))
    best = result.objective
    problem = pose(result.columns, type(result.law), result.spec)
    values = np.array([getattr(result.law, name) for name in problem.names])
    theta = np.where(problem.logs, np.log(values), values)
    around = theta + 1e-4 * np.random.default_rng(0).standard_normal((500, len(theta)))
    values = total(problem, around, np.ones(len(rates)), result.spec.settled_objective)
    assert values.min() >= best * (1 - 1e-7)
    assert result.law.lr0 == pytest.approx(1e-3, rel=0.3)


def test_a_sum_of_powers_is_the_named_law():
    result = fit(POWERS, frame_of(chinchilla() * NOISE))
    named = fitting.fit(result.columns, Chinchilla, FitSpec(bootstrap=0))
    assert isinstance(result.law, SumLaw)
    assert result.objective == pytest.approx(named.objective, rel=1e-9)
    assert result.law.coefficients() == pytest.approx(named.law.coefficients(), rel=1e-6)
    for mine, theirs in zip(result.law.optimum(1e22), named.law.optimum(1e22), strict=True):
        assert float(mine) == pytest.approx(float(theirs), rel=1e-6)
    assert result.law.optimum_exponents() == pytest.approx(named.law.optimum_exponents())


def test_a_written_law_is_kept_and_predicts_and_is_scored():
    text = "mine: L = E + A/N^alpha + g*x"
    frame = frame_of((1.7 + 400 / N**0.34 + 0.1 * x) * NOISE)
    result = fit(text, frame, bootstrap=20, thorough=False)
    kept = predicting.from_json(json.loads(json.dumps(to_json(result, "", ""))))
    at = predicting.parse_at("N=1e9,x=-1", kept.law)
    again = predicting.predict(kept, at)
    assert kept.law.NAME == "mine" and result.certificate.converged
    assert again.loss == pytest.approx(float(result.law.predict(N=1e9, x=-1)))
    assert again.interval is not None and again.interval.low < again.loss < again.interval.high
    assert set(result.intervals()) == {"E", "A", "alpha", "g"}
    quick = FitSpec(bootstrap=20, starts=16)
    scores = scoreboard(result.columns, [law_of("other: L = E + A/N^alpha"), type(result.law)], quick)
    assert scores[0].law == "mine" and scores[0].held_out_rms < scores[1].held_out_rms


def test_families_share_the_exponents_of_a_written_law():
    family = np.array(["dense", "moe"])[np.arange(ROWS) % 2]
    loss = np.where(family == "dense", 1.7 + 400 / N**0.34 + 410 / D**0.28, 1.7 + 300 / N**0.34 + 410 / D**0.28)
    frame = frame_of(loss * NOISE).assign(family=family)
    law = law_of("L = E + A*N^(0 - alpha) + B/D^beta")  # no sum of monomials
    columns = select(Grid("grid.csv", frame, "0" * 64), (*law.ROLES, "family"), optional=("C",))
    found = compare(columns, law, FitSpec(bootstrap=8, starts=16)).families
    assert set(found.shared) == {"alpha", "beta"}
    one, other = (found.families[name].law for name in ("dense", "moe"))
    assert one.alpha == other.alpha == pytest.approx(0.34, rel=0.05)
    assert pytest.approx(0.75, rel=0.05) == other.A / one.A


def test_a_report_takes_formulas_of_its_axes():
    grid = Grid("grid.csv", frame_of(chinchilla()), "0" * 64)
    with pytest.raises(InputError, match="--formula: formula gives loss by N, x; a report takes laws of N and D"):
        survey(grid, FitSpec(bootstrap=0), None, None, [law_of("L = E + A/N^alpha + g*x", ["x"])])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("L = __import__('os')", "not allowed"), ("L = N.__class__ + E", "not allowed"), ("L = E + A*sin(N)", "not allowed"),
        ("L = E + A[0:1", "not an expression"), ("L = E N", "not an expression"), ("L = E + lambda/N", "not an expression"),
        ("L = 3*N", "has no coefficients"), ("L = E + A", "names no data"), ("log(L) = E + A*N", "stands on the left"),
        ("Q = E + A*N", "neither L, a role nor a column"), ("L = E + A*loss/N", "loss stands on both sides"),
        ("L = E[2:1] + A/N", "bounds and starts within them"), ("L = E[0:1, 2] + A/N", "bounds and starts within them"),
        ("L = E['a'] + A/N", "is not a number"), ("L = predict + A/N", "cannot be the name of a coefficient"),
        ("L = E + min(N)", "not allowed"), ("L = E + A/N + True", "not allowed"), ("L = E + " + "(" * 80 + "N" + ")" * 80 + "+A" * 90, "nested|not an expression"),
    ],
)  # fmt: skip
def test_what_is_no_formula_is_refused(text, message):
    with pytest.raises(InputError, match=f"--formula.*{message}" if "loss" not in message else message):
        law_of(text, ["N", "D", "x"])


def test_columns_of_any_name_are_data():
    frame = pd.DataFrame({"total flops": 6 * N * D, "eval/loss": 2 + 1e4 / (6 * N * D) ** 0.2, "summary.width": N})
    law = law_of("`eval/loss` = E + A/`total flops`^a", frame.columns)
    assert law.ROLES == ("total flops", "eval/loss") and law.TARGET == "eval/loss"
    columns = select(Grid("grid.csv", frame, "0" * 64), law.ROLES, optional=law.OPTIONAL, signed=law.SIGNED)
    result = fitting.fit(columns, law, FitSpec(bootstrap=0))
    assert result.law.a == pytest.approx(0.2, rel=1e-5)
    assert law_of("L = E + A/summary.width^a").inputs() == ("summary.width",)
    assert law_of("L = E + A/D^a").TARGET == "loss" and issubclass(law, FormulaLaw)


def test_bounds_and_starts_are_kept():
    """The loss falls with exponent 0.34; a bound holds it below, and what a bound holds is told."""
    result = fit("L = E[1:] + A[500]/N^alpha[0.01:0.2, 0.1] + B/D^beta", frame_of(chinchilla() * NOISE))
    assert result.law.alpha == 0.2 and "alpha" in result.certificate.at_bound and result.law.E >= 1


def test_commands_take_formulas(tmp_path):
    path = tmp_path / "grid.csv"
    frame_of((1.7 + 400 / N**0.34 + 0.1 * x) * NOISE).to_csv(path, index=False)
    out = tmp_path / "fit.json"
    done = command("analysis.fit", path, "--formula=L = E + A/N^alpha + g*x", "--bootstrap=8", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "back-test" in done.stdout and "formula: L = E" in done.stdout
    done = command("analysis.predict", out, "--at=N=1e9,x=0")
    assert done.returncode == 0 and "interval of the law" in done.stdout, done.stderr
    done = command("analysis.fit", path, "--law=kaplan", "--formula=L = E + A/N", f"--out={out}")
    assert done.returncode == 2 and "expected one of them" in done.stderr


@pytest.mark.parametrize("g", [-0.002, 0.002])
@pytest.mark.parametrize(
    ("term", "effect"),
    [
        ("g*log(lr)^2", np.log(lr) ** 2 / 40),
        ("g*x", x),
        ("g*(log(lr) - 2)^2", (np.log(lr) - 2) ** 2 / 60),
    ],
)
def test_a_coefficient_whose_sign_the_formula_leaves_open_has_either(term, effect, g):
    """A small effect, which a positive coefficient alone would lose without a word."""
    noise = np.exp(0.0005 * np.random.default_rng(1).standard_normal(ROWS))
    found = fit(f"L = E + A/N^alpha + {term}", frame_of((2 + 400 / N**0.34 + g * effect) * noise))
    assert np.sign(found.law.g) == np.sign(g)
    assert not found.certificate.at_bound


def test_signs_come_from_the_form_or_are_said():
    law = law_of("L = E + A/N^alpha + g*log(lr)^2 + k*exp(-c*D) - h*x", DATA)
    values = {**DATA, "loss": chinchilla()}
    known = law.for_data(values, raw=False).COEFFICIENTS
    assert {name for name in ("E", "A", "g", "k", "h") if known[name].low < 0} == {"g", "h"}
    said = law_of("L = E + A[:]/N^alpha + g[0:]*log(lr)^2", DATA).for_data(values, raw=False).COEFFICIENTS
    assert said["A"].low < 0 and said["g"].low == 0


@pytest.mark.parametrize(
    ("text", "seed"),
    [
        ("L = E + F + A/N^alpha + B/D^beta", 0),
        ("L = E + A/N^alpha + B/D^beta + F/N^gamma + G/D^delta", 1),
        ("L = E + A/N^alpha + B/D^beta + g*(log(lr) - m)^2", 3),
        pytest.param("L = E + F + A/N^alpha + B/D^beta*exp(-k*N^m)", 1, marks=pytest.mark.slow),
    ],
)
def test_a_formula_with_too_many_coefficients_is_fitted_and_says_so(text, seed):
    """One learning rate tells nothing of two coefficients; the last one has a valley whose floor no search gets to the end of."""
    frame = planted.isoflop_frame(noise=0.003, seed=seed).assign(lr=1e-3)
    names = {"params": "N", "tokens": "D", "flops": "C"}
    found = fit(text, frame.rename(columns=names), bootstrap=20, judge=False, thorough=False)
    assert found.certificate.not_identified
    assert set(found.certificate.not_identified) <= set(found.verdict.withheld)
