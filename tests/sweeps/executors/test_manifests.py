"""Files for other launchers: read by those launchers' own validators, and run on a cloud of this machine."""

import json
import os
import pathlib
import re
import signal
import subprocess

import pytest

from models.errors import InputError
from sweeps import manifests
from sweeps.executors.support.options import parse_options
from tests.support.cloud import TYPE, Cloud
from tests.support.commands import run_command
from tests.support.executors import losses, until
from tests.support.paths import REPOSITORY

# Where `make .venv-launchers` puts SkyPilot and xpk, which want other packages than we do.
LAUNCHERS = pathlib.Path(os.environ.get("LOSSGRID_LAUNCHERS", REPOSITORY / ".venv-launchers")) / "bin"
OPTIONS = {
    "xpk": "bucket=gs://mine/work,cluster=c,type=v5litepod-16,image=gcr.io/mine/lossgrid,zone=us-east5-b,project=p",
    "skypilot": "bucket=gs://mine/work,accelerators=tpu-v5litepod-16,spot=true",
    "tpu-vm": "bucket=gs://mine/work,zone=us-east5-b,type=v5litepod-16,owner=anna",
}


def manifest(study: pathlib.Path, folder: pathlib.Path, kind: str, options: str) -> subprocess.CompletedProcess[str]:
    flags = (f"--study={study}", f"--workdir={folder / 'w'}", f"--kind={kind}", f"--out={folder / 'out'}")
    return run_command("sweeps.manifest", *flags, f"--options={options}")


@pytest.mark.parametrize(
    "kind", ["xpk", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("skypilot", "tpu-vm"))]
)
def test_a_study_as_files(kind: str, executor_study: pathlib.Path, tmp_path: pathlib.Path):
    """One job a population, side by side within a level, parents before children; a script that a shell reads."""
    done = manifest(executor_study, tmp_path, kind, OPTIONS[kind])
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    script = out / f"{kind}.sh"
    subprocess.run(["bash", "-n", script], check=True)
    populations = {path.stem: json.loads(path.read_text()) for path in out.glob("populations/*.json")}
    assert len(populations) == 3 and not (tmp_path / "w").exists()
    assert {value["execution"]["data_root"] for value in populations.values()} == {"gs://mine/work/out/data"}
    (child,) = (name for name, value in populations.items() if value["runs"][0]["parent"])
    _, first, second = re.split(r"^together \d+ ", script.read_text(), flags=re.MULTILINE)
    assert child in second and child not in first
    assert all(name in first for name in populations if name != child)


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("xpk", "bucket=mine", "bucket=mine: expected"),
        ("skypilot", "bucket=gs://a/b,accelerators=tpu-v5litepod-16,nodes=4", "a slice is one node"),
        (
            "skypilot",
            "bucket=gs://a/b,accelerators=H100:8,nodes=0",
            "'nodes=0' is too small; expected nodes of at least 1",
        ),
        ("tpu-vm", "bucket=gs://a/b,zone=us-east5-b,type=tpu7x-16", "--kind=xpk"),
    ],
)
def test_bad_options_are_one_line(kind: str, options: str, named: str):
    options_of_kind = manifests.load(kind).Options
    with pytest.raises(InputError, match=re.escape(named)):
        parse_options(options_of_kind, options, "--options").check()


# --- the launchers' own validators

VALIDATE = """
import sys
import sky
for path in sys.argv[1:]:
    task = sky.Task.from_yaml(path)
    (resources,) = task.resources
    print(task.name, task.num_nodes, resources.use_spot, resources.accelerators)
"""


@pytest.mark.slow
@pytest.mark.skipif(not (LAUNCHERS / "sky").exists(), reason="SkyPilot is not installed: make .venv-launchers")
@pytest.mark.parametrize(("accelerators", "nodes"), [("tpu-v5litepod-16", 1), ("H100:8", 4)])
def test_skypilot_understands_its_tasks(
    accelerators: str, nodes: int, executor_study: pathlib.Path, tmp_path: pathlib.Path
):
    """Its own schema; and its command line, for what the script asks."""
    options = f"bucket=gs://mine/work,accelerators={accelerators},nodes={nodes},spot=true"
    done = manifest(executor_study, tmp_path, "skypilot", options)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    tasks = sorted(map(str, out.glob("*.yaml")))
    home = os.environ | {"HOME": str(tmp_path)}
    validate = [str(LAUNCHERS / "python"), "-c", VALIDATE, *tasks]
    read = subprocess.run(validate, capture_output=True, text=True, env=home, cwd=tmp_path)
    assert read.returncode == 0, read.stderr
    lines = [line for line in read.stdout.splitlines() if line.startswith("lossgrid-")]
    assert len(lines) == 3 and all(f" {nodes} True {{'{accelerators.partition(':')[0]}'" in line for line in lines)
    text = (out / "skypilot.sh").read_text()
    assert text.count("sky jobs launch --yes --name=lossgrid-") == 3
    for words in (["jobs", "launch"], ["jobs", "cancel"]):
        known = subprocess.run([LAUNCHERS / "sky", *words, "--help"], capture_output=True, text=True, env=home)
        assert "-y, --yes" in known.stdout and "-n, --name" in known.stdout


@pytest.mark.slow
@pytest.mark.skipif(not (LAUNCHERS / "xpk").exists(), reason="xpk is not installed: make .venv-launchers")
@pytest.mark.parametrize(("type_", "hosts"), [("v5litepod-16", 4), ("tpu7x-16", 2)])
def test_xpk_makes_workloads_of_them(type_: str, hosts: int, executor_study: pathlib.Path, tmp_path: pathlib.Path):
    """Its dry run writes the JobSet that Kubernetes would be given, and waits for nothing: there is no workload."""
    import yaml

    done = manifest(executor_study, tmp_path, "xpk", OPTIONS["xpk"].replace("v5litepod-16", type_))
    assert done.returncode == 0, done.stderr
    # The script runs with an xpk that adds --dry-run to every command, and a gcloud that does nothing.
    image = tmp_path / "bin"
    image.mkdir()
    written = tmp_path / "jobset.yaml"
    (image / "xpk").write_text(
        f'#!/bin/bash\nmore=()\n[ "$2" = create ] && more=(--output-manifest-file={written})\n'
        f'exec {LAUNCHERS / "xpk"} "$@" "${{more[@]}}" --dry-run --skip-validation\n'
    )
    (image / "gcloud").write_text("#!/bin/bash\nexit 0\n")
    for file in image.iterdir():
        file.chmod(0o755)
    path = os.pathsep.join([str(image), str(LAUNCHERS), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "HOME": str(tmp_path)}
    ran = subprocess.run(["bash", tmp_path / "out" / "xpk.sh"], capture_output=True, text=True, env=environment)
    said = ran.stdout + ran.stderr
    assert ran.returncode == 1 and len(re.findall("Workload named .* does not exist", said)) == 2, said[-2000:]
    assert said.count("Starting Workload delete") == 2 and "usage:" not in said, "each is removed"
    job = yaml.safe_load(written.read_text())["spec"]
    pod = job["replicatedJobs"][0]["template"]["spec"]
    assert job["failurePolicy"]["maxRestarts"] == 20 and pod["parallelism"] == hosts
    (rule,) = pod["podFailurePolicy"]["rules"]
    assert 75 in rule["onExitCodes"]["values"]
    (container,) = pod["template"]["spec"]["containers"]
    assert "experiments.train --population=gs://mine/work/out/populations/" in container["command"][-1]


# --- the script of slices, on a cloud of this machine

SAVES_WHEN_ASKED = "trap 'exit 75' TERM; touch began; while true; do sleep 0.1; done"


class Script:
    """The script of the study's slices, whose workers do next to nothing."""

    def __init__(self, study: pathlib.Path, cloud: Cloud, folder: pathlib.Path):
        self.cloud = cloud
        options = f"bucket={cloud.bucket},zone=us-east5-b,type={TYPE},owner=anna,slots=2"
        done = manifest(study, folder, "tpu-vm", options)
        assert done.returncode == 0, done.stderr
        self.path = folder / "out" / "tpu-vm.sh"

    def start(self) -> subprocess.Popen[str]:
        environment = os.environ | self.cloud.environment
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        # bash never heeds a signal that is ignored when it starts, as under nohup or in a shell's background.
        command = ["env", "--default-signal", "bash", self.path]
        return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


@pytest.fixture
def script(executor_study: pathlib.Path, cloud: Cloud, tmp_path: pathlib.Path) -> Script:
    return Script(executor_study, cloud, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("worker", "faults", "status"),
    [
        ("exit 0", [], 0),
        ("exit 1", [], 1),
        ("exit 75", [], 75),
        ("exit 0", ["describe 5 1 UNAVAILABLE"], 0),
        ("exit 0", ["create 1 1 DEADLINE_EXCEEDED", "delete 2 1 UNAVAILABLE"], 0),
        ("exit 0", ["create 1 1 INVALID_ARGUMENT"], 1),
    ],
)
def test_the_script_leaves_no_slice(worker: str, faults: list[str], status: int, script: Script, cloud: Cloud):
    """Whatever the workers end with; what they have written comes back all the same, and it may be run again."""
    cloud.worker(worker)
    if faults:
        cloud.fail(*faults)
    process = script.start()
    out, _ = process.communicate(timeout=300)
    assert process.returncode == status, out
    assert cloud.paid == [] and "create" in cloud.verbs
    if not faults:
        assert cloud.verbs[-1] == "rsync", "the runs come back whatever has happened"
        assert cloud.verbs.count("create") == (3 if status == 0 else 2), "children of what failed are not begun"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name)
def test_a_script_that_is_stopped_leaves_no_slice(number: signal.Signals, script: Script, cloud: Cloud):
    """It waits until they are deleted. Killed, it leaves the processes that see to them; with those, they delete themselves."""
    cloud.worker(SAVES_WHEN_ASKED)
    process = script.start()
    until(lambda: len(list(cloud.folder.glob("hosts/*/*/0/lossgrid/began"))) == 2)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)  # with all that it has started
        process.communicate(timeout=60)
        until(lambda: cloud.paid == [])
        return
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number, out
    assert cloud.paid == []


@pytest.mark.slow
def test_the_script_trains_the_study(
    executor_study: pathlib.Path, at_home: dict[str, float], script: Script, tmp_path: pathlib.Path
):
    """Its runs come back, and are those that are trained at home."""
    process = script.start()
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    assert losses(tmp_path / "w") == pytest.approx(at_home, rel=1e-5)
    assert script.cloud.paid == []
