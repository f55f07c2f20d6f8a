"""Turn columns that hold one quantity at several numbers into rows: task_sums_coverage_10, task_sums_coverage_100, ..."""

import dataclasses
import re

import numpy as np

from analysis.grid.roles import usual_names
from analysis.grid.table import Grid
from experiments.cli import InputError

FORM = re.compile(r"\s*(\w+)\s*,\s*(\w+)\s*=\s*([^*\s]*)\*([^*\s]*)\s*")
RUN = "run"  # rows of one run are no independent observations


def melt(grid: Grid, text: str) -> Grid:
    """Return a row for each column that matches: `samples,coverage=task_sums_coverage_*` for a `text`.

    The first name becomes a column with the number that the star stands for, the second one with what the column held; other
    columns are repeated. Without a column `run` there is one then, of the rows as they were. Raises InputError for a text
    of another form, a name that is taken, and where fewer than two columns match.
    """
    import pandas as pd

    found = FORM.fullmatch(text)
    if not found:
        raise InputError(f"--melt={text}: expected NUMBER,VALUE=PATTERN, such as samples,coverage=task_sums_coverage_*")
    number, value, before, after = found.groups()
    for name in (number, value):
        if name in grid.frame.columns:
            raise InputError(f"--melt={text}: {name!r} is a column of {grid.path} already; expected another name")
    names = {}
    for name in grid.names:
        at = _number_in(name, before, after)
        if at is not None:
            names[name] = at
    if len(names) < 2:
        raise InputError(
            f"--melt={text}: {before}*{after} matches {len(names)} columns of {grid.path} with a number for the star; "
            "expected two or more"
        )
    others = grid.frame.drop(columns=list(names))
    if not any(name in grid for name in usual_names(RUN)):
        runs = pd.Series(np.arange(len(others)), index=others.index, name=RUN)
        others = pd.concat([others, runs], axis=1)
    parts = [others.assign(**{number: at, value: grid.frame[name]}) for name, at in names.items()]
    return dataclasses.replace(grid, frame=pd.concat(parts, ignore_index=True))


def _number_in(name: str, before: str, after: str) -> float | None:
    """Return the number between two parts of a column's name; None where there is none."""
    inside = re.fullmatch(f"{re.escape(before)}(.+){re.escape(after)}", name)
    try:
        return float(inside[1]) if inside else None
    except ValueError:
        return None
