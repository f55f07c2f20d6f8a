"""Say how large a vocabulary should be: the three approaches of Tao et al. 2024, each a law that can be fitted.

Losses are unigram-normalised (ln of the model's perplexity over the unigram model's: negative, comparable between
vocabularies). N_nv are the parameters beside the vocabulary's, N_v = V times width those of one matrix of it.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import (
    FLOPS_PER_PARAM_TOKEN,
    Array,
    Coefficient,
    FormulaLaw,
    Inputs,
    Law,
    Number,
    exponent,
    power,
    prefactor,
)
from analysis.solve.objective import Objective

SOURCE = "Tao et al. 2024 (arXiv 2407.13623)"
TOKENS_PER_CHARACTER = (0.00639222, -0.15811069, 1.20470122)  # of ln^2 V, ln V, 1
LARGEST_MEASURED = 200_000  # above this vocabulary the rate of tokens is taken as constant
MOST_PARAMS_OF_WIDTH = (
    (50e6, 512),
    (200e6, 768),
    (500e6, 1024),
    (1e9, 1536),
    (2e9, 2048),
    (5e9, 3200),
    (10e9, 4096),
    (20e9, 5120),
    (50e9, 6048),
    (100e9, 8192),
    (200e9, 12288),
    (500e9, 16384),
    (1000e9, 20480),
)
LARGEST_WIDTH = 24576
LARGEST_N_V = 1e15  # of the search for the best vocabulary
HALVINGS = 80  # to the last digit


def tokens_per_character(V: Any) -> Any:
    """Return f(V): the tokens that a tokenizer of V entries makes of one character (their equation 3; in English web text)."""
    log_v = np.log(np.minimum(V, LARGEST_MEASURED))
    a, b, c = TOKENS_PER_CHARACTER
    return a * log_v**2 + b * log_v + c


def width_of(N_nv: Any) -> Any:
    """Return their width of a model of N_nv non-vocabulary parameters: a step function."""
    most = [params for params, _ in MOST_PARAMS_OF_WIDTH]
    widths = [width for _, width in MOST_PARAMS_OF_WIDTH]
    at = np.searchsorted(most, N_nv, side="left")
    return np.array([*widths, LARGEST_WIDTH], dtype=np.float64)[at]


@dataclasses.dataclass(frozen=True)
class VocabularyLoss(FormulaLaw):
    """Approach 3: L = -E + A1/N_nv^beta + A2/N_v^alpha2 + B/D^beta, unigram-normalised nats per token.

    Parameters are counted in millions and tokens in billions inside the formula, as in the source; the roles are plain
    parameters and tokens. The released script counts D with the rate of a vocabulary of V/1000 entries, which makes it
    two to three times too large: its constants belong to those D (`tokens_as_released`).
    """

    E: Number
    A1: Number
    A2: Number
    B: Number
    alpha2: Number
    beta: Number

    NAME: ClassVar[str] = "vocabulary"
    FORMULA: ClassVar[str] = "L = -E + A1/(N_nv/1e6)^beta + A2/(N_v/1e6)^alpha2 + B/(D/1e9)^beta"
    SOURCE: ClassVar[str] = f"{SOURCE}, approach 3"
    ROLES: ClassVar[tuple[str, ...]] = ("N_nv", "N_v", "D", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "N_nv": Role("parameters beside the vocabulary's", ("N_nv", "params_non_vocab", "params_no_embed")),
        "N_v": Role("parameters of the vocabulary, its size times the width", ("N_v", "params_vocab", "params_embed")),
        "V": Role("vocabulary size", ("V", "vocab_size", "vocab")),
        "H": Role("training characters", ("H", "characters", "text_bytes")),
    }
    SIGNED: ClassVar[tuple[str, ...]] = ("loss",)
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("N_nv", "N_v", "D"), ("N_nv", "C"))
    OBJECTIVE: ClassVar[Objective] = Objective("huber", "raw", 1e-3)
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "E": prefactor(),
        "A1": prefactor(),
        "A2": prefactor(),
        "B": prefactor(),
        "alpha2": exponent(low=0.01),
        "beta": exponent(low=0.01),
    }

    def predict(self, N_nv: Any, N_v: Any, D: Any) -> Any:
        """Unigram-normalised loss for N_nv and N_v parameters and D tokens."""
        of_size = self.A1 * power(N_nv / 1e6, -self.beta)
        of_data = self.B * power(D / 1e9, -self.beta)
        of_vocabulary = self.A2 * power(N_v / 1e6, -self.alpha2)
        return of_size + of_data + of_vocabulary - self.E

    def best_vocabulary_params(self, N_nv: Any, C: Any, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """Return N_v of least loss at N_nv and C FLOPs: larger vocabularies leave fewer tokens.

        The slopes over ln N_v of the vocabulary's term, which falls, and of the tokens' term, which rises, are equal there.
        """
        with np.errstate(all="ignore"):
            shape = np.asarray(N_nv, dtype=np.float64) * C * self.alpha2
            low = np.log(1.0) + 0.0 * shape
            high = low + np.log(LARGEST_N_V)
            for _ in range(HALVINGS):  # bisection in ln N_v, every replicate at once
                middle = 0.5 * (low + high)
                N_v = np.exp(middle)
                D = C / flops_per_param_token / (N_nv + N_v)
                gain = self.alpha2 * self.A2 * power(N_v / 1e6, -self.alpha2)
                cost = self.beta * self.B * power(D / 1e9, -self.beta) * N_v / (N_nv + N_v)
                is_too_small = gain > cost
                low = np.where(is_too_small, middle, low)
                high = np.where(is_too_small, high, middle)
            return np.exp(0.5 * (low + high))

    def best_vocabulary(self, N_nv: Any, C: Any, width: Any = None) -> Any:
        """Predict the vocabulary size of least loss; `width` is the paper's for N_nv unless given."""
        return self.best_vocabulary_params(N_nv, C) / (width_of(N_nv) if width is None else width)

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """Predict the loss at (N_nv, N_v, D), or at (N_nv, C) with the best vocabulary."""
        if "D" in at:
            return self.predict(at["N_nv"], at["N_v"], at["D"])
        N_nv = at["N_nv"]
        N_v = self.best_vocabulary_params(N_nv, at["C"], flops_per_param_token)
        D = at["C"] / flops_per_param_token / (N_nv + N_v)
        return self.predict(N_nv, N_v, D)

    def derived(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """Return the best vocabulary where N_nv and C are given."""
        if "C" not in at:
            return {}
        N_nv = at["N_nv"]
        N_v = self.best_vocabulary_params(N_nv, at["C"], flops_per_param_token)
        D = at["C"] / flops_per_param_token / (N_nv + N_v)
        return {"N_v": N_v, "V": N_v / width_of(N_nv), "D": D}


def tokens_as_released(H: Array, V: Array) -> Array:
    """Return the D that the released script of approach 3 fits: H characters at the rate of V/1000 entries (a slip)."""
    return H * tokens_per_character(V / 1e3)


@dataclasses.dataclass(frozen=True)
class VocabularyFrontier(Law):
    """Approach 1: N_nv = e^K_nv C^0.5, N_v = e^K_v C^a, H = e^K_H C^0.5 along the frontier of loss over FLOPs.

    H in characters. The frontier holds every run, and every point interpolated between runs, that beats all cheaper ones.
    """

    K_nv: Number
    K_v: Number
    a: Number
    K_H: Number

    NAME: ClassVar[str] = "vocabulary_frontier"
    FORMULA: ClassVar[str] = "N_nv = e^K_nv C^0.5, N_v = e^K_v C^a, H = e^K_H C^0.5"
    SOURCE: ClassVar[str] = f"{SOURCE}, approach 1"
    ROLES: ClassVar[tuple[str, ...]] = ("N_nv", "N_v", "V", "H", "C", "loss")
    SIGNED: ClassVar[tuple[str, ...]] = ("loss",)
    TARGET: ClassVar[str] = "N_v"
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("C",), ("N_nv",))
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")

    def flops(self, N_nv: Any) -> Any:
        """Predict the FLOPs at which N_nv is on the frontier."""
        return np.exp(2 * (np.log(N_nv) - self.K_nv))

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """Predict the vocabulary parameters N_v at C FLOPs, or at the FLOPs of N_nv."""
        del flops_per_param_token
        C = at["C"] if "C" in at else self.flops(at["N_nv"])
        return np.exp(self.K_v + self.a * np.log(C))

    def best_vocabulary(self, N_nv: Any, width: Any = None) -> Any:
        """Predict the vocabulary size for N_nv; `width` is the paper's unless given."""
        return self.target_at({"N_nv": N_nv}) / (width_of(N_nv) if width is None else width)

    def derived(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """Return the other sides of the allocation."""
        C = at["C"] if "C" in at else self.flops(at["N_nv"])
        N_nv = np.exp(self.K_nv + 0.5 * np.log(C))
        N_v = self.target_at({"C": C}, flops_per_param_token)
        H = np.exp(self.K_H + 0.5 * np.log(C))
        return {"C": C + 0 * N_nv, "N_nv": N_nv, "V": N_v / width_of(N_nv), "H": H}


@dataclasses.dataclass(frozen=True)
class VocabularyPower(Law):
    """Approach 2: N_v = N_v0 (N_nv/N_0)^gamma: gamma from where FLOPs per character are least, N_v0 from one IsoFLOP curve."""

    N_0: Number
    N_v0: Number
    gamma: Number

    NAME: ClassVar[str] = "vocabulary_power"
    FORMULA: ClassVar[str] = "N_v = N_v0 (N_nv/N_0)^gamma"
    SOURCE: ClassVar[str] = f"{SOURCE}, approach 2"
    ROLES: ClassVar[tuple[str, ...]] = ("N_nv", "N_v", "V", "H", "C", "loss")
    SIGNED: ClassVar[tuple[str, ...]] = ("loss",)
    TARGET: ClassVar[str] = "N_v"
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("N_nv",),)

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """Predict the vocabulary parameters N_v at N_nv."""
        del flops_per_param_token
        return self.N_v0 * power(at["N_nv"] / self.N_0, self.gamma)

    def best_vocabulary(self, N_nv: Any, width: Any = None) -> Any:
        """Predict the vocabulary size for N_nv; `width` is the paper's unless given."""
        return self.target_at({"N_nv": N_nv}) / (width_of(N_nv) if width is None else width)

    def derived(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """Return the vocabulary size at the paper's width."""
        del flops_per_param_token
        return {"V": self.best_vocabulary(at["N_nv"])}
