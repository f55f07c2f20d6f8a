"""Say what rounding trained weights to few bits costs: as a term of its own, and added to laws of training."""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import Coefficient, FormulaLaw, Inputs, Number, exponent, power, prefactor
from analysis.laws.precision import Precision

KUMAR = "Kumar et al. 2024 (arXiv 2411.04330)"
BITS: Mapping[str, Role] = {
    "bits_after": Role("bits of a weight after training", ("bits_after", "bits_post", "post_bits")),
}
OF_TERM: dict[str, Coefficient] = {
    "C_T": prefactor(),
    "gamma_D": exponent(0.3, 0.5, 0.8),
    "gamma_N": exponent(0.2, 0.35, 0.6),
    "gamma_post": prefactor(0.3, 0.6, 1.5, low=0.01, high=100.0),
}


@dataclasses.dataclass(frozen=True)
class PostTraining(FormulaLaw):
    """Loss added by rounding trained weights to P bits: C_T D^gamma_D / N^gamma_N exp(-P/gamma_post), nats per token.

    For models trained in 16 bits. Their equation 2; RoundingPenalty is a power of P in its place.
    """

    C_T: Number
    gamma_D: Number
    gamma_N: Number
    gamma_post: Number

    NAME: ClassVar[str] = "post_training"
    FORMULA: ClassVar[str] = "dL = C_T D^gamma_D / N^gamma_N exp(-P/gamma_post), P = bits_after"
    SOURCE: ClassVar[str] = f"{KUMAR}, equation 2"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "bits_after", "added_loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = BITS
    TARGET: ClassVar[str] = "added_loss"
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = OF_TERM

    def predict(self, N: Any, D: Any, bits_after: Any) -> Any:
        """Predict the added loss in nats per token."""
        overtraining = power(D, self.gamma_D) * power(N, -self.gamma_N)
        return self.C_T * overtraining * np.exp(-bits_after / self.gamma_post)


@dataclasses.dataclass(frozen=True)
class RoundedLoss(FormulaLaw):
    """L = E + A/N^alpha + B/D^beta + C_T D^gamma_D / N^gamma_N exp(-P/gamma_post), nats per token after rounding to P bits.

    Their equation 11 for training in 16 bits. Beyond `critical_D` tokens, more of them raise the loss.
    """

    E: Number
    A: Number
    B: Number
    alpha: Number
    beta: Number
    C_T: Number
    gamma_D: Number
    gamma_N: Number
    gamma_post: Number

    NAME: ClassVar[str] = "rounded"
    FORMULA: ClassVar[str] = (
        "L = E + A/N^alpha + B/D^beta + C_T D^gamma_D / N^gamma_N exp(-P/gamma_post), P = bits_after"
    )
    SOURCE: ClassVar[str] = f"{KUMAR}, equations 2 and 11"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "bits_after", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = BITS
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        **dict.fromkeys(("E", "A", "B"), prefactor()),
        "alpha": exponent(0.2, 0.35, 0.5),
        "beta": exponent(0.2, 0.35, 0.5),
        **OF_TERM,
    }

    def predict(self, N: Any, D: Any, bits_after: Any) -> Any:
        """Predict the loss in nats per token after rounding."""
        of_training = self.E + self.A * power(N, -self.alpha) + self.B * power(D, -self.beta)
        term = PostTraining(self.C_T, self.gamma_D, self.gamma_N, self.gamma_post)
        return of_training + term.predict(N, D, bits_after)

    def derived(self, at: Inputs, flops_per_param_token: float = 6.0) -> dict[str, Any]:
        """Return the tokens beyond which more of them raise the loss after rounding (their appendix E)."""
        pull = self.beta * self.B * power(at["N"], self.gamma_N) * np.exp(at["bits_after"] / self.gamma_post)
        push = self.gamma_D * self.C_T
        return {"critical_D": power(np.divide(pull, push), np.divide(1, self.gamma_D + self.beta))}


@dataclasses.dataclass(frozen=True)
class PrecisionJoint(Precision):
    """L = E + A/N'^alpha + B/D^beta + dL: training in P_w, P_a and P_kv bits, then rounding to P bits; nats per token.

    N' is that of `precision`. dL is that of `post_training` at N', times (1 - exp(-C_x (P_x - P))) for each x of w, a, kv: a
    model that was trained in few bits loses less by rounding, and nothing where it was trained in P bits. The constants of
    their table 2 are of fits with an offset in each exponent (0.30, 1.41 and 2.42 beside P_w/g_w, P_a/g_a and P_kv/g_kv),
    which their equations leave out, as this law does; it has none for C_w, C_a and C_kv.
    """

    C_T: Number
    gamma_D: Number
    gamma_N: Number
    gamma_post: Number
    C_w: Number
    C_a: Number
    C_kv: Number

    NAME: ClassVar[str] = "precision_joint"
    FORMULA: ClassVar[str] = (
        "L = E + A/N'^alpha + B/D^beta + C_T D^gamma_D / N'^gamma_N exp(-P/gamma_post) prod_x (1-exp(-C_x (P_x-P))), "
        "N' = N prod_x (1-exp(-P_x/g_x)), P = bits_after, "
        "x = w (g_w, C_w), a (g_a, C_a), kv (g_kv, C_kv)"
    )
    SOURCE: ClassVar[str] = f"{KUMAR}, equations 9 and 11"
    ROLES: ClassVar[tuple[str, ...]] = (*Precision.ROLES[:-1], "bits_after", "loss")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        **Precision.COEFFICIENTS,
        **OF_TERM,
        **dict.fromkeys(("C_w", "C_a", "C_kv"), prefactor(0.1, 0.5, 2.0, low=1e-3, high=100.0)),
    }

    def predict(
        self, N: Any, D: Any, bits_weights: Any, bits_activations: Any, bits_cache: Any, bits_after: Any
    ) -> Any:
        """Predict the loss in nats per token after rounding."""
        of_training = super().predict(N, D, bits_weights, bits_activations, bits_cache)
        effective = np.exp(self.log_effective(N, bits_weights, bits_activations, bits_cache))
        rounding = PostTraining(self.C_T, self.gamma_D, self.gamma_N, self.gamma_post)
        added = rounding.predict(effective, D, bits_after)
        for bits, rate in ((bits_weights, self.C_w), (bits_activations, self.C_a), (bits_cache, self.C_kv)):
            taken_off = np.maximum(bits - bits_after, 0.0)  # to more bits than those of training nothing is rounded
            added = added * -np.expm1(-rate * taken_off)
        return of_training + added
