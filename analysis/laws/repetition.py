"""Predict the loss where data runs out: repeated tokens, parameters in excess of them, and the wear of data that is seen again."""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import Coefficient, FormulaLaw, Number, exponent, power, prefactor


def worn(unique: Any, total: Any, half: Any) -> Any:
    """Return the effective amount of `total` of which `unique` is new: each repeat is worth exp(-repeats / half) of the one before."""
    repeats = np.maximum(total / unique - 1, 0)
    return unique - unique * half * np.expm1(-repeats / half)  # exact for a half that is very long, too


@dataclasses.dataclass(frozen=True)
class DataConstrained(FormulaLaw):
    """L = E + A/N'^alpha + B/D'^beta, nats per token: N' and D' are what N and D are worth when U tokens are unique.

    D' = U + U R_D (1 - exp(-(D/U - 1)/R_D)); N' likewise of U_N = min(N, G (G U)^(beta/alpha)), the size that is optimal
    for U tokens, with G = (alpha A/(beta B))^(1/(alpha+beta)).
    """

    E: Number
    A: Number
    B: Number
    alpha: Number
    beta: Number
    R_D: Number
    R_N: Number

    NAME: ClassVar[str] = "data_constrained"
    FORMULA: ClassVar[str] = (
        "L = E + A/N'^alpha + B/D'^beta, D' = U + U R_D (1 - exp(-(D/U-1)/R_D)), N' likewise with R_N"
    )
    SOURCE: ClassVar[str] = "Muennighoff et al. 2023 (arXiv 2305.16264), equations 5 to 7"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "U", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "U": Role("unique training tokens", ("U", "unique_tokens", "tokens_unique")),
    }
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "E": prefactor(1.0, 1.7),
        "A": prefactor(50.0, 500.0, 5000.0),
        "B": prefactor(50.0, 1500.0, 15000.0),
        "alpha": exponent(0.2, 0.35, 0.5, low=0.01),
        "beta": exponent(0.2, 0.35, 0.5, low=0.01),
        "R_D": prefactor(1.0, 5.0, 15.0, 50.0, 200.0, high=1e12),
        "R_N": prefactor(1.0, 2.0, 5.0, 15.0, 50.0, high=1e12),
    }

    def predict(self, N: Any, D: Any, U: Any) -> Any:
        """Predict the loss in nats per token for N parameters and D tokens of which U are unique."""
        fresh = np.minimum(U, D)
        pull = np.divide(self.alpha * self.A, self.beta * self.B)  # A and B may be zero
        G = power(pull, 1 / (self.alpha + self.beta))
        fit = np.minimum(N, G * power(G * fresh, self.beta / self.alpha))
        size = worn(fit, N, self.R_N)
        data = worn(fresh, D, self.R_D)
        return self.E + self.A * power(size, -self.alpha) + self.B * power(data, -self.beta)


@dataclasses.dataclass(frozen=True)
class DataDecay(FormulaLaw):
    """DataConstrained without the decay of excess parameters: L = E + A/N^alpha + B/D'^beta."""

    E: Number
    A: Number
    B: Number
    alpha: Number
    beta: Number
    R_D: Number

    NAME: ClassVar[str] = "data_decay"
    FORMULA: ClassVar[str] = "L = E + A/N^alpha + B/D'^beta, D' = U + U R_D (1 - exp(-(D/U-1)/R_D))"
    SOURCE: ClassVar[str] = "Muennighoff et al. 2023 (arXiv 2305.16264), the variant with decay of data alone"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "U", "loss")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "E": prefactor(),
        "A": prefactor(),
        "B": prefactor(),
        "alpha": exponent(0.2, 0.35, 0.5, low=0.01),
        "beta": exponent(0.2, 0.35, 0.5, low=0.01),
        "R_D": prefactor(1.0, 5.0, 15.0, 50.0, 200.0, high=1e12),
    }

    def predict(self, N: Any, D: Any, U: Any) -> Any:
        """Predict the loss in nats per token for N parameters and D tokens of which U are unique."""
        data = worn(np.minimum(U, D), D, self.R_D)
        return self.E + self.A * power(N, -self.alpha) + self.B * power(data, -self.beta)


@dataclasses.dataclass(frozen=True)
class UtilityDecay(FormulaLaw):
    """L = d + a D_1^-b prod_k (D_k/D_{k-1})^(-b 2^(-(k-1)/tau)): the exponent of a pool of U samples halves every tau epochs.

    D_k are the samples seen by the end of epoch k; the last epoch may be a part of one.
    """

    d: Number
    a: Number
    b: Number
    tau: Number

    NAME: ClassVar[str] = "utility_decay"
    FORMULA: ClassVar[str] = "ln(L - d) = ln a - b [ln U + sum_k 2^(-(k-1)/tau) ln(D_k/D_{k-1})]"
    SOURCE: ClassVar[str] = "Goyal et al. 2024 (arXiv 2404.07177), equations 2 to 4"
    ROLES: ClassVar[tuple[str, ...]] = ("D", "U", "loss")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "d": prefactor(),
        "a": prefactor(),
        "b": exponent(low=1e-3),
        "tau": prefactor(0.5, 1.0, 2.0, 4.0, 10.0, 40.0, low=1e-2, high=1e9),
    }

    def predict(self, D: Any, U: Any) -> Any:
        """Predict the loss after D samples from a pool of U."""
        D = np.asarray(D, dtype=np.float64)
        U = np.asarray(U, dtype=np.float64)
        D, U = np.broadcast_arrays(D, U)
        epochs = int(np.ceil((D / U).max()))
        total = np.log(np.minimum(D, U)) + 0 * self.tau  # the first epoch; an array of replicates where tau is one
        for epoch in range(2, epochs + 1):
            before = (epoch - 1) * U
            seen = np.clip(D, before, epoch * U) / before
            utility = np.exp(-(epoch - 1) * np.log(2.0) / self.tau)
            total = total + utility * np.log(seen)
        return self.d + self.a * np.exp(-self.b * total)
