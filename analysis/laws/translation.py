"""Predict losses of translation from the sizes of encoder and decoder, and the share of a language pair in the training mixture."""

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
    free,
    power,
    prefactor,
)
from analysis.solve.objective import Objective

GHORBANI = "Ghorbani et al. 2021 (arXiv 2109.07740)"


@dataclasses.dataclass(frozen=True)
class EncoderDecoder(SumLaw):
    """L = A N_e^-p_e N_d^-p_d + L_inf, nats per token, for N_e parameters in the encoder and N_d in the decoder.

    The source writes alpha (N_e0/N_e)^p_e (N_d0/N_d)^p_d + L_inf. Any two of alpha, N_e0, N_d0 are free to choose: only
    A = alpha N_e0^p_e N_d0^p_d is in the data; `alpha` gives it back for reference sizes of one's choice.
    """

    L_inf: Number
    A: Number
    p_e: Number
    p_d: Number

    NAME: ClassVar[str] = "encoder_decoder"
    FORMULA: ClassVar[str] = "L = A/(N_e^p_e N_d^p_d) + L_inf"
    SOURCE: ClassVar[str] = f"{GHORBANI}, the bivariate law"
    ROLES: ClassVar[tuple[str, ...]] = ("N_e", "N_d", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "N_e": Role("parameters of the encoder", ("N_e", "params_encoder", "encoder_params")),
        "N_d": Role("parameters of the decoder", ("N_d", "params_decoder", "decoder_params")),
    }
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "raw")
    TERMS: ClassVar[tuple[Term, ...]] = (Term("L_inf"), Term("A", (("N_e", -1.0, "p_e"), ("N_d", -1.0, "p_d"))))

    def alpha(self, N_e0: Any, N_d0: Any) -> Any:
        """Return the reducible loss of a model of the reference sizes."""
        return self.A * power(N_e0, -self.p_e) * power(N_d0, -self.p_d)

    def encoder_share(self) -> Any:
        """Return N_e/(N_e + N_d) of least loss at any total: p_e/(p_e + p_d)."""
        return np.divide(self.p_e, self.p_e + self.p_d)

    def derived(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """Return the best share of the parameters for the encoder, and the encoder of that share."""
        share = self.encoder_share()
        return {"encoder_share": share, "best_N_e": share * (at["N_e"] + at["N_d"])}


@dataclasses.dataclass(frozen=True)
class EncoderScaling(SumLaw):
    """L = A N_e^-p_e + L_inf, nats per token: encoders of different sizes with one decoder."""

    L_inf: Number
    A: Number
    p_e: Number

    NAME: ClassVar[str] = "encoder_scaling"
    FORMULA: ClassVar[str] = "L = A/N_e^p_e + L_inf"
    SOURCE: ClassVar[str] = f"{GHORBANI}, the univariate law"
    ROLES: ClassVar[tuple[str, ...]] = ("N_e", "loss")
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "raw")
    TERMS: ClassVar[tuple[Term, ...]] = (Term("L_inf"), Term("A", (("N_e", -1.0, "p_e"),)))


@dataclasses.dataclass(frozen=True)
class DecoderScaling(SumLaw):
    """L = A N_d^-p_d + L_inf, nats per token: decoders of different sizes with one encoder."""

    L_inf: Number
    A: Number
    p_d: Number

    NAME: ClassVar[str] = "decoder_scaling"
    FORMULA: ClassVar[str] = "L = A/N_d^p_d + L_inf"
    SOURCE: ClassVar[str] = f"{GHORBANI}, the univariate law"
    ROLES: ClassVar[tuple[str, ...]] = ("N_d", "loss")
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "raw")
    TERMS: ClassVar[tuple[Term, ...]] = (Term("L_inf"), Term("A", (("N_d", -1.0, "p_d"),)))


@dataclasses.dataclass(frozen=True)
class LanguageWeight(FormulaLaw):
    """L = beta (f(p) N)^-alpha + L_inf, nats per token, of one language pair with a share p of the training mixture.

    f(p) = p + c1 p^c2 (1 - p)^c3 is the share of the N parameters that the pair has the use of; f(1) = 1. Above p, the
    other pairs help. The exponent does not depend on p. Fit one pair at a time (--where); rows at p = 1, models of
    that pair alone, tell f from beta.
    """

    beta: Number
    alpha: Number
    L_inf: Number
    c1: Number
    c2: Number
    c3: Number

    NAME: ClassVar[str] = "language_weight"
    FORMULA: ClassVar[str] = "L = beta (f N)^-alpha + L_inf, f = p + c1 p^c2 (1 - p)^c3"
    SOURCE: ClassVar[str] = "Fernandes et al. 2023 (arXiv 2302.09650)"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "proportion", "loss")
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "raw")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "beta": prefactor(),
        "alpha": exponent(0.1, 0.2, 0.35, 0.6, 1.0, low=0.01),
        "L_inf": prefactor(),
        "c1": free(0.05, 0.3, 1.0, low=-1.0, high=20.0),
        "c2": exponent(0.3, 0.7, 1.5, low=0.01),
        "c3": exponent(0.3, 0.7, 1.5, low=0.01),
    }

    def effective_share(self, proportion: Any) -> Any:
        """Return f(p): the share of the parameters that a pair with a share p of the mixture has the use of."""
        p = np.asarray(proportion, dtype=np.float64)
        is_alone = p >= 1  # where (1 - p)^c3 has no logarithm, and helps nothing
        others = np.where(is_alone, 0.5, 1 - p)
        help_of_others = self.c1 * power(p, self.c2) * power(others, self.c3)
        return p + np.where(is_alone, 0.0, help_of_others)

    def derived(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """Return f(p) and the parameters that the pair has the use of."""
        share = self.effective_share(at["proportion"])
        return {"effective_share": share, "effective_N": share * at["N"]}

    def predict(self, N: Any, proportion: Any) -> Any:
        """Predict the loss in nats per token of a pair with that share, from a model of N parameters."""
        return self.beta * power(self.effective_share(proportion) * N, -self.alpha) + self.L_inf
