"""Predict the loss from any one quantity, with several breaks."""

from collections.abc import Mapping
import dataclasses
import functools
import re
from typing import Any, ClassVar

import numpy as np

from analysis.laws.base import Array, Coefficient, FormulaLaw, Inputs, Number, power, prefactor
from analysis.solve.objective import Objective

DRAWN = 4000  # starts from the rows
SLOPES = (-0.5, 1.2)  # of ln(L - E) over ln X, and their changes at a break: where starts lie
WIDTHS = (0.1, 1.0)  # of a break in e-foldings: where starts lie


class SeveralBreaks(FormulaLaw):
    """L(X) = E + A X^-c0 prod_i (1 + (X/x_i)^(1/f_i))^(-c_i f_i), i = 1 .. BREAKS (Caballero et al. 2022, equation 1).

    The slope changes by c_i at x_i, over f_i e-foldings on either side. Breaks go from small to large X: r_i = x_i/x_(i-1)
    stands for x_i from the second one on, so that the breaks of one curve cannot change places.
    """

    E: Number
    A: Number
    c0: Number
    x1: Number

    BREAKS: ClassVar[int]
    SOURCE: ClassVar[str] = "Caballero et al. 2022 (arXiv 2210.14891), equation 1"
    ROLES: ClassVar[tuple[str, ...]] = ("X", "loss")
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")

    def places(self) -> list[Any]:
        """Return x_1, x_2, ..: where the breaks are."""
        places = [self.x1]
        for i in range(2, self.BREAKS + 1):
            places.append(places[-1] * getattr(self, f"r{i}"))
        return places

    def predict(self, X: Any) -> Any:
        """Predict the loss at X."""
        reducible = self.A * power(X, -self.c0)
        for i, place in enumerate(self.places(), 1):
            change = getattr(self, f"c{i}")
            width = getattr(self, f"f{i}")
            # As a softplus, which does not overflow far beyond the break.
            reducible = reducible * np.exp(-change * width * softplus(np.log(np.divide(X, place)) / width))
        return self.E + reducible

    def derived(self, at: Inputs, flops_per_param_token: float = 6.0) -> dict[str, Any]:
        """Return where the breaks are."""
        del at, flops_per_param_token
        return {f"x{i}": place for i, place in enumerate(self.places(), 1)}

    @classmethod
    def starting_points(cls, inputs: Inputs, target: Array) -> Array:
        """Draw points with their breaks among the rows [points, coefficients]; E and A are solved for."""
        del target
        log_X = np.log(inputs["X"])
        draw = np.random.default_rng(0)
        shape = (DRAWN, cls.BREAKS)
        places = np.sort(draw.uniform(log_X.min(), log_X.max(), shape), axis=1)
        first = np.exp(places[:, 0])
        gaps = np.exp(np.diff(places, axis=1))
        slopes = draw.uniform(*SLOPES, (DRAWN, cls.BREAKS + 1))
        widths = draw.uniform(*WIDTHS, shape)
        unknown = np.full(DRAWN, np.nan)
        by_name = {"E": unknown, "A": unknown, "c0": slopes[:, 0], "x1": first}
        for at in range(cls.BREAKS):
            i = at + 1
            by_name[f"c{i}"] = slopes[:, i]
            by_name[f"f{i}"] = widths[:, at]
            if at:
                by_name[f"r{i}"] = gaps[:, at - 1]
        ordered = [by_name[name] for name in cls.names()]
        return np.stack(ordered, axis=1)


def softplus(x: Any) -> Any:
    """Return ln(1 + e^x), without overflow."""
    is_large = np.real(x) > 0
    size = np.where(is_large, x, -x)
    rest = np.log(1 + np.exp(-size))
    return np.where(is_large, x + rest, rest)


def _formula(count: int) -> str:
    """Write the law with that many breaks out."""
    factors = []
    places = []
    for i in range(1, count + 1):
        factors.append(f"(1 + (X/x{i})^(1/f{i}))^(-c{i} f{i})")
        if i > 1:
            places.append(f"x{i} = x{i - 1} r{i}")
    product = " ".join(factors)
    return ", ".join([f"L = E + A X^-c0 {product}", *places])


@functools.lru_cache
def with_breaks(count: int) -> type[SeveralBreaks]:
    """Make the law with that many breaks, named broken_2, broken_3, ..; `broken` is the one with a single break."""
    names = ["E", "A", "c0"]
    known: dict[str, Coefficient] = {"E": prefactor(), "A": prefactor(), "c0": Coefficient((0.2,), low=-4.0, high=8.0)}
    for i in range(1, count + 1):
        place = "x1" if i == 1 else f"r{i}"
        names += [f"c{i}", place, f"f{i}"]
        known[f"c{i}"] = Coefficient((0.1,), low=-20.0, high=20.0)
        known[place] = prefactor(1.0, high=1e30) if i == 1 else prefactor(10.0, low=1.0, high=1e30)
        known[f"f{i}"] = prefactor(0.3, low=0.01, high=10.0)
    body: Mapping[str, Any] = {
        "__module__": __name__,
        "__doc__": f"L over any one quantity X, a power law with {count} breaks (SeveralBreaks says how).",
        "NAME": f"broken_{count}",
        "FORMULA": _formula(count),
        "BREAKS": count,
        "COEFFICIENTS": known,
        "ROLES": SeveralBreaks.ROLES,
    }
    made: Any = dataclasses.make_dataclass(
        f"Broken{count}", [(name, Any) for name in names], bases=(SeveralBreaks,), namespace=dict(body), frozen=True
    )
    return made


def named(name: str) -> type[SeveralBreaks] | None:
    """Return the law of a name such as broken_4; None for another name."""
    count = re.fullmatch(r"broken_([2-9])", name)
    return with_breaks(int(count[1])) if count else None


Broken2 = with_breaks(2)
Broken3 = with_breaks(3)
