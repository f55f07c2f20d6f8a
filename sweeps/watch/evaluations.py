"""The evaluations of a study's runs -> one table: a row each, whole loss curves instead of their ends.

A row is one point of the curve of the run `run`. Where that run goes on from a parent, the curve begins where its line of
ancestors does: their evaluations are repeated as rows of the child, with `inherited` 1 and `evaluated_by` the ancestor.

Counts are those of the line up to the evaluation: `step`, `tokens`, `lineage_tokens`, `flops_*`, `flops_lineage`.
`own_step` and `own_tokens` begin with the run that evaluated; `run_steps` and `run_tokens` are what that run takes
in all. `lr` is the rate of the step before the evaluation, `peak_lr` the one that the schedule multiplies; S1 and S2 are the areas of the annealing
law (lr_areas.py). `last` is 1 for the newest evaluation of a run. What describes the model is that of the
run that evaluated (it may grow); tags, name and status are those of `run`. Results that a record has of the end of a run
alone, as seconds, are in its last row.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from experiments.store import metrics, record
from sweeps.watch import grid_table, lr_areas
from sweeps.watch.run_line import Leg, Line, Lines
from sweeps.work.workdir import Workdir

FIRST_COLUMNS = (
    "run",
    "name",
    "status",
    "reason",
    "last",
    "inherited",
    "evaluated_by",
    "step",
    "tokens",
    "lr",
    "S1",
    "S2",
    "batch_tokens",
    "loss_nats",
    "loss_nats_sem",
)
OF_THE_LOG = {"eval_loss": "loss_nats", "eval_loss_sem": "loss_nats_sem"}  # other names there begin with eval_ as well
OF_ALL_ROWS = ("eval_tokens", "lossless")  # results that are the same all along a run
IDENTITY = ("name", "status", "reason")  # of the run whose curve it is
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Table:
    """The evaluations of a study; a line for each damaged record, and what a reader of the table has to know."""

    frame: pd.DataFrame
    damaged: list[str]
    notes: list[str]


def build(workdir: Workdir) -> Table:
    """Return the evaluations of all runs of a workdir. Raises InputError without a study.json."""
    grid = grid_table.read(workdir)
    by_run = {row["fingerprint"]: row for row in grid.rows}
    lines = Lines(workdir)
    rows: list[Row] = []
    empty = 0
    broken = []
    for name, of_grid in by_run.items():
        line = lines.of(name)
        told = _identity(of_grid, grid.tags)
        found = _curve(line, name, told, by_run)
        rows += found
        empty += not found
        if found and not line.is_whole:
            broken.append(name)
    names = dict.fromkeys(FIRST_COLUMNS) | dict.fromkeys(grid.tags)
    for row in rows:
        names |= dict.fromkeys(row)
    frame = grid_table.table(rows, list(names))
    notes = _notes(rows, empty, broken)
    return Table(frame, grid.damaged + lines.damaged, notes)


def _identity(of_grid: Mapping[str, Any], tags: Sequence[str]) -> Row:
    """Return what all rows of a curve have of the run whose curve it is."""
    return {name: of_grid.get(name) for name in (*IDENTITY, *tags)}


def _notes(rows: Sequence[Row], empty: int, broken: Sequence[str]) -> list[str]:
    """Say what a reader of the table has to know."""
    notes = []
    if inherited := sum(row["inherited"] for row in rows):
        notes.append(
            f"{inherited} rows repeat evaluations of parents, for curves that are whole: --where=inherited==0 has each "
            "evaluation once"
        )
    if empty:
        notes.append(f"{empty} runs have no evaluation yet, and no row")
    if broken:
        notes.append(
            f"the parents of {', '.join(broken)} are not in this workdir: their rows have no step, FLOPs and areas of the "
            "whole line (own_step and own_tokens begin with the run)"
        )
    return notes


def _curve(line: Line, name: str, told: Mapping[str, Any], by_run: Mapping[str, Row]) -> list[Row]:
    """Return the rows of one run's curve, ancestors first."""
    rates = np.concatenate([leg.rates for leg in line.legs]) if line.legs else np.empty(0)
    S1, S2 = lr_areas.areas(rates)
    rows = []
    for before, leg in zip(line.before(), line.legs, strict=True):
        own = leg.fingerprint == name
        of_grid = by_run.get(leg.fingerprint) or leg.columns()
        logged = _evaluations(leg, of_grid)
        for evaluation in logged:
            own_step = int(evaluation["step"])
            step = before.steps + own_step
            row = {
                "run": name,
                **told,
                "last": int(own and evaluation is logged[-1]),
                "inherited": int(not own),
                "evaluated_by": leg.fingerprint,
                "lr": _before(leg.rates, own_step),
                "S1": _before(S1, step) if line.is_whole else None,
                "S2": _before(S2, step) if line.is_whole else None,
            }
            row |= _repeated(of_grid, told) | evaluation
            row |= before.counts(leg.run, own_step)
            rows.append(row)
    return rows


def _before(of_steps: np.ndarray, steps: int) -> float | None:
    """Return the value of the last of so many steps; None before the first."""
    return float(of_steps[steps - 1]) if steps else None


def _repeated(of_grid: Mapping[str, Any], told: Mapping[str, Any]) -> Row:
    """Return the columns of a run's row of the grid that hold at each of its evaluations, under names of their own."""
    row = {}
    for name, value in of_grid.items():
        is_result = record.is_result(name) and name not in OF_ALL_ROWS
        if name not in told and name != "fingerprint" and not is_result:
            row[name] = value
    row["peak_lr"] = row.pop("lr", None)
    row["run_tokens"] = row.pop("tokens", None)
    row["run_steps"] = row.pop("steps", None)
    return row


def _evaluations(leg: Leg, of_grid: Mapping[str, Any]) -> list[Row]:
    """Return the evaluations of a run by step, under the names of the grid; the last one has what its record says."""
    by_step: dict[int, Row] = {}
    for logged in leg.log:
        if metrics.EVALUATED in logged:
            by_step[int(logged["step"])] = _renamed(logged)
    ended = of_grid.get("steps_done")
    if ended is not None and of_grid.get("loss_nats") is not None:
        results = {name: value for name, value in of_grid.items() if record.is_result(name)}
        results.pop("steps_done")
        results.pop("censored", None)  # the loss is that of the tokens in the row, and bounds nothing
        by_step[int(ended)] = by_step.get(int(ended), {"step": ended}) | results
    first = 0 if leg.run.only_evaluates else 1
    return [by_step[step] for step in sorted(by_step) if first <= step <= leg.run.steps]


def _renamed(logged: Mapping[str, Any]) -> Row:
    """Return a row of the log with the names that its values have in a grid."""
    row = {"step": logged["step"]}
    for name, value in logged.items():
        if name.startswith("eval_"):
            row[OF_THE_LOG.get(name, name.removeprefix("eval_"))] = value
    return row
