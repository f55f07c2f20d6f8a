"""Solve the small linear least-squares problems that remain when the exponents of a law are given."""

import itertools

import numpy as np

from analysis.solve.starting import slices

RIDGE = 1e-12  # of the diagonal: keeps proportional columns solvable
LEAST_RIDGE = 1e-290  # where the diagonal itself is zero
AT_ONCE = 1_000_000  # numbers in the systems that are solved together


def non_negative(
    basis: np.ndarray,
    weight: np.ndarray,
    goal: np.ndarray | None = None,
    positive: np.ndarray | None = None,
) -> np.ndarray:
    """Minimise the weighted squares of basis^T c - goal, with c >= 0 where `positive`: c [g, k].

    basis [g, k, r], weight and goal [g, r]; goal is 1 and all coefficients are positive unless given. Every set of the
    positive terms is tried, since there are few; of the admissible solutions the one that explains most is kept.
    """
    terms = basis.shape[1]
    weighted = basis * weight[:, None]
    gram = weighted @ basis.transpose(0, 2, 1)
    moment = weighted.sum(axis=2) if goal is None else (weighted @ goal[:, :, None])[:, :, 0]
    is_positive = np.ones(terms, dtype=bool) if positive is None else positive

    # Most often nothing is held at zero, and then no set of fewer terms explains more.
    solution = _solve(gram, moment)
    held = ~(solution[:, is_positive] >= 0).all(axis=1)
    if held.any():
        solution[held] = _best_subset(gram[held], moment[held], is_positive)
    return solution


def _best_subset(gram: np.ndarray, moment: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
    """Return the solution [g, k] of the normal equations that explains most, of those without a forbidden sign.

    Where every one has a forbidden sign, it is zero.
    """
    groups, terms = moment.shape
    identity = np.eye(terms)
    most_explained = np.full(groups, -np.inf)
    solution = np.zeros((groups, terms))
    used = _subsets(is_positive)
    for some in slices(len(used), max(1, AT_ONCE // gram.size)):
        # A term that is not used has an equation of its own, which says that it is zero.
        is_used = used[some, None]
        both_used = is_used[..., None] & is_used[..., None, :]
        systems = np.where(both_used, gram, identity)
        parts = _solve(systems, np.where(is_used, moment, 0.0))
        explained = (parts * moment).sum(axis=2)
        is_admissible = (parts[..., is_positive] >= 0).all(axis=2)
        explained = np.where(is_admissible, explained, -np.inf)
        best = explained.argmax(axis=0)
        each = np.arange(groups)
        is_better = explained[best, each] > most_explained
        most_explained[is_better] = explained[best, each][is_better]
        solution[is_better] = parts[best, each][is_better]
    return solution


def _subsets(is_positive: np.ndarray) -> np.ndarray:
    """Return which terms are used in each set to try [sets, k]: not all at once, and those of either sign in every one."""
    choices = [(True, False) if positive else (True,) for positive in is_positive]
    sets = np.array(list(itertools.product(*choices)))
    return sets[1:]


def _solve(gram: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Solve the normal equations gram [..., k, k] @ c = moment [..., k], with a ridge that rounding needs."""
    terms = np.arange(gram.shape[-1])
    ridged = gram.copy()
    ridged[..., terms, terms] *= 1 + RIDGE
    ridged[..., terms, terms] += LEAST_RIDGE
    answer = np.linalg.solve(ridged, moment[..., None])
    return answer[..., 0]
