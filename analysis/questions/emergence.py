"""Does a task improve faster than its own power law? See analysis/procedures/emergence.py."""

import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.weights import binomial_variance, with_one_of_each
from analysis.grid import roles
from analysis.grid.roles import Role
from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.procedures.emergence import Emergence, emergence
from analysis.writing.numbers import counted, number, span
from experiments.cli import InputError

ROLES = ("N", "pass_rate")
OPTIONAL = ("pass_rate_error", "questions")

roles.declare({"pass_rate_error": Role("standard error of the pass rate", ("pass_rate_error", "pass_rate_sem"))})


@dataclasses.dataclass(frozen=True)
class Answer:
    """The judgement, and what was done about rows whose rate or error is no number to work with."""

    found: Emergence
    notes: tuple[str, ...]


def judge(columns: Columns, level: float = 0.9, seed: int = 0) -> Answer:
    """Judge the rows of one task.

    A rate of 0 or 1, which no power law has, stands where one more pass and one more miss would have put it, with the
    error of so many questions. An error that is missing is that of so many questions, or else that of the row with the
    fewest passes. Raises InputError for fewer than 4 sizes, rates outside of 0 to 1, or a rate of 0 or 1 without
    `questions`.
    """
    rate = columns["pass_rate"]
    notes = []
    is_end = (rate == 0) | (rate == 1)
    error = columns.values.get("pass_rate_error")
    questions = columns.values.get("questions")
    if is_end.any():
        if questions is None:
            row = int(columns.row[is_end][0])
            raise InputError(
                f"pass_rate: {rate[is_end][0]:g} in row {row}, which is on no power law; expected --columns=questions=... "
                "(how many are behind a rate), or a --where without such rows"
            )
        rate = np.where(is_end, with_one_of_each(rate, questions), rate)
        notes.append(f"{counted(int(is_end.sum()), 'rate')} of 0 or 1: taken with one more pass and one more miss")
    if error is not None or questions is not None:
        error, more = _errors(rate, error, questions, is_end)
        notes += more
    found = emergence(columns["N"], rate, error, level=level, seed=seed)
    return Answer(found, tuple(notes))


def _errors(
    rate: Array, error: Array | None, questions: Array | None, is_end: np.ndarray
) -> tuple[Array | None, list[str]]:
    """Return errors of all rates, and what was done where none is known; None where there is none of any rate."""
    given = np.full_like(rate, np.nan) if error is None else error
    is_known = np.isfinite(given) & (given > 0) & ~is_end
    missing = int((~is_known & ~is_end).sum())
    if questions is not None:
        of_questions = np.sqrt(binomial_variance(rate, questions))
        told = [f"{counted(missing, 'row')} without an error: that of its questions"] if missing else []
        return np.where(is_known, given, of_questions), told
    if not is_known.any():
        return None, [f"{counted(missing, 'row')} without an error: all rates are taken to rest on as many passes"]
    if not missing:
        return given, []
    # From as many passes, errors are proportional to this.
    of_a_pass = rate * np.sqrt(1 - rate)
    widest = np.max(given[is_known] / of_a_pass[is_known])
    told = [f"{counted(missing, 'row')} without an error: that of the row with the fewest passes"]
    return np.where(is_known, given, widest * of_a_pass), told


def lines(answer: Answer) -> list[str]:
    """Return the answer for people, the verdict first."""
    found = answer.found
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
    return told + [f"note: {note}" for note in answer.notes]


def to_json(answer: Answer) -> dict[str, Any]:
    """Return the answer for JSON."""
    return dataclasses.asdict(answer.found) | {"notes": list(answer.notes)}
