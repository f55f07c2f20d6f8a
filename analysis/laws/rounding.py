"""Say what rounding trained weights to few bits costs, as a term of its own and added to Chinchilla's law."""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import Coefficient, FormulaLaw, Inputs, Number, exponent, power, prefactor

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
        return {"critical_D": power(pull / push, 1 / (self.gamma_D + self.beta))}
