"""Each study's own law is fitted to a recorded grid of the study, by the line of its docstring that says how.

    Fit: --law=data_constrained         flags of analysis.fit; `Fit of :kumar:` for the grid of a variant
    Told: all                           what the recorded grid tells: all, nothing, or the names of coefficients
    No fit: its losses are noise.       why there is no law

recorded/STUDY.csv and STUDY_VARIANT.csv are grids of studies at full scale (tests/sweeps/studies/recording.py).
"""

from collections.abc import Iterator
import json
import pathlib
import re
from typing import Any

import pytest

from sweeps.study import file
from tests.support.commands import run_command
from tests.support.fit_lines import STUDIES, Line, lines

ANY_LINE = re.compile(r"^(Fit|No fit)\b", re.MULTILINE)
SLOW = (
    "lr_batch-tuning_surface",
    "batches-batch_trajectory",
    "rounding_joint-precision_joint",
    "series-kaplan",
)  # of many coefficients, or many rows
QUICK = ("--bootstrap=200", "--noback_test")  # the intervals are not looked at


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_says_by_which_law_it_is_fitted(path: pathlib.Path):
    """Or why by none. Every line that says so is understood."""
    doc = file.load(str(path)).doc
    understood = [line for line in lines() if line.study == path.stem]
    fits = [kind for kind in ANY_LINE.findall(doc) if kind == "Fit"]
    assert len(fits) == len(understood) and ANY_LINE.search(doc)


def told_by(fit: dict[str, Any]) -> tuple[set[str], set[str]]:
    """The coefficients of a fit, or of all fits by group, and those that all of its rows tell."""
    names: set[str] = set()
    untold: set[str] = set()
    for one in fit["fits"].values() if "fits" in fit else [fit]:
        names |= set(one["coefficients"])
        untold |= set(one["coefficients"] if one["verdict"]["nothing"] else one["verdict"]["withheld"])
    return names, names - untold


def quick_or_slow() -> Iterator[Any]:
    for line in lines():
        marks = [pytest.mark.slow] if str(line) in SLOW else []
        yield pytest.param(line, id=str(line), marks=marks)


@pytest.mark.parametrize("line", quick_or_slow())
def test_the_law_of_a_study_is_fitted_to_its_grid(line: Line, tmp_path: pathlib.Path):
    out = tmp_path / "fit.json"
    done = run_command("analysis.fit", line.grid, *line.flags, *QUICK, f"--out={out}", timeout=600)
    assert done.returncode == 0 and "…" not in done.stdout, f"a table is cut off in {done.stdout}\n{done.stderr}"
    names, told = told_by(json.loads(out.read_text()))
    stated = {"all": names, "nothing": set()}.get(line.told, set(line.told.split(", ")))
    assert told == stated, done.stdout.partition("\n")[0]
