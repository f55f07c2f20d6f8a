"""Say when growing a trained model pays: when to grow it, by how much, and how much compute that saves.

The published constants of the timing rule stand where studies use them, in sweeps/study/rules.py (stacking_tokens); here are
the forms that fit one's own runs. How rows for them come from runs is analysis/procedures/growth.py's.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import Coefficient, FormulaLaw, Number, free, prefactor
from analysis.solve.objective import Objective

SOURCE = "Du et al. 2024 (G_stack; arXiv 2405.15319)"
DECADE = float(np.log(10))


@dataclasses.dataclass(frozen=True)
class StackTiming(FormulaLaw):
    """log10 d = a log10 N + b / log10 C + c: tokens d of the small model after which growing it into N parameters is best.

    C: training FLOPs of the whole target run, 6 N D. Note that b is divided by log10 C. Fitted by its source on 410M to 3B
    parameters at a growth factor of 4, and meant for that range.
    """

    a: Number
    b: Number
    c: Number

    NAME: ClassVar[str] = "stack_timing"
    FORMULA: ClassVar[str] = "log10 d = a log10 N + b/log10 C + c"
    SOURCE: ClassVar[str] = f"{SOURCE}, equation 2"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "C", "growth_tokens")
    OPTIONAL: ClassVar[tuple[str, ...]] = ("loss",)  # of runs that try several values, of which the best is fitted
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "growth_tokens": Role(
            "tokens of the small model before it is grown", ("growth_tokens", "tokens_before_growth")
        ),
    }
    TARGET: ClassVar[str] = "growth_tokens"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "a": free(0.0, 0.5, 1.0),
        "b": free(-100.0, 0.0, 150.0, 300.0),
        "c": free(-10.0, 0.0, 10.0),
    }

    def predict(self, N: Any, C: Any) -> Any:
        """Predict TARGET for a target model of N parameters that trains with C FLOPs."""
        return np.exp(DECADE * (self.a * np.log10(N) + self.b / np.log10(C) + self.c))


@dataclasses.dataclass(frozen=True)
class StackFactor(StackTiming):
    """log10 g = a log10 N + b / log10 C + c: the growth factor g that is best for N parameters and C FLOPs.

    g is the ratio of parameters without embeddings. Its source finds the best g between 2 and 4 and uses 4.
    """

    NAME: ClassVar[str] = "stack_factor"
    FORMULA: ClassVar[str] = "log10 g = a log10 N + b/log10 C + c"
    SOURCE: ClassVar[str] = f"{SOURCE}; the form of its equation 2"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "C", "growth_factor")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "growth_factor": Role("parameters after growth over those before", ("growth_factor",)),
    }
    TARGET: ClassVar[str] = "growth_factor"


@dataclasses.dataclass(frozen=True)
class GrowthSpeedup(FormulaLaw):
    """FLOPs_scratch / FLOPs_grown - 1 = (C/C_even)^-p at equal loss, minus 1, for grown runs that cost C FLOPs.

    C counts the trunk (the column flops_lineage). p > 0: what growing saves fades as runs get longer, and is gone at
    C_even, the break-even point; p < 0: the trunk has paid for itself from C_even on. With p near 0 there is no such point.
    """

    C_even: Number
    p: Number

    NAME: ClassVar[str] = "growth_speedup"
    FORMULA: ClassVar[str] = "speedup = (C/C_even)^-p - 1"
    SOURCE: ClassVar[str] = f"{SOURCE}, equation 48 for the speed-up; the power law in C is ours"
    ROLES: ClassVar[tuple[str, ...]] = ("C", "speedup")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "speedup": Role("FLOPs from scratch over FLOPs of the grown run, minus 1", ("speedup",), positive=False),
    }
    TARGET: ClassVar[str] = "speedup"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "raw")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "C_even": prefactor(*(float(flops) for flops in 10.0 ** np.arange(8, 32, 2)), low=1e-10, high=1e60),
        "p": free(-0.3, -0.05, 0.05, 0.3, low=-4.0, high=4.0),
    }

    def predict(self, C: Any) -> Any:
        """Predict the speed-up of a grown run that cost C FLOPs, its trunk included: 0.5 is 50% faster."""
        return np.exp(-self.p * (np.log(C) - np.log(self.C_even))) - 1
