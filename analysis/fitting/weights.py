"""Say how much each row of a grid counts in a fit."""

import numpy as np

from analysis.grid.table import Columns

SHARES = {"accuracy", "error", "pass_rate"}  # targets that are shares of questions


def row_weights(columns: Columns, target: str) -> np.ndarray:
    """Return the weights of the rows in a fit of `target`, with mean 1.

    The role `weight`, else the inverse of the binomial variance of a share of so many `questions`, else all alike.
    """
    if "weight" in columns:
        weight = columns["weight"]
    elif "questions" in columns and target in SHARES:
        weight = 1 / binomial_variance(columns[target], columns["questions"])
    else:
        return np.ones(len(columns))
    return weight / weight.mean()


def binomial_variance(share: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """Return the variance of a share of questions [rows], with one success and one failure added (Agresti & Coull 1998).

    So that a share of 0 or 1 is not taken for certain.
    """
    centre = with_one_of_each(share, questions)
    of_one = centre * (1 - centre)
    return of_one / (questions + 2)


def with_one_of_each(share: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """Return a share of questions [rows] with one success and one failure more, which is never 0 or 1."""
    successes = np.clip(share, 0.0, 1.0) * questions
    return (successes + 1) / (questions + 2)
