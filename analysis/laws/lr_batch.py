"""Which learning rate and batch size to train with: power laws in parameters, tokens or FLOPs.

All of them regress ln lr and ln batch of near-optimal runs (analysis/procedures/lr_batch.py); they differ in what they depend on.
`law_on` makes any other one.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Law
from analysis.solve.objective import Objective


@dataclasses.dataclass(frozen=True)
class HyperparameterLaw(Law):
    """lr = c prod role^exponent, batch = k prod role^exponent. batch in tokens a step.

    LR and BATCH: the roles that each depends on, with the names of their exponents. The first coefficient of each is its
    prefactor.
    """

    LR_SCALE: ClassVar[str] = "c"
    BATCH_SCALE: ClassVar[str] = "k"
    LR: ClassVar[dict[str, str]]
    BATCH: ClassVar[dict[str, str]]
    OPTIONAL: ClassVar[tuple[str, ...]] = ("N", "D", "C")
    TARGET: ClassVar[str] = "lr"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")

    def _power(self, scale: str, exponents: Mapping[str, str], at: Mapping[str, Any]) -> Any:
        value = np.log(getattr(self, scale))
        for role, name in exponents.items():
            value = value + getattr(self, name) * np.log(at[role])
        return np.exp(value)

    def predict(self, **at: Any) -> tuple[Any, Any]:
        """(peak learning rate, tokens a step) at the roles that the law depends on."""
        return self._power(self.LR_SCALE, self.LR, at), self._power(self.BATCH_SCALE, self.BATCH, at)

    def target_at(self, at: Mapping[str, Any], flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """The peak learning rate (TARGET); `derived` has the batch."""
        return self.predict(**_with_flops(at, flops_per_param_token))[0]

    def derived(self, at: Mapping[str, Any], flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """Tokens a step."""
        return {"batch": self.predict(**_with_flops(at, flops_per_param_token))[1]}


def _with_flops(at: Mapping[str, Any], flops_per_param_token: float) -> dict[str, Any]:
    """The inputs with C where N and D give it."""
    at = dict(at)
    if "C" not in at and "N" in at and "D" in at:
        at["C"] = flops_per_param_token * at["N"] * at["D"]
    return at


@dataclasses.dataclass(frozen=True)
class StepLaw(HyperparameterLaw):
    """lr = c N^p D^q, batch = k D^r. N without embeddings, D and batch in tokens (published: 1.79, -0.713, 0.307, 0.58, 0.571)."""

    c: Any
    p: Any
    q: Any
    k: Any
    r: Any

    NAME: ClassVar[str] = "lr_batch"
    FORMULA: ClassVar[str] = "lr = c N^p D^q, batch = k D^r"
    SOURCE: ClassVar[str] = "Li et al. 2025 (Step Law; arXiv 2503.04715)"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "lr", "batch", "loss")
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("N", "D"),)
    LR: ClassVar[dict[str, str]] = {"N": "p", "D": "q"}
    BATCH: ClassVar[dict[str, str]] = {"D": "r"}


@dataclasses.dataclass(frozen=True)
class JointLaw(HyperparameterLaw):
    """lr = c N^p D^q, batch = k N^s D^r: both may depend on both. batch in tokens."""

    c: Any
    p: Any
    q: Any
    k: Any
    s: Any
    r: Any

    NAME: ClassVar[str] = "lr_batch_joint"
    FORMULA: ClassVar[str] = "lr = c N^p D^q, batch = k N^s D^r"
    SOURCE: ClassVar[str] = "the form of Li et al. 2025 (arXiv 2503.04715), batch on N too, as OpenEuroLLM fits it"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "lr", "batch", "loss")
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("N", "D"),)
    LR: ClassVar[dict[str, str]] = {"N": "p", "D": "q"}
    BATCH: ClassVar[dict[str, str]] = {"N": "s", "D": "r"}


@dataclasses.dataclass(frozen=True)
class ComputeLaw(HyperparameterLaw):
    """lr = a C^p, batch = b C^q, batch in tokens (published: 0.3118, -0.1250, 0.2920, 0.3271)."""

    a: Any
    p: Any
    b: Any
    q: Any

    NAME: ClassVar[str] = "lr_batch_compute"
    FORMULA: ClassVar[str] = "lr = a C^p, batch = b C^q"
    SOURCE: ClassVar[str] = "DeepSeek-AI 2024 (DeepSeek LLM; arXiv 2401.02954), equation 1"
    ROLES: ClassVar[tuple[str, ...]] = ("C", "lr", "batch", "loss")
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("C",), ("N", "D"))
    LR_SCALE: ClassVar[str] = "a"
    BATCH_SCALE: ClassVar[str] = "b"
    LR: ClassVar[dict[str, str]] = {"C": "p"}
    BATCH: ClassVar[dict[str, str]] = {"C": "q"}


def law_on(lr: tuple[str, ...], batch: tuple[str, ...], name: str = "lr_batch_free") -> type[HyperparameterLaw]:
    """A law whose ln lr is linear in the logarithms of the roles `lr` (of N, D, C, ...) and ln batch in those of `batch`.

    Coefficients: c, lr_N, lr_D, ... and k, batch_N, ...
    """
    exponents = {role: f"lr_{role}" for role in lr}, {role: f"batch_{role}" for role in batch}
    fields = ["c", *exponents[0].values(), "k", *exponents[1].values()]
    used = tuple(dict.fromkeys([*lr, *batch]))
    sides = [
        " ".join([scale, *(f"{role}^{text}" for role, text in side.items())])
        for scale, side in zip("ck", exponents, strict=True)
    ]
    values = {
        "NAME": name,
        "FORMULA": f"lr = {sides[0]}, batch = {sides[1]}",
        "SOURCE": "ordinary least squares of logarithms",
        "ROLES": (*used, "lr", "batch", "loss"),
        "INPUTS": (used,),
        "LR": exponents[0],
        "BATCH": exponents[1],
    }
    return dataclasses.make_dataclass(
        "FreeLaw", [(field, Any) for field in fields], bases=(HyperparameterLaw,), namespace=values, frozen=True
    )
