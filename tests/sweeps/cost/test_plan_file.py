"""A plan as a lock file: what was planned is what may be launched."""

import json
import pathlib
from typing import Any

import pytest

from experiments.cli import InputError
from experiments.run import identity
from sweeps.cost import plan_file
from sweeps.study.file import Study
from sweeps.study.grid import cases, over, product, tag
from tests.support.commands import run_command
from tests.support.plans import SMALL, study_of

MESH = {"trial": 2, "data": 2, "fsdp": 4, "expert": 1, "tensor": 1}


@pytest.fixture
def study() -> Study:
    """Two runs of one signature."""
    return study_of(product(cases(SMALL), over("seed", 1, 2)))


def plan_of(study: Study, **signature: Any) -> dict[str, Any]:
    """A plan for sixteen v5e chips."""
    name = identity.signature(study.cells[0].run)
    row = {"name": "a", "signature": name, "fits": True, "trials_per_program": 2, "mesh": MESH, "packing": "vmap"}
    return {"hash": plan_file.study_hash(study), "target": "v5e-16", "signatures": [row | signature]}


def write(plan: dict[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """Leave a plan in a workdir."""
    (workdir / "plan.json").write_text(json.dumps(plan))
    return plan


def test_a_plan_is_needed_away_from_this_machine(study: Study, tmp_path: pathlib.Path):
    assert plan_file.plan_to_launch(study, tmp_path, "local") is None
    said = r"--executor=slurm: .* has no plan.json; make one with .*sweeps.plan.*--no-plan"
    with pytest.raises(InputError, match=said):
        plan_file.plan_to_launch(study, tmp_path, "slurm")


def test_a_plan_is_for_one_slice_whatever_its_name(study: Study, tmp_path: pathlib.Path):
    plan = write(plan_of(study), tmp_path)
    assert plan_file.plan_to_launch(study, tmp_path, "slurm") == plan
    assert plan_file.plan_to_launch(study, tmp_path, "tpu-vm", "v5litepod-16") == plan
    with pytest.raises(InputError, match="is for v5e-16, not for v5p-128"):
        plan_file.plan_to_launch(study, tmp_path, "tpu-vm", "v5p-128")


def test_names_tags_and_order_are_not_what_was_planned(study: Study):
    renamed = study_of(tag(product(cases(SMALL), over("seed", 2, 1)), note=1))
    assert plan_file.study_hash(renamed) == plan_file.study_hash(study)


@pytest.mark.parametrize(
    "changed",
    [
        {"opt.lr": 1e-4},
        {"model.remat": "full"},
        {"execution.mesh.fsdp": 2},
        {"execution.microbatches": 2},
        {"execution.offload": "optimizer"},
    ],
)
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_plan_for_other_runs_is_refused(study: Study, changed: dict[str, Any], executor: str, tmp_path: pathlib.Path):
    write(plan_of(study), tmp_path)
    other = study_of(product(cases(SMALL | changed), over("seed", 1, 2)))
    with pytest.raises(InputError, match="made for other runs"):
        plan_file.plan_to_launch(other, tmp_path, executor)


def test_runs_have_the_mesh_and_the_packing_of_their_plan(study: Study):
    placed, together = plan_file.apply_plan(study, plan_of(study))
    assert {cell.execution.mesh.fsdp for cell in placed.cells} == {4}
    assert {cell.execution.packing for cell in placed.cells} == {"vmap"}
    assert together == {identity.signature(study.cells[0].run): 2}


def test_what_does_not_fit_is_not_launched(study: Study, tmp_path: pathlib.Path):
    write(plan_of(study, fits=False), tmp_path)
    with pytest.raises(InputError, match="a does not fit on v5e-16"):
        plan_file.plan_to_launch(study, tmp_path, "tpu-vm", "v5e-16")


def test_a_damaged_plan_is_named(study: Study, tmp_path: pathlib.Path):
    write({}, tmp_path)
    with pytest.raises(InputError, match="no plan that can be read"):
        plan_file.plan_to_launch(study, tmp_path, "local")


def test_launch_refuses_a_stale_plan(tmp_path: pathlib.Path):
    """One line, exit code 2, nothing started; and --no-plan is a flag that it knows."""
    values = SMALL | {"data.corpus": ("nowhere/*.txt",)}
    path = tmp_path / "s.py"
    path.write_text(f"from sweeps.study.grid import *\ndef get_study(): return cases({values!r})\n")
    workdir = tmp_path / "w"
    workdir.mkdir()
    write({"hash": "0", "target": "cpu", "signatures": []}, workdir)
    command = ("sweeps.launch", f"--study={path}", f"--workdir={workdir}", f"--data_root={tmp_path}")
    refused = run_command(*command)
    assert refused.returncode == 2
    assert "made for other runs" in refused.stderr
    assert refused.stderr.count("\n") == 1
    unplanned = run_command(*command, "--no-plan")
    assert unplanned.returncode == 2
    assert "nowhere" in unplanned.stderr, "it goes on to the corpus, which is not there"
