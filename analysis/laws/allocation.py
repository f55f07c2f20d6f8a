"""Say how to allocate compute, and nothing else: IsoFLOP minima (approach 2) and the envelope (approach 1)."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Inputs, Law, Number


@dataclasses.dataclass(frozen=True)
class Allocation(Law):
    """N*(C) = k_N C^a, D*(C) = k_D C^b, and the loss there, L*(C) = E + K C^-gamma.

    C in training FLOPs, N in parameters, D in tokens, L in nats per token. a and b are fitted separately, so that
    a + b = 1 is a check (C proportional to N D) and not an assumption.
    """

    a: Number
    b: Number
    k_N: Number
    k_D: Number
    E: Number
    K: Number
    gamma: Number

    FORMULA: ClassVar[str] = "N* = k_N C^a, D* = k_D C^b, L* = E + K/C^gamma"
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("C",),)

    def predict(self, C: Any) -> Any:
        """Return the least loss in nats per token at C training FLOPs."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self.E + self.K * np.asarray(C, dtype=np.float64) ** -self.gamma

    def optimum(self, C: Any, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> tuple[Any, Any]:
        """Return (N, D) at C. The two are fitted, so the cost of a parameter and token is not used."""
        with np.errstate(over="ignore", invalid="ignore"):
            N = np.exp(np.log(self.k_N) + self.a * np.log(C))
            D = np.exp(np.log(self.k_D) + self.b * np.log(C))
        return N, D

    def optimum_exponents(self) -> dict[str, Any]:
        return {"exponent_N": self.a, "exponent_D": self.b}

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        return self.predict(at["C"])


@dataclasses.dataclass(frozen=True)
class IsoFlop(Allocation):
    """Approach 2: the minimum of each IsoFLOP curve, then least squares of ln N* and ln D* on ln C.

    Source: Hoffmann et al. 2022, section 3.2; Akima and noise as in Porian et al. 2024. Parabolas are biased when
    sizes lie far from the minimum, even without noise: compare --interpolation=cubic and akima.
    """

    NAME: ClassVar[str] = "isoflop"
    SOURCE: ClassVar[str] = "Hoffmann et al. 2022 (arXiv 2203.15556), approach 2; Porian et al. 2024 (arXiv 2406.19146)"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "C", "loss")
    OPTIONAL: ClassVar[tuple[str, ...]] = ("D", "group", "weight", "run")


@dataclasses.dataclass(frozen=True)
class Envelope(Allocation):
    """Approach 1: the runs on the lower convex hull of ln loss over ln C, then least squares of ln N and ln D on ln C.

    Source: Hoffmann et al. 2022, section 3.1, by the hull of Gemstones (McLeish et al. 2025): a far point is added and
    only hull points of decreasing loss count.
    """

    NAME: ClassVar[str] = "envelope"
    SOURCE: ClassVar[str] = (
        "Hoffmann et al. 2022 (arXiv 2203.15556), approach 1; hull as in Gemstones (arXiv 2502.06857)"
    )
    ROLES: ClassVar[tuple[str, ...]] = ("N", "C", "loss")
    OPTIONAL: ClassVar[tuple[str, ...]] = ("D", "run")
