"""The table of runs in a report: what a reader wants to see of a run when it is touched in a figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.writing.numbers import human, number

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
    "packing",
    "packing_trials",
    "packing_mesh",
    "steps",
    "steps_done",
)
MOST_EXTRAS = 6
LONGEST = 60  # characters of a cell


def run_table(survey: Any, grid: Any, rows: Sequence[int]) -> dict[str, Any]:
    """Heads and rows of text, worst residual first. `rows` are positions in the grid; not all need be in the fit."""
    at = np.asarray(rows, dtype=int)
    frame = grid.frame.iloc[at]
    values = {role: _values(survey, grid, role)[at] for role in ("N", "D", "C", "loss")}
    named = _names(frame, survey)
    heads = ["row", "N", "D", "C", "loss"]
    cells: list[list[str]] = [
        [str(row) for row in rows],
        [human(value) for value in values["N"]],
        [human(value) for value in values["D"]],
        [number(value, 3) for value in values["C"]],
        [number(value, 5) for value in values["loss"]],
    ]
    order = np.arange(len(at))
    if "chinchilla" in survey.results:
        with np.errstate(all="ignore"):
            law = np.asarray(survey["chinchilla"].law.target_at({role: values[role] for role in "ND"}))
            away = values["loss"] / law - 1
        heads += ["law", "loss over law"]
        cells += [
            [number(value, 5) for value in law],
            [f"{value:+.2%}" if np.isfinite(value) else "-" for value in away],
        ]
        order = np.argsort(-np.nan_to_num(np.abs(away), nan=-1.0), kind="stable")
    used = np.isin(at, survey.columns.row)
    if not used.all():
        heads.append("in the fit")
        cells.append(["yes" if one else "no" for one in used])
    for name in (*_extras(frame, survey), *named):  # the name last: it may be long
        heads.append(name)
        cells.append([_text(value) for value in frame[name]])
    listed = [
        {"row": rows[one], "cells": [column[one] for column in cells], "name": cells[-1][one] if named else ""}
        for one in order
    ]
    return {"heads": heads, "rows": listed, "all": len(listed) >= len(survey.columns)}


def _values(survey: Any, grid: Any, role: str) -> np.ndarray:
    """A role on every row of the grid, NaN where it is not known: formulas are computed for the rows used only."""
    source = survey.columns.sources.get(role)
    known = source in grid.frame.columns and source not in grid.repeated
    values = grid.numbers(source, role) if known else np.full(len(grid.frame), np.nan)
    values = np.array(values, dtype=float)
    values[survey.columns.row] = survey.columns[role]
    return values


def _names(frame: Any, survey: Any) -> list[str]:
    """The column that names runs, when there is one."""
    taken = set(survey.columns.sources.values())
    return [name for name in NAMES if list(frame.columns).count(name) == 1 and name not in taken][:1]


def _extras(frame: Any, survey: Any) -> list[str]:
    """Columns that vary over the runs, those that people ask for first; none twice, none that a role already shows."""
    taken = {*survey.columns.sources.values(), *NAMES, *DULL}
    single = [name for name in frame.columns if name not in taken and not str(name).startswith("rule_")]
    single = [name for name in single if list(frame.columns).count(name) == 1]
    varied = [name for name in single if frame[name].astype(str).nunique() > 1 and frame[name].notna().any()]
    liked = [name for name in LIKED if name in varied]
    ordered = liked if len(liked) > 2 else [*liked, *(name for name in varied if name not in LIKED)]
    seen: set[tuple[str, ...]] = set()
    found = []
    for name in ordered:
        same = tuple(frame[name].astype(str))
        if same not in seen:
            seen.add(same)
            found.append(name)
    return found[:MOST_EXTRAS]


def _text(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if isinstance(value, float | np.floating):
        return number(float(value))
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
