"""Say which learning rate and batch size to train with: power laws in parameters, tokens or FLOPs.

All of them regress ln lr and ln batch of near-optimal runs (analysis/procedures/lr_batch.py); they differ in what they depend on.
`law_on` makes any other one.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Inputs, Law, Number
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
    WHEN_NAMED: ClassVar[tuple[str, ...]] = ("group",)  # the rows of one cell
    TARGET: ClassVar[str] = "lr"
    PREDICTS: ClassVar[tuple[str, ...]] = ("batch",)
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")

    def _power(self, scale: str, exponents: Mapping[str, str], at: Mapping[str, Any]) -> Any:
        """Return a product of powers: the scale times each role to its exponent."""
        value = np.log(getattr(self, scale))
        for role, name in exponents.items():
            value = value + getattr(self, name) * np.log(at[role])
        return np.exp(value)

    def predict(self, **at: Any) -> tuple[Any, Any]:
        """Predict (peak learning rate, tokens a step) at the roles that the law depends on."""
        lr = self._power(self.LR_SCALE, self.LR, at)
        batch = self._power(self.BATCH_SCALE, self.BATCH, at)
        return lr, batch

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """Predict the peak learning rate (TARGET); `derived` has the batch."""
        return self.predict(**_with_flops(at, flops_per_param_token))[0]

    def derived(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """Return the tokens a step."""
        return {"batch": self.predict(**_with_flops(at, flops_per_param_token))[1]}


def _with_flops(at: Inputs, flops_per_param_token: float) -> dict[str, Any]:
    """Return the inputs with C where N and D give it."""
    at = dict(at)
    if "C" not in at and "N" in at and "D" in at:
        at["C"] = flops_per_param_token * at["N"] * at["D"]
    return at


@dataclasses.dataclass(frozen=True)
class StepLaw(HyperparameterLaw):
    """lr = c N^p D^q, batch = k D^r. N without embeddings, D and batch in tokens (published: 1.79, -0.713, 0.307, 0.58, 0.571)."""

    c: Number
    p: Number
    q: Number
    k: Number
    r: Number

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

    c: Number
    p: Number
    q: Number
    k: Number
    s: Number
    r: Number

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

    a: Number
    p: Number
    b: Number
    q: Number

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
    """Make a law whose ln lr is linear in the logarithms of the roles `lr` (of N, D, C, ...) and ln batch in those of `batch`.

    Coefficients: c, lr_N, lr_D, ... and k, batch_N, ...
    """
    of_lr = {role: f"lr_{role}" for role in lr}
    of_batch = {role: f"batch_{role}" for role in batch}
    fields = ["c", *of_lr.values(), "k", *of_batch.values()]
    used = tuple(dict.fromkeys([*lr, *batch]))
    values = {
        "NAME": name,
        "FORMULA": f"lr = {_monomial('c', of_lr)}, batch = {_monomial('k', of_batch)}",
        "SOURCE": "ordinary least squares of logarithms",
        "ROLES": (*used, "lr", "batch", "loss"),
        "INPUTS": (used,),
        "LR": of_lr,
        "BATCH": of_batch,
    }
    return dataclasses.make_dataclass(
        "FreeLaw",
        [(field, Any) for field in fields],
        bases=(HyperparameterLaw,),
        namespace=values,
        frozen=True,
    )


def _monomial(scale: str, exponents: Mapping[str, str]) -> str:
    """Write a product of powers as a formula: `c N^lr_N D^lr_D`."""
    factors = [f"{role}^{name}" for role, name in exponents.items()]
    return " ".join([scale, *factors])
