"""What will a loss curve be at another size and batch? The three steps of Su et al. 2024: analysis/procedures/batch.py."""

import dataclasses
from typing import Any

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.critical_batch import BatchTrajectory
from analysis.procedures.batch import contours, three_steps
from analysis.writing.numbers import counted, human, number, share
from experiments.cli import InputError

ROLES = ("N", "S", "batch", "loss", "run")


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


def ask(curves: Columns, held: Columns | None = None, converged: Columns | None = None, levels: int = 12) -> Answer:
    """Fit the three steps to checkpoints (roles N, S, batch, loss, run), and predict those held out.

    converged: rows of models that learn no more, of which the least loss of each size counts.

    Raises InputError where the curves cannot tell a step.
    """
    sizes = np.unique(curves["N"])
    if len(sizes) < 2:
        raise InputError(f"N: {counted(len(sizes), 'size')}; expected two or more, for the loss over size")
    crossings = _crossings(curves, levels)
    law = three_steps(_least(converged) if converged is not None else None, crossings, curves)
    predicted = _predicted(law, held) if held is not None else ()
    losses = (float(curves["loss"].min()), float(curves["loss"].max()))
    return Answer(law, len(crossings), losses, predicted)


def _least(rows: Columns) -> Columns:
    """Return the row of the least loss of each size."""
    best = []
    for size in np.unique(rows["N"]):
        own = np.flatnonzero(rows["N"] == size)
        best.append(own[np.argmin(rows["loss"][own])])
    return rows.take(np.isin(np.arange(len(rows)), best))


def _crossings(curves: Columns, levels: int) -> Columns:
    """Return where the runs of each size reach losses that several of its batches reach; a loss of two sizes is two losses."""
    found: list[Columns] = []
    for size in np.unique(curves["N"]):
        own = curves.take(curves["N"] == size)
        first, last = _range(own)
        if last < first and len(np.unique(own["batch"])) > 1:
            inner = np.geomspace(first, last, levels + 2)[1:-1]
            found.append(contours(own, inner.tolist()))
    if not found:
        raise InputError(
            "batch: no size has two batches whose losses overlap; expected curves of several batches a size"
        )
    values = {role: np.concatenate([one[role] for one in found]) for role in ("loss", "batch", "S")}
    row = np.concatenate([one.row for one in found])
    return Columns(values, row, {role: role for role in values}, ())


def _range(curves: Columns) -> tuple[float, float]:
    """Return the losses between which all runs of a size have checkpoints: from, and down to."""
    runs = np.unique(curves["run"])
    firsts = [curves["loss"][curves["run"] == run].max() for run in runs]
    lasts = [curves["loss"][curves["run"] == run].min() for run in runs]
    return float(min(firsts)), float(max(lasts))


def _predicted(law: BatchTrajectory, held: Columns) -> tuple[Predicted, ...]:
    """Return how well each curve is predicted."""
    found = []
    for run in dict.fromkeys(held["run"].tolist()):
        own = held.take(held["run"] == run)
        said = law.predict(own["N"], own["S"], own["batch"])
        error = np.abs(said / own["loss"] - 1)
        is_late = own["S"] >= own["S"].max() / 2
        size = float(own["N"][-1])
        batch = float(own["batch"][-1])
        found.append(Predicted(str(run), size, batch, float(error.mean()), float(error[is_late].mean())))
    return tuple(found)


def lines(answer: Answer) -> list[str]:
    """Return the answer for people."""
    law = answer.law
    least, most = answer.losses
    told = [", ".join(f"{name} {number(value)}" for name, value in law.coefficients().items())]
    told.append(f"critical batch from {counted(answer.crossings, 'crossing')} of losses")
    for loss in (most, least):
        told.append(f"critical batch at a loss of {number(loss)}: {human(float(law.critical_batch(loss)))} tokens")
    for one in answer.held:
        told.append(
            f"held out: {one.run}, {human(one.N)} parameters, batch {human(one.batch)}: off by {share(one.error)} on average, "
            f"{number(100 * one.error_last_half, 3)}% over its last half"
        )
    return told


def to_json(answer: Answer) -> dict[str, Any]:
    """Return the answer for JSON."""
    return {
        "law": answer.law.NAME,
        "coefficients": answer.law.coefficients(),
        "crossings": answer.crossings,
        "held": [dataclasses.asdict(one) for one in answer.held],
    }
