"""Predict the loss from any one quantity, with a floor or a break."""

import dataclasses
import itertools
from typing import Any, ClassVar

import numpy as np

from analysis.laws.base import Array, Coefficient, FormulaLaw, Inputs, Number, SumLaw, Term, power, prefactor
from analysis.laws.several_breaks import softplus

BREAKS = 10  # places of a break to start from, between the smallest and the largest X
SLOPES = (-0.2, 0.02, 0.1, 0.3, 0.8)  # starts of c0
CHANGES = (-0.8, -0.3, 0.2, 0.6, 2.0, 6.0)  # starts of c1
WIDTHS = (0.03, 0.15, 0.6)  # starts of f1


@dataclasses.dataclass(frozen=True)
class Plateau(SumLaw):
    """L(x) = E + A x^-alpha: a power law that ends at the irreducible loss. x is any one quantity (role X)."""

    E: Number
    A: Number
    alpha: Number

    NAME: ClassVar[str] = "plateau"
    FORMULA: ClassVar[str] = "L = E + A/X^alpha"
    SOURCE: ClassVar[str] = "Hestness et al. 2017 (arXiv 1712.00409); Henighan et al. 2020 (arXiv 2010.14701)"
    ROLES: ClassVar[tuple[str, ...]] = ("X", "loss")
    TERMS: ClassVar[tuple[Term, ...]] = (Term("E"), Term("A", (("X", -1.0, "alpha"),)))


@dataclasses.dataclass(frozen=True)
class Broken(FormulaLaw):
    """L(x) = E + A x^-c0 (1 + (x/x1)^(1/f1))^(-c1 f1): a power law whose slope changes from c0 to c0 + c1 at x1.

    f1 is the width of the break, in e-foldings of x on either side.
    """

    E: Number
    A: Number
    c0: Number
    c1: Number
    x1: Number
    f1: Number

    NAME: ClassVar[str] = "broken"
    FORMULA: ClassVar[str] = "L = E + A X^-c0 (1 + (X/x1)^(1/f1))^(-c1 f1)"
    SOURCE: ClassVar[str] = "Caballero et al. 2022 (arXiv 2210.14891), equation 1 with one break"
    ROLES: ClassVar[tuple[str, ...]] = ("X", "loss")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "E": prefactor(),
        "A": prefactor(),
        "c0": Coefficient((0.2,), low=-4.0, high=8.0),
        "c1": Coefficient((0.4,), low=-40.0, high=40.0),
        "x1": prefactor(1.0),
        "f1": prefactor(0.3, low=0.005, high=20.0),
    }

    @classmethod
    def starting_points(cls, inputs: Inputs, target: Array) -> Array:
        """Combine slopes and widths with breaks all over the rows [points, coefficients]; E and A are solved for."""
        del target
        log_X = np.log(inputs["X"])
        breaks = np.exp(np.linspace(log_X.min(), log_X.max(), BREAKS + 2)[1:-1])
        unsolved = (np.nan,)
        combined = itertools.product(unsolved, unsolved, SLOPES, CHANGES, breaks, WIDTHS)
        return np.array(list(combined))

    def predict(self, X: Any) -> Any:
        """Predict the loss at X."""
        # As a softplus, which does not overflow far beyond the break.
        bend = np.exp(-self.c1 * self.f1 * softplus(np.log(np.divide(X, self.x1)) / self.f1))
        return self.E + self.A * power(X, -self.c0) * bend
