"""Predict the loss away from the compute-optimal ratio of tokens to parameters."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.laws.base import (
    FLOPS_PER_PARAM_TOKEN,
    Coefficient,
    FormulaLaw,
    Inputs,
    Number,
    exponent,
    power,
    prefactor,
)
from analysis.solve.objective import Objective

SOURCE = "Gadre et al. 2024 (arXiv 2403.08540)"


@dataclasses.dataclass(frozen=True)
class OverTraining(FormulaLaw):
    """L(C, M) = E + (a M^eta + b M^-eta) C^-eta, nats per token, with M = D/N tokens per parameter and C = 6 N D.

    It is Chinchilla's form with alpha = beta = 2 eta: one exponent at every ratio, and a best ratio that does not change.
    Prefactors are in units of FLOPs^eta.
    """

    E: Number
    a: Number
    b: Number
    eta: Number

    NAME: ClassVar[str] = "overtraining"
    FORMULA: ClassVar[str] = "L = E + (a M^eta + b M^-eta) C^-eta, M = D/N"
    SOURCE: ClassVar[str] = f"{SOURCE}, equation 4"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "loss")
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("N", "D"), ("C",))
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "raw")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "E": prefactor(),
        "a": prefactor(),
        "b": prefactor(),
        "eta": exponent(0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.4, 0.6, low=1e-3),
    }

    def predict(self, N: Any, D: Any) -> Any:
        """Predict the loss in nats per token for N parameters and D tokens."""
        ratio = power(D / N, self.eta)
        compute = power(FLOPS_PER_PARAM_TOKEN * N * D, -self.eta)
        return self.E + (self.a * ratio + self.b / ratio) * compute

    def optimum(self, C: Any, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> tuple[Any, Any]:
        """Return (N, D) with the ratio M* = (b/a)^(1/(2 eta)), which is the same at every compute."""
        with np.errstate(all="ignore"):
            of_terms = np.divide(self.b, self.a)  # a and eta may be zero
            ratio = power(of_terms, np.divide(0.5, self.eta))
            N = np.sqrt(C / flops_per_param_token / ratio)
            return N, ratio * N

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        N, D = (at["N"], at["D"]) if "N" in at else self.optimum(at["C"], flops_per_param_token)
        return self.predict(N, D)
