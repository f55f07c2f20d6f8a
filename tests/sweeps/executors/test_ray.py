"""Workers on a real Ray cluster of this machine: nodes that die or hang, places that never come, gangs beside each other."""

import os
import pathlib
import signal
import time

from etils import epath
import pytest

from sweeps.executors import ray as ray_executor
from sweeps.executors.support.protocol import Failure, NotStarted
from sweeps.executors.support.ray_host import Host
from tests.support.executors import launch, losses, started, until
from tests.support.ray_cluster import RayCluster

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.xdist_group("ray")]  # one cluster


@pytest.mark.parametrize("mishap", ["the node dies", "the node hangs", "the actor hangs", "the worker dies"])
def test_what_a_node_was_at_goes_on_elsewhere(
    mishap: str, executor_study: pathlib.Path, at_home: dict[str, float], tmp_path: pathlib.Path, cluster: RayCluster
):
    """From its checkpoint, to the same losses; nobody waits for what does not answer."""
    workdir = tmp_path / "w"
    process = started(executor_study, workdir, f"ray:address={cluster.address},silent_seconds=5")
    worker, actor, raylet = until(lambda: cluster.worker_away_from_head(workdir))
    if mishap == "the node dies":
        os.kill(raylet, signal.SIGKILL)
    elif mishap == "the node hangs":
        cluster.freeze(raylet)
    elif mishap == "the actor hangs":
        cluster.freeze(actor)
    else:
        os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert losses(workdir) == pytest.approx(at_home, rel=1e-5)
    if mishap == "the actor hangs":
        logs = [path.read_text() for path in workdir.glob("populations/*.log")]
        assert any("no answer for 5 s" in log for log in logs)


def test_gangs_beside_each_other_meet_on_ports_of_their_own(
    executor_study: pathlib.Path, at_home: dict[str, float], tmp_path: pathlib.Path, cluster: RayCluster
):
    """Two at once, of two hosts each, on one machine: each trains as one run."""
    done = launch(executor_study, tmp_path / "w", f"ray:address={cluster.address},hosts=2")
    assert done.returncode == 0, done.stderr
    assert "on 2 workers" in done.stderr
    assert losses(tmp_path / "w") == pytest.approx(at_home, rel=1e-5)
    assert list((tmp_path / "w").glob("populations/*.1.log"))


def test_a_cluster_without_room_is_one_line(executor_study: pathlib.Path, tmp_path: pathlib.Path, cluster: RayCluster):
    """It names what is wanted and what there is."""
    done = launch(executor_study, tmp_path / "none", f"ray:address={cluster.address},resource=slice")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "no room for {'CPU': 1.0, 'slice': 1.0}" in done.stderr


@pytest.fixture
def executor(cluster: RayCluster):
    """Makes executors in this process, and ends their connection."""
    import ray

    def make(**options: int) -> ray_executor.RayExecutor:
        return ray_executor.executor(ray_executor.Options(address=cluster.address, **options))

    yield make
    ray.shutdown()


def test_nothing_waits_for_a_cluster_that_does_not_answer(executor, tmp_path: pathlib.Path, cluster: RayCluster):
    """While what knows all nodes is stopped, every call returns; afterwards the worker is what it would have been."""
    made = executor(cpus=1)
    cluster.freeze(cluster.head_server())
    room = made.slots
    worker = made.start(epath.Path("none.json"), epath.Path(tmp_path), epath.Path(tmp_path / "log"))
    for _ in range(5):
        assert worker.poll() is None and worker.events() == []
        made.wait([worker], 0.1)
    worker.go("abc")
    assert made.slots == room
    cluster.thaw()
    assert until(worker.poll) == 2, "its population is no file"
    assert b"none.json" in (tmp_path / "log").read_bytes()
    made.release(worker)


def test_a_place_that_never_comes_is_no_fault_of_the_runs(executor, tmp_path: pathlib.Path):
    """The cluster is smaller than the options say: the worker has not started; one that is stopped before is over."""
    made = executor(cpus=1, slots=9, hosts=9)
    stopped = made.start(epath.Path("none.json"), epath.Path(tmp_path), epath.Path(tmp_path / "log"))
    assert stopped.poll() is None
    stopped.stop()
    assert until(lambda: stopped.poll() is not None) and stopped.poll() == 75
    made.place_seconds = 0.0
    worker = made.start(epath.Path("none.json"), epath.Path(tmp_path), epath.Path(tmp_path / "log"))
    end = until(worker.poll)
    assert isinstance(end, NotStarted) and "no room for {'CPU': 1.0} on 9 hosts" in end.reason


def test_a_worker_that_must_end_is_over_whatever_the_cluster_says(
    executor, tmp_path: pathlib.Path, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
):
    """To be ended at once while nobody answers: it is over for the launcher, whose loop must end."""
    monkeypatch.setattr(ray_executor, "GIVE_UP_SECONDS", 0.2)
    made = executor(cpus=1)
    cluster.freeze(cluster.head_server())
    worker = made.start(epath.Path("none.json"), epath.Path(tmp_path), epath.Path(tmp_path / "log"))
    worker.stop(force=True)
    end = until(worker.poll)
    assert isinstance(end, Failure) and end.kind == "node"
    cluster.thaw()


def test_a_log_is_sent_once_though_answers_get_lost(tmp_path: pathlib.Path):
    """What the launcher has not heard is sent again, what it has heard is not; the end comes with the last of it."""
    program = (
        "import json; print(json.dumps({'event': 'a'})); print('said', flush=True); print(json.dumps({'event': 'b'}))"
    )
    host = Host()
    host.start(["-c", program])
    host.go("abc")
    while host.look(0, 0)[0] is None:
        time.sleep(0.05)
    first = host.look(0, 0)
    assert first == host.look(0, 0) == (0, [{"event": "a"}, {"event": "b"}], b"said\n")
    assert host.look(1, 2) == (0, [{"event": "b"}], b"id\n")
