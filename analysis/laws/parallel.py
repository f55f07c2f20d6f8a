"""Predict the loss of a model that passes each token through itself several times in parallel."""

from collections.abc import Mapping
import dataclasses
import itertools
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import Array, Coefficient, FormulaLaw, Inputs, Number, exponent, power, prefactor

FLOORS = (0.0, 0.3, 0.6, 0.85)  # E over the least loss: starts
GAINS = (0.1, 0.4, 1.0)  # k: starts
EXPONENTS = (0.1, 0.2, 0.4)  # starts


@dataclasses.dataclass(frozen=True)
class ParallelStreams(FormulaLaw):
    """L = (A / (N (k ln P + 1)))^alpha + E, nats per token, for P parallel streams at one number of training tokens.

    P streams are worth k ln P + 1 times the parameters; the logarithm is natural, another base is another k.
    """

    E: Number
    A: Number
    k: Number
    alpha: Number

    NAME: ClassVar[str] = "parallel"
    FORMULA: ClassVar[str] = "L = (A/(N (k ln P + 1)))^alpha + E, P = streams"
    SOURCE: ClassVar[str] = "Chen et al. 2025 (ParScale; arXiv 2505.10475), equation 5"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "streams", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "streams": Role("parallel streams of one model", ("streams", "parallel_size", "num_streams")),
    }
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "E": prefactor(1.0),
        "A": prefactor(1e8, high=1e60),
        "k": prefactor(0.3, high=1e3),
        "alpha": exponent(0.2, low=0.01),
    }

    @classmethod
    def starting_points(cls, inputs: Inputs, target: Array) -> Array:
        """Return points whose A fits the rows in the middle [points, 4]."""
        points = []
        for share, k, alpha in itertools.product(FLOORS, GAINS, EXPONENTS):
            floor = share * target.min()
            size = inputs["N"] * (k * np.log(inputs["streams"]) + 1)
            log_A = np.log(target - floor) / alpha + np.log(size)
            points.append([max(floor, 1e-12), np.exp(np.median(log_A)), k, alpha])
        return np.array(points)

    def predict(self, N: Any, streams: Any) -> Any:
        """Predict the loss in nats per token."""
        return power(self.A / (N * self.worth(streams)), self.alpha) + self.E

    def worth(self, streams: Any) -> Any:
        """Return how many times the parameters that many streams are worth."""
        return self.k * np.log(streams) + 1

    def derived(self, at: Inputs, flops_per_param_token: float = 6.0) -> dict[str, Any]:
        """Return the parameters of a model with one stream and the same loss."""
        return {"equal_params": at["N"] * self.worth(at["streams"])}
