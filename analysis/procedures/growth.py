"""How much cheaper a run reached its loss than runs from scratch do."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float
import numpy as np

from experiments.cli import InputError

if TYPE_CHECKING:
    from analysis.grid.table import Columns


def speedup(
    flops_grown: float, loss_grown: float, flops_scratch: Sequence[float], loss_scratch: Sequence[float]
) -> Float[np.ndarray, ""]:
    """FLOPs_scratch / FLOPs_grown - 1 at equal loss (Du et al. 2024, eq. 48): 0.546 is "54.6% faster".

    `flops_grown` counts all ancestors (the column flops_lineage). The FLOPs from scratch are interpolated between runs
    of several budgets, straight in log FLOPs over loss. nan where the loss lies outside of theirs: nothing is extrapolated.
    """
    order = np.argsort(loss_scratch)
    loss, flops = np.asarray(loss_scratch, float)[order], np.asarray(flops_scratch, float)[order]
    log_flops = np.interp(loss_grown, loss, np.log(flops), left=np.nan, right=np.nan)
    return np.asarray(np.exp(log_flops) / flops_grown - 1)


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
