"""Capacity density: how many parameters of a reference model a model is worth, by its score on a task, and how that grows.

Step 1 is the loss of the reference models on the answers, step 2 the score that such a loss gives; both are laws of
analysis/laws/downstream.py. Which texts and tasks those are is the study's business.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Coefficient, FormulaLaw, Inputs, Number, free
from analysis.laws.downstream import DENSING, Accuracy, AnswerLoss
from analysis.solve.objective import Objective


@dataclasses.dataclass(frozen=True)
class Density:
    """Hold the measure of the effective size and density of any model by its score on a task.

    reference: loss of reference models on the answers. accuracy: the score that such a loss gives, c, gamma, l and d of
    the source as a, k, L0 and b; its k is negative for a score that rises as the loss falls. tokens: D_0, what the
    reference models of the comparison are trained on.
    """

    reference: AnswerLoss
    accuracy: Accuracy
    tokens: float = 1e12

    def answer_loss(self, score: Any) -> Any:
        """Return l - ln(c/(S - d) - 1)/gamma: the loss of a score; nan at or beyond that of a guess, d, and the best, c + d."""
        law = self.accuracy
        above_guess = np.asarray(score, dtype=np.float64) - law.b
        with np.errstate(all="ignore"):
            odds = law.a / above_guess - 1
            exists = (odds > 0) & np.isfinite(odds)
            return law.L0 - np.log(np.where(exists, odds, np.nan)) / law.k

    def effective_size(self, score: Any) -> Any:
        """Return the parameters of the reference model, trained on D_0 tokens, that has this score.

        nan where no size has it: a score no better than a guess, or beyond what D_0 tokens allow.
        """
        law = self.reference
        rest = self.answer_loss(score) - law.b * self.tokens**-law.beta
        with np.errstate(all="ignore"):
            size_term = np.where(rest > 0, rest, np.nan)
            return (size_term / law.a) ** (-1 / law.alpha)

    def density(self, score: Any, N: Any) -> Any:
        """Return effective over actual parameters N."""
        return self.effective_size(score) / N


@dataclasses.dataclass(frozen=True)
class DensityGrowth(FormulaLaw):
    """ln rho_max = A days + B: the densest model so far, fitted to the models that were records when they appeared.

    Its source has A = 0.0073 a day, a doubling in 95 days. The interval is that of the records that happened: it
    does not know of the models that were never measured.
    """

    A: Number
    B: Number

    NAME: ClassVar[str] = "density_growth"
    FORMULA: ClassVar[str] = "ln rho_max = A days + B"
    SOURCE: ClassVar[str] = DENSING
    ROLES: ClassVar[tuple[str, ...]] = ("days", "density")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "days": Role("days since a date", ("days", "day"), positive=False),
        "density": Role("effective over actual parameters", ("density", "capacity_density")),
    }
    TARGET: ClassVar[str] = "density"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "A": free(0.002, 0.01, low=-10.0, high=10.0),
        "B": free(-3.0, 0.0, 3.0),
    }

    def predict(self, days: Any) -> Any:
        """Predict the density of the densest model of that day."""
        return np.exp(self.A * days + self.B)

    def doubling_days(self) -> Any:
        """Return the days in which the record doubles; negative where it falls."""
        return np.divide(math.log(2), self.A)

    def derived(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """Return the doubling time, the same at any day."""
        return {"doubling_days": self.doubling_days() + 0 * at["days"]}
