"""Pose the fit of a formula in which two coefficients are shares of one whole: neither is negative, and their sum is at most 1.

One of them is searched as its share of what the other leaves, so that all that is allowed is a box, and an optimum on its
edge is one under the constraint.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from analysis.laws.base import FormulaLaw
from analysis.solve.formula import FormulaProblem, combined_starts, problem
from analysis.solve.jet import Jet

ALL = 1 - 1e-9  # of the whole: what is left may not be zero, for a share of it to have a meaning


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharesProblem(FormulaProblem):
    """Hold the rows of a fit, see FormulaProblem. The coefficient `part` is searched as a share of what `other` leaves."""

    part: str
    other: str

    def law_coefficients(self, values: np.ndarray, variables: Mapping[str, Jet]) -> dict[str, Any]:
        """Return the law's coefficients: the part is what is searched of what the other leaves."""
        found = super().law_coefficients(values, variables)
        found[self.part] = found[self.part] * (1 - found[self.other])
        return found

    def coefficients(self, theta: np.ndarray) -> np.ndarray:
        """Return coefficients [b, k]."""
        found = super().coefficients(theta)
        names = self.law.names()
        left = 1 - found[:, names.index(self.other)]
        found[:, names.index(self.part)] *= left
        return found

    def of_coefficients(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the parameters [b, p] of coefficients [b, k], those that are allowed next to them."""
        names = self.law.names()
        searched = np.array(coefficients, dtype=np.float64)
        other = np.clip(searched[:, names.index(self.other)], 0.0, ALL)
        part = searched[:, names.index(self.part)]
        searched[:, names.index(self.part)] = np.clip(part / (1 - other), 0.0, 1.0)
        free = searched[:, [names.index(name) for name in self.names]]
        positive = np.maximum(free, 1e-300)
        theta = np.where(self.logs, np.log(positive), free)
        return np.clip(theta, *self.bounds())

    def in_units(self, theta: np.ndarray, at: int) -> tuple[FormulaProblem, np.ndarray]:
        """Return problem and parameters [p] in which parameter `at` is its coefficient, or the logarithm of it."""
        if self.names[at] != self.part:
            return self, theta
        turned = dataclasses.replace(self, part=self.other, other=self.part)
        return turned, turned.of_coefficients(self.coefficients(theta[None]))[0]

    def starts(self, weight: np.ndarray, keep: int) -> np.ndarray:
        """Return starts [keep, p]: those of the formula without the constraint, moved to what is allowed."""
        free = FormulaProblem(
            law=self.law,
            fixed=self.fixed,
            inputs=self.inputs,
            target=self.target,
            raw=self.raw,
            above=self.above,
        )
        return self.of_coefficients(free.coefficients(combined_starts(free, weight, keep)))


def shares_problem(
    law: type[FormulaLaw],
    columns: Mapping[str, np.ndarray],
    raw: bool,
    fixed: Mapping[str, float],
    above: np.ndarray | float | None,
    names: tuple[str, str],
) -> SharesProblem | None:
    """Pose the fit of a law whose coefficients `names` are shares of one whole; None where both are held."""
    free = [name for name in names if name not in fixed]
    if not free:
        return None
    part = free[-1]
    other = names[0] if part == names[1] else names[1]
    plain = problem(law, columns, raw, fixed, above)
    fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    return SharesProblem(**fields, part=part, other=other)
