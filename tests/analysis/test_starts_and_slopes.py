"""Laws of others: starts that know the data's units, slopes that are checked, bounds that are kept."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from analysis import laws
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw, Number, SumLaw, Term, exponent, free, prefactor
from analysis.questions import fit as fitting
from experiments.cli import InputError
from tests.support import planted

PLAIN = FitSpec(bootstrap=0, thorough=False, starts=48)
BROKEN = laws.load("broken")

# The 17 points of figure 4 of Caballero et al. 2022: loss of 4-digit addition over the size of the training set.
SIZES = [160, 192, 256, 320, 384, 448, 480, 512, 544, 576, 608, 640, 672, 736, 800, 864, 928]
LOSSES = [
    *(2.13809046, 2.11813418, 2.08955508, 2.06988398, 2.05404987, 2.03837089, 2.02814281, 2.00496872, 1.95576149),
    *(1.86313841, 1.70891537, 1.50637664, 1.29754721, 0.96559684, 0.75856477, 0.64768338, 0.55695445),
]


def one_quantity(X, loss) -> Columns:
    X = np.array(X, dtype=np.float64)
    return Columns({"X": X, "loss": np.array(loss)}, np.arange(len(X)), {}, ())


@pytest.mark.parametrize("unit", [1.0, 1e-15, pytest.param(1e30, marks=pytest.mark.slow)])
def test_a_broken_law_finds_the_optimum_of_its_papers_points_in_any_unit(unit):
    found = fitting.fit(one_quantity(np.array(SIZES) * unit, LOSSES), BROKEN, PLAIN)
    assert found.objective == pytest.approx(2.3394e-5, rel=1e-4)
    assert (found.law.E, found.law.c1) == pytest.approx((0.39956, 5.5173), rel=1e-3)


def test_a_floor_that_starts_at_zero_grows():
    truth = BROKEN(0.4, 2.3, 0.055, 5.7, 613.0, 0.06)
    found = fitting.fit(one_quantity(SIZES, truth.predict(np.array(SIZES, float))), BROKEN, PLAIN)
    assert found.law.coefficients() == pytest.approx(truth.coefficients(), rel=1e-6)


@dataclasses.dataclass(frozen=True)
class WithAbs(FormulaLaw):
    E: Number
    c: Number
    p: Number

    NAME = "with_abs"
    ROLES = ("X", "loss")
    COEFFICIENTS: ClassVar = {"E": prefactor(1.0, 2.0), "c": free(-8.0, -6.0), "p": free(1.0, 2.0)}

    def predict(self, X):
        return self.E + np.abs(np.log(X) - self.c) ** self.p


@dataclasses.dataclass(frozen=True)
class WithChoice(WithAbs):
    NAME = "with_choice"

    def predict(self, X):
        apart = np.log(X) - self.c
        return self.E + np.where(np.real(apart) > 0, apart, -apart) ** self.p


@dataclasses.dataclass(frozen=True)
class WithFloat(WithAbs):
    NAME = "with_float"

    def predict(self, X):
        return self.E + np.exp(self.p * (np.log(X) - np.asarray(self.c).astype(float)))


def valley() -> Columns:
    X = np.exp(np.linspace(-10, -4, 40))
    return one_quantity(X, 2 + np.abs(np.log(X) + 7.2) ** 1.5)


@dataclasses.dataclass(frozen=True)
class WithReal(WithAbs):
    NAME = "with_real"

    def predict(self, X):
        return self.E + np.abs(np.log(X) - self.c) ** np.real(self.p)


@pytest.mark.parametrize("law", [WithFloat, WithReal])
def test_a_formula_that_loses_slopes_is_refused(law):
    with pytest.raises(InputError, match=rf"{law.NAME}.*expected functions that carry slopes"):
        fitting.fit(valley(), law, PLAIN)


@pytest.mark.parametrize("law", [WithAbs, WithChoice])
def test_a_formula_with_a_corner_is_fitted(law):
    """Also from starts at which a row lies in the corner."""
    found = fitting.fit(valley(), law, PLAIN)
    assert found.law.coefficients() == pytest.approx({"E": 2, "c": -7.2, "p": 1.5}, rel=1e-6)


@dataclasses.dataclass(frozen=True)
class Either(SumLaw):
    E: Number
    A: Number
    alpha: Number

    NAME = "either"
    ROLES = ("X", "loss")
    TERMS = (Term("E"), Term("A", (("X", -1.0, "alpha"),)))
    COEFFICIENTS: ClassVar = {"alpha": exponent(low=-2.0)}


@pytest.mark.parametrize("alpha", [-0.6, 0.4])
def test_a_sum_keeps_the_bounds_that_it_states(alpha):
    X = np.geomspace(1, 1e3, 30)
    found = fitting.fit(one_quantity(X, 1.5 + 0.2 * X**-alpha), Either, PLAIN)
    assert found.law.coefficients() == pytest.approx({"E": 1.5, "A": 0.2, "alpha": alpha}, rel=1e-6)
    assert Either.COEFFICIENTS["A"] == prefactor()


def test_a_sum_that_states_what_is_in_no_term_is_refused():
    with pytest.raises(TypeError, match="'gamma' is in no term; expected E, A, alpha"):
        type("Wrong", (Either,), {"COEFFICIENTS": {"gamma": exponent()}})


def test_the_certificate_has_numbers_that_could_be_others():
    frame = planted.isoflop_frame(noise=0.004, seed=2)
    columns = planted.columns(*(frame[name].to_numpy() for name in ("params", "tokens", "loss")))
    certificate = fitting.fit(columns, laws.load("chinchilla"), PLAIN).certificate
    assert 0 < certificate.gradient < 1e-8
    assert certificate.agreeing_starts > 0.95
    assert certificate.mean_changes < 1e-9
