"""Predict the loss from any one quantity, with a floor or a break."""

import dataclasses
from typing import Any, ClassVar

from analysis.laws.base import Coefficient, FormulaLaw, Number, SumLaw, Term, power, prefactor


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
        "c0": Coefficient((0.02, 0.1, 0.3, 0.6), low=-2.0, high=4.0),
        "c1": Coefficient((-0.4, -0.1, 0.1, 0.4, 0.8), low=-4.0, high=4.0),
        "x1": prefactor(*(float(10**power_) for power_ in range(-2, 26, 1))),
        "f1": prefactor(0.1, 0.5, low=0.01, high=10.0),
    }

    def predict(self, X: Any) -> Any:
        """Predict the loss at X."""
        bend = power(1 + power(X / self.x1, 1 / self.f1), -self.c1 * self.f1)
        return self.E + self.A * power(X, -self.c0) * bend
