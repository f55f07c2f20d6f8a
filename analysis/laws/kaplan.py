"""Predict the loss by power laws without a floor, and the two ways in which Kaplan et al. 2020 join them."""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import (
    FLOPS_PER_PARAM_TOKEN,
    Coefficient,
    FormulaLaw,
    Inputs,
    Number,
    SumLaw,
    Term,
    exponent,
    power,
    prefactor,
)

SOURCE = "Kaplan et al. 2020 (arXiv 2001.08361)"
SCALES = tuple(float(scale) for scale in 10.0 ** np.arange(2, 19, 2))  # of parameters, tokens or steps


@dataclasses.dataclass(frozen=True)
class KaplanN(SumLaw):
    """L(N) = A_N N^-alpha_N at enough data, nats per token; the paper's N_c is A_N^(1/alpha_N). N without embeddings."""

    A_N: Number
    alpha_N: Number

    NAME: ClassVar[str] = "kaplan_n"
    FORMULA: ClassVar[str] = "L = A_N / N^alpha_N"
    SOURCE: ClassVar[str] = f"{SOURCE}, equation 1.1"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "loss")
    TERMS: ClassVar[tuple[Term, ...]] = (Term("A_N", (("N", -1.0, "alpha_N"),)),)


@dataclasses.dataclass(frozen=True)
class KaplanD(SumLaw):
    """L(D) = A_D D^-alpha_D of a large model stopped early, nats per token; D_c is A_D^(1/alpha_D)."""

    A_D: Number
    alpha_D: Number

    NAME: ClassVar[str] = "kaplan_d"
    FORMULA: ClassVar[str] = "L = A_D / D^alpha_D"
    SOURCE: ClassVar[str] = f"{SOURCE}, equation 1.2"
    ROLES: ClassVar[tuple[str, ...]] = ("D", "loss")
    TERMS: ClassVar[tuple[Term, ...]] = (Term("A_D", (("D", -1.0, "alpha_D"),)),)


@dataclasses.dataclass(frozen=True)
class KaplanC(SumLaw):
    """L(C) = A_C C^-alpha_C on the compute-efficient frontier, nats per token; C_c is A_C^(1/alpha_C)."""

    A_C: Number
    alpha_C: Number

    NAME: ClassVar[str] = "kaplan_c"
    FORMULA: ClassVar[str] = "L = A_C / C^alpha_C"
    SOURCE: ClassVar[str] = f"{SOURCE}, equation 1.3"
    ROLES: ClassVar[tuple[str, ...]] = ("C", "loss")
    TERMS: ClassVar[tuple[Term, ...]] = (Term("A_C", (("C", -1.0, "alpha_C"),)),)


@dataclasses.dataclass(frozen=True)
class KaplanND(FormulaLaw):
    """L(N, D) = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D, nats per token: model size and overfitting together."""

    N_c: Number
    D_c: Number
    alpha_N: Number
    alpha_D: Number

    NAME: ClassVar[str] = "kaplan"
    FORMULA: ClassVar[str] = "L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D"
    SOURCE: ClassVar[str] = f"{SOURCE}, equation 1.5"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "loss")
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("N", "D"), ("C",))
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "N_c": prefactor(*SCALES),
        "D_c": prefactor(*SCALES),
        "alpha_N": exponent(0.05, 0.1, 0.2, 0.4, low=1e-3),
        "alpha_D": exponent(0.05, 0.1, 0.2, 0.4, low=1e-3),
    }

    def predict(self, N: Any, D: Any) -> Any:
        """Predict the loss in nats per token for N parameters and D tokens."""
        return power(power(self.N_c / N, self._ratio) + self.D_c / D, self.alpha_D)

    @property
    def _ratio(self) -> Any:
        """The exponent of N_c/N inside the bracket; infinite where alpha_D is zero."""
        return np.divide(self.alpha_N, self.alpha_D)

    def optimum(self, C: Any, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> tuple[Any, Any]:
        """Return (N, D) of least loss: the slopes of both terms over ln N cancel."""
        product = C / flops_per_param_token
        with np.errstate(all="ignore"):
            ratio = self._ratio
            sum_of_logs = np.log(ratio) + ratio * np.log(self.N_c) - np.log(self.D_c) + np.log(product)
            N = np.exp(sum_of_logs / (1 + ratio))
            return N, product / N

    def optimum_exponents(self) -> dict[str, Any]:
        with np.errstate(all="ignore"):
            total = self.alpha_N + self.alpha_D  # may be zero
            return {"exponent_N": np.divide(self.alpha_D, total), "exponent_D": np.divide(self.alpha_N, total)}

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        N, D = (at["N"], at["D"]) if "N" in at else self.optimum(at["C"], flops_per_param_token)
        return self.predict(N, D)


@dataclasses.dataclass(frozen=True)
class KaplanNS(SumLaw):
    """L(N, S_min) = (N_c/N)^alpha_N + (S_c/S_min)^alpha_S, nats per token: size and least optimizer steps.

    S_min is the number of steps at a batch far above the critical one: S / (1 + B_crit/B) of S steps at batch B. Steps as
    they were made are no S_min: a grid has a column of it, or a formula, --columns="S_min=steps/(1+2e6/batch)". Prefactors
    are N_c^alpha_N and S_c^alpha_S.
    """

    A_N: Number
    A_S: Number
    alpha_N: Number
    alpha_S: Number

    NAME: ClassVar[str] = "kaplan_steps"
    FORMULA: ClassVar[str] = "L = A_N/N^alpha_N + A_S/S_min^alpha_S"
    SOURCE: ClassVar[str] = f"{SOURCE}, equation 1.6"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "S_min", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "S_min": Role("least optimizer steps, S/(1 + B_crit/B)", ("S_min", "steps_min", "min_steps")),
    }
    TERMS: ClassVar[tuple[Term, ...]] = (
        Term("A_N", (("N", -1.0, "alpha_N"),)),
        Term("A_S", (("S_min", -1.0, "alpha_S"),)),
    )
