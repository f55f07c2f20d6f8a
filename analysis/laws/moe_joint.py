"""Predict the loss of mixtures of experts from active parameters, tokens and the number of experts together."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.laws.base import (
    FLOPS_PER_PARAM_TOKEN,
    Coefficient,
    FormulaLaw,
    Inputs,
    Number,
    free,
    power,
    prefactor,
)
from analysis.laws.chinchilla import Chinchilla
from analysis.laws.moe import saturated
from analysis.solve.objective import Objective

FALLING = (-0.15, -0.25, -0.4)  # exponents of a loss that falls: starts


@dataclasses.dataclass(frozen=True)
class JointMoE(FormulaLaw):
    """L = a E'^delta N^(alpha + gamma ln E') + b E'^omega D^(beta + zeta ln E') + c, nats per token.

    N: active parameters; E' the saturated number of experts (their equation 4, after Clark et al. 2022). Exponents are
    negative. For a given number of experts it is Chinchilla's law (their table 4).
    """

    a: Number
    alpha: Number
    delta: Number
    gamma: Number
    b: Number
    beta: Number
    omega: Number
    zeta: Number
    E_start: Number
    E_max: Number
    c: Number

    NAME: ClassVar[str] = "moe_joint"
    FORMULA: ClassVar[str] = (
        "L = a E'^delta N^(alpha + gamma ln E') + b E'^omega D^(beta + zeta ln E') + c, E' between E_start and E_max"
    )
    SOURCE: ClassVar[str] = "Ludziejewski et al. 2025 (arXiv 2502.05172), equations 4 and 6"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "experts", "loss")
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("N", "D", "experts"), ("C", "experts"))
    OBJECTIVE: ClassVar[Objective] = Objective("huber", "log", 0.01)
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        **dict.fromkeys(("a", "b", "c"), prefactor()),
        **dict.fromkeys(("alpha", "beta"), free(*FALLING, low=-4.0, high=0.0)),
        "delta": free(-0.3, 0.0, 0.3),
        "omega": free(-0.3, 0.0, 0.5),
        "gamma": free(0.0, 0.02),
        "zeta": free(0.0, -0.03),
        "E_start": prefactor(1.2, 2.0, 4.0, low=1e-2),
        "E_max": prefactor(100.0, 300.0, 1000.0, high=1e9),
    }

    def of_experts(self, experts: Any) -> Chinchilla:
        """Return the law for one number of experts: m N^mu + n D^nu + c, with Chinchilla's names and signs."""
        log_E = np.log(saturated(experts, self.E_start, self.E_max))
        return Chinchilla(
            E=self.c,
            A=self.a * np.exp(self.delta * log_E),
            B=self.b * np.exp(self.omega * log_E),
            alpha=-(self.alpha + self.gamma * log_E),
            beta=-(self.beta + self.zeta * log_E),
        )

    def predict(self, N: Any, D: Any, experts: Any) -> Any:
        """Predict the loss in nats per token."""
        one = self.of_experts(experts)
        return one.E + one.A * power(N, -one.alpha) + one.B * power(D, -one.beta)

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """Predict the loss of a run, or of the best one for C training FLOPs."""
        one = self.of_experts(at["experts"])
        where = {role: value for role, value in at.items() if role != "experts"}
        return one.target_at(where, flops_per_param_token)

    def derived(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """Return the best active parameters and tokens where C is given (their section 4.1)."""
        if "C" not in at:
            return {}
        return self.of_experts(at["experts"]).derived({"C": at["C"]}, flops_per_param_token)
