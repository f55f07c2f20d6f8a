"""The scheduler's loop against a place without processes: what lies outside may fail, and no run is charged for it."""

import pathlib

import pytest

from experiments.cli import AgainError, InputError
from sweeps.executors.support.protocol import Failure, NotStarted
from sweeps.study.grid import cases, over, product
from sweeps.work import retries
from sweeps.work.populations import Population
from sweeps.work.scheduler import Scheduler
from sweeps.work.workdir import Node, Workdir
from tests.support.fake_place import Attempt, Clock, FakePlace, Quiet
from tests.support.studies import nodes_of

SMALL = {"model.width": 16, "model.depth": 1, "model.heads": 1, "tokens": 4096}


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    made.install(monkeypatch)
    return made


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> Workdir:
    return Workdir(tmp_path)


def complete(nodes: list[Node]) -> Attempt:
    return Attempt({node.fingerprint: "complete" for node in nodes})


def each_alone(nodes: list[Node]) -> list[Population]:
    return [Population((node,)) for node in nodes]


def statuses(workdir: Workdir, nodes: list[Node]) -> list[str]:
    return [workdir.state(node.fingerprint).status for node in nodes]


TROUBLE = [
    NotStarted("node", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"),
    OSError(116, "Stale file handle"),
    RuntimeError("a library's own"),
]


@pytest.mark.parametrize("trouble", TROUBLE, ids=["said", "stale", "raised"])
def test_a_worker_that_cannot_be_started_is_asked_for_again(clock, workdir, trouble):
    """More often than any budget of a run allows; no run is charged, nothing is written of it, all complete."""
    nodes = nodes_of(product(cases(SMALL), over("seed", 1, 2, 3)))
    left = [10]

    def attempts(nodes: list[Node]):
        left[0] -= 1
        if left[0] >= 0:
            if isinstance(trouble, Exception):
                raise trouble
            return trouble
        return complete(nodes)

    place = FakePlace(2, workdir, nodes, attempts)
    display = Quiet()
    budgets = dict.fromkeys(retries.BUDGETS, 0) | {"start": 10}
    assert Scheduler(workdir, place, each_alone(nodes), display, budgets=budgets).run()
    assert statuses(workdir, nodes) == ["complete"] * 3
    assert not list(workdir.root.glob("runs/*/attempts.jsonl"))
    assert clock.now > 1000 + sum(retries.backoff("start", times) for times in range(1, 11))


def test_a_place_that_never_has_a_worker_ends_the_launch_and_no_run(clock, workdir):
    """Exit code 75 once nothing else is trained: the runs wait. An option that the place refuses is bad input."""
    nodes = nodes_of(product(cases(SMALL), over("seed", 1, 2)))
    place = FakePlace(2, workdir, nodes, lambda nodes: NotStarted("node", "quota"))
    with pytest.raises(AgainError, match="quota"):
        Scheduler(workdir, place, each_alone(nodes), Quiet()).run()
    place = FakePlace(2, workdir, nodes, lambda nodes: NotStarted("user", "invalid partition specified: a1000"))
    with pytest.raises(InputError, match="a1000"):
        Scheduler(workdir, place, each_alone(nodes), Quiet()).run()
    assert statuses(workdir, nodes) == ["waiting"] * 2 and not list(workdir.root.glob("runs/*/claim.json"))


def test_ends_that_a_place_knows_of(clock, workdir):
    """A worker without an exit status: its class counts. One that never began counts against nobody."""
    nodes = nodes_of(cases(SMALL))
    ends = [NotStarted("node", "quota")] * 3 + [Failure("crash", "a job that broke"), Failure("crash", "again")]
    place = FakePlace(1, workdir, nodes, lambda nodes: Attempt({}, ends[len(place.started)]))
    display = Quiet()
    assert Scheduler(workdir, place, each_alone(nodes), display).run()
    state = workdir.state(nodes[0].fingerprint)
    assert state.status == "failed" and state.reason == "again (attempts: 2 crash)"
