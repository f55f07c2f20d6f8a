"""What will the accuracy on a benchmark be? Rows are models, columns tasks. See analysis/procedures/difficulty.py."""

import dataclasses
import fnmatch
from typing import Any

import numpy as np

from analysis.grid.table import Columns, Grid
from analysis.procedures.difficulty import SubsetForecast, forecast
from analysis.writing.numbers import counted, number, share, span
from experiments.cli import InputError


@dataclasses.dataclass(frozen=True)
class Answer:
    """A forecast, the columns that it is of, and the FLOPs that it is for."""

    found: SubsetForecast
    tasks: tuple[str, ...]
    target: float


def ask(grid: Grid, columns: Columns, pattern: str, target: float, **how: Any) -> Answer:
    """Forecast from the columns that match a pattern. Raises InputError for fewer than two, and scores that are none."""
    tasks = tuple(name for name in grid.names if fnmatch.fnmatchcase(name, pattern))
    if len(tasks) < 2:
        raise InputError(
            f"--tasks={pattern}: {counted(len(tasks), 'column')} of the grid; expected the columns of several tasks"
        )
    scores = np.array([grid.numbers(name, name)[columns.row] for name in tasks])
    for name, own in zip(tasks, scores, strict=True):
        is_score = (own >= 0) & (own <= 1)
        if not is_score.all():
            raise InputError(f"{name}: {own[~is_score][0]} in a row that is used; expected scores from 0 to 1")
    return Answer(forecast(scores, columns["C"], target, **how), tasks, target)


def lines(answer: Answer) -> list[str]:
    """Return the answer for people."""
    found = answer.found
    told = [
        f"accuracy at {number(answer.target)} FLOPs: {number(found.whole)} ({span(found.interval)})",
        f"on the {share(found.share)} of {counted(len(answer.tasks), 'task')} that are predictable: {number(found.subset)}",
    ]
    for at, one in enumerate(found.clusters):
        reason = one.reason or "follows the law"
        told.append(f"cluster {at}: {counted(len(one.tasks), 'task')}, {number(one.curve.mean())} on average: {reason}")
    return told


def to_json(answer: Answer) -> dict[str, Any]:
    """Return the answer for JSON."""
    found = answer.found
    clusters = []
    for one in found.clusters:
        law = None if one.law is None else one.law.coefficients()
        own = [answer.tasks[at] for at in one.tasks]
        clusters.append({"tasks": own, "law": law, "reason": one.reason})
    interval = None if found.interval is None else dataclasses.asdict(found.interval)
    return {
        "target": answer.target,
        "accuracy": found.whole,
        "interval": interval,
        "accuracy_of_predictable": found.subset,
        "share_predictable": found.share,
        "clusters": clusters,
    }
