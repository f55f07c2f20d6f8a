"""Find the model size of least loss under a budget, for a loss that is any analytic function of size and tokens.

A budget C pays for D training tokens and for T tokens that are served afterwards: C = k N D + s N T, where k and s are
FLOPs per parameter and token. Along it the loss has one minimum over ln N, where its slope is zero; slopes are exact
(analysis/solve/jet.py), so that the minimum is found to rounding. All arguments may be arrays that broadcast: one element a
replicate.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from analysis.solve.jet import Jet, variable

Loss = Callable[[Any, Any], Any]  # of (N, D)

HALVINGS = 64  # of a bracket: to rounding
SMALLER = 40.0  # e-foldings below the largest size where the search begins
WIDEST = (0.0, 160.0)  # ln C between which a budget is searched


def bisect(is_above: Callable[[Any], Any], low: Any, high: Any) -> Any:
    """Return the places between `low` and `high` where `is_above` turns from False to True."""
    low, high = np.broadcast_arrays(low, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = is_above(middle)
        low = np.where(above, low, middle)
        high = np.where(above, middle, high)
    return (low + high) / 2


def tokens_left(N: Any, C: Any, k: float, served: float) -> Any:
    """Return the training tokens that a budget C leaves to a model of N parameters; `served`: s T, FLOPs a parameter."""
    return (C / N - served) / k


def slope(loss: Loss, log_N: Any, C: Any, k: float, served: float) -> Any:
    """Return d loss / d ln N along a budget."""
    size = np.exp(log_N)
    N = variable("log_N", size, size, None, second=False)
    found = loss(N, tokens_left(N, C, k, served))
    return found.slopes["log_N"] if isinstance(found, Jet) else np.zeros(np.shape(found))


def within_budget(
    loss: Loss,
    largest: Any,
    C: Any,
    k: float,
    served: float = 0.0,
    reach: float = SMALLER,
) -> tuple[Any, Any]:
    """Return (N, D) of least loss for a budget C. NaN where there is no minimum.

    largest, reach: it is looked for from that size down, over so many e-foldings.
    """
    with np.errstate(all="ignore"):
        high = np.log(np.minimum(largest, C / served) if served else largest)
        low = high - reach
        log_N = bisect(lambda at: slope(loss, at, C, k, served) > 0, low, high)
        N = np.exp(log_N)
        is_inside = (log_N > low + 1e-6) & ((log_N < high - 1e-6) | (served > 0))
        N = np.where(is_inside, N, np.nan)
        return N, tokens_left(N, C, k, served)


def budget_for(best: Callable[[Any], tuple[Any, Any]], loss: Loss, asked: Any) -> Any:
    """Return the least budget whose best (N, D) reach the loss `asked`; NaN where none does.

    best: (N, D) of least loss, as a function of the budget.
    """

    def is_enough(log_C: Any) -> Any:
        return loss(*best(np.exp(log_C))) <= asked

    with np.errstate(all="ignore"):
        least, most = WIDEST
        shape = np.shape(loss(*best(np.exp(most))))
        log_C = bisect(is_enough, np.full(shape, least), np.full(shape, most))
        is_inside = (log_C > least + 1e-6) & (log_C < most - 1e-6)
        return np.where(is_inside, np.exp(log_C), np.nan)
