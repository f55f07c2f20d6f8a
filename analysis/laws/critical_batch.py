"""Say how large a batch should be: how many tokens a step can use before more of them stop helping, and the loss at any batch size.

Three laws that build on each other: the trade-off of steps and tokens at one loss, the critical batch size as a function of
the loss, and the loss of a model of N parameters after S steps of B tokens. analysis/procedures/batch.py has the
procedure of Su et al. 2024 that estimates the constants of all three from small models. Batches are in tokens.
"""

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
    exponent,
    power,
    prefactor,
)
from analysis.solve.objective import Objective

KAPLAN = "Kaplan et al. 2020 (arXiv 2001.08361)"
MCCANDLISH = "McCandlish et al. 2018 (arXiv 1812.06162)"
NEWTON_STEPS = 60


def least_steps(S: Any, batch: Any, critical: Any) -> Any:
    """Return S_min: the steps that S steps of `batch` tokens are worth at a batch far above the critical one (Kaplan, 5.4)."""
    return S / (1 + critical / batch)


def least_tokens(tokens: Any, batch: Any, critical: Any) -> Any:
    """Return E_min: the tokens that would do at a batch far below the critical one."""
    return tokens / (1 + batch / critical)


def least_compute(C: Any, batch: Any, critical: Any) -> Any:
    """Return C_min: the FLOPs that would do at a batch far below the critical one (Kaplan, 5.5)."""
    return C / (1 + batch / critical)


@dataclasses.dataclass(frozen=True)
class CriticalBatch(FormulaLaw):
    """B_crit(L) = B_star / L^(1/alpha_B), tokens: it depends on the model's size only through the loss L it has reached."""

    B_star: Number
    alpha_B: Number

    NAME: ClassVar[str] = "critical_batch"
    FORMULA: ClassVar[str] = "B_crit = B_star / L^(1/alpha_B)"
    SOURCE: ClassVar[str] = f"{KAPLAN}, equation 5.3"
    ROLES: ClassVar[tuple[str, ...]] = ("loss", "critical_batch")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "critical_batch": Role("critical batch size, tokens", ("critical_batch", "B_crit", "b_crit")),
    }
    TARGET: ClassVar[str] = "critical_batch"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "B_star": prefactor(),
        "alpha_B": exponent(0.05, 0.1, 0.2, 0.4, 0.8, low=0.01, high=10.0),
    }

    def predict(self, loss: Any) -> Any:
        """Return the critical batch size in tokens at a loss in nats per token."""
        return self.B_star * power(loss, -1 / self.alpha_B)


@dataclasses.dataclass(frozen=True)
class StepsExamples(FormulaLaw):
    """Steps S to one and the same loss at batch B: S = S_min + E_min/B, with E_min in tokens.

    In terms of the tokens E = S B that is (S/S_min - 1)(E/E_min - 1) = 1.
    """

    S_min: Number
    E_min: Number

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
        """Return the steps to that loss at a batch in tokens."""
        return self.S_min + self.E_min / batch

    def critical_batch(self) -> Any:
        """Return E_min/S_min: where a run takes twice the least steps and twice the least tokens."""
        return np.divide(self.E_min, self.S_min)

    def derived(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """Return the critical batch size in tokens."""
        return {"critical_batch": self.critical_batch()}


def settle(size: Any, step: Any, critical: Any, alpha_S: Any, alpha_B: Any) -> Any:
    """Solve for the loss L in L = size + step (1 + critical L^(-1/alpha_B))^alpha_S, for positive arguments.

    Both sides in logarithms: x - ln(right side) rises with a slope of at least 1 and is concave, so that Newton's steps
    climb to its only root from below, from wherever they start. The root is found for the values; one step more at
    the arguments as they are, bent by the curvature there, carries first and second derivatives through.
    """
    arguments = (size, step, critical, alpha_S, alpha_B)
    real = [np.real(argument) for argument in arguments]
    with np.errstate(all="ignore"):
        x = np.log(real[0] + real[1]) + 0 * real[2]
        found = _newton_step(x, *real)
        for _ in range(NEWTON_STEPS):
            x = x + found.change
            if not (np.abs(found.change) > 1e-5).any():  # the last steps square what is missing
                break
            found = _newton_step(x, *real)

        # At the root f(x) = 0, a small change of the arguments moves x by -f/f' - f''/(2 f') (f/f')^2: the Newton step
        # at the changed arguments, and its correction by the curvature of f, which `bend` is over 2 f'.
        _, _, _, alpha_S, alpha_B = real
        inner = (1 - found.share) * alpha_S * found.held + 1 - found.held
        bend = -alpha_S / alpha_B**2 * found.share * found.held * inner / (2 * found.slope)
        change = _newton_step(x, *arguments).change
        return np.exp(x + change - bend * change**2)


@dataclasses.dataclass(frozen=True)
class _Step:
    """A Newton step in x = ln L, and what the curvature at x needs."""

    change: Number
    slope: Number
    share: Any  # of the second term in L
    held: Any  # extra / (1 + extra): how strongly L acts on its own critical batch


def _newton_step(x: Any, size: Any, step: Any, critical: Any, alpha_S: Any, alpha_B: Any) -> _Step:
    """Take one Newton step towards the logarithm of the loss at which a run stands."""
    extra = critical * np.exp(-x / alpha_B)
    late = step * np.exp(alpha_S * np.log(1 + extra))
    total = size + late
    share = late / total
    held = extra / (1 + extra)
    slope = 1 + alpha_S / alpha_B * share * held
    return _Step((np.log(total) - x) / slope, slope, share, held)


@dataclasses.dataclass(frozen=True)
class BatchTrajectory(FormulaLaw):
    """Loss of N parameters after S steps of B tokens, nats per token, at any batch size.

    L = (N_c/N)^alpha_N + (S_c/S_min)^alpha_S with S_min = S/(1 + B_crit(L)/B) and B_crit(L) = B_star/L^(1/alpha_B).
    L stands on both sides. N without embeddings; the data are never repeated and the learning rate suits each batch.
    """

    N_c: Number
    alpha_N: Number
    S_c: Number
    alpha_S: Number
    B_star: Number
    alpha_B: Number

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
        """Predict the loss in nats per token of N parameters after S steps of `batch` tokens."""
        size = power(self.N_c / N, self.alpha_N)
        step = power(self.S_c / S, self.alpha_S)
        return settle(size, step, self.B_star / batch, self.alpha_S, self.alpha_B)

    def critical_batch(self, loss: Any) -> Any:
        """Return B_crit in tokens at a loss."""
        return CriticalBatch(self.B_star, self.alpha_B).predict(loss)

    def derived(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """Return the critical batch at the loss reached, and what steps, tokens and FLOPs would do far above or below it."""
        critical = self.critical_batch(self.target_at(at))
        tokens = at["S"] * at["batch"]
        return {
            "critical_batch": critical,
            "S_min": least_steps(at["S"], at["batch"], critical),
            "E_min": least_tokens(tokens, at["batch"], critical),
            "C_min": least_compute(flops_per_param_token * at["N"] * tokens, at["batch"], critical),
        }

    def steps(self, N: Any, batch: Any, loss: Any) -> Any:
        """Return the steps of `batch` tokens until N parameters reach a loss; nan below what N parameters can reach."""
        rest = loss - power(self.N_c / N, self.alpha_N)
        is_within_reach = rest > 0
        reachable = np.where(is_within_reach, rest, 1.0)
        least = np.where(is_within_reach, self.S_c * power(reachable, -1 / self.alpha_S), np.nan)
        return least * (1 + self.critical_batch(loss) / batch)
