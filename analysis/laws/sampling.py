"""Predict how many tasks are solved by any of several samples."""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import Array, Coefficient, FormulaLaw, Inputs, Number, free, power
from analysis.solve.objective import Objective

EXPONENTS = (-0.1, -0.2, -0.35, -0.55, -0.8, -1.2)  # starts


@dataclasses.dataclass(frozen=True)
class Coverage(FormulaLaw):
    """c = exp(a k^b): the share c of tasks that at least one of k samples solves; a and b are negative.

    An exponentiated power law: ln c falls towards 0 as a power of the samples.
    """

    a: Number
    b: Number

    NAME: ClassVar[str] = "coverage"
    FORMULA: ClassVar[str] = "c = exp(a k^b), k = samples"
    SOURCE: ClassVar[str] = "Brown et al. 2024 (Large Language Monkeys; arXiv 2407.21787), equation 3"
    ROLES: ClassVar[tuple[str, ...]] = ("samples", "coverage")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "samples": Role("samples of each task", ("samples", "num_samples", "k")),
        "coverage": Role("share of tasks that a sample solves, 0 to 1", ("coverage", "pass_at_k"), positive=False),
    }
    TARGET: ClassVar[str] = "coverage"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "raw")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "a": free(-1.0, low=-700.0, high=0.0),
        "b": free(*EXPONENTS, low=-4.0, high=0.0),
    }

    @classmethod
    def starting_points(cls, inputs: Inputs, target: Array) -> Array:
        """Return points whose a fits the rows in the middle [points, 2]."""
        log_c = np.log(np.clip(target, 1e-6, 1 - 1e-6))
        points = []
        for b in EXPONENTS:
            a = np.median(log_c * inputs["samples"] ** -b)
            points.append([a, b])
        return np.array(points)

    def predict(self, samples: Any) -> Any:
        """Predict the share of tasks that at least one of that many samples solves, 0 to 1."""
        return np.exp(self.a * power(samples, self.b))
