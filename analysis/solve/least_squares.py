"""Solve the small linear least-squares problems that remain when the exponents of a law are given."""

from collections.abc import Iterator
import itertools

import numpy as np

RIDGE = 1e-12  # of the diagonal: keeps proportional columns solvable
LEAST_RIDGE = 1e-290  # where the diagonal itself is zero


def non_negative(
    basis: np.ndarray,
    weight: np.ndarray,
    goal: np.ndarray | None = None,
    positive: np.ndarray | None = None,
) -> np.ndarray:
    """Minimise the weighted squares of basis @ c - goal, with c >= 0 where `positive`: c [g, k].

    basis [g, r, k], weight and goal [g, r]; goal is 1 and all coefficients are positive unless given. Every set of the
    positive terms is tried, since there are few; of the admissible solutions the one that explains most is kept.
    """
    groups, _, terms = basis.shape
    weighted = basis * weight[:, :, None]
    gram = weighted.transpose(0, 2, 1) @ basis
    moment = weighted.sum(axis=1) if goal is None else (weighted * goal[:, :, None]).sum(axis=1)
    is_positive = np.ones(terms, dtype=bool) if positive is None else positive

    most_explained = np.full(groups, -np.inf)
    solution = np.zeros((groups, terms))
    for used in _subsets(is_positive):
        block = gram[:, used[:, None], used]
        part = _solve(block, moment[:, used])
        explained = (part * moment[:, used]).sum(axis=1)
        constrained = part[:, is_positive[used]]
        better = (constrained >= 0).all(axis=1) & (explained > most_explained)
        unused = np.setdiff1d(np.arange(terms), used)
        most_explained[better] = explained[better]
        solution[np.ix_(better, used)] = part[better]
        solution[np.ix_(better, unused)] = 0.0
    return solution


def _subsets(is_positive: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the sets of terms to try, largest first: those of either sign are in every one."""
    always = np.flatnonzero(~is_positive).tolist()
    choice = np.flatnonzero(is_positive).tolist()
    for size in range(len(choice), -1, -1):
        for some in itertools.combinations(choice, size):
            used = np.array(sorted([*always, *some]), dtype=int)
            if len(used):
                yield used


def _solve(gram: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Solve the normal equations gram [g, k, k] @ c = moment [g, k], with a ridge that rounding needs."""
    diagonal = np.einsum("gkk->gk", gram)
    ridge = RIDGE * diagonal[:, :, None] + LEAST_RIDGE
    identity = np.eye(gram.shape[1])
    answer = np.linalg.solve(gram + ridge * identity, moment[:, :, None])
    return answer[:, :, 0]
