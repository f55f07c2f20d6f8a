"""A plan as a lock file: what was planned is what may be launched."""

import json
import pathlib
import re
import types
from typing import Any

from etils import epath
import pytest

from experiments.cli import InputError
from experiments.run import identity
from sweeps.cost import plan_file
from sweeps.executors import local, ray, slurm, tpu_vm
from sweeps.executors.local import LocalExecutor
from sweeps.executors.support.protocol import Executor, Hardware, NotStarted, Worker
from sweeps.launch import check_early_stopping
from sweeps.study.file import Study
from sweeps.study.grid import cases, over, product, tag
from sweeps.work.launch import Policy
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


class Place(Executor[Worker]):
    """An executor whose workers have the hardware, or the target, that a test gives it."""

    slots = 1

    def __init__(self, hardware: Hardware | None = None, target: str | None = None):
        self._hardware = hardware
        self.target = target

    def hardware(self) -> Hardware | None:
        return self._hardware

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> NotStarted:
        return NotStarted("user", "of no use here")


CPU = Place(Hardware("cpu", 1))
UNKNOWN = Place()
SLICE = Place(target="v5litepod-16")


def test_a_plan_is_needed_away_from_this_machine(study: Study, tmp_path: pathlib.Path):
    assert plan_file.plan_to_launch(study, tmp_path, "local", CPU) is None
    said = r"--executor=slurm: .* has no plan.json; make one with .*sweeps.plan.*--no-plan"
    with pytest.raises(InputError, match=said):
        plan_file.plan_to_launch(study, tmp_path, "slurm", CPU)


def test_a_plan_is_for_one_slice_whatever_its_name(study: Study, tmp_path: pathlib.Path):
    plan = write(plan_of(study), tmp_path)
    assert plan_file.plan_to_launch(study, tmp_path, "my-place", UNKNOWN) == plan
    assert plan_file.plan_to_launch(study, tmp_path, "tpu-vm", SLICE) == plan
    with pytest.raises(InputError, match="is for v5e-16, not for v5p-128"):
        plan_file.plan_to_launch(study, tmp_path, "tpu-vm", Place(target="v5p-128"))


@pytest.mark.parametrize(
    ("target", "hardware", "said"),
    [
        ("v5e-16", Hardware("tpu", 16), None),
        ("v5e-16", Hardware("tpu", 4), r"is for v5e-16 \(16 TPU chips\), where a worker has 4 TPU chips"),
        ("v5e-16", Hardware("gpu", 16), "where a worker has 16 GPUs"),
        ("v5e-16", Hardware("cpu", 1), "where a worker has CPU cores"),
        ("h100-8", Hardware("gpu", 1), r"is for h100-8 \(8 GPUs\), where a worker has 1 GPU"),
        ("h100-8", Hardware("gpu", 8), None),
        ("tpu7x-16", Hardware("tpu", 8), None),
        ("v5e-256x4", Hardware("tpu", 1024), None),
        ("cpu", Hardware("gpu", 1), r"is for cpu \(CPU cores\), where a worker has 1 GPU"),
        ("cpu", Hardware("cpu", 1), None),
    ],
)
def test_a_plan_for_other_devices_is_refused_or_set_aside_aloud(
    target: str, hardware: Hardware, said: str | None, study: Study, tmp_path: pathlib.Path
):
    """Refused where a plan is needed; on this machine, which needs none, it is left where it lies, and a line says so."""
    plan = write(plan_of(study) | {"target": target}, tmp_path)
    lines: list[str] = []
    here = plan_file.plan_to_launch(study, tmp_path, "local", Place(hardware), lines.append)
    if said is None:
        assert here == plan_file.plan_to_launch(study, tmp_path, "ray", Place(hardware)) == plan
        assert lines == []
        return
    assert here is None
    (line,) = lines
    assert re.search(said, line)
    assert line.startswith(f"note: {tmp_path}/plan.json")
    with pytest.raises(InputError, match=said + "; make one .*--no-plan"):
        plan_file.plan_to_launch(study, tmp_path, "ray", Place(hardware))


def test_executors_know_what_their_workers_train_on(monkeypatch: pytest.MonkeyPatch):
    """Of all hosts of one worker. A custom resource of Ray does not say what it stands for."""
    assert LocalExecutor().hardware() == Hardware("cpu", 1)
    monkeypatch.setattr(local, "accelerators", lambda: [{"CUDA_VISIBLE_DEVICES": name} for name in "01"])
    assert LocalExecutor().hardware() == Hardware("gpu", 1), "each worker has one of them"
    monkeypatch.setattr(local, "accelerators", lambda: [{}])
    monkeypatch.setattr(local, "_tpu_files", lambda: ["/dev/accel0", "/dev/accel1"])
    assert LocalExecutor().hardware() == Hardware("tpu", 2)


def hardware_of(cls: type[Executor[Any]], options: Any) -> Hardware | None:
    """Ask an executor that is not connected to its place."""
    ask: Any = cls.hardware
    return ask(types.SimpleNamespace(_options=options))


def test_remote_executors_know_it_from_their_options():
    assert hardware_of(ray.RayExecutor, ray.Options(tpus=4, hosts=4)) == Hardware("tpu", 16)
    assert hardware_of(ray.RayExecutor, ray.Options(gpus=2)) == Hardware("gpu", 2)
    assert hardware_of(ray.RayExecutor, ray.Options()) == Hardware("cpu", 1)
    assert hardware_of(ray.RayExecutor, ray.Options(resource="slice")) is None
    assert hardware_of(slurm.SlurmExecutor, slurm.Options(gpus=8, hosts=2)) == Hardware("gpu", 16)
    assert hardware_of(slurm.SlurmExecutor, slurm.Options(cpus=8)) == Hardware("cpu", 1)


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
    write(plan_of(study) | {"target": "cpu"}, tmp_path)
    other = study_of(product(cases(SMALL | changed), over("seed", 1, 2)))
    with pytest.raises(InputError, match="made for other runs"):
        plan_file.plan_to_launch(other, tmp_path, executor, CPU)


def test_runs_have_the_mesh_and_the_packing_of_their_plan(study: Study):
    placed, together = plan_file.apply_plan(study, plan_of(study))
    assert {cell.execution.mesh.fsdp for cell in placed.cells} == {4}
    assert {cell.execution.packing for cell in placed.cells} == {"vmap"}
    assert together == {identity.signature(study.cells[0].run): 2}


def test_what_does_not_fit_is_not_launched(study: Study, tmp_path: pathlib.Path):
    write(plan_of(study, fits=False), tmp_path)
    with pytest.raises(InputError, match="a does not fit on v5e-16"):
        plan_file.plan_to_launch(study, tmp_path, "tpu-vm", SLICE)


@pytest.mark.parametrize("plan", [{}, {"hash": "x", "target": "v9-1", "signatures": []}])
def test_a_damaged_plan_is_named(plan: dict[str, Any], study: Study, tmp_path: pathlib.Path):
    write(plan, tmp_path)
    with pytest.raises(InputError, match="no plan that can be read"):
        plan_file.plan_to_launch(study, tmp_path, "local", CPU)


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


def test_early_stopping_needs_an_executor_that_shares_the_workdir():
    """Where curves come back only with the run, a flag that could stop nothing is refused in one line."""
    away = Place()
    away.shares_workdir = False
    stopping = Policy(stop_dominated=True)
    with pytest.raises(
        InputError, match="--stop_dominated: --executor=my-place brings curves back only when a run is over"
    ):
        check_early_stopping(stopping, "my-place", away)
    with pytest.raises(InputError, match="--stop_diverging"):
        check_early_stopping(Policy(stop_diverging=True), "my-place", away)
    check_early_stopping(Policy(), "my-place", away)
    check_early_stopping(stopping, "local", CPU)
    assert tpu_vm.TpuVmExecutor.shares_workdir, "slices work in the workdir itself"
