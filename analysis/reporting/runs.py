"""Make the table of runs in a report: what a reader wants to see of a run when it is touched in a figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.grid.table import Grid
from analysis.reporting.survey import Survey
from analysis.writing.numbers import human, number

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("name", "run_name", "run", "run_id", "id", "model", "model_name")
LIKED = (
    "family", "group", "seed", "width", "d_model", "depth", "layers", "lr", "learning_rate", "batch_tokens",
    "batch_size_tokens", "batch", "vocab_size", "vocab", "experts", "epochs", "optimizer", "schedule_name", "parent",
)  # fmt: skip
DULL = (
    "fingerprint",
    "group_all",
    "status",
    "reason",
    "wall_seconds",
    "seconds_data",
    "seconds_step",
    "seconds_evaluate",
    "seconds_save",
    "seconds_rest",
    "packing",
    "packing_trials",
    "packing_mesh",
    "steps",
    "steps_done",
)
MOST_EXTRAS = 6
LONGEST = 60  # characters of a cell


def run_table(survey: Survey, grid: Grid, rows: Sequence[int]) -> dict[str, Any]:
    """Return heads and rows of text, worst residual first.

    `rows` are positions in the grid; not all need be in the fit.
    """
    at = np.asarray(rows, dtype=int)
    frame = grid.frame.iloc[at]
    values = {}
    for role in ("N", "D", "C", "loss"):
        values[role] = values_on_grid(survey, grid, role)[at]
    table: dict[str, list[str]] = {
        "row": [str(row) for row in rows],
        "N": list(map(human, values["N"])),
        "D": list(map(human, values["D"])),
        "C": [number(value, 3) for value in values["C"]],
        "loss": [number(value, 5) for value in values["loss"]],
    }
    order = np.arange(len(at))
    if "chinchilla" in survey.results:
        law, away = _against_law(survey, values)
        table["law"] = [number(value, 5) for value in law]
        table["loss over law"] = [f"{value:+.2%}" if np.isfinite(value) else "-" for value in away]
        worst_first = -np.nan_to_num(np.abs(away), nan=-1.0)
        order = np.argsort(worst_first, kind="stable")
    used = np.isin(at, survey.columns.row)
    if not used.all():
        table["in the fit"] = ["yes" if one else "no" for one in used]
    for name in extra_columns(frame, survey):
        table[name] = [_text(value) for value in frame[name]]
    naming = naming_column(frame, survey)
    names = [""] * len(at)
    if naming is not None:  # last: it may be long
        names = [_text(value) for value in frame[naming]]
        table[naming] = names

    cells = list(zip(*table.values(), strict=True))
    listed = []
    for one in order.tolist():
        listed.append({"row": rows[one], "cells": list(cells[one]), "name": names[one]})
    return {"heads": list(table), "rows": listed, "all": len(listed) >= len(survey.columns)}


def _against_law(survey: Survey, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return what the parametric law says of runs, and their loss over it minus 1; NaN where either is not known."""
    at = {role: values[role] for role in "ND"}
    fitted = survey["chinchilla"].law
    with np.errstate(all="ignore"):
        law = np.asarray(fitted.target_at(at))
        return law, values["loss"] / law - 1


def values_on_grid(survey: Survey, grid: Grid, role: str) -> np.ndarray:
    """Return a role on every row of the grid, NaN where it is not known.

    Formulas are computed for the rows used only.
    """
    values = np.full(len(grid.frame), np.nan)
    source = survey.columns.sources.get(role)
    if source is not None and source in grid.frame.columns and source not in grid.repeated:
        values = np.array(grid.numbers(source, role), dtype=float)
    values[survey.columns.row] = survey.columns[role]
    return values


def naming_column(frame: "pd.DataFrame", survey: Survey) -> str | None:
    """Return the column that names runs, where there is one."""
    columns = list(frame.columns)
    taken = set(survey.columns.sources.values())
    for name in NAMES:
        if columns.count(name) == 1 and name not in taken:
            return name
    return None


def extra_columns(frame: "pd.DataFrame", survey: Survey) -> list[str]:
    """Return columns that vary over the runs, those that people ask for first.

    None twice, and none that a role already shows. Others fill up only where people's favourites are few.
    """
    taken = {*survey.columns.sources.values(), *NAMES, *DULL}
    columns = list(frame.columns)
    varied = []
    for name in columns:
        if name in taken or str(name).startswith("rule_") or columns.count(name) > 1:
            continue
        values: Any = frame[name]
        different = values.astype(str).nunique()
        known = int(values.notna().sum())
        if different > 1 and known:
            varied.append(name)
    ordered = [name for name in LIKED if name in varied]
    if len(ordered) <= 2:
        ordered += [name for name in varied if name not in LIKED]

    seen: set[tuple[str, ...]] = set()
    found = []
    for name in ordered:
        content = tuple(frame[name].astype(str))
        if content not in seen:
            seen.add(content)
            found.append(name)
    return found[:MOST_EXTRAS]


def _text(value: Any) -> str:
    """Write a value of the grid for a cell; a dash where there is none."""
    if value is None or value != value:
        return "-"
    if isinstance(value, float | np.floating):
        return number(float(value))
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
