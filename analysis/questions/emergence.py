"""Does a task improve faster than its own power law? See analysis/procedures/emergence.py."""

import dataclasses
from typing import Any

from analysis.grid import roles
from analysis.grid.roles import Role
from analysis.grid.table import Columns
from analysis.procedures.emergence import Emergence, emergence
from analysis.writing.numbers import number, span

ROLES = ("N", "pass_rate")
OPTIONAL = ("pass_rate_error",)

roles.declare({"pass_rate_error": Role("standard error of the pass rate", ("pass_rate_error", "pass_rate_sem"))})


def judge(columns: Columns, level: float = 0.9, seed: int = 0) -> Emergence:
    """Judge the rows of one task. Raises InputError for fewer than 4 sizes or rates outside of 0 to 1."""
    error = columns.values.get("pass_rate_error")
    return emergence(columns["N"], columns["pass_rate"], error, level=level, seed=seed)


def lines(found: Emergence) -> list[str]:
    """Return the answer for people, the verdict first."""
    told = [
        f"verdict: {found.verdict}",
        f"-ln(pass rate) = {number(found.c)} N^-{number(found.alpha)}",
        f"bend {number(found.bend)} ({span(found.bend_interval)}); below 0 is faster than a power law",
        f"p of a power law that bends as much: down {number(found.p_faster, 3)}, up {number(found.p_slower, 3)}",
    ]
    if found.aicc is None:
        told.append("too few models for Akaike's criterion")
    else:
        told.append(f"AICc of the line minus that of the bend: {number(found.aicc)}")
    return told


def to_json(found: Emergence) -> dict[str, Any]:
    """Return the answer for JSON."""
    return dataclasses.asdict(found)
