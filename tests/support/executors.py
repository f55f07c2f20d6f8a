"""Stand in for the clouds that executors speak to: real processes behind the same commands."""

from collections.abc import Iterator
import json
import os
import pathlib
import subprocess
import sys
import time

from etils import epath
import pytest

from experiments.store import record
from tests.support.commands import run_command
from tests.support.paths import REPOSITORY
from tests.support.ray_cluster import RayCluster

STUDY = '''"""Does it work? Two programs of tiny runs, one of them with a child."""
from sweeps.study.grid import branch, cases, chain, over, product

def get_study(arg="20"):
    base = cases({
        "model.depth": 1, "model.heads": 1, "batch_tokens": 256, "seq_len": 32, "tokens": 256 * int(arg),
        "data.corpus": (%(corpus)r,), "evaluation.tokens": 2048, "execution.tensorboard": False,
        "execution.data_root": %(root)r, "execution.compile_cache": %(cache)r, "execution.steps_per_dispatch": 5,
    })
    runs = product(base, over("model.width", 16, 32), over("opt.lr", 1e-2))
    return chain(runs, branch(runs[:1], cases({"tokens": 256 * int(arg)})))
'''


@pytest.fixture(scope="session")
def executor_study(write_study) -> pathlib.Path:
    """The study file."""
    return write_study(STUDY)


def losses(workdir: epath.PathLike) -> dict[str, float]:
    records = [record.read(path) for path in epath.Path(workdir).glob("runs/*/record.json")]
    return {r["fingerprint"]: r["columns"]["loss_nats"] for r in records if r["status"] == "complete"}


def started(study: pathlib.Path, workdir: pathlib.Path, executor: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sweeps.launch", f"--study={study}", f"--workdir={workdir}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, f"--executor={executor}", "--no-plan"], cwd=REPOSITORY, **pipes)


def until(condition, seconds: float = 120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def launch(study: pathlib.Path, workdir: pathlib.Path, executor: str, **environment: str):
    """Launch a study as a user does, and wait for its end."""
    flags = (f"--study={study}", f"--workdir={workdir}", f"--executor={executor}", "--no-plan")
    return run_command("sweeps.launch", *flags, timeout=400, **environment)


@pytest.fixture(scope="session")
def at_home(executor_study: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Losses of the study by fingerprint, trained by the local executor."""
    workdir = tmp_path_factory.mktemp("at_home")
    done = launch(executor_study, workdir, "local")
    assert done.returncode == 0, done.stderr
    return losses(workdir)


@pytest.fixture(scope="session")
def _session_cluster() -> Iterator[RayCluster]:
    pytest.importorskip("ray")
    made = RayCluster()
    yield made
    made.close()


@pytest.fixture
def cluster(_session_cluster: RayCluster) -> Iterator[RayCluster]:
    """A Ray cluster of this machine, which all tests share. What one of them harms is mended."""
    yield _session_cluster
    _session_cluster.mend()


TPU = "tpu-vm:zone=us-east5-b,type=v5litepod-4,bucket=gs://mine/work,spot=true"


GCLOUD = '''#!{python}
"""A gcloud that keeps its calls and plays a slice on this machine. `fail` in its folder: one `WORD COUNT CODE TEXT` a line."""
import json, os, pathlib, re, shlex, shutil, subprocess, sys

HERE, words = pathlib.Path(__file__).parent, sys.argv[1:]
bucket, host = HERE / "bucket", HERE / "host"


def place(path):
    return str(bucket / path.removeprefix("gs://")) if path.startswith("gs://") else path


with open(HERE / "calls", "a") as file:
    file.write(json.dumps(words) + chr(10))
fail = HERE / "fail"
if fail.exists():
    left = []
    for line in fail.read_text().splitlines():
        word, count, code, text = line.split(" ", 3)
        if word in words and int(count):
            left.append(f"{{word}} {{int(count) - 1}} {{code}} {{text}}")
            fail.write_text(chr(10).join(left + fail.read_text().splitlines()[len(left):]) + chr(10))
            if text == "PREEMPTED":
                (HERE / "state").write_text("SUSPENDED")
            print(f"ERROR: {{text}}", file=sys.stderr)
            sys.exit(int(code))
        left.append(line)
state = HERE / "state"
if "describe" in words:
    if not state.exists():
        print("ERROR: NOT_FOUND", file=sys.stderr)
        sys.exit(1)
    now = state.read_text()
    print(json.dumps({{"state": {{"state": now}}}}))
    if now == "WAITING_FOR_RESOURCES":
        state.write_text("ACTIVE")
elif "create" in words:
    if state.exists():
        sys.exit("ERROR: ALREADY_EXISTS")
    state.write_text("WAITING_FOR_RESOURCES")
elif "delete" in words:
    state.unlink(missing_ok=True)
    shutil.rmtree(host, ignore_errors=True)
elif "scp" in words:
    host.mkdir(exist_ok=True)
    shutil.copy(words[words.index("scp") + 1], host / "lossgrid.tar.gz")
elif "rsync" in words:
    at = words.index("rsync")
    source, target = map(place, words[at + 1 : at + 3])
    skip = re.compile(next(w for w in words if w.startswith("--exclude=")).removeprefix("--exclude="))
    if not os.path.isdir(source):
        sys.exit("ERROR: no such folder " + source)
    kept = lambda folder, names: [n for n in names if skip.match(n)]
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=kept)
elif "ssh" in words:
    line = next(w for w in words if w.startswith("--command=")).removeprefix("--command=")
    # A slice of one host without TPUs: no packages to install, a bucket that is a folder, nobody to join.
    line = re.sub(r"&& python3 -m venv.*", "", line)
    line = line.replace(".venv/bin/python", {python!r}).replace("--hosts=auto", "").replace("gs://", str(bucket) + "/")
    if "kill -TERM" not in line and "experiments.train" in line:
        path = next(bucket.rglob("populations/*.json"))
        for path in bucket.rglob("populations/*.json"):
            path.write_text(path.read_text().replace('"gs://', '"' + str(bucket) + "/"))
    sys.exit(subprocess.run(["bash", "-c", line], cwd=host).returncode)
'''


class Cloud:
    """The stub, its calls and its failures."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        (folder / "gcloud").write_text(GCLOUD.format(python=sys.executable))
        (folder / "gcloud").chmod(0o755)
        self.environment = {
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "LOSSGRID_GCLOUD_POLL_SECONDS": "0.1",
            "JAX_PLATFORMS": "cpu",
        }

    def fail(self, *lines: str) -> None:
        (self.folder / "fail").write_text("\n".join(lines) + "\n")

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    @property
    def verbs(self) -> list[str]:
        """What was asked, without polling."""
        known = ("create", "delete", "scp", "ssh", "rsync")
        return [next(word for word in known if word in call) for call in self.calls if "describe" not in call]


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> Cloud:
    (tmp_path / "cloud").mkdir()
    return Cloud(tmp_path / "cloud")
