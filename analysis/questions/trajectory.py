"""What will a loss curve be at another size and batch? The three steps of Su et al. 2024: analysis/procedures/batch.py."""

import dataclasses
from typing import Any

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.critical_batch import BatchTrajectory
from analysis.procedures.batch import contours, three_steps
from analysis.writing.numbers import counted, human, number
from experiments.cli import InputError

ROLES = ("N", "S", "batch", "loss", "run")
CROSSING = ("loss", "batch", "S")


@dataclasses.dataclass(frozen=True)
class Predicted:
    """A curve that was held out: mean relative error of its loss, over all of it and over its last half."""

    run: str
    N: float
    batch: float
    error: float
    error_last_half: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """The law, how many crossings of losses told the critical batch, and the curves that were held out."""

    law: BatchTrajectory
    crossings: int
    losses: tuple[float, float]  # of the fitted curves: least and most
    held: tuple[Predicted, ...]

    @property
    def untold(self) -> list[str]:
        """Return the constants that ended at an end of their range: the rows do not tell them."""
        names = []
        for name, value in self.law.coefficients().items():
            kind = self.law.COEFFICIENTS[name]
            ends = np.array([kind.low, kind.high])
            if np.isclose(value, ends, rtol=1e-3, atol=0).any():
                names.append(name)
        return names


def ask(curves: Columns, held: Columns | None = None, converged: Columns | None = None, levels: int = 12) -> Answer:
    """Fit the three steps to checkpoints (roles N, S, batch, loss, run), and predict those held out.

    converged: rows of models that learn no more, of which the least loss of each size counts.

    Raises InputError where the curves cannot tell a step.
    """
    sizes = np.unique(curves["N"])
    if len(sizes) < 2:
        raise InputError(f"N: {counted(len(sizes), 'size')}; expected two or more, for the loss over size")
    crossings = _crossings(curves, levels)
    best = None if converged is None else _least(converged)
    law = three_steps(best, crossings, curves)
    predicted = () if held is None else _predicted(law, held)
    least = float(curves["loss"].min())
    most = float(curves["loss"].max())
    return Answer(law, len(crossings), (least, most), predicted)


def _least(rows: Columns) -> Columns:
    """Return the row of the least loss of each size."""
    sizes = rows["N"]
    losses = rows["loss"]
    is_best = np.zeros(len(rows), bool)
    for size in np.unique(sizes):
        own = np.flatnonzero(sizes == size)
        lowest = np.argmin(losses[own])
        is_best[own[lowest]] = True
    return rows.take(is_best)


def _crossings(curves: Columns, levels: int) -> Columns:
    """Return where the runs of each size reach losses that all of them reach, as rows (loss, batch, S)."""
    found: list[Columns] = []
    sizes = curves["N"]
    for size in np.unique(sizes):
        own = curves.take(sizes == size)
        first, last = _range(own)
        batches = np.unique(own["batch"])
        if last < first and len(batches) > 1:
            ends_and_between = np.geomspace(first, last, levels + 2)
            between = ends_and_between[1:-1]
            found.append(contours(own, between.tolist()))
    if not found:
        raise InputError(
            "batch: no size has two batches whose losses overlap; expected curves of several batches a size"
        )
    values = {}
    for role in CROSSING:
        parts = [one[role] for one in found]
        values[role] = np.concatenate(parts)
    row = np.concatenate([one.row for one in found])
    sources = {role: role for role in values}
    return Columns(values, row, sources, ())


def _range(curves: Columns) -> tuple[float, float]:
    """Return the losses between which all runs of a size have checkpoints: from, and down to."""
    firsts = []
    lasts = []
    for own in _losses_of_runs(curves):
        firsts.append(own.max())
        lasts.append(own.min())
    return float(min(firsts)), float(max(lasts))


def _losses_of_runs(curves: Columns) -> list[np.ndarray]:
    run = curves["run"]
    return [curves["loss"][run == name] for name in np.unique(run)]


def _predicted(law: BatchTrajectory, held: Columns) -> tuple[Predicted, ...]:
    """Return how well each curve is predicted."""
    found = []
    run = held["run"]
    for name in dict.fromkeys(run.tolist()):
        own = held.take(run == name)
        steps = own["S"]
        said = law.predict(own["N"], steps, own["batch"])
        error = np.abs(said / own["loss"] - 1)
        middle = steps.max() / 2
        late = error[steps >= middle]
        size = float(own["N"][-1])
        batch = float(own["batch"][-1])
        mean = float(error.mean())
        mean_late = float(late.mean())
        found.append(Predicted(str(name), size, batch, mean, mean_late))
    return tuple(found)


def lines(answer: Answer) -> list[str]:
    """Return the answer for people."""
    law = answer.law
    words = []
    for name, value in law.coefficients().items():
        words.append(f"{name} {number(value)}")
    crossings = counted(answer.crossings, "crossing")
    told = []
    if answer.untold:
        told.append(f"verdict: the rows do not tell {', '.join(answer.untold)}: at an end of their range")
    told += [", ".join(words), f"critical batch from {crossings} of losses"]
    least, most = answer.losses
    for loss in (most, least):
        critical = float(law.critical_batch(loss))
        told.append(f"critical batch at a loss of {number(loss)}: {human(critical)} tokens")
    for one in answer.held:
        what = f"held out: {one.run}, {human(one.N)} parameters, batch {human(one.batch)}"
        told.append(f"{what}: off by {one.error:.1%} on average, {one.error_last_half:.1%} over its last half")
    return told


def to_json(answer: Answer) -> dict[str, Any]:
    """Return the answer for JSON."""
    return {
        "law": answer.law.NAME,
        "coefficients": answer.law.coefficients(),
        "untold": answer.untold,
        "crossings": answer.crossings,
        "held": [dataclasses.asdict(one) for one in answer.held],
    }
