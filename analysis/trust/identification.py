"""Tell which coefficients the rows of a grid do not determine."""

from collections.abc import Mapping, Set
import math

import numpy as np

from analysis.laws.base import FormulaLaw, SumLaw, Term
from analysis.solve.problem import Problem
from analysis.trust.interval import Interval

# An interval wider than this factor (high/low) means that the grid does not determine the number. Prefactors are
# extrapolations to N = 1 and always wide, so they count as determined when their exponent is.
WIDEST_EXPONENT = 4.0
WIDEST_CONSTANT = 2.5
RANK_TOLERANCE = 1e-6
RIVALLED = "other values fit as well"
INVOLVED = 0.05  # share of a weak direction that makes a parameter a part of it


def weak_directions(problem: Problem, theta: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the parameters [p] (booleans) that the rows leave open to first order, and the condition of the rest.

    A column of zeros (one N only) and proportional columns (a term that is constant) both show.
    """
    sensitivity = problem.sensitivity(theta, weight)
    _, values, vectors = np.linalg.svd(sensitivity, full_matrices=False)
    is_weak = values <= RANK_TOLERANCE * values[0]
    involved = np.zeros(problem.size, dtype=bool)
    for vector in vectors[is_weak]:
        involved |= np.abs(vector) > INVOLVED
    strong = values[~is_weak]
    if not len(strong):  # nothing that is fitted changes what the law says of any row
        return np.ones(problem.size, dtype=bool), math.inf
    return involved, float(strong[0] / strong[-1])


def not_identified(
    law: FormulaLaw,
    weak: Set[str],
    rivalled: Mapping[str, str],
    vanished: Set[str],
    intervals: Mapping[str, Interval],
) -> dict[str, str]:
    """Return coefficient -> why the grid does not determine it, in the law's order.

    weak and vanished: names; rivalled: of those for which other values fit as well, why.
    """
    reasons = {**rivalled, **dict.fromkeys(weak, "the rows do not separate it from other coefficients")}
    terms = law.TERMS if isinstance(law, SumLaw) else ()
    for term in terms:
        if term.prefactor in vanished:
            why = f"the term {term.prefactor} is zero at the optimum"
            reasons |= dict.fromkeys(_exponents(term), why)
    for name, known in law.COEFFICIENTS.items():
        interval = intervals.get(name)
        has_sign = (
            not known.log and known.low >= 0
        )  # of a coefficient of either sign, an interval around zero is an answer
        if has_sign and name not in reasons and interval is not None and _is_wide(interval):
            reasons[name] = _width(interval)
    for term in terms:
        if term.prefactor not in reasons:
            why = _why_prefactor_is_lost(law, term, reasons, intervals.get(term.prefactor))
            if why:
                reasons[term.prefactor] = why
    return {name: reasons[name] for name in law.names() if name in reasons}


def _exponents(term: Term) -> list[str]:
    return [name for _, _, name in term.powers]


def _is_wide(interval: Interval) -> bool:
    """Whether an interval of an exponent leaves its size or its sign open."""
    smaller, larger = sorted((abs(interval.low), abs(interval.high)))
    has_zero = interval.low * interval.high <= 0
    return has_zero or smaller <= 1e-6 or larger > WIDEST_EXPONENT * smaller


def _width(interval: Interval) -> str:
    return f"its {interval.level:.0%} interval is {interval.low:.3g} to {interval.high:.3g}"


def _why_prefactor_is_lost(law: FormulaLaw, term: Term, lost: Mapping[str, str], interval: Interval | None) -> str:
    """Say why a prefactor is open: its exponent is, or, of a constant, its own interval is wide; empty where it is not."""
    lost_exponents = [name for name in _exponents(term) if name in lost]
    if lost_exponents:
        return f"{', '.join(lost_exponents)} is not identified"
    if term.powers or interval is None:
        return ""
    size = float(getattr(law, term.prefactor))
    is_wide = interval.high > WIDEST_CONSTANT * max(interval.low, 0.0)
    is_uncertain = interval.se > 1e-6 * size
    return _width(interval) if size > 0 and is_wide and is_uncertain else ""
