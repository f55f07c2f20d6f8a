"""Executors with what they talk to: submitit's local jobs, a real Ray cluster, a gcloud on PATH that records its calls."""

import json
import pathlib
import re
import signal
import time

import pytest

from experiments.cli import InputError
from sweeps.executors import load
from sweeps.executors.support import gang
from tests.support.executors import launch, losses, started, until

# --- one interface


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("slrum", "did you mean 'slurm'"),
        ("slurm:gpu=1", "unknown option; did you mean 'gpus'"),
        ("slurm:gpus=many", "gpus=… of type int"),
        ("slurm:cluster=moon", "expected slurm or local"),
        ("local:cores=3", "unknown option; known options: none"),
        ("tpu-vm:type=v5litepod-16", "zone=: expected"),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-16;rm", "type=v5litepod-16;rm"),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-17", "is no slice"),
        ("tpu-vm:zone=us-east5-b,type=h100-8", "expected a TPU slice"),
        ("tpu-vm:zone=us-east5-b,type=tpu7x-16", "sweeps.manifest --kind=xpk"),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-16,spot=yes", "true or false"),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-16,spot=true,reserved=true", "one of them at most"),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-16,max_hours=0", "max_hours=0: expected 1 at least"),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-16,owner=Anna", "owner=Anna: expected"),
    ],
)
def test_bad_options_are_one_line(spec: str, named: str):
    with pytest.raises(InputError, match=re.escape(named)):
        load(spec)


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_package_is_one_line(name: str, package: str, tmp_path: pathlib.Path):
    """A folder that shadows the package as if it was not there."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise ImportError('not here')")
    (tmp_path / "s.py").write_text("from sweeps.study.grid import over\ndef get_study(): return over('seed', 0)\n")
    done = launch(tmp_path / "s.py", tmp_path / "w", name, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"requirements-{name}.txt" in done.stderr


class Member:
    """A worker whose end is set by the test."""

    def __init__(self) -> None:
        self.code, self.asked = None, []

    def poll(self):
        return self.code

    def events(self):
        return [{"event": "x"}]

    def stop(self, force: bool = False):
        self.asked.append(force)


def test_a_group_ends_with_its_first_loss(monkeypatch: pytest.MonkeyPatch):
    """The others have a while to notice, then they are ended; the first failure is the group's."""
    monkeypatch.setattr(gang, "GRACE_SECONDS", 0.05)
    members = [Member(), Member(), Member()]
    whole = gang.Gang(members)
    assert whole.poll() is None and len(whole.events()) == 3
    members[1].code = -9
    assert whole.poll() is None and not any(m.asked for m in members)
    time.sleep(0.1)
    assert whole.poll() is None and [m.asked for m in members] == [[True], [], [True]]
    members[0].code = members[2].code = 1
    assert whole.poll() == -9
    for member in members:
        member.code = 0
    assert gang.Gang(members).poll() == 0


# --- Slurm


@pytest.mark.slow
def test_slurm_jobs_train_a_study_and_end_with_their_launcher(
    executor_study: pathlib.Path, at_home: dict[str, float], tmp_path: pathlib.Path
):
    """submitit's local jobs: stopped (75), launcher killed, launched again: the same losses, and nothing left running."""
    pytest.importorskip("submitit")
    workdir, spec = tmp_path / "w", "slurm:cluster=local,slots=2"
    long = pathlib.Path(f"{executor_study}:400")
    first = started(long, workdir, spec)
    until(lambda: len(list(workdir.glob("runs/*/metrics.jsonl"))) == 2)
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=90)
    assert first.returncode == 75 and "the same command goes on" in out, err
    assert {path.read_text().strip() for path in workdir.glob("slurm/*/exit.0")} == {"75"}

    second = started(long, workdir, spec)
    before = set(workdir.glob("slurm/*/events.0"))
    until(lambda: set(workdir.glob("slurm/*/events.0")) - before)
    second.kill()
    second.wait()
    third = launch(long, workdir, spec)  # asks the orphans to end first
    assert third.returncode == 0, third.stderr
    boxes = list(workdir.glob("slurm/*"))
    assert all((box / "exit.0").exists() for box in boxes) and len(boxes) >= 5
    assert len(losses(workdir)) == 3
    for path in workdir.glob("runs/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        taken = [row["step"] for row in rows if "loss" in row]
        assert taken == sorted(set(taken)), "no step was taken twice"

    done = launch(executor_study, tmp_path / "again", spec)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "again") == pytest.approx(at_home, rel=1e-5)


@pytest.mark.slow
def test_a_slurm_job_on_two_hosts_is_one_run(
    executor_study: pathlib.Path, at_home: dict[str, float], tmp_path: pathlib.Path
):
    """Two tasks join each other and train as one; one exit code each."""
    pytest.importorskip("submitit")
    done = launch(executor_study, tmp_path / "w", "slurm:cluster=local,slots=1,hosts=2,port=18479")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "w") == pytest.approx(at_home, rel=1e-5)
    for box in (tmp_path / "w" / "slurm").iterdir():
        assert [(box / f"exit.{rank}").read_text().strip() for rank in (0, 1)] == ["0", "0"]
