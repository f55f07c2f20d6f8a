"""Say what numbers of few bits cost: training in them, and rounding to them afterwards."""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import Coefficient, FormulaLaw, Number, exponent, power, prefactor


@dataclasses.dataclass(frozen=True)
class Precision(FormulaLaw):
    """L = E + A/N'^alpha + B/D^beta with N' = N (1 - exp(-P_w/g_w)) (1 - exp(-P_a/g_a)) (1 - exp(-P_kv/g_kv)).

    P: bits of weights, activations and key-value cache while training. Nats per token.
    """

    E: Number
    A: Number
    B: Number
    alpha: Number
    beta: Number
    g_w: Number
    g_a: Number
    g_kv: Number

    NAME: ClassVar[str] = "precision"
    FORMULA: ClassVar[str] = "L = E + A/(N (1-exp(-P_w/g_w)) (1-exp(-P_a/g_a)) (1-exp(-P_kv/g_kv)))^alpha + B/D^beta"
    SOURCE: ClassVar[str] = "Kumar et al. 2024 (arXiv 2411.04330), equations 2 to 4"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "bits_weights", "bits_activations", "bits_cache", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "bits_weights": Role("bits of a weight", ("bits_weights", "weight_bits")),
        "bits_activations": Role("bits of an activation", ("bits_activations", "activation_bits")),
        "bits_cache": Role("bits of an entry of the key-value cache", ("bits_cache", "kv_bits")),
    }
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        **dict.fromkeys(("E", "A", "B"), prefactor()),
        "alpha": exponent(0.2, 0.35, 0.5),
        "beta": exponent(0.2, 0.35, 0.5),
        **dict.fromkeys(("g_w", "g_a", "g_kv"), prefactor(0.5, 1.5, 3.0, low=1e-3, high=100.0)),
    }

    def predict(self, N: Any, D: Any, bits_weights: Any, bits_activations: Any, bits_cache: Any) -> Any:
        """Predict the loss in nats per token."""
        log_size = self.log_effective(N, bits_weights, bits_activations, bits_cache)
        return self.E + self.A * np.exp(-self.alpha * log_size) + self.B * power(D, -self.beta)

    def log_effective(self, N: Any, bits_weights: Any, bits_activations: Any, bits_cache: Any) -> Any:
        """Return ln N': as many parameters in full precision would do as well."""
        kept_weights = np.log(1 - np.exp(-bits_weights / self.g_w))
        kept_activations = np.log(1 - np.exp(-bits_activations / self.g_a))
        kept_cache = np.log(1 - np.exp(-bits_cache / self.g_kv))
        return np.log(N) + (kept_weights + kept_activations + kept_cache)


@dataclasses.dataclass(frozen=True)
class FloatingPoint(FormulaLaw):
    """L = n/N^alpha + d/D^beta + e + (D^beta/N^alpha) log2(B) / (gamma (Ex + 0.5)^delta (Mx + 0.5)^nu), nats per token.

    Ex, Mx: exponent and mantissa bits of training, B: numbers that share a scale.
    """

    n: Number
    d: Number
    e: Number
    gamma: Number
    alpha: Number
    beta: Number
    delta: Number
    nu: Number

    NAME: ClassVar[str] = "floating_point"
    FORMULA: ClassVar[str] = (
        "L = n/N^alpha + d/D^beta + e + (D^beta/N^alpha) log2(B) / (gamma (Ex+.5)^delta (Mx+.5)^nu)"
    )
    SOURCE: ClassVar[str] = "Sun et al. 2025 (Capybara; arXiv 2501.02423), equation 26"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "exponent_bits", "mantissa_bits", "block", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "exponent_bits": Role("exponent bits of a float", ("exponent_bits",), positive=False),
        "mantissa_bits": Role("mantissa bits of a float", ("mantissa_bits",), positive=False),
        "block": Role("numbers that share one scale", ("block", "block_size")),
    }
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        **dict.fromkeys(("n", "d", "e"), prefactor()),
        "gamma": prefactor(1e2, 1e4, 1e6),
        "alpha": exponent(0.2, 0.35, 0.5),
        "beta": exponent(0.2, 0.35, 0.5),
        "delta": exponent(1.0, 2.0, 3.5, high=10.0),
        "nu": exponent(1.0, 2.0, 3.5, high=10.0),
    }

    def predict(self, N: Any, D: Any, exponent_bits: Any, mantissa_bits: Any, block: Any) -> Any:
        """Predict the loss in nats per token."""
        size = power(N, self.alpha)
        data = power(D, self.beta)
        precision = self.gamma * self._bits(exponent_bits, mantissa_bits)
        return self.n / size + self.d / data + self.e + data / size * np.log2(block) / precision

    def _bits(self, exponent_bits: Any, mantissa_bits: Any) -> Any:
        """Weigh the bits of the exponent and of the mantissa."""
        return power(exponent_bits + 0.5, self.delta) * power(mantissa_bits + 0.5, self.nu)

    def critical_tokens(self, N: Any, exponent_bits: Any, mantissa_bits: Any, block: Any) -> Any:
        """Return the tokens beyond which more of them raise the loss."""
        bits = self._bits(exponent_bits, mantissa_bits)
        squared = self.d * self.gamma * power(N, self.alpha) * bits / np.log2(block)
        return power(squared, 1 / (2 * self.beta))


@dataclasses.dataclass(frozen=True)
class RoundingPenalty(FormulaLaw):
    """Loss added by rounding trained weights to P bits: k D^beta / (N^alpha P^gamma), nats per token."""

    k: Number
    beta: Number
    alpha: Number
    gamma: Number

    NAME: ClassVar[str] = "rounding_penalty"
    FORMULA: ClassVar[str] = "dL = k D^beta / (N^alpha P^gamma)"
    SOURCE: ClassVar[str] = "Ouyang et al. 2024 (QiD; arXiv 2411.17691), equation 4"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "bits_weights", "added_loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "added_loss": Role("loss after rounding minus loss before, nats per token", ("added_loss", "delta_loss")),
    }
    TARGET: ClassVar[str] = "added_loss"
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "k": prefactor(),
        "beta": exponent(0.3, 0.6),
        "alpha": exponent(0.2, 0.4),
        "gamma": exponent(3.0, 5.5, high=20.0),
    }

    def predict(self, N: Any, D: Any, bits_weights: Any) -> Any:
        """Predict the added loss in nats per token."""
        return self.k * power(D, self.beta) * power(N, -self.alpha) * power(bits_weights, -self.gamma)
