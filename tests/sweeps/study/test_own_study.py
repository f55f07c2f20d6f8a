"""A study of one's own: one file, anywhere, with an axis, a rule and an argument that nobody else knows."""

import json
import pathlib

import pandas as pd
import pytest

from experiments.cli import InputError
from sweeps.study import file
from tests.support.commands import run_command

STUDY = '''"""Does a square of the width make a good warm-up?

Cost: 3 runs, 3.92e+08 FLOPs.
"""

from sweeps.study.grid import cases, derive, over, product, tag
from sweeps.study.rules import rule


@rule("made up for this test: the square of the width")
def square_of_width(run, tags):
    return run.model.width**2


def get_study(depth="1"):
    base = {"model.depth": int(depth), "model.heads": 2, "seq_len": 32, "batch_tokens": 256, "tokens": 5_120}
    grid = product(cases(base), over("model.width", 8, 12), over("seed", 0))
    grid = derive(grid, "schedule.warmup_tokens", square_of_width)
    return tag(grid, group="toy") + tag(product(cases(base), over("model.width", 8), over("seed", 1)), group="control")
'''


@pytest.fixture
def study_path(tmp_path: pathlib.Path) -> pathlib.Path:
    """The file, outside of the project."""
    path = tmp_path / "toy.py"
    path.write_text(STUDY)
    return path


def test_a_study_is_one_file(study_path: pathlib.Path):
    """Its docstring, its points with their names, its rule beside the values that it has set, its argument."""
    study = file.load(str(study_path))
    assert "good warm-up?" in study.doc
    assert [cell.name for cell in study.cells] == [
        "toy width=8 seed=0",
        "toy width=12 seed=0",
        "control width=8 seed=1",
    ]
    assert [cell.run.schedule.warmup_tokens for cell in study.cells[:2]] == [64, 144]
    assert study.cells[0].tags["rule_schedule_warmup_tokens"] == "square_of_width"
    assert {cell.run.model.depth for cell in file.load(f"{study_path}:3").cells} == {3}
    with pytest.raises(InputError, match=r"toy\.py, line \d+: ValueError: .*'deep'"):
        file.load(f"{study_path}:deep")


def test_a_study_from_outside_is_planned(study_path: pathlib.Path, tmp_path: pathlib.Path):
    """Its candidates without compiling anything; then measured here, as what launch follows."""
    table = tmp_path / "runs.csv"
    done = run_command("sweeps.plan", f"--study={study_path}", f"--runs={table}")
    assert done.returncode == 0, done.stderr
    candidates = pd.read_csv(table)
    assert len(candidates) == 3
    assert candidates["flops_total"].sum() == pytest.approx(3.92e8, rel=6e-3)

    workdir = tmp_path / "w"
    done = run_command("sweeps.plan", f"--study={study_path}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    plan = json.loads((workdir / "plan.json").read_text())
    assert [signature["runs"] for signature in plan["signatures"]] == [2, 1], "two widths are two programs"
    assert plan["totals"]["runs"] == 3
    assert plan["totals"]["flops"] == pytest.approx(3.92e8, rel=6e-3)
    assert "3 runs, 15,360 tokens" in done.stdout
