"""Whether to believe a fit: what the grid does not determine, and what a reader should be warned of."""

from collections.abc import Mapping
import math

import numpy as np

from analysis.laws.base import SumLaw
from analysis.result import Interval
from analysis.solver import Problem
from analysis.table import Columns

# An interval wider than this factor (high/low) means that the grid does not determine the number. Prefactors are
# extrapolations to N = 1 and always wide, so they count as determined when their exponent is.
WIDEST_EXPONENT = 4.0
WIDEST_CONSTANT = 2.5
RANK_TOLERANCE = 1e-6
FEW_ROWS = 5  # per coefficient; below, bootstrap intervals are known to cover too little


def weak_directions(problem: Problem, theta: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Parameters [p] (booleans) that the rows leave undetermined to first order, and the condition of the rest.

    The Jacobian is taken with centred exponents and compared term by term, so that a column of zeros (one N only) and
    two proportional columns (a term that is constant) both show.
    """
    logs = problem.log_terms(theta[None])[:, 0]
    shares = np.exp(logs - logs.max(axis=0))
    shares /= shares.sum(axis=0)
    columns, sizes = [], []
    root = np.sqrt(weight)
    for k in range(problem.terms):
        columns.append(shares[k] * root)
        sizes.append(np.linalg.norm(columns[-1]))
    for e in range(problem.slopes.shape[2]):
        columns.append((shares * problem.slopes[:, :, e]).sum(axis=0) * root)
        used = np.abs(problem.centre[:, e]) > 0
        sizes.append(np.linalg.norm(shares[used].sum(axis=0) * root))
    jacobian = np.array(columns).T / np.maximum(np.array(sizes), 1e-300)
    _, values, vectors = np.linalg.svd(jacobian, full_matrices=False)
    weak = values <= RANK_TOLERANCE * values[0]
    involved = (np.abs(vectors[weak]) > 0.05).any(axis=0) if weak.any() else np.zeros(problem.size, bool)
    strong = values[~weak]
    return involved, float(strong[0] / strong[-1])


def not_identified(
    law: SumLaw, weak: np.ndarray, vanished: np.ndarray, intervals: Mapping[str, Interval]
) -> dict[str, str]:
    """Coefficient -> why the grid does not determine it."""
    names = [*law.prefactors(), *law.exponents()]
    reasons = {
        name: "the rows do not separate it from other coefficients" for name, w in zip(names, weak, strict=True) if w
    }
    for term, gone in zip(law.TERMS, vanished, strict=True):
        if gone:
            reasons |= {name: f"the term {term.prefactor} is zero at the optimum" for _, _, name in term.powers}
    for name in law.exponents():
        interval = intervals.get(name)
        if name in reasons or interval is None:
            continue
        if interval.low <= 1e-6 or interval.high > WIDEST_EXPONENT * interval.low:
            reasons[name] = f"its {interval.level:.0%} interval is {interval.low:.3g} to {interval.high:.3g}"
    for term in law.TERMS:
        lost = [name for _, _, name in term.powers if name in reasons]
        if lost and term.prefactor not in reasons:
            reasons[term.prefactor] = f"{', '.join(lost)} is not identified"
        interval = intervals.get(term.prefactor)
        if not term.powers and interval is not None and term.prefactor not in reasons:
            scale = float(getattr(law, term.prefactor))
            if scale > 0 and interval.high > WIDEST_CONSTANT * max(interval.low, 0.0) and interval.se > 1e-6 * scale:
                reasons[term.prefactor] = (
                    f"its {interval.level:.0%} interval is {interval.low:.3g} to {interval.high:.3g}"
                )
    return {name: reasons[name] for name in law.names() if name in reasons}


def warnings(columns: Columns, coefficients: int, agreeing: float, log_residual: np.ndarray) -> tuple[str, ...]:
    """What a reader should know before using the numbers."""
    found = []
    rows = len(columns)
    if rows == coefficients:
        found.append(
            f"{rows} rows for {coefficients} coefficients: the law goes through every row and nothing checks it"
        )
    elif rows < FEW_ROWS * coefficients:
        found.append(f"{rows} rows for {coefficients} coefficients: bootstrap intervals are too narrow on so few")
    if agreeing < 0.05:
        found.append(f"only {agreeing:.1%} of the starts ended at the best optimum")
    keys = np.array([columns[role] for role in ("N", "D", "loss") if role in columns])
    repeated = rows - np.unique(keys, axis=1).shape[1]
    if repeated:
        found.append(f"{repeated} rows repeat another row exactly; repeated rows count twice and narrow the intervals")
    spread = 1.4826 * np.median(np.abs(log_residual - np.median(log_residual)))
    far = int((np.abs(log_residual) > 8 * spread).sum()) if spread > 1e-9 else 0
    if far:
        found.append(f"{far} of {rows} rows lie more than 8 robust standard deviations from the law")
    for role, what in (("N", "parameters"), ("D", "tokens")):
        if role not in columns:
            continue
        span = math.log10(columns[role].max() / columns[role].min())
        if span < 1:
            found.append(f"{what} span a factor of {10**span:.3g} only; the exponent rests on less than a decade")
    return tuple(found)
