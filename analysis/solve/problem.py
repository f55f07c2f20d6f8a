"""Say what a minimiser asks of a least-squares problem: the one interface between laws and Newton's steps.

Axes: batch b (starts or bootstrap replicates), rows r, free parameters p, coefficients k of the law. A problem chooses
its own parameters (logarithms of prefactors, for example); `coefficients` translates them. Laws know no problem but
their own, and analysis/solve/newton.py knows no law.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, Protocol

import numpy as np

# Worked out once, when it is asked for. To a type checker it is a property, which is what `Problem` asks for.
if TYPE_CHECKING:
    worked_out_once = property
else:
    worked_out_once = functools.cached_property


@dataclasses.dataclass(frozen=True)
class Local:
    """Hold the objective around [b] points: its value, slope, curvature, and the metric of reweighted least squares."""

    value: np.ndarray  # [b]
    gradient: np.ndarray  # [b, p]
    gradient_size: np.ndarray  # [b, p] the same sum with absolute summands, to judge how far it cancels
    curvature: np.ndarray  # [b, p, p]
    metric: np.ndarray  # [b, p, p]

    def updated(self, other: "Local", rows: np.ndarray, keep: np.ndarray) -> "Local":
        """Take `rows` [booleans] from another expansion of the same points, then only those in `keep`."""
        merged = {}
        for field in dataclasses.fields(self):
            mine = getattr(self, field.name)
            new = getattr(other, field.name)
            taken = rows.reshape(-1, *[1] * (mine.ndim - 1))
            merged[field.name] = np.where(taken, new, mine)[keep]
        return Local(**merged)


class Problem(Protocol):
    """Rows of one fit, as a function of parameters. Implementations are frozen dataclasses.

    SumProblem (a sum of monomials), ExponentialProblem (the mixing law) and FormulaProblem (any formula) are such.
    """

    @property
    def target(self) -> np.ndarray:
        """Observed values [r] or [b, r], their logarithms unless residuals are raw."""
        ...

    @property
    def above(self) -> np.ndarray | float | None:
        """How much rows above the law count, see Objective.shares."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Coefficient that each parameter stands for [p]."""
        ...

    @property
    def size(self) -> int:
        """Number of free parameters."""
        ...

    @property
    def logs(self) -> np.ndarray:
        """Which parameters are logarithms [p]."""
        ...

    @property
    def limit(self) -> np.ndarray:
        """Longest step of each parameter [p]."""
        ...

    @property
    def unit(self) -> float:
        """A typical size of what residuals are differences of."""
        ...

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and the highest parameters [p]."""
        ...

    def starts(self, weight: np.ndarray, keep: int) -> np.ndarray:
        """Return at most `keep` points [starts, p] to search from, for rows of these weights [r]."""
        ...

    def approach(
        self, theta: np.ndarray, weight: np.ndarray, delta: float, steps: int, rows: int | None = None
    ) -> np.ndarray:
        """Bring points [b, p] nearer to minima of a Huber loss, where that is quicker than by Newton's steps for all parameters.

        rows: so many rows are looked at, all unless given. The same points where no quicker way is known.
        """
        ...

    def coefficients(self, theta: np.ndarray) -> np.ndarray:
        """Translate parameters [b, p] into the law's coefficients [b, k], in its order and units."""
        ...

    def predicted(self, theta: np.ndarray) -> np.ndarray:
        """Predict what `target` holds [b, r]."""
        ...

    def residuals(self, theta: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
        """Return predicted minus observed [b, r]."""
        ...

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """Return the slopes of the residuals [b, p, r]."""
        ...

    def expand(self, theta: np.ndarray, weight: np.ndarray, target: np.ndarray, delta: float) -> Local:
        """Expand sum_r weight * huber_delta(residual) to second order around [b] points."""
        ...

    def complexity(self, theta: np.ndarray) -> np.ndarray:
        """Say which of equal fits to prefer [b]: the least."""
        ...

    def small_terms(self, theta: np.ndarray) -> np.ndarray:
        """Return the parameters of [p] whose term is a small part of every row and may tend to zero."""
        ...

    def sensitivity(self, theta: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return weighted slopes [r, p], each over the size that it would have alone, so that a zero column shows."""
        ...

    def with_target(self, target: np.ndarray) -> "Problem":
        """Return the same rows with other observations [r] or [b, r], as a bootstrap makes them."""
        ...

    def in_units(self, theta: np.ndarray, at: int) -> tuple["Problem", np.ndarray]:
        """Return problem and parameters [p] in which parameter `at` is its coefficient, or the logarithm of it."""
        ...
