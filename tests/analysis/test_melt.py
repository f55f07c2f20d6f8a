"""Columns that hold one quantity at several numbers become rows."""

import pathlib

import pandas as pd
import pytest

from analysis.grid import table
from analysis.grid.melt import melt
from experiments.cli import InputError
from tests.support.commands import run_command

SAMPLES = (1, 3, 10, 30, 100)


@pytest.fixture
def wide(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two models whose coverage grows as exp(a k^b); another column of the same beginning has no number."""
    rows = []
    for width, a in ((16, -3.0), (32, -1.5)):
        coverage = {f"task_x_coverage_{k}": 2.718281828459045 ** (a * k**-0.4) for k in SAMPLES}
        rows.append({"width": width, "task_x_coverage_10_sem": 0.1, "task_x_coverage_all": 1.0, **coverage})
    path = tmp_path / "wide.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_each_column_becomes_a_row_of_its_run(wide: pathlib.Path):
    grid = melt(table.load(str(wide)), "samples,coverage=task_x_coverage_*")
    assert len(grid) == 2 * len(SAMPLES)
    assert grid.names == ["width", "task_x_coverage_10_sem", "task_x_coverage_all", "run", "samples", "coverage"]
    before = table.load(str(wide)).frame
    for _, row in grid.frame.iterrows():
        assert row["coverage"] == before.loc[int(row["run"]), f"task_x_coverage_{row['samples']:.0f}"]
        assert row["width"] == before.loc[int(row["run"]), "width"]


def test_a_law_is_fitted_to_what_was_melted(wide: pathlib.Path, tmp_path: pathlib.Path):
    flags = ("--law=coverage", "--melt=samples,coverage=task_x_coverage_*", "--where=width==32", "--bootstrap=0")
    done = run_command("analysis.fit", wide, *flags, "--noback_test")
    assert done.returncode == 0 and "-1.5" in done.stdout and "-0.4" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("samples=task_x_coverage_*", "expected NUMBER,VALUE=PATTERN"),
        ("samples,coverage=task_x_coverage_10", "expected NUMBER,VALUE=PATTERN"),
        ("width,coverage=task_x_coverage_*", "'width' is a column of .*wide.csv already"),
        ("samples,coverage=task_y_*", r"task_y_\* matches 0 columns of .*wide.csv with a number for the star"),
    ],
)
def test_what_cannot_be_melted_is_refused(text: str, said: str, wide: pathlib.Path):
    with pytest.raises(InputError, match=said):
        melt(table.load(str(wide)), text)
