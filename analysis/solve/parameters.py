"""Say which coefficients of a formula are searched, and how: as logarithms or as they are, shared or one a copy."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from analysis.laws.base import Coefficient, FormulaLaw
from analysis.solve.problem import worked_out_once

VANISHED = 1e-120  # a positive coefficient that is zero
LOG_LIMIT = 3.0  # longest step of a logarithm
PLAIN_LIMIT = 0.5  # longest step of another parameter, over its scale


@dataclasses.dataclass(frozen=True, kw_only=True)
class LawParameters:
    """Translate between the free parameters of a law and its coefficients.

    Parameters are logarithms of positive coefficients and the others as they are; `fixed` coefficients keep their value.
    `shared` makes one law of several: `member` [r] says to which copy a row belongs, and coefficients that are not
    shared have one value a copy. Axes: batch b, rows r, free parameters p, coefficients k (free and fixed).
    """

    law: type[FormulaLaw]
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    member: np.ndarray | None = None
    shared: tuple[str, ...] = ()

    @worked_out_once
    def parameters(self) -> tuple[tuple[str, int | None], ...]:
        """(coefficient, copy) of each free parameter; copy is None where all rows share it."""
        copies: list[int] = []
        if self.member is not None:
            copies = list(range(int(self.member.max()) + 1))
        found: list[tuple[str, int | None]] = []
        for name in self.law.names():
            if name in self.fixed:
                continue
            if copies and name not in self.shared:
                found += [(name, copy) for copy in copies]
            else:
                found.append((name, None))
        return tuple(found)

    @worked_out_once
    def names(self) -> tuple[str, ...]:
        """Coefficients of the free parameters."""
        return tuple(name for name, _ in self.parameters)

    @worked_out_once
    def known(self) -> list[Coefficient]:
        """What is known of each free parameter before any data."""
        return [self.law.COEFFICIENTS[name] for name in self.names]

    @worked_out_once
    def size(self) -> int:
        """Number of free parameters."""
        return len(self.parameters)

    @worked_out_once
    def logs(self) -> np.ndarray:
        """Which parameters are logarithms [p]."""
        return np.array([coefficient.log for coefficient in self.known])

    @worked_out_once
    def scale(self) -> np.ndarray:
        """A typical size of each parameter [p]: its scale or largest start; 1 for logarithms and where there is none."""
        largest = []
        for coefficient in self.known:
            sizes = [abs(start) for start in coefficient.start]
            largest.append(coefficient.scale or max(sizes, default=0.0))
        sizes = np.array(largest)
        has_none = self.logs | (sizes <= 0)
        return np.where(has_none, 1.0, sizes)

    @worked_out_once
    def limit(self) -> np.ndarray:
        """Longest step [p]."""
        plain_limit = PLAIN_LIMIT * self.scale
        return np.where(self.logs, LOG_LIMIT, plain_limit)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest parameters [p]."""
        low = np.array([coefficient.low for coefficient in self.known], dtype=np.float64)
        high = np.array([coefficient.high for coefficient in self.known], dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_low = np.log(np.maximum(low, VANISHED))
            log_high = np.log(np.maximum(high, 1e-300))
        lowest = np.where(self.logs, log_low, low)
        highest = np.where(self.logs, log_high, high)
        return lowest, highest

    def values(self, theta: np.ndarray) -> np.ndarray:
        """Return free coefficients [b, p] from parameters."""
        with np.errstate(over="ignore", invalid="ignore"):
            only_logs = np.where(self.logs, theta, 0)  # exp of the others may overflow
            positive = np.exp(only_logs)
        return np.where(self.logs, positive, theta)

    def of_copy(self, values: np.ndarray, copy: int | None = None) -> np.ndarray:
        """Return all coefficients [b, k] of one copy of the law, in its order."""
        columns = [self._one(values, name, copy) for name in self.law.names()]
        return np.stack(columns, axis=1)

    def coefficients(self, theta: np.ndarray, copy: int = 0) -> np.ndarray:
        """Return coefficients [b, k]; those of one copy, where there are several."""
        has_vanished = self.logs & (theta <= np.log(VANISHED))
        values = np.where(has_vanished, 0.0, self.values(theta))
        return self.of_copy(values, None if self.member is None else copy)

    def by_row(self, values: np.ndarray, name: str) -> np.ndarray:
        """Return one coefficient [b, 1], or [b, r] where copies of the law differ in it."""
        if self.member is None or name in self.fixed or self._is_common(name):
            column = self._one(values, name, None)
            return column[:, None]
        first = self.parameters.index((name, 0))
        return values[:, first + self.member]

    def _is_common(self, name: str) -> bool:
        """Say whether all rows have one value of a coefficient."""
        return (name, None) in self.parameters

    def _one(self, values: np.ndarray, name: str, copy: int | None) -> np.ndarray:
        """Return one coefficient of one copy [b]."""
        if name in self.fixed:
            return np.full(len(values), self.fixed[name])
        if self._is_common(name):
            copy = None
        at = self.parameters.index((name, copy))
        return values[:, at]
