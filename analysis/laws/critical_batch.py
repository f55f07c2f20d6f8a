"""Batch size: how many tokens a step can use before more of them stop helping, and the loss at any batch size.

Three laws that build on each other: the trade-off of steps and tokens at one loss, the critical batch size as a function of
the loss, and the loss of a model of N parameters after S steps of B tokens. `contours` and `three_steps` are the
procedure of Su et al. 2024 that estimates the constants of all three from small models. Batches are in tokens.
"""

from collections.abc import Mapping
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Coefficient, FormulaLaw, exponent, power, prefactor
from analysis.solve.objective import Objective

if TYPE_CHECKING:
    pass

KAPLAN = "Kaplan et al. 2020 (arXiv 2001.08361)"
MCCANDLISH = "McCandlish et al. 2018 (arXiv 1812.06162)"
NEWTON_STEPS = 60


def least_steps(S: Any, batch: Any, critical: Any) -> Any:
    """S_min: the steps that S steps of `batch` tokens are worth at a batch far above the critical one (Kaplan, 5.4)."""
    return S / (1 + critical / batch)


def least_tokens(tokens: Any, batch: Any, critical: Any) -> Any:
    """E_min: the tokens that would do at a batch far below the critical one."""
    return tokens / (1 + batch / critical)


def least_compute(C: Any, batch: Any, critical: Any) -> Any:
    """C_min: the FLOPs that would do at a batch far below the critical one (Kaplan, 5.5)."""
    return C / (1 + batch / critical)


@dataclasses.dataclass(frozen=True)
class CriticalBatch(FormulaLaw):
    """B_crit(L) = B_star / L^(1/alpha_B), tokens: it depends on the model's size only through the loss L it has reached."""

    B_star: Any
    alpha_B: Any

    NAME: ClassVar[str] = "critical_batch"
    FORMULA: ClassVar[str] = "B_crit = B_star / L^(1/alpha_B)"
    SOURCE: ClassVar[str] = f"{KAPLAN}, equation 5.3"
    ROLES: ClassVar[tuple[str, ...]] = ("loss", "critical_batch")
    TARGET: ClassVar[str] = "critical_batch"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "B_star": prefactor(),
        "alpha_B": exponent(0.05, 0.1, 0.2, 0.4, 0.8, low=0.01, high=10.0),
    }

    def predict(self, loss: Any) -> Any:
        """Critical batch size in tokens at a loss in nats per token."""
        return self.B_star * power(loss, -1 / self.alpha_B)


@dataclasses.dataclass(frozen=True)
class StepsExamples(FormulaLaw):
    """Steps S to one and the same loss at batch B: S = S_min + E_min/B, with E_min in tokens.

    In terms of the tokens E = S B that is (S/S_min - 1)(E/E_min - 1) = 1.
    """

    S_min: Any
    E_min: Any

    NAME: ClassVar[str] = "steps_examples"
    FORMULA: ClassVar[str] = (
        "S = S_min + E_min/B, that is (S/S_min - 1)(E/E_min - 1) = 1 for E = S B tokens at one loss"
    )
    SOURCE: ClassVar[str] = f"{MCCANDLISH}, equation 2.11; {KAPLAN}, equations 5.1 and 5.2"
    ROLES: ClassVar[tuple[str, ...]] = ("batch", "S")
    TARGET: ClassVar[str] = "S"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {"S_min": prefactor(), "E_min": prefactor()}

    def predict(self, batch: Any) -> Any:
        """Steps to that loss at a batch in tokens."""
        return self.S_min + self.E_min / batch

    def critical_batch(self) -> Any:
        """E_min/S_min: where a run takes twice the least steps and twice the least tokens."""
        return self.E_min / self.S_min

    def derived(self, at: Mapping[str, Any], flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """The critical batch size in tokens."""
        return {"critical_batch": self.critical_batch()}


def settle(size: Any, step: Any, critical: Any, alpha_S: Any, alpha_B: Any) -> Any:
    """The loss L that solves L = size + step (1 + critical L^(-1/alpha_B))^alpha_S, for positive arguments.

    Both sides in logarithms: x - ln(right side) rises with a slope of at least 1 and is concave, so that Newton's steps
    climb to its only root from below, from wherever they start. The root is found at the real parts; one step more at
    the complex ones, bent by the curvature there, carries first and second derivatives through.
    """
    parts = [np.asarray(part) for part in (size, step, critical, alpha_S, alpha_B)]

    def newton(x: Any, size: Any, step: Any, critical: Any, alpha_S: Any, alpha_B: Any) -> tuple[Any, ...]:
        """Newton's step, and what the curvature needs."""
        extra = critical * np.exp(-x / alpha_B)
        late = step * np.exp(alpha_S * np.log(1 + extra))
        total = size + late
        share, held = late / total, extra / (1 + extra)
        slope = 1 + alpha_S / alpha_B * share * held
        return (np.log(total) - x) / slope, slope, share, held

    with np.errstate(all="ignore"):
        real = [part.real for part in parts]
        x = np.log(real[0] + real[1]) + 0 * real[2]
        change, slope, share, held = newton(x, *real)
        for _ in range(NEWTON_STEPS):
            x = x + change
            if not (np.abs(change) > 1e-5).any():  # the last steps square what is missing
                break
            change, slope, share, held = newton(x, *real)
        alpha_S, alpha_B = real[3:]
        bend = -alpha_S / alpha_B**2 * share * held * ((1 - share) * alpha_S * held + 1 - held) / (2 * slope)
        change = newton(x, *parts)[0]
        return np.exp(x + change - bend * change**2)


@dataclasses.dataclass(frozen=True)
class BatchTrajectory(FormulaLaw):
    """Loss of N parameters after S steps of B tokens, nats per token, at any batch size.

    L = (N_c/N)^alpha_N + (S_c/S_min)^alpha_S with S_min = S/(1 + B_crit(L)/B) and B_crit(L) = B_star/L^(1/alpha_B).
    L stands on both sides. N without embeddings; the data are never repeated and the learning rate suits each batch.
    """

    N_c: Any
    alpha_N: Any
    S_c: Any
    alpha_S: Any
    B_star: Any
    alpha_B: Any

    NAME: ClassVar[str] = "batch_trajectory"
    FORMULA: ClassVar[str] = (
        "L = (N_c/N)^alpha_N + (S_c/S_min)^alpha_S, S_min = S/(1 + B_crit/B), B_crit = B_star/L^(1/alpha_B)"
    )
    SOURCE: ClassVar[str] = f"{KAPLAN}, equations 1.6 and 5.4; Su et al. 2024 (arXiv 2403.06563)"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "S", "batch", "loss")
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "N_c": prefactor(1e8, 1e10, 1e12, 1e14, 1e16),
        "alpha_N": exponent(0.05, 0.08, 0.15, 0.3, low=1e-3),
        "S_c": prefactor(1e2, 1e3, 1e4),
        "alpha_S": exponent(0.3, 0.6, 0.9, low=1e-3),
        "B_star": prefactor(1e5, 1e7, 1e9),
        "alpha_B": exponent(0.1, 0.2, 0.4, low=0.02, high=10.0),
    }

    def predict(self, N: Any, S: Any, batch: Any) -> Any:
        """Loss in nats per token for N parameters after S steps of `batch` tokens."""
        size, step = power(self.N_c / N, self.alpha_N), power(self.S_c / S, self.alpha_S)
        return settle(size, step, self.B_star / batch, self.alpha_S, self.alpha_B)

    def critical_batch(self, loss: Any) -> Any:
        """B_crit in tokens at a loss."""
        return CriticalBatch(self.B_star, self.alpha_B).predict(loss)

    def derived(self, at: Mapping[str, Any], flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """The critical batch at the loss reached, and what steps, tokens and FLOPs would do far above or below it."""
        critical = self.critical_batch(self.target_at(at))
        tokens = at["S"] * at["batch"]
        return {
            "critical_batch": critical,
            "S_min": least_steps(at["S"], at["batch"], critical),
            "E_min": least_tokens(tokens, at["batch"], critical),
            "C_min": least_compute(flops_per_param_token * at["N"] * tokens, at["batch"], critical),
        }

    def steps(self, N: Any, batch: Any, loss: Any) -> Any:
        """Steps of `batch` tokens until N parameters reach a loss; nan below what N parameters can reach."""
        rest = loss - power(self.N_c / N, self.alpha_N)
        least = np.where(rest > 0, self.S_c * power(np.where(rest > 0, rest, 1.0), -1 / self.alpha_S), np.nan)
        return least * (1 + self.critical_batch(loss) / batch)
