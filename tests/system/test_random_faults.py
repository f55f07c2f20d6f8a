"""In a bucket and off this machine: a study under random mishaps for two minutes has the grid of the study left alone, bit for bit.

LOSSGRID_CHAOS_SECONDS and LOSSGRID_CHAOS_SEED set how long, and which mishaps (default: 120 s, a fresh seed, printed).
"""

import collections
import os
import pathlib
import random
import signal
import time

from etils import epath
import pytest

from tests.support.cloud import TPU, Cloud
from tests.support.faults import FaultyProxy
from tests.support.object_store import Emulator
from tests.support.ray_cluster import RayCluster
from tests.support.shaking import STUDY, Shaken, compare
from tests.support.slurm import Slurm, failing_sbatch, until

SBATCH_SAYS = (
    "Socket timed out on send/recv operation",
    "Unable to contact slurm controller (connect failure)",
    "Slurm temporarily unable to accept job, sleeping and retrying",
    "Zero Bytes were transmitted or received",
)
SECONDS = float(os.environ.get("LOSSGRID_CHAOS_SECONDS", "120"))


@pytest.fixture
def study(corpus: pathlib.Path, data_root: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The study file."""
    values = {"corpus": str(corpus), "root": str(data_root), "cache": os.environ["JAX_COMPILATION_CACHE_DIR"]}
    (tmp_path / "study.py").write_text(STUDY % values)
    return tmp_path / "study.py"


def drawn() -> tuple[int, random.Random]:
    seed = int(os.environ.get("LOSSGRID_CHAOS_SEED", random.SystemRandom().randrange(10**6)))
    return seed, random.Random(seed)


def table(place: str, seed: int, shaken: Shaken, calm: Shaken, faults: dict[str, int], **found: int) -> None:
    """Print what has happened."""
    print(f"\n{place}, seed {seed}: exit codes of launchers {dict(shaken.codes)}")
    for name, count in sorted(faults.items()):
        print(f"  {name:<40} {count}")
    for name, count in found.items():
        print(f"  {name.replace('_', ' '):<40} {count}")
    rounds = len(shaken.workdirs)
    print(f"  {'seconds a study, and left alone':<40} {shaken.seconds / rounds:.0f} ({rounds}) {calm.seconds:.0f}")


@pytest.mark.slow
def test_a_bucket_under_random_faults(
    study: pathlib.Path,
    emulator: Emulator,
    store_folder: epath.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """One request of forty fails in each of the ways in which a network and a store fail; workers and launchers are killed."""
    seed, draw = drawn()
    calm = Shaken(study, store_folder / "calm", "local")
    calm.finish()
    shaken = Shaken(study, store_folder / "study", "local")

    def kill_worker() -> bool:
        alive = shaken.children()
        if alive:
            draw.choice(alive).kill()
        return bool(alive)

    with FaultyProxy(emulator.url, 1 / 40, seed) as proxy:
        shaken.environment = dict.fromkeys(emulator.environment, proxy.url)
        shaken.shake({"worker killed": kill_worker, "launcher killed": shaken.kill_launcher}, draw, SECONDS, pause=20)
        shaken.finish()
    found = compare(calm, shaken, tmp_path)
    table("gs://", seed, shaken, calm, proxy.injected | shaken.struck, requests=proxy.passed, **found)
    assert found == {"runs lost": 0, "runs doubled": 0} and proxy.injected.total() > 20


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_ray_under_random_faults(study: pathlib.Path, cluster: RayCluster, tmp_path: pathlib.Path):
    """Nodes die and hang, actors hang, workers and launchers are killed."""
    seed, draw = drawn()
    executor = f"ray:address={cluster.address},silent_seconds=4"
    calm = Shaken(study, tmp_path / "calm", executor)
    calm.finish()
    shaken = Shaken(study, tmp_path / "w", executor)

    def strike(kind: str, number: signal.Signals):
        def struck() -> bool:
            cluster.mend()
            found = cluster.worker_away_from_head(shaken.workdir)
            if found is None:
                return False
            pid = dict(zip(("worker", "actor", "node"), found, strict=True))[kind]
            if number == signal.SIGSTOP:
                cluster.freeze(pid)
            else:
                os.kill(pid, number)
            return True

        return struck

    strikes = {
        "worker killed": strike("worker", signal.SIGKILL),
        "worker told to stop": strike("worker", signal.SIGTERM),
        "actor killed": strike("actor", signal.SIGKILL),
        "actor hangs": strike("actor", signal.SIGSTOP),
        "node killed": strike("node", signal.SIGKILL),
        "node hangs": strike("node", signal.SIGSTOP),
        "launcher killed": shaken.kill_launcher,
    }
    shaken.shake(strikes, draw, SECONDS, pause=8)
    cluster.mend()
    shaken.finish()
    found = compare(calm, shaken, tmp_path)
    table("ray", seed, shaken, calm, shaken.struck, **found)
    assert found == {"runs lost": 0, "runs doubled": 0}


@pytest.mark.slow
def test_slices_under_random_faults(
    study: pathlib.Path, cloud: Cloud, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """gcloud fails at random, slices are preempted, the processes that see to them and launchers are killed."""
    seed, draw = drawn()
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    calm = Shaken(study, f"{cloud.bucket}/calm", f"{TPU},slots=2")
    calm.finish()
    shaken = Shaken(study, f"{cloud.bucket}/study", f"{TPU},slots=2")
    cloud.fail_at_random(seed, rate=0.08)

    def kill_keeper() -> bool:
        alive = shaken.children()
        if alive:
            draw.choice(alive).kill()
        return bool(alive)

    def kill_all() -> bool:
        alive = shaken.children()
        if not shaken.kill_launcher():
            return False
        for process in alive:
            process.kill()
        return True

    strikes = {
        "keeper killed": kill_keeper,
        "launcher killed": shaken.kill_launcher,
        "launcher and keepers killed": kill_all,
        "nothing": lambda: False,
    }
    shaken.shake(strikes, draw, SECONDS, pause=20)
    cloud.fail_at_random(seed, rate=0)
    shaken.finish()
    found = compare(calm, shaken, tmp_path)
    leaked = len(cloud.left)
    table("tpu-vm", seed, shaken, calm, cloud.injected | shaken.struck, slices_leaked=leaked, **found)
    assert found == {"runs lost": 0, "runs doubled": 0} and leaked == 0


@pytest.mark.slow
@pytest.mark.xdist_group("slurm")
def test_slurm_under_random_faults(study: pathlib.Path, slurm: Slurm, tmp_path: pathlib.Path):
    """Jobs are cancelled, queued again, preempted and killed, the controller is stopped, sbatch fails, launchers are killed."""
    seed, draw = drawn()
    path = failing_sbatch(tmp_path / "bin", 25, ["before", "after"], SBATCH_SAYS)
    executor = "slurm:minutes=10,slots=8"
    calm = Shaken(study, tmp_path / "calm", executor)
    calm.finish()
    shaken = Shaken(study, tmp_path / "w", executor, PATH=path)

    def to_a_job(*command: str):
        def struck() -> bool:
            running = slurm.running()
            return bool(running) and slurm(*command, draw.choice(running)) is not None

        return struck

    def preempt() -> bool:
        command = ("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 0.1")
        return bool(slurm.running()) and slurm(*command) is not None

    def stop_controller() -> bool:
        slurm.stop_controller()
        time.sleep(draw.uniform(2, 20))
        slurm.start_controller()
        return True

    strikes = {
        "job cancelled": to_a_job("scancel"),
        "job queued again": to_a_job("scontrol", "requeue"),
        "job killed": to_a_job("scancel", "--signal=KILL"),
        "jobs preempted": preempt,
        "controller stopped": stop_controller,
        "launcher killed": shaken.kill_launcher,
    }
    with slurm.hastening():
        shaken.shake(strikes, draw, SECONDS, pause=8)
        shaken.finish()
        # What a killed launcher has left and Slurm has queued again starts once more, and finds nothing to do.
        until(lambda: not slurm("squeue", "--noheader"), 120)
    failures = collections.Counter((tmp_path / "bin" / "failed").read_text().split())
    for when, count in failures.items():
        shaken.struck[f"sbatch failed {when} Slurm had the job"] = count
    found = compare(calm, shaken, tmp_path)
    table("slurm", seed, shaken, calm, shaken.struck, **found)
    assert found == {"runs lost": 0, "runs doubled": 0}
