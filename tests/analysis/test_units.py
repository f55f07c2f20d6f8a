"""A fit does not depend on the units that sizes, tokens and losses are counted in."""

import json

import numpy as np
import pytest

from analysis import laws
from analysis.fitting.result import FitResult, to_json
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.farseer import Farseer
from analysis.laws.written import law_of
from analysis.questions import fit as fitting
from analysis.questions import predict
from tests.support.planted_laws import PLANTED, columns, parts

SPEC = FitSpec(bootstrap=0, thorough=False, starts=32)
COUNTED = {"N", "D", "C", "U", "S", "X", "batch"}  # roles that people count in thousands and billions
SUMS = ("chinchilla", "kaplan_n", "plateau", "task_loss", "answer_loss")
OTHERS = ("kaplan", "overtraining", "coupled", "broken", "utility_decay", "data_decay")
SCALED_LOSS = ("chinchilla", "plateau", "data_decay")  # every term of theirs has a free prefactor


def fitted(name: str, factor: float = 1.0, of_loss: float = 1.0) -> FitResult:
    """Fit a law to noisy rows whose counts are multiplied by a factor, and whose target by another."""
    coefficients, inputs = PLANTED[name]
    law = laws.load(name).of(parts(inputs))
    given = columns(law, law(*coefficients), inputs, noise=0.004)
    scaled = {}
    for role, value in given.values.items():
        scaled[role] = value * factor if role in COUNTED else value
    scaled[law.TARGET] = scaled[law.TARGET] * of_loss
    return fitting.fit(Columns(scaled, given.row, given.sources, (), parts=given.parts), law, SPEC)


def is_same(found: FitResult, other: FitResult) -> None:
    assert found.objective == pytest.approx(other.objective, rel=1e-5)
    np.testing.assert_allclose(found.residual, other.residual, atol=2e-5)


@pytest.mark.parametrize("name", [*SUMS, *OTHERS])
def test_counts_in_other_units_are_fitted_as_well(name):
    plain = fitted(name)
    for factor in (1e-9, 1e3):
        is_same(fitted(name, factor), plain)


@pytest.mark.parametrize("name", SCALED_LOSS)
def test_losses_in_other_units_are_fitted_as_well(name):
    plain = fitted(name)
    for of_loss in (1e-9, 1e3):
        is_same(fitted(name, of_loss=of_loss), plain)


def test_farseer_knows_millions_and_billions_by_their_size():
    """Its exponent of D depends on N: in other units of D its form is another law, so that D has to be in tokens."""
    plain = fitted("farseer")
    for factor, says in ((1e-9, "(1e9 D)^-"), (1e-6, "(1e6 D)^-")):
        found = fitted("farseer", factor)
        is_same(found, plain)
        assert says in found.law.FORMULA and found.law.names() == Farseer.names()
        at = {"N": 5e9 * factor, "D": 2e11 * factor}
        value = found.law.target_at(at)
        assert value == pytest.approx(plain.law.target_at({"N": 5e9, "D": 2e11}), rel=1e-4)
        again = predict.from_json(json.loads(json.dumps(to_json(found, "", "test"))))
        assert again.law == found.law and again.law.target_at(at) == value
        size, tokens = found.law.optimum(1e22 * factor**2)
        assert size == pytest.approx(plain.law.optimum(1e22)[0] * factor, rel=1e-3)
        assert 6 * size * tokens == pytest.approx(1e22 * factor**2)


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e3])
def test_the_optimum_of_a_formula_is_found_in_any_unit(factor):
    law = law_of("L = E + A/N^alpha + B/D^beta + g*A/N^alpha", ("N", "D", "loss"), "mine")
    truth = {"E": 1.69, "A": 406.4 * factor**0.34, "alpha": 0.34, "B": 410.7 * factor**0.28, "beta": 0.28, "g": 0.0}
    size, _ = law(**truth).optimum(1e19 * factor**2)
    named = laws.load("chinchilla")(1.69, 406.4, 410.7, 0.34, 0.28)
    assert size == pytest.approx(named.optimum(1e19)[0] * factor, rel=1e-9)
