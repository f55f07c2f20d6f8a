"""Launch a tiny study as a user does, and leave it alone, stop it or kill it."""

import contextlib
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import pytest

from experiments.store import record, segments
from sweeps.watch import overview
from sweeps.work.workdir import Workdir
from tests.support.commands import run_command
from tests.support.paths import REPOSITORY

STUDY = '''"""Does it work? Tiny runs."""
from sweeps.study.grid import cases, chain, over, product, tag

def get_study(arg="20"):
    steps, _, extra = arg.partition("+")
    base = cases({
        "model.depth": 1, "model.heads": 1, "batch_tokens": 256, "seq_len": 32, "tokens": 256 * int(steps),
        "data.corpus": (%(corpus)r,), "evaluation.tokens": 2048, "execution.tensorboard": False,
        "execution.data_root": %(root)r, "execution.compile_cache": %(cache)r, "execution.steps_per_dispatch": 20,
    })
    rates = tag(product(over("model.width", 16), over("opt.lr", 1e-2, 3e-2)), group="rates")
    again = tag(product(over("model.width", 16), over("opt.lr", 1e-2)), group="again", note=1)
    wide = tag(product(over("model.width", 32), over("opt.lr", 1e-2, *([1e30] if extra else []))), group="wide")
    return product(base, chain(rates, again, wide))
'''


class Launch:
    """The tiny study in one workdir, on a disk or in a bucket, with the commands as a user types them."""

    def __init__(self, study_path: pathlib.Path, workdir: Any, arg: str | None = "20"):
        study = f"{study_path}:{arg}" if arg else str(study_path)
        self.workdir, self._launch = workdir, ["sweeps.launch", f"--study={study}", f"--workdir={workdir}"]

    def __call__(self, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_command(*self._launch, *flags, **environment)

    def start(self, *before: str) -> subprocess.Popen[str]:
        """In the background; `before` comes first on the command line, such as nohup."""
        command = [*before, sys.executable, "-m", *self._launch]
        return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def status(self) -> dict[str, Any]:
        """What sweeps.status writes as JSON."""
        return overview.look(Workdir(self.workdir)).to_json()

    def claimed(self) -> list[dict[str, Any]]:
        """Claims that lie in the workdir."""
        out = []
        for path in self.workdir.glob("runs/*/claim.json"):
            with contextlib.suppress(FileNotFoundError):  # released meanwhile
                out.append(json.loads(path.read_text()))
        return [claim for claim in out if "worker" in claim]  # in a bucket one that was given back stays as a file

    def until(self, condition: Any, seconds: float = 60) -> Any:
        """Wait for something in the workdir."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(0.02)
        raise AssertionError("waited in vain")

    def losses(self) -> dict[str, float]:
        """By fingerprint, from the records."""
        records = [record.read(p) for p in self.workdir.glob("runs/*/record.json")]
        return {r["fingerprint"]: r["columns"].get("loss_nats") for r in records}

    def steps_logged(self) -> dict[str, list[int]]:
        """Steps in each run's metrics log, evaluations left out."""
        out = {}
        for folder in self.workdir.glob("runs/*/metrics"):
            out[folder.parent.name] = [row["step"] for row in segments.read(folder.parent) if "loss" in row]
        return out


@pytest.fixture(scope="session")
def tiny_study(write_study) -> pathlib.Path:
    """The study file."""
    return write_study(STUDY)


@pytest.fixture(scope="session")
def undisturbed(tiny_study: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """The study of 200 steps, launched once and left alone."""
    launch = Launch(tiny_study, tmp_path_factory.mktemp("undisturbed"), "200")
    done = launch()
    assert done.returncode == 0, done.stderr
    assert "3 complete" in done.stdout
    return launch
