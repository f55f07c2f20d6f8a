"""Say what a comparison of families knows: each family's law and refits, and whether they may share coefficients.

How families are fitted is the affair of families.py and joint_fit.py, what one's compute is worth that of exchange.py.
"""

from collections.abc import Mapping
import dataclasses
import operator

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.base import Array, FormulaLaw, Law
from analysis.trust.interval import Interval
from analysis.trust.verdict import Judged, Quantity, Verdict


@dataclasses.dataclass(frozen=True)
class Family:
    """A family's law and its replicates: those of one number, in two families, are fits to one resampled grid.

    draws [replicates, coefficients]; C: the range of training FLOPs of its runs; verdict: what its rows tell, with those
    of the others where coefficients are shared. Regions of a joint fit have their points in common. None: not judged.
    """

    name: str
    law: FormulaLaw
    draws: Array
    C: tuple[float, float]
    rows: int
    flops_per_param_token: float = 6.0
    not_identified: Mapping[str, str] = dataclasses.field(default_factory=dict)
    verdict: Verdict | None = None

    def loss(self, C: Array | float) -> Array:
        """Return the loss at C training FLOPs, allocated as is best for this family where the law says how."""
        at = {input_of(type(self.law)): C}
        return np.asarray(self.law.target_at(at, self.flops_per_param_token))

    def losses(self, C: Array | float) -> Array:
        """Return the loss of every replicate [replicates, points], for C [points] or [replicates, points]."""
        C = np.atleast_1d(np.asarray(C, dtype=np.float64))
        replicates = type(self.law)(*self.draws.T[:, :, None])
        at = {input_of(type(self.law)): C}
        with np.errstate(all="ignore"):
            return np.asarray(replicates.target_at(at, self.flops_per_param_token))

    def intervals(self, level: float) -> dict[str, Interval]:
        """Return the intervals of the coefficients that have one."""
        found = {}
        for name in self.law.names():
            if name in self.withheld:
                continue
            interval = self.judged(operator.attrgetter(name), level).interval
            if interval is not None:
                found[name] = interval
        return found

    @property
    def withheld(self) -> Mapping[str, str]:
        """The coefficients that the rows do not tell, with the reason."""
        return {} if self.verdict is None else self.verdict.withheld

    def values(self) -> dict[str, float | None]:
        """Return the coefficients; None for those that the rows do not tell."""
        found: dict[str, float | None] = {}
        for name, value in self.law.coefficients().items():
            found[name] = None if name in self.withheld else value
        return found

    def judged(self, quantity: Quantity, level: float, is_derived: bool = False) -> Judged:
        """Build the interval of a function of the law as the verdict lets it be printed, or say why it does not."""
        stacked = type(self.law).stack(self.draws)
        with np.errstate(all="ignore"):
            draws = np.asarray(quantity(stacked), dtype=np.float64)
        interval = Interval.of(draws, level)
        if self.verdict is None:
            return Judged(interval)
        return self.verdict.judge(quantity, self.law, interval, is_derived)

    def why_no_loss(self, C: float, level: float) -> str:
        """Say why the loss at C training FLOPs is not known; empty where it is.

        The loss of an allocation needs all that the allocation needs.
        """
        at = {input_of(type(self.law)): C}
        factor = self.flops_per_param_token
        needs_optimum = bool(self.law.derived(at, factor))
        return self.judged(lambda law: law.target_at(at, factor), level, needs_optimum).why


@dataclasses.dataclass(frozen=True)
class Sharing:
    """Least squares with shared coefficients against a law for each family: is sharing justified?

    statistic: 2 ln of the likelihood ratio, on `freedom` coefficients; p_value from its F distribution, which holds on
    few rows. aicc: shared minus own; negative speaks for sharing.
    """

    statistic: float
    freedom: int
    p_value: float
    aicc: float | None
    justified: bool


@dataclasses.dataclass(frozen=True)
class Families:
    """Families by name, what they share, and the test of it (None where it cannot be made; see notes)."""

    families: dict[str, Family]
    shared: tuple[str, ...]
    sharing: Sharing | None
    objective: float
    gradient: float
    notes: tuple[str, ...] = ()
    agreeing: float | None = None  # share of the starts of a joint fit that end at its optimum


def input_of(law: type[Law]) -> str:
    """Return what a law calls compute: C, or X for a law of any one quantity."""
    return "C" if ("C",) in law.INPUTS else "X"


def split(columns: Columns) -> dict[str, Columns]:
    """Return the rows of each family, by name."""
    label = columns["family"].astype(str)
    return {str(name): columns.take(label == name) for name in np.unique(label)}
