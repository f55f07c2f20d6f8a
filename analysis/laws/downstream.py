"""Predict what a model can do: the loss on a task's answers, the accuracy that it buys, and how often a sample passes.

The way from parameters and tokens, or from compute, to an accuracy is taken in two steps; analysis/procedures/downstream.py fits
them on the same resampled rows, so that an interval of the accuracy carries both.
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
    Law,
    Number,
    SumLaw,
    Term,
    exponent,
    free,
    power,
    prefactor,
)
from analysis.solve.objective import Objective
from analysis.solve.problem import Problem
from analysis.solve.shares import ALL, shares_problem

TASKS = "Bhagia et al. 2024 (arXiv 2412.04403)"
GADRE = "Gadre et al. 2024 (arXiv 2403.08540)"
DENSING = "Xiao et al. 2024 (Densing law; arXiv 2412.04315)"
LLAMA = "Llama 3 (arXiv 2407.21783), section 3.2.1"
SQUARES = Objective("least_squares", "raw")
SHARE = (0.0, 1.0)  # what an accuracy, an error or a pass rate can be
POINT = Objective("huber", "raw", 0.01)  # a stray run counts by its sign: noise of accuracies is about a point


@dataclasses.dataclass(frozen=True)
class TaskLoss(SumLaw):
    """Loss on a task's answers = E + A/N^alpha + B/D^beta, in the units of the grid (nats or bits, per token or byte)."""

    E: Number
    A: Number
    B: Number
    alpha: Number
    beta: Number

    NAME: ClassVar[str] = "task_loss"
    FORMULA: ClassVar[str] = "task_loss = E + A/N^alpha + B/D^beta"
    SOURCE: ClassVar[str] = f"{TASKS}, step 1"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "task_loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "task_loss": Role("loss on a task's answers, nats or bits", ("task_loss", "answer_loss", "nll")),
    }
    TARGET: ClassVar[str] = "task_loss"
    TERMS: ClassVar[tuple[Term, ...]] = (
        Term("E"),
        Term("A", (("N", -1.0, "alpha"),)),
        Term("B", (("D", -1.0, "beta"),)),
    )


@dataclasses.dataclass(frozen=True)
class TaskLossCompute(SumLaw):
    """Loss on a task's answers = E + A/C^alpha, C in training FLOPs of compute-optimal (or alike) runs."""

    E: Number
    A: Number
    alpha: Number

    NAME: ClassVar[str] = "task_loss_compute"
    FORMULA: ClassVar[str] = "task_loss = E + A/C^alpha"
    SOURCE: ClassVar[str] = f"{TASKS}, step 1 in compute"
    ROLES: ClassVar[tuple[str, ...]] = ("C", "task_loss")
    TARGET: ClassVar[str] = "task_loss"
    TERMS: ClassVar[tuple[Term, ...]] = (Term("E"), Term("A", (("C", -1.0, "alpha"),)))


@dataclasses.dataclass(frozen=True)
class TaskLossLog(FormulaLaw):
    """Loss on a task's answers = u - v ln C: a straight line, good over the range that it was fitted on and a bit more."""

    u: Number
    v: Number

    NAME: ClassVar[str] = "task_loss_log"
    FORMULA: ClassVar[str] = "task_loss = u - v ln C"
    SOURCE: ClassVar[str] = LLAMA
    ROLES: ClassVar[tuple[str, ...]] = ("C", "task_loss")
    TARGET: ClassVar[str] = "task_loss"
    OBJECTIVE: ClassVar[Objective] = SQUARES
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {"u": free(), "v": free()}

    def predict(self, C: Any) -> Any:
        """Predict the loss on the answers at C training FLOPs."""
        return self.u - self.v * np.log(C)


@dataclasses.dataclass(frozen=True)
class AnswerLoss(SumLaw):
    """L = a/N^alpha + b/D^beta: loss of the reference models on a task's answers given the questions, nats.

    Step 2, from that loss to the score, is Accuracy.
    """

    a: Number
    b: Number
    alpha: Number
    beta: Number

    NAME: ClassVar[str] = "answer_loss"
    FORMULA: ClassVar[str] = "task_loss = a/N^alpha + b/D^beta"
    SOURCE: ClassVar[str] = f"{DENSING}, step 1"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "task_loss")
    TARGET: ClassVar[str] = "task_loss"
    TERMS: ClassVar[tuple[Term, ...]] = (Term("a", (("N", -1.0, "alpha"),)), Term("b", (("D", -1.0, "beta"),)))


@dataclasses.dataclass(frozen=True)
class ErrorFromLoss(FormulaLaw):
    """Err(L) = eps - k exp(-gamma L): average top-1 error of downstream tasks from the loss in nats per token."""

    eps: Number
    k: Number
    gamma: Number

    NAME: ClassVar[str] = "error_from_loss"
    FORMULA: ClassVar[str] = "Err = eps - k exp(-gamma L)"
    SOURCE: ClassVar[str] = f"{GADRE}, equation 5"
    ROLES: ClassVar[tuple[str, ...]] = ("loss", "error")
    OPTIONAL: ClassVar[tuple[str, ...]] = (*FormulaLaw.OPTIONAL, "questions")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "questions": Role(
            "questions behind an accuracy: it counts by its binomial error", ("questions", "n_questions")
        ),
        "error": Role("error of a task, 0 to 1", ("error", "err", "error_rate"), positive=False),
    }
    TARGET: ClassVar[str] = "error"
    RANGE: ClassVar[tuple[float, float]] = SHARE
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "raw")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "eps": free(low=0.0, high=1.0),
        "k": free(),
        "gamma": exponent(0.1, 0.25, 0.5, 1.0, 2.0, 4.0, low=1e-3, high=20.0),
    }

    def predict(self, loss: Any) -> Any:
        """Predict the error at a loss."""
        return self.eps - self.k * np.exp(-self.gamma * loss)


@dataclasses.dataclass(frozen=True)
class Accuracy(FormulaLaw):
    """Accuracy = a/(1 + exp(-k (L - L0))) + b for a loss L on the answers; k < 0 where a lower loss is better.

    (a, k, b) and (-a, -k, a + b) are one curve; a is the positive one. Both a and b are shares, and no accuracy is above
    1: a + b <= 1 is a part of the fit. b is what guessing gives (--fix=b=0.25 for four choices).
    """

    a: Number
    k: Number
    L0: Number
    b: Number

    NAME: ClassVar[str] = "accuracy"
    FORMULA: ClassVar[str] = "acc = a/(1 + exp(-k (task_loss - L0))) + b"
    SOURCE: ClassVar[str] = f"{TASKS}, step 2; {LLAMA}"
    ROLES: ClassVar[tuple[str, ...]] = ("task_loss", "accuracy")
    OPTIONAL: ClassVar[tuple[str, ...]] = (*FormulaLaw.OPTIONAL, "questions")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "accuracy": Role("accuracy on a task, 0 to 1", ("accuracy", "acc", "task_accuracy"), positive=False),
    }
    TARGET: ClassVar[str] = "accuracy"
    RANGE: ClassVar[tuple[float, float]] = SHARE
    OBJECTIVE: ClassVar[Objective] = POINT
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "a": prefactor(high=1.0),
        "k": free(-1.0, -3.0, -8.0, -25.0, 5.0),
        "L0": free(0.3, 0.5, 0.8, 1.1, 1.5, 2.0, 3.0, 5.0),
        "b": free(low=0.0, high=1.0),
    }

    @classmethod
    def problem(cls, columns: Any, raw: bool, above: Any, fixed: Mapping[str, float]) -> Problem | None:
        """Pose the fit with a + b <= 1."""
        return shares_problem(cls, columns.values, raw, fixed, above, ("a", "b"))

    def end_of_range(self, name: str) -> str:
        """Say that the curve ends at 1 where it does."""
        if name in ("a", "b") and self.a + self.b > ALL:
            return "a + b is 1, the largest that an accuracy can be"
        return super().end_of_range(name)

    def predict(self, task_loss: Any) -> Any:
        """Predict the accuracy, 0 to 1, at that loss."""
        rise = 1 + np.tanh(self.k * (task_loss - self.L0) / 2)  # of a logistic curve; exp would overflow
        return self.a * rise / 2 + self.b


@dataclasses.dataclass(frozen=True)
class TwoStep(Law):
    """Hold a task-loss law, then Accuracy. Coefficients are those of the two, in that order."""

    FIRST: ClassVar[type[FormulaLaw]]
    SECOND: ClassVar[type[FormulaLaw]] = Accuracy
    OPTIONAL: ClassVar[tuple[str, ...]] = ("weight", "run", "questions")
    TARGET: ClassVar[str] = "accuracy"
    RANGE: ClassVar[tuple[float, float]] = SHARE
    OBJECTIVE: ClassVar[Objective] = POINT  # of the second step; the first has its own law's

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.ROLES = (*cls.FIRST.inputs(), "task_loss", "accuracy")
        cls.INPUTS = (cls.FIRST.inputs(),)

    @classmethod
    def inputs(cls) -> tuple[str, ...]:
        """Return the roles that `predict` takes."""
        return cls.FIRST.inputs()

    def steps(self) -> tuple[FormulaLaw, FormulaLaw]:
        """Return the two laws."""
        values = [getattr(self, name) for name in self.names()]
        count = len(self.FIRST.names())
        first = self.FIRST(*values[:count])
        second = self.SECOND(*values[count:])
        return first, second

    def predict(self, **inputs: Any) -> Any:
        """Predict the accuracy, 0 to 1."""
        first, second = self.steps()
        return second.predict(first.predict(**inputs))

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        del flops_per_param_token
        return self.predict(**{role: at[role] for role in self.FIRST.inputs()})


@dataclasses.dataclass(frozen=True)
class TwoStepAccuracy(TwoStep):
    """Accuracy from parameters and tokens, by way of the loss on the answers."""

    E: Number
    A: Number
    B: Number
    alpha: Number
    beta: Number
    a: Number
    k: Number
    L0: Number
    b: Number

    NAME: ClassVar[str] = "two_step"
    FORMULA: ClassVar[str] = "acc = a/(1 + exp(-k (E + A/N^alpha + B/D^beta - L0))) + b"
    SOURCE: ClassVar[str] = TASKS
    FIRST: ClassVar[type[FormulaLaw]] = TaskLoss


@dataclasses.dataclass(frozen=True)
class TwoStepCompute(TwoStep):
    """Accuracy from training FLOPs, by way of the loss on the answers."""

    E: Number
    A: Number
    alpha: Number
    a: Number
    k: Number
    L0: Number
    b: Number

    NAME: ClassVar[str] = "two_step_compute"
    FORMULA: ClassVar[str] = "acc = a/(1 + exp(-k (E + A/C^alpha - L0))) + b"
    SOURCE: ClassVar[str] = TASKS
    FIRST: ClassVar[type[FormulaLaw]] = TaskLossCompute


@dataclasses.dataclass(frozen=True)
class TwoStepLog(TwoStep):
    """Accuracy from training FLOPs, by way of a loss on the answers that is linear in ln C."""

    u: Number
    v: Number
    a: Number
    k: Number
    L0: Number
    b: Number

    NAME: ClassVar[str] = "two_step_log"
    FORMULA: ClassVar[str] = "acc = a/(1 + exp(-k (u - v ln C - L0))) + b"
    SOURCE: ClassVar[str] = LLAMA
    FIRST: ClassVar[type[FormulaLaw]] = TaskLossLog


@dataclasses.dataclass(frozen=True)
class PassUntil(FormulaLaw):
    """-ln PU = c N^-alpha: the share PU of samples that solve a task, estimated by sampling until some do.

    That sampling gives each ln PU an error of the same size, so residuals are those of ln PU. analysis/procedures/emergence.py has
    the estimate of PU and asks whether a task improves faster than this law.
    """

    c: Number
    alpha: Number

    NAME: ClassVar[str] = "pass_until"
    FORMULA: ClassVar[str] = "-ln(pass_rate) = c N^-alpha"
    SOURCE: ClassVar[str] = "Hu et al. 2023 (arXiv 2310.03262)"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "pass_rate")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "pass_rate": Role("share of samples that solve a task, 0 to 1", ("pass_rate",)),
    }
    TARGET: ClassVar[str] = "pass_rate"
    RANGE: ClassVar[tuple[float, float]] = SHARE
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "c": prefactor(*(float(scale) for scale in 10.0 ** np.arange(0, 14))),
        "alpha": exponent(),
    }

    def predict(self, N: Any) -> Any:
        """Predict the pass rate, 0 to 1, of a model with N parameters."""
        return np.exp(-self.c * power(N, -self.alpha))


@dataclasses.dataclass(frozen=True)
class Difficulty(FormulaLaw):
    """Accuracy = g + (1 - g) exp(-a C^-b - c) of tasks that are alike in difficulty; g is what guessing gives.

    Fix g where it is known (--fix=g=0.25 for four choices, g=0 for free answers). exp(-c) is what remains out of reach.
    """

    g: Number
    a: Number
    b: Number
    c: Number

    NAME: ClassVar[str] = "difficulty"
    FORMULA: ClassVar[str] = "acc = g + (1 - g) exp(-a/C^b - c)"
    SOURCE: ClassVar[str] = "Xu et al. 2025 (arXiv 2502.17262), clustering on difficulty"
    ROLES: ClassVar[tuple[str, ...]] = ("C", "accuracy")
    OPTIONAL: ClassVar[tuple[str, ...]] = (*FormulaLaw.OPTIONAL, "questions")
    TARGET: ClassVar[str] = "accuracy"
    RANGE: ClassVar[tuple[float, float]] = SHARE
    OBJECTIVE: ClassVar[Objective] = POINT
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "g": free(0.0, 0.1, 0.25, low=0.0, high=0.99),
        "a": prefactor(*(float(scale) for scale in 10.0 ** np.arange(0, 23, 1.5))),
        "b": exponent(0.05, 0.1, 0.2, 0.3, 0.5, 0.8, low=1e-3),
        "c": free(0.0, 0.1, 0.5, low=0.0),
    }

    def predict(self, C: Any) -> Any:
        """Predict the accuracy, 0 to 1, at C training FLOPs."""
        return self.g + (1 - self.g) * np.exp(-self.a * power(C, -self.b) - self.c)
