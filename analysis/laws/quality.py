"""Predict a score from size or data in one step: accuracy along a line in ln N, quality of translation by a log-law."""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import Array, Coefficient, FormulaLaw, Inputs, Number, exponent, free, power, prefactor
from analysis.solve.objective import Objective

POWERS = (0.3, 0.6, 1.0, 1.6, 2.5, 4.0)  # beta: starts


@dataclasses.dataclass(frozen=True)
class AccuracyLog(FormulaLaw):
    """Accuracy = u + v ln N: a straight line, good over the range that it was fitted on and a bit more."""

    u: Number
    v: Number

    NAME: ClassVar[str] = "accuracy_log"
    FORMULA: ClassVar[str] = "acc = u + v ln N"
    SOURCE: ClassVar[str] = "a straight line, as many papers draw it"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "accuracy")
    TARGET: ClassVar[str] = "accuracy"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "raw")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {"u": free(), "v": free()}

    def predict(self, N: Any) -> Any:
        """Predict the accuracy of a model with N parameters."""
        return self.u + self.v * np.log(N)


@dataclasses.dataclass(frozen=True)
class TranslationQuality(FormulaLaw):
    """Quality = (ln(A D^alpha))^beta: BLEU or COMET after fine-tuning, from D tokens of pretraining.

    It holds where pretraining and task are aligned; where they are not, quality may fall with more data.
    """

    A: Number
    alpha: Number
    beta: Number

    NAME: ClassVar[str] = "translation_quality"
    FORMULA: ClassVar[str] = "quality = (ln(A D^alpha))^beta"
    SOURCE: ClassVar[str] = "Isik et al. 2024 (arXiv 2402.04177), the log-law"
    ROLES: ClassVar[tuple[str, ...]] = ("D", "quality")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "quality": Role("score of a translation, BLEU or COMET", ("quality", "bleu", "BLEU", "comet", "COMET")),
    }
    TARGET: ClassVar[str] = "quality"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "raw")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "A": prefactor(1.0, high=1e200),
        "alpha": exponent(0.5, high=50.0),
        "beta": exponent(1.0, low=0.05, high=20.0),
    }

    @classmethod
    def starting_points(cls, inputs: Inputs, target: Array) -> Array:
        """Return points whose line in ln D fits the rows for given powers [points, 3]."""
        points = []
        for beta in POWERS:
            alpha, log_A = np.polyfit(np.log(inputs["D"]), target ** (1 / beta), 1)
            points.append([np.exp(log_A), max(alpha, 1e-3), beta])
        return np.array(points)

    def predict(self, D: Any) -> Any:
        """Predict the score after D tokens of pretraining."""
        return power(np.log(self.A) + self.alpha * np.log(D), self.beta)
