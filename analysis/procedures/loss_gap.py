"""Measure what following a law of learning rate and batch size costs in loss."""

import dataclasses
import math

import numpy as np

from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.laws.lr_batch import HyperparameterLaw
from analysis.procedures.lr_batch import fit_lr_batch
from analysis.procedures.parabola import fit_paraboloid
from analysis.procedures.sweep_cells import cells, curved, excess_loss, value_of
from experiments.cli import InputError, nearest

INTERPOLATIONS = ("nearest", "linear", "quadratic")


@dataclasses.dataclass(frozen=True)
class Gap:
    """What following a law costs in each cell: relative excess of the loss there over the cell's least, [cells].

    Interpolated losses may lie below the least measured one. outside: the law's choice lies beyond the cell's sweep, where
    the nearest run stands in.
    """

    excess: Array
    outside: Array

    @property
    def mean(self) -> float:
        """The mean over the cells."""
        return float(self.excess.mean())

    @property
    def largest(self) -> float:
        """The largest of all cells."""
        return float(self.excess.max())


@dataclasses.dataclass(frozen=True)
class _Sweep:
    """The runs of one cell: log2 of learning rate and batch, and their excess loss, [runs] each."""

    lr: Array
    batch: Array
    over: Array

    def contains(self, lr: float, batch: float) -> bool:
        """Say whether a choice lies within the learning rates and batches that were tried."""
        lr_inside = self.lr.min() <= lr <= self.lr.max()
        batch_inside = self.batch.min() <= batch <= self.batch.max()
        return bool(lr_inside and batch_inside)

    def of_nearest(self, lr: float, batch: float) -> float:
        """Return the excess of the run that is nearest to a choice."""
        distance = (self.lr - lr) ** 2 + (self.batch - batch) ** 2
        return float(self.over[np.argmin(distance)])

    def quadratic(self, lr: float, batch: float) -> float | None:
        """Return the excess on a parabola through the rows within 1%, None where they do not determine one."""
        near = curved(self.over)
        surface = fit_paraboloid(self.lr[near], self.batch[near], self.over[near])
        return surface.value(lr, batch) if surface else None

    def linear(self, lr: float, batch: float) -> tuple[float | None, bool]:
        """Return the excess on Delaunay triangles (None where there are none), and whether the choice lies outside."""
        from scipy.interpolate import LinearNDInterpolator
        from scipy.spatial import QhullError

        points = np.stack([self.lr, self.batch], axis=1)
        try:
            value = float(LinearNDInterpolator(points, self.over)(lr, batch))
        except QhullError:  # all runs on one line
            return None, False
        return (value, False) if math.isfinite(value) else (None, True)


def loss_gap(law: HyperparameterLaw, columns: Columns, interpolation: str = "linear") -> Gap:
    """Measure the cost of a law's learning rates and batches, the loss of each cell interpolated over (ln lr, ln batch).

    nearest: the nearest run; linear: over Delaunay triangles; quadratic: a parabola through the rows within 1%.
    """
    if interpolation not in INTERPOLATIONS:
        hint = nearest(interpolation, INTERPOLATIONS, "interpolation")
        raise InputError(f"interpolation: {interpolation!r} is not one; {hint}")
    excess = []
    outside = []
    for rows in cells(columns):
        at = {role: value_of(columns, role)[rows[0]] for role in (*law.LR, *law.BATCH)}
        lr, batch = law.predict(**at)
        sweep = _Sweep(
            lr=np.log2(columns["lr"][rows]),
            batch=np.log2(columns["batch"][rows]),
            over=excess_loss(columns, rows),
        )
        over, is_outside = _excess_at(sweep, float(np.log2(lr)), float(np.log2(batch)), interpolation)
        excess.append(over)
        outside.append(is_outside)
    return Gap(np.array(excess), np.array(outside))


def _excess_at(sweep: _Sweep, lr: float, batch: float, interpolation: str) -> tuple[float, bool]:
    """Return the excess loss at a choice, and whether it lies outside; the nearest run stands in for what is unknown."""
    is_outside = not sweep.contains(lr, batch)
    value = None
    if not is_outside and interpolation == "quadratic":
        value = sweep.quadratic(lr, batch)
    elif not is_outside and interpolation == "linear":
        value, is_outside = sweep.linear(lr, batch)
    if value is None:
        value = sweep.of_nearest(lr, batch)
    return value, is_outside


def leave_one_out(
    columns: Columns, law: type[HyperparameterLaw], spec: FitSpec, role: str = "N", interpolation: str = "linear"
) -> dict[float, Gap]:
    """Measure, for every value of `role`, the gap on its cells of the law that was fitted to all the others."""
    spec = dataclasses.replace(spec, bootstrap=0)
    found = {}
    for value in np.unique(columns[role]):
        is_out = columns[role] == value
        fitted = fit_lr_batch(columns.take(~is_out), law, spec)
        found[float(value)] = loss_gap(fitted.law, columns.take(is_out), interpolation)
    return found
