"""Say what experts are worth: how the number of experts, their granularity and the share that is active enter the loss."""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import Array, Coefficient, FormulaLaw, Number, SumLaw, Term, exponent, free, power, prefactor
from analysis.solve.objective import Objective


def saturated(count: Any, start: Any, most: Any) -> Any:
    """Return 1/(1/(count - 1 + 1/(1/start - 1/most)) + 1/most): `start` at count = 1, rising to `most` (Clark, equation 20)."""
    offset = np.divide(1, np.divide(1, start) - np.divide(1, most))
    return 1 / (1 / (count - 1 + offset) + np.divide(1, most))


@dataclasses.dataclass(frozen=True)
class RoutedLM(FormulaLaw):
    """log10 L = a log10 N + b log10 E' + c log10 N log10 E' + d, E' the saturated number of experts E.

    N: parameters that one token passes through; L in nats per token, at one fixed number of training tokens.
    """

    a: Number
    b: Number
    c: Number
    d: Number
    E_start: Number
    E_max: Number

    NAME: ClassVar[str] = "clark"
    FORMULA: ClassVar[str] = (
        "log10 L = a log10 N + b log10 E' + c log10 N log10 E' + d, E' = experts between E_start and E_max"
    )
    SOURCE: ClassVar[str] = "Clark et al. 2022 (arXiv 2202.01169), equations 2 and 20"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "experts", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "experts": Role("experts of a routed layer", ("experts", "num_experts", "n_experts")),
    }
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "a": free(-0.05, -0.1),
        "b": free(-0.05, -0.15),
        "c": free(0.0, 0.02),
        "d": free(0.8, 1.2),
        "E_start": prefactor(1.2, 2.0, 4.0, low=1e-2),
        "E_max": prefactor(100.0, 300.0, 1000.0, high=1e9),
    }

    def predict(self, N: Any, experts: Any) -> Any:
        """Predict the loss in nats per token."""
        size = np.log(N) / np.log(10)
        many = np.log(saturated(experts, self.E_start, self.E_max)) / np.log(10)
        log_loss = self.a * size + self.b * many + self.c * size * many + self.d
        return np.exp(np.log(10) * log_loss)

    def effective(self, N: Any, experts: Any) -> Any:
        """Return the parameters of a dense model of the same loss (their equation 7)."""
        one = np.log10(saturated(1, self.E_start, self.E_max))
        many = np.log10(saturated(experts, self.E_start, self.E_max))
        slope_dense = self.a + self.c * one
        slope_routed = self.a + self.c * many
        shift = self.b * (many - one) / slope_dense
        return power(N, slope_routed / slope_dense) * 10**shift


@dataclasses.dataclass(frozen=True)
class FineGrained(FormulaLaw):
    """L = c + (g G^-gamma + a) N^-alpha + b D^-beta, nats per token; G = d_ff / expert size; at one expansion rate."""

    c: Number
    g: Number
    a: Number
    b: Number
    gamma: Number
    alpha: Number
    beta: Number

    NAME: ClassVar[str] = "fine_grained"
    FORMULA: ClassVar[str] = "L = c + (g/G^gamma + a)/N^alpha + b/D^beta"
    SOURCE: ClassVar[str] = "Krajewski et al. 2024 (arXiv 2402.07871), equation 4"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "granularity", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "granularity": Role("feed-forward width over expert width", ("granularity",)),
    }
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        **dict.fromkeys(("c", "g", "a", "b"), prefactor()),
        "gamma": exponent(0.2, 0.5, 1.0),
        "alpha": exponent(),
        "beta": exponent(),
    }

    def predict(self, N: Any, D: Any, granularity: Any) -> Any:
        """Predict the loss in nats per token."""
        size = self.g * power(granularity, -self.gamma) + self.a
        return self.c + size * power(N, -self.alpha) + self.b * power(D, -self.beta)


@dataclasses.dataclass(frozen=True)
class Sparsity(SumLaw):
    """L = a N^-alpha + b D^-beta + c (1-S)^lambda + d (1-S)^-delta N^-gamma + e, nats per token.

    N: all parameters; S = (E - K)/E: the share of experts that a token does not use.
    """

    a: Number
    b: Number
    c: Number
    d: Number
    e: Number
    alpha: Number
    beta: Number
    lam: Number
    delta: Number
    gamma: Number

    NAME: ClassVar[str] = "sparsity"
    FORMULA: ClassVar[str] = "L = a/N^alpha + b/D^beta + c (1-S)^lam + d/((1-S)^delta N^gamma) + e"
    SOURCE: ClassVar[str] = "Abnar et al. 2025 (arXiv 2501.12370), equation 5"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "sparsity", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "sparsity": Role("share of experts that a token does not use", ("sparsity",), positive=False),
    }
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        **dict.fromkeys(("a", "b", "c", "d", "e"), prefactor()),
        "alpha": exponent(0.3, 0.6, 0.9),
        "beta": exponent(0.2, 0.4, 0.7),
        "lam": exponent(0.05, 0.17, 0.5),
        "delta": exponent(0.05, 0.16, 0.5),
        "gamma": exponent(0.05, 0.16, 0.4),
    }

    # Powers of `sparsity` are those of the share 1 - S that is active.
    TERMS: ClassVar[tuple[Term, ...]] = (
        Term("a", (("N", -1.0, "alpha"),)),
        Term("b", (("D", -1.0, "beta"),)),
        Term("c", (("sparsity", 1.0, "lam"),)),
        Term("d", (("sparsity", -1.0, "delta"), ("N", -1.0, "gamma"))),
        Term("e"),
    )

    def predict(self, N: Any, D: Any, sparsity: Any) -> Any:
        """Predict the loss in nats per token."""
        return super().predict(N=N, D=D, sparsity=1 - np.asarray(sparsity))

    @classmethod
    def slopes(cls, columns: Mapping[str, Array]) -> Array:
        """Return d ln(term) / d exponent for every term, row and exponent: [terms, rows, exponents]."""
        active = 1 - columns["sparsity"]
        return super().slopes({**columns, "sparsity": active})


@dataclasses.dataclass(frozen=True)
class EfficiencyLeverage(FormulaLaw):
    """C_dense/C_moe at equal loss = A'^(a + d log10 C + g (log2 G)^2 + b log2 G): what a mixture's compute is worth.

    A: share of experts that is active (shared ones included), 1/A' its saturated inverse; G = 2 width / expert size.
    The bases of the logarithms are not printed in the paper; these give its printed examples.
    """

    a: Number
    d: Number
    g: Number
    b: Number
    A_start: Number
    A_max: Number

    NAME: ClassVar[str] = "efficiency_leverage"
    FORMULA: ClassVar[str] = "EL = A'^(a + d log10 C + g (log2 G)^2 + b log2 G), A' = share between A_start and A_max"
    SOURCE: ClassVar[str] = "Tian et al. 2025 (Ling; arXiv 2507.17702)"
    ROLES: ClassVar[tuple[str, ...]] = ("C", "active_share", "granularity", "leverage")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "active_share": Role("share of experts that a token uses", ("active_share", "activation_ratio")),
        "leverage": Role("compute of a dense model over that of the mixture at equal loss", ("leverage",)),
    }
    TARGET: ClassVar[str] = "leverage"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "a": free(-1.0, 0.0, 1.0),
        "d": free(-0.1, 0.0),
        "g": free(0.0, 0.02),
        "b": free(-0.1, 0.0),
        "A_start": prefactor(1e-3, 1e-2, 1e-1),
        "A_max": prefactor(1e2, 1e6, 1e12, high=1e30),
    }

    def predict(self, C: Any, active_share: Any, granularity: Any) -> Any:
        """Predict the efficiency leverage, a factor of compute."""
        offset = np.divide(1, np.divide(1, self.A_start) - np.divide(1, self.A_max))
        share = 1 / (1 / (active_share + offset) + np.divide(1, self.A_max))
        grain = np.log2(granularity)
        rate = self.a + self.d * np.log10(C) + self.g * grain**2 + self.b * grain
        return power(share, rate)
