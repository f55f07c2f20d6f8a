"""Predict the loss of a student that learns from a teacher, and that of the same student without one."""

from collections.abc import Mapping
import dataclasses
import itertools
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import (
    FLOPS_PER_PARAM_TOKEN,
    Array,
    Coefficient,
    FormulaLaw,
    Inputs,
    Number,
    exponent,
    free,
    power,
    prefactor,
)
from analysis.laws.chinchilla import Chinchilla

BUSBRIDGE = "Busbridge et al. 2025 (arXiv 2502.08606)"
EXPONENTS = (0.2, 0.4, 0.7)  # alpha and beta: starts
OUTER = (0.3, 0.6, 1.0)  # gamma: starts
MOST_OUTER = 1.5  # gamma, as far as the source looks: beyond, exponents and gamma can hardly be told apart
FLOORS = (0.0, 0.3, 0.6, 0.85)  # E over the least loss: starts
PULLS = (0.5, 2.5)  # c0: starts
BREAKS = (0.9, 1.3)  # d1: starts
WIDTHS = (0.1, 0.4)  # f1: starts
CHANGES = (0.3, 3.0, 30.0)  # c1 f1: starts

# Of (A/N^alpha + B/D^beta)^gamma, which both laws have.
COUPLED: dict[str, Coefficient] = {
    "A": prefactor(1e3, high=1e60),
    "B": prefactor(1e3, high=1e60),
    "alpha": exponent(0.4),
    "beta": exponent(0.4),
    "gamma": exponent(0.5, low=0.02, high=MOST_OUTER),
}


@dataclasses.dataclass(frozen=True)
class Supervised(FormulaLaw):
    """L = E + (A/N^alpha + B/D^beta)^gamma, nats per token: Chinchilla's law with its two terms coupled.

    gamma = 1 is Chinchilla's law, E = 0 and alpha/beta free Kaplan's. The source fits it to supervised students.
    """

    E: Number
    A: Number
    B: Number
    alpha: Number
    beta: Number
    gamma: Number

    NAME: ClassVar[str] = "coupled"
    FORMULA: ClassVar[str] = "L = E + (A/N^alpha + B/D^beta)^gamma"
    SOURCE: ClassVar[str] = f"{BUSBRIDGE}, equation 1"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "loss")
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("N", "D"), ("C",))
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "E": prefactor(1.0),
        **COUPLED,
    }

    @classmethod
    def starting_points(cls, inputs: Inputs, target: Array) -> Array:
        """Return points whose two terms fit the rows best for given floor and exponents [points, 6]."""
        points = []
        for share, gamma in itertools.product(FLOORS, OUTER):
            floor = share * target.min()
            inner = (target - floor) ** (1 / gamma)
            for alpha, beta in itertools.product(EXPONENTS, EXPONENTS):
                A, B = two_terms(inputs, inner, alpha, beta)
                points.append([max(floor, 1e-12), A, B, alpha, beta, gamma])
        return np.array(points)

    def predict(self, N: Any, D: Any) -> Any:
        """Predict the loss in nats per token for N parameters and D tokens."""
        inner = self.A * power(N, -self.alpha) + self.B * power(D, -self.beta)
        return self.E + power(inner, self.gamma)

    def optimum(self, C: Any, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> tuple[Any, Any]:
        """Return (N, D) of least loss: that of the sum inside."""
        return self._inner().optimum(C, flops_per_param_token)

    def optimum_exponents(self) -> dict[str, Any]:
        return self._inner().optimum_exponents()

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        N, D = (at["N"], at["D"]) if "N" in at else self.optimum(at["C"], flops_per_param_token)
        return self.predict(N, D)

    def _inner(self) -> Chinchilla:
        return Chinchilla(0.0, self.A, self.B, self.alpha, self.beta)


@dataclasses.dataclass(frozen=True)
class Distillation(FormulaLaw):
    """L_S = L_T + L_T^-c0 (1 + k1 (L_T/L)^(1/f1) / (c1 f1))^(-c1 f1) (A/N^alpha + B/D^beta)^gamma, nats per token.

    L_T: loss of the teacher; N and D: parameters and distillation tokens of the student; L: the loss that it would reach
    on as many tokens without a teacher, as a column or a formula of the supervised law (`coupled`), for example
    --columns="supervised_loss=1.22+(3355/N**0.408+18186/D**0.431)**0.452". The source writes (L_T/(L d1))^(1/f1) inside the
    bracket. Where that is far below 1, as in its own grid, c1 and d1 count by k1 = c1 f1 d1^(-1/f1) alone, which is
    therefore the coefficient; `d1` gives theirs. c1 is then hardly in the data: --fix=c1=522.6 is theirs.
    """

    c0: Number
    c1: Number
    k1: Number
    f1: Number
    A: Number
    B: Number
    alpha: Number
    beta: Number
    gamma: Number

    NAME: ClassVar[str] = "distillation"
    FORMULA: ClassVar[str] = (
        "L_S = L_T + L_T^-c0 (1 + k1 (L_T/L)^(1/f1)/(c1 f1))^(-c1 f1) (A/N^alpha + B/D^beta)^gamma, "
        "L_T = teacher_loss, L = supervised_loss"
    )
    SOURCE: ClassVar[str] = f"{BUSBRIDGE}, equation 8"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "teacher_loss", "supervised_loss", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "teacher_loss": Role("loss of the teacher in nats per token", ("teacher_loss", "L_T")),
        "supervised_loss": Role("loss of the same student without a teacher, nats per token", ("supervised_loss",)),
    }
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "c0": free(1.0, low=-20.0, high=20.0),
        "c1": prefactor(1.0, low=1e-3, high=1e4),
        "k1": prefactor(1.0, low=1e-6, high=1e6),
        "f1": prefactor(0.2, low=0.01, high=10.0),
        **COUPLED,
    }

    @classmethod
    def starting_points(cls, inputs: Inputs, target: Array) -> Array:
        """Return points whose two terms fit the rows best for what the teacher is taken to do [points, 9]."""
        points = []
        log_T = np.log(inputs["teacher_loss"])
        gap = np.maximum(target - inputs["teacher_loss"], 1e-3 * target)
        for c0, d1, f1, change in itertools.product(PULLS, BREAKS, WIDTHS, CHANGES):
            ratio = inputs["teacher_loss"] / inputs["supervised_loss"] / d1
            k1 = change * d1 ** (-1 / f1)
            log_pull = -c0 * log_T - change * np.log1p(ratio ** (1 / f1))
            for gamma in OUTER:
                inner = np.exp((np.log(gap) - log_pull) / gamma)
                for alpha, beta in itertools.product(EXPONENTS, EXPONENTS):
                    A, B = two_terms(inputs, inner, alpha, beta)
                    points.append([c0, change / f1, k1, f1, A, B, alpha, beta, gamma])
        return np.array(points)

    def predict(self, N: Any, D: Any, teacher_loss: Any, supervised_loss: Any) -> Any:
        """Predict the loss of the student in nats per token."""
        log_T = np.log(teacher_loss)
        ratio = np.exp((log_T - np.log(supervised_loss)) / self.f1)
        steepness = self.c1 * self.f1
        bend = -steepness * np.log1p(self.k1 * ratio / steepness)
        inner = self.A * power(N, -self.alpha) + self.B * power(D, -self.beta)
        return teacher_loss + np.exp(self.gamma * np.log(inner) - self.c0 * log_T + bend)

    @property
    def d1(self) -> Any:
        """The source's d1: the ratio of the losses of teacher and student at which the teacher's help changes."""
        return power(self.c1 * self.f1 / self.k1, self.f1)


def two_terms(inputs: Inputs, inner: Array, alpha: float, beta: float) -> tuple[float, float]:
    """Return A and B, at least next to nothing, of A/N^alpha + B/D^beta nearest to `inner` in relative terms."""
    from scipy.optimize import nnls

    basis = np.column_stack([inputs["N"] ** -alpha, inputs["D"] ** -beta])
    scale = basis.max(axis=0)
    answer, _ = nnls(basis / scale / inner[:, None], np.ones_like(inner))
    smallest = 1e-3 * inner.min()
    A, B = np.maximum(answer, smallest) / scale
    return float(A), float(B)
