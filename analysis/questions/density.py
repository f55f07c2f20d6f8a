"""How many reference parameters is a model worth? See analysis/laws/density.py."""

from collections.abc import Mapping
import dataclasses
import itertools
from typing import Any

import numpy as np

from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.fitting.weights import binomial_variance, with_one_of_each
from analysis.grid.table import Columns
from analysis.laws.density import Density
from analysis.procedures.density import fit_density
from analysis.writing.numbers import human, number

LOSSES = ("N", "D", "task_loss")
SCORES = ("task_loss", "accuracy", "N")
OPTIONAL = ("questions",)
BOUND = 1.645  # standard errors: what lies above is so high in one of twenty samples of questions
MOST_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Answer:
    """The measure, the fits it is made of, and each row's score, size, effective size and density.

    at_most: the effective size that a row without one has at most; nan for all others, and where `questions` are unknown.
    """

    measure: Density
    fits: Mapping[str, FitResult]
    row: np.ndarray  # in the file
    accuracy: np.ndarray
    N: np.ndarray
    effective: np.ndarray
    at_most: np.ndarray

    @property
    def density(self) -> np.ndarray:
        """Return effective over actual parameters."""
        return self.effective / self.N


def ask(losses: Columns, scores: Columns, tokens: float | None = None, guess: float | None = None) -> Answer:
    """Measure every row of `scores` (task_loss, accuracy, N) by the reference models of `losses` (N, D, task_loss)."""
    compared = float(losses["D"].max()) if tokens is None else tokens
    fixed = {} if guess is None else {"b": guess}
    measure, fits = fit_density(losses, scores, FitSpec(bootstrap=0), compared, fixed)
    effective = measure.effective_size(scores["accuracy"])
    accuracy = scores["accuracy"]
    effective = np.asarray(effective)
    at_most = _bound(measure, scores, effective)
    return Answer(measure, fits, scores.row, accuracy, scores["N"], effective, at_most)


def _bound(measure: Density, scores: Columns, effective: np.ndarray) -> np.ndarray:
    """Return the effective size of the highest score that the questions leave possible, for rows that have none."""
    nothing = np.full(len(effective), np.nan)
    if "questions" not in scores:
        return nothing
    questions = scores["questions"]
    centre = with_one_of_each(scores["accuracy"], questions)
    highest = centre + BOUND * np.sqrt(binomial_variance(scores["accuracy"], questions))
    is_low = np.isnan(effective) & (scores["accuracy"] <= measure.accuracy.b)
    return np.where(is_low, measure.effective_size(highest), nothing)


def lines(answer: Answer) -> list[str]:
    """Return the answer for people."""
    told = [f"reference models of {human(answer.measure.tokens)} tokens"]
    for name, fit in answer.fits.items():
        words = []
        for key, value in fit.law.coefficients().items():
            words.append(f"{key} {number(value)}")
        coefficients = ", ".join(words)
        told.append(f"{name}: {coefficients}")
    density = answer.density
    rows = zip(answer.row, answer.accuracy, answer.N, answer.effective, answer.at_most, strict=True)
    for row, accuracy, size, effective, at_most in itertools.islice(rows, MOST_SHOWN):
        said = f"row {row}: accuracy {number(accuracy)}, {human(size)} parameters"
        if np.isfinite(at_most):
            told.append(f"{said}, worth at most {human(at_most)}: density at most {number(at_most / size, 3)}")
        elif np.isnan(effective):
            told.append(f"{said}: no density")
        else:
            told.append(f"{said}, worth {human(effective)}: density {number(effective / size, 3)}")
    more = len(density) - MOST_SHOWN
    if more > 0:
        told.append(f"and {more} more rows, which --json has")
    unknown = int(np.isnan(density).sum())
    if unknown:
        bounded = int(np.isfinite(answer.at_most).sum())
        told.append(
            f"{unknown} rows have no density: a score that is a guess, or beyond what the reference models reach; "
            f"{bounded} of them a bound from their questions"
        )
    return told


def to_json(answer: Answer) -> dict[str, Any]:
    """Return the answer for JSON."""
    fits = {name: fit.law.coefficients() for name, fit in answer.fits.items()}
    return {
        "tokens": answer.measure.tokens,
        "fits": fits,
        "rows": answer.row.tolist(),
        "accuracy": answer.accuracy.tolist(),
        "N": answer.N.tolist(),
        "effective_N": answer.effective.tolist(),
        "density": answer.density.tolist(),
        "density_at_most": (answer.at_most / answer.N).tolist(),
    }
