"""Stand in for the clouds that executors speak to: real processes behind the same commands."""

from collections.abc import Iterator
import os
import pathlib
import time

from etils import epath
import pytest

from experiments.store import record
from tests.support.cloud import Cloud
from tests.support.commands import Started, run_command
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


def started(study: pathlib.Path, workdir: epath.PathLike, executor: str) -> Started:
    """Launch a study in the background."""
    flags = (f"--study={study}", f"--workdir={os.fspath(workdir)}", f"--executor={executor}", "--no-plan")
    return Started("sweeps.launch", *flags)


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


@pytest.fixture
def cloud(tmp_path: pathlib.Path, bucket: str) -> Iterator[Cloud]:
    """A Google Cloud on this machine, with a folder of the tests' bucket."""
    made = Cloud(tmp_path / "cloud", f"{bucket}/{tmp_path.name}")
    yield made
    made.close()
