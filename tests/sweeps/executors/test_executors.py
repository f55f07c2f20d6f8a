"""Executors with what they talk to: submitit's local jobs, a real Ray cluster, a gcloud on PATH that records its calls."""

import json
import pathlib
import re
import shlex
import signal
import subprocess
import time

import pytest

from experiments.cli import InputError
from sweeps.executors import load, tpu_vm
from sweeps.executors.support import gang, slice_keeper
from sweeps.executors.support.options import parse_options
from tests.support.commands import run_command
from tests.support.executors import TPU, Cloud, launch, losses, started, until

# --- one interface


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("slrum", "did you mean 'slurm'"),
        ("slurm:gpu=1", "unknown option; did you mean 'gpus'"),
        ("slurm:gpus=many", "gpus=… of type int"),
        ("slurm:cluster=moon", "expected slurm or local"),
        ("local:cores=3", "unknown option; known options: none"),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-16", "bucket="),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-16;rm,bucket=gs://a/b", "type=v5litepod-16;rm"),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-16,bucket=gs://a/b,spot=yes", "true or false"),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-16,bucket=gs://a/b,spot=true,reserved=true", "one of the two"),
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


# --- TPU VMs


@pytest.fixture
def one_run(executor_study: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The study's first run alone: a slice of its own for each population takes a while."""
    path = tmp_path / "one.py"
    path.write_text(executor_study.read_text().replace("return chain(", "return runs[:1]\n    return chain("))
    return path


@pytest.mark.slow
def test_a_slice_is_made_used_and_deleted(
    one_run: pathlib.Path, at_home: dict[str, float], cloud: Cloud, tmp_path: pathlib.Path
):
    """Every command in its order, each printed first; the run comes back and is the one that is trained at home."""
    done = launch(one_run, tmp_path / "w", TPU, **cloud.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = losses(tmp_path / "w")
    assert len(found) == 1 and found == pytest.approx({name: at_home[name] for name in found}, rel=1e-5)
    assert cloud.verbs == ["create", "scp", "ssh", "rsync", "rsync", "rsync", "ssh", "rsync", "delete"]
    create, ssh = cloud.calls[1], [call for call in cloud.calls if "ssh" in call]
    assert {"--spot", "--accelerator-type=v5litepod-4", "--zone=us-east5-b", "--quiet"} <= set(create)
    assert all("--worker=all" in call for call in ssh) and "--hosts=auto" in " ".join(ssh[-1])
    assert "requirements-tpu.txt" in " ".join(ssh[0])
    for call in cloud.calls:
        assert "describe" in call or shlex.join(["gcloud", *call]) in done.stderr.replace("\n", "")
    assert not (cloud.folder / "state").exists(), "nothing is left that costs"
    assert not list((tmp_path / "cloud" / "bucket").rglob("claim.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failures", "deletions"),
    [
        (["create 2 1 RESOURCE_EXHAUSTED"], 1),  # tried again within the attempt
        (["scp 3 255 connection refused"], 2),  # given up; another slice
        (["ssh 1 255 PREEMPTED"], 1),  # during the bootstrap: tried again on what is left of it
        (["delete 1 1 UNAVAILABLE"], 2),
    ],
    ids=["quota", "unreachable", "preempted", "delete"],
)
def test_what_gcloud_may_answer(
    failures: list[str], deletions: int, one_run: pathlib.Path, cloud: Cloud, tmp_path: pathlib.Path
):
    """Each ends in a record, and with nothing left that costs."""
    cloud.fail(*failures)
    done = launch(one_run, tmp_path / "w", TPU, **cloud.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(losses(tmp_path / "w")) == 1
    assert cloud.verbs.count("delete") >= deletions and not (cloud.folder / "state").exists()


def test_a_request_that_fails_is_deleted(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
    """Whatever goes wrong, the last command is to delete."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slice_keeper, "POLL_SECONDS", 0.05)
    options = parse_options(tpu_vm.Options, TPU.partition(":")[2], "--executor=tpu-vm")
    value = {"fingerprints": ["0" * 16], "runs": [{"parent": None}], "execution": {"data_root": str(tmp_path)}}
    (tmp_path / "p.json").write_text(json.dumps(value))
    cloud.fail("create 9 1 QUOTA_EXCEEDED")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert slice_keeper.serve(options, str(tmp_path / "p.json"), str(tmp_path)) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert cloud.verbs == ["create"] * slice_keeper.ATTEMPTS + ["delete"]


# --- files for other launchers


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("xpk", "bucket=gs://mine/work,cluster=c,type=v5litepod-16,image=gcr.io/mine/lossgrid"),
        pytest.param(
            "skypilot",
            "bucket=gs://mine/work,accelerators=tpu-v5litepod-16:1,nodes=4,spot=true",
            marks=pytest.mark.slow,
        ),
        pytest.param("tpu-vm", "bucket=gs://mine/work,zone=us-east5-b,type=v5litepod-16", marks=pytest.mark.slow),
    ],
)
def test_a_study_as_files(kind: str, options: str, executor_study: pathlib.Path, tmp_path: pathlib.Path):
    """One job a population, parents before children; scripts that a shell reads; YAML that means what it says."""
    import yaml

    workdir, out = tmp_path / "w", tmp_path / "out"
    flags = (
        f"--study={executor_study}",
        f"--workdir={workdir}",
        f"--kind={kind}",
        f"--out={out}",
        f"--options={options}",
    )
    done = run_command("sweeps.manifest", *flags)
    assert done.returncode == 0, done.stderr
    script = out / f"{kind}.sh"
    subprocess.run(["bash", "-n", script], check=True)
    populations = {path.stem: json.loads(path.read_text()) for path in out.glob("populations/*.json")}
    assert len(populations) == 3 and not workdir.exists()
    assert {value["execution"]["data_root"] for value in populations.values()} == {"gs://mine/work/out/data"}
    (child,) = (name for name, value in populations.items() if value["runs"][0]["parent"])
    text = script.read_text()
    lines = [line for line in text.splitlines() if re.search(r"workload create|sky launch|experiments.train", line)]
    assert len(lines) == 3 and child in lines[-1] and text.rstrip().splitlines()[-1].startswith("gcloud storage rsync")
    if kind == "skypilot":
        for path in out.glob("*.yaml"):
            task = yaml.safe_load(path.read_text())
            assert task["num_nodes"] == 4 and task["resources"]["use_spot"] is True
            assert f"populations/{path.stem}.json" in task["run"] and "SKYPILOT_NODE_RANK" in task["run"]
            subprocess.run(["bash", "-n", "-c", task["run"]], check=True)
    bad = run_command("sweeps.manifest", *flags[:-1], "--options=bucket=mine")
    assert bad.returncode == 2 and re.search(r"(bucket|zone)=\w*: expected", bad.stderr)
