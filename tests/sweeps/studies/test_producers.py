"""Every law has a producer: a study whose grid has its columns, by a line of the study's docstring, or a stated reason why not.

    Fit: --law=chinchilla ...                     the law of the study (test_fit_lines.py)
    Also: --law=kaplan_d,plateau --columns=...    laws whose columns its grid has as well
    Also of curves: --law=annealing               of the table that `sweeps.collect --evaluations` makes

What no study feeds is in analysis/README.md, under "Laws without a study", with the reason.
"""

import argparse
from collections.abc import Iterator
import dataclasses
import re
import shlex
from typing import Any

import numpy as np
import pytest

from analysis import laws
from analysis.grid import table
from analysis.grid.melt import melt
from analysis.questions.fit import select_for
from sweeps.study import file
from tests.support.fit_lines import STUDIES, Line, lines
from tests.support.paths import REPOSITORY

ALSO = re.compile(r"^Also(?: of :?([\w,]+))?: (--.+)$", re.MULTILINE)
WITHOUT = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \| \S.+ \|$", re.MULTILINE)
FLAGS = argparse.ArgumentParser()
FLAGS.add_argument("--law", type=lambda text: text.split(","))
FLAGS.add_argument("--columns")
FLAGS.add_argument("--where")
FLAGS.add_argument("--melt")


@dataclasses.dataclass(frozen=True)
class Also:
    """A law whose columns a grid has."""

    line: Line
    law: str
    columns: str | None
    where: str | None
    melt: str | None

    def __str__(self) -> str:
        return f"{self.line.grid.stem}-{self.law}"


def also() -> Iterator[Also]:
    for path in STUDIES:
        for variant, flags in ALSO.findall(file.load(str(path)).doc):
            line = Line(path.stem, variant, tuple(shlex.split(flags)), "")
            given = FLAGS.parse_args(line.flags)
            for name in given.law:
                yield Also(line, name, given.columns, given.where, given.melt)


def varies(values: Any) -> bool:
    """A column that is the same in every row tells nothing."""
    return values.ndim > 1 or len(set(values.tolist())) > 1


@pytest.mark.parametrize("one", also(), ids=str)
def test_a_grid_has_the_columns_of_a_law_and_they_vary(one: Also):
    law = laws.load(one.law)
    grid = table.load(one.line.grid)
    if one.melt:
        grid = melt(grid, one.melt)
    columns = select_for(grid, law, one.columns, one.where)
    assert len(columns) > len(law.names())
    for role in (*law.ROLES, law.TARGET):
        assert varies(np.asarray(columns[role])), role


def test_every_law_has_a_study_or_a_reason_why_not():
    """And none has both."""
    fitted = {flag.partition("=")[2] for line in lines() for flag in line.flags if flag.startswith("--law=")}
    fed = fitted | {one.law for one in also()}
    readme = (REPOSITORY / "analysis" / "README.md").read_text()
    _, _, section = readme.partition("## Laws without a study\n")
    rows = WITHOUT.findall(section.partition("\n## ")[0])
    without = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert fed.isdisjoint(without)
    assert fed | without == set(laws.LAWS)
