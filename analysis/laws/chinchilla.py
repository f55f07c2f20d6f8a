"""Predict the loss from parameters and tokens."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Inputs, Number, SumLaw, Term


@dataclasses.dataclass(frozen=True)
class Chinchilla(SumLaw):
    """L(N, D) = E + A/N^alpha + B/D^beta, nats per token.

    N: parameters, D: training tokens (any convention, stated with the fit). Source: Hoffmann et al. 2022, eq. 2
    (approach 3); Besiroglu et al. 2024 for how to fit it.
    """

    E: Number
    A: Number
    B: Number
    alpha: Number
    beta: Number

    NAME: ClassVar[str] = "chinchilla"
    FORMULA: ClassVar[str] = "L = E + A/N^alpha + B/D^beta"
    SOURCE: ClassVar[str] = (
        "Hoffmann et al. 2022 (arXiv 2203.15556), approach 3; Besiroglu et al. 2024 (arXiv 2404.10102)"
    )
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "loss")
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("N", "D"), ("C",), ("N", "C"), ("D", "C"))
    TERMS: ClassVar[tuple[Term, ...]] = (
        Term("E"),
        Term("A", (("N", -1.0, "alpha"),)),
        Term("B", (("D", -1.0, "beta"),)),
    )

    def optimum(self, C: Any, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> tuple[Any, Any]:
        """Return (N, D) of least loss among those with flops_per_param_token * N * D = C (Hoffmann et al. 2022, eq. 4)."""
        product = C / flops_per_param_token
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            total = np.asarray(self.alpha + self.beta)  # may be zero
            pull_N = np.log(self.alpha * self.A)  # of the slopes of both terms, which are equal at the optimum
            pull_D = np.log(self.beta * self.B)
            scale = np.exp((pull_N - pull_D) / total)
            N = scale * product ** (self.beta / total)
            return N, product / N

    def optimum_exponents(self) -> dict[str, Any]:
        """Return the exponents of the optimum: N* grows as C^(beta/(alpha+beta)), D* as C^(alpha/(alpha+beta))."""
        with np.errstate(divide="ignore", invalid="ignore"):
            total = np.asarray(self.alpha + self.beta)  # may be zero
            return {"exponent_N": self.beta / total, "exponent_D": self.alpha / total}

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """Predict the loss at (N, D), at compute C with N and D at their optimum, or at C with one of them given."""
        if "N" in at and "D" in at:
            N = at["N"]
            D = at["D"]
        elif "N" in at:
            N = at["N"]
            D = at["C"] / flops_per_param_token / N
        elif "D" in at:
            D = at["D"]
            N = at["C"] / flops_per_param_token / D
        else:
            N, D = self.optimum(at["C"], flops_per_param_token)
        return self.predict(N=N, D=D)
