"""State how a law is to be fitted."""

from collections.abc import Mapping
import dataclasses
import numbers
from typing import Any

from analysis.laws.base import Law
from analysis.solve.objective import Objective
from experiments.cli import InputError, nearest

RESAMPLE = ("paired", "wild", "residual")
INTERPOLATIONS = ("quadratic", "cubic", "akima")


WHOLE = (numbers.Integral, "a whole number")
NUMBER = (numbers.Real, "a number")
TEXT = (str, "a text")
YES_OR_NO = (bool, "True or False")
# What the choices of a fit are, for those who make them in Python.
KINDS: dict[str, tuple[Any, str]] = {
    "objective": (Objective | None, "an analysis.solve.objective.Objective, such as Objective('huber', 'log', 1e-3)"),
    "bootstrap": WHOLE,
    "level": NUMBER,
    "seed": WHOLE,
    "interpolation": TEXT,
    "weighted": YES_OR_NO,
    "starts": WHOLE,
    "resample": TEXT,
    "thorough": YES_OR_NO,
    "judge": YES_OR_NO,
    "near_optimum": TEXT,
    "fixed": (Mapping, "coefficients by name, such as {'E': 1.69}"),
}


@dataclasses.dataclass(frozen=True)
class FitSpec:
    """Hold every choice of a fit.

    bootstrap: replicates (0: none). level: of the intervals. seed: of the resampling; the stream is that of
    numpy's RandomState, so that seed 42 on 240 rows resamples as Besiroglu et al. 2024 did. starts: refined starts.
    interpolation, weighted: of IsoFLOP curves, and whether sure minima count more. resample: what a replicate is, see
    analysis.trust.bootstrap.refits. thorough: profiles and the jackknife too, which a fit on the way to something else
    does without. judge: explore the likelihood region, which the verdict rests on; such a fit does without that, too.
    """

    objective: Objective | None = None  # the law's own where None
    bootstrap: int = 1000
    level: float = 0.9
    seed: int = 42
    interpolation: str = "quadratic"
    weighted: bool = False
    starts: int = 128
    resample: str = "paired"
    thorough: bool = True
    judge: bool = True
    near_optimum: str = "0.0025"  # which runs of a cell are optima, see analysis.procedures.lr_batch.choice_of
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)  # coefficients that are not fitted

    def for_law(self, law: type[Law]) -> "FitSpec":
        """Return the same with the law's own objective where none is given."""
        if self.objective is not None:
            return self
        return dataclasses.replace(self, objective=law.OBJECTIVE)

    @property
    def settled_objective(self) -> Objective:
        """The objective, which `for_law` has settled before anything is fitted."""
        assert self.objective is not None, "FitSpec.for_law comes before a fit"
        return self.objective

    def __post_init__(self) -> None:
        for name, (kind, expected) in KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise InputError(f"{name}={value!r}: expected {expected}")
        if self.starts < 1:
            raise InputError(f"starts={self.starts}: expected at least 1")
        if self.interpolation not in INTERPOLATIONS:
            hint = nearest(self.interpolation, INTERPOLATIONS, "choice")
            raise InputError(f"--interpolation: {self.interpolation!r} is not an interpolation; {hint}")
        if self.resample not in RESAMPLE:
            hint = nearest(self.resample, RESAMPLE, "choice")
            raise InputError(f"--resample: {self.resample!r} is not a bootstrap; {hint}")
        if not 0 < self.level < 1:
            raise InputError(f"--level: {self.level} is not between 0 and 1")
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise InputError(f"--bootstrap: {self.bootstrap} is not 0 (no intervals) or at least 2 replicates")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed: {self.seed} is not between 0 and 2^32 - 1")
