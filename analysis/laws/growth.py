"""Growing a trained model: when to grow it, by how much, and how much compute that saves.

The published constants of the timing rule stand where studies use them, in sweeps/study/rules.py (stacking_tokens); here are
the forms that fit one's own runs, and how rows for them come from runs.
"""

from collections.abc import Sequence
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from analysis.laws.base import Coefficient, FormulaLaw, free, prefactor
from analysis.solve.objective import Objective
from experiments.cli import InputError

if TYPE_CHECKING:
    from analysis.grid.table import Columns

SOURCE = "Du et al. 2024 (G_stack; arXiv 2405.15319)"
DECADE = float(np.log(10))


@dataclasses.dataclass(frozen=True)
class StackTiming(FormulaLaw):
    """log10 d = a log10 N + b / log10 C + c: tokens d of the small model after which growing it into N parameters is best.

    C: training FLOPs of the whole target run, 6 N D. Note that b is divided by log10 C. Fitted by its source on 410M to 3B
    parameters at a growth factor of 4, and meant for that range.
    """

    a: Any
    b: Any
    c: Any

    NAME: ClassVar[str] = "stack_timing"
    FORMULA: ClassVar[str] = "log10 d = a log10 N + b/log10 C + c"
    SOURCE: ClassVar[str] = f"{SOURCE}, equation 2"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "C", "growth_tokens")
    TARGET: ClassVar[str] = "growth_tokens"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "a": free(0.0, 0.5, 1.0),
        "b": free(-100.0, 0.0, 150.0, 300.0),
        "c": free(-10.0, 0.0, 10.0),
    }

    def predict(self, N: Any, C: Any) -> Any:
        """TARGET for a target model of N parameters that trains with C FLOPs."""
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
    TARGET: ClassVar[str] = "growth_factor"


@dataclasses.dataclass(frozen=True)
class GrowthSpeedup(FormulaLaw):
    """FLOPs_scratch / FLOPs_grown - 1 = (C/C_even)^-p at equal loss, minus 1, for grown runs that cost C FLOPs.

    C counts the trunk (the column flops_lineage). p > 0: what growing saves fades as runs get longer, and is gone at
    C_even, the break-even point; p < 0: the trunk has paid for itself from C_even on. With p near 0 there is no such point.
    """

    C_even: Any
    p: Any

    NAME: ClassVar[str] = "growth_speedup"
    FORMULA: ClassVar[str] = "speedup = (C/C_even)^-p - 1"
    SOURCE: ClassVar[str] = f"{SOURCE}, equation 48 for the speed-up; the power law in C is ours"
    ROLES: ClassVar[tuple[str, ...]] = ("C", "speedup")
    TARGET: ClassVar[str] = "speedup"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "raw")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "C_even": prefactor(*(float(flops) for flops in 10.0 ** np.arange(8, 32, 2)), low=1e-10, high=1e60),
        "p": free(-0.3, -0.05, 0.05, 0.3, low=-4.0, high=4.0),
    }

    def predict(self, C: Any) -> Any:
        """Speed-up of a grown run that cost C FLOPs, its trunk included: 0.5 is 50% faster."""
        return np.exp(-self.p * (np.log(C) - np.log(self.C_even))) - 1


def speedup_rows(
    flops_grown: Sequence[float],
    loss_grown: Sequence[float],
    flops_scratch: Sequence[float],
    loss_scratch: Sequence[float],
) -> "Columns":
    """Rows (C, speedup) for GrowthSpeedup: every grown run against the runs from scratch of equal loss.

    FLOPs include all ancestors (flops_lineage). Grown runs whose loss lies outside of those from scratch are dropped with
    that reason. Raises InputError when none is left.
    """
    from analysis.grid.table import Columns
    from analysis.procedures.growth import speedup

    flops, loss = np.asarray(flops_grown, dtype=np.float64), np.asarray(loss_grown, dtype=np.float64)
    pairs = zip(flops, loss, strict=True)
    saved = np.array([float(speedup(cost, end, flops_scratch, loss_scratch)) for cost, end in pairs])
    known = np.isfinite(saved)
    if not known.any():
        raise InputError(
            f"loss_grown: {loss.min():.4g} to {loss.max():.4g} lies outside of the losses from scratch, "
            f"{np.min(loss_scratch):.4g} to {np.max(loss_scratch):.4g}; expected runs from scratch on both sides"
        )
    rows = Columns({"C": flops, "speedup": saved}, np.arange(len(flops)), {"C": "C", "speedup": "speedup"}, ())
    return rows.take(known, "its loss is outside of the losses from scratch")


def best_choices(columns: "Columns", role: str) -> "Columns":
    """Rows (N, C, best value of `role`) for StackTiming or StackFactor, from runs that differ in that role alone.

    `columns` has roles N, C, loss and `role` (growth_tokens or growth_factor). Runs with N and C equal to 1% belong
    together; the best value is the vertex of the parabola in its logarithm through the lowest run and its neighbours.
    Where the lowest is on the edge there is no vertex, and the group is dropped with that reason. Raises InputError when
    no group has one.
    """
    from analysis.grid.table import Columns, Dropped

    label = np.round(np.stack([np.log(columns["N"]), np.log(columns["C"])], axis=1) / 0.01)
    _, member = np.unique(label, axis=0, return_inverse=True)
    found: list[tuple[float, float, float, int]] = []
    dropped = list(columns.dropped)
    for group in range(int(member.max()) + 1):
        rows = np.flatnonzero(member.ravel() == group)
        log_value, inverse = np.unique(np.log(columns[role][rows]), return_inverse=True)
        loss = np.bincount(inverse, weights=columns["loss"][rows]) / np.bincount(inverse)
        at = int(np.argmin(loss))
        if not 0 < at < len(loss) - 1:
            dropped += [
                Dropped(int(row), f"the best {role} of its N and C is on the edge") for row in columns.row[rows]
            ]
            continue
        bend, tilt, _ = np.polyfit(log_value[at - 1 : at + 2] - log_value[at], loss[at - 1 : at + 2], 2)
        best = float(np.exp(log_value[at] - tilt / (2 * bend)))
        N, C = (float(np.exp(np.log(columns[name][rows]).mean())) for name in ("N", "C"))
        found.append((N, C, best, int(columns.row[rows[0]])))
    if not found:
        raise InputError(
            f"GRID: no N and C have runs on both sides of their best {role}; expected three or more values"
        )
    N, C, best, row = map(np.array, zip(*found, strict=True))
    return Columns({"N": N, "C": C, role: best}, row, {"N": "N", "C": "C", role: role}, tuple(dropped))
