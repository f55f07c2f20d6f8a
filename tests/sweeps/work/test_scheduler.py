"""The scheduler's loop against a place without processes: what lies outside may fail, and no run is charged for it."""

import collections
import dataclasses
import errno
import itertools
import sys

from etils import epath
import pytest

from experiments import files
from experiments.alive import claims, stops
from experiments.cli import AgainError, InputError
from experiments.store import record
from sweeps.executors.support.protocol import Failure, NotStarted
from sweeps.study.grid import cases, over, product
from sweeps.work import jobs, retries, scheduler
from sweeps.work.populations import Population
from sweeps.work.scheduler import Scheduler
from sweeps.work.workdir import Node, Workdir
from tests.support.fake_place import Attempt, FakePlace, Quiet, write_record
from tests.support.studies import nodes_of

SLOW_START = 1.5  # seconds
SMALL = {"model.width": 16, "model.depth": 1, "model.heads": 1, "tokens": 4096}


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


def test_workers_that_are_slow_to_start_hold_up_no_heartbeat(clock, workdir, monkeypatch):
    """There is room for all of them at once, and each start takes longer than a turn."""
    nodes = nodes_of(product(cases(SMALL), over("seed", *range(1, 31))))
    beats = [clock.now]
    beat = workdir.claims.beat

    def noted(fingerprints):
        beats.append(clock.now)
        return beat(fingerprints)

    def attempts(nodes: list[Node]) -> Attempt:
        clock.sleep(SLOW_START)
        return dataclasses.replace(complete(nodes), turns=1000)

    monkeypatch.setattr(workdir.claims, "beat", noted)
    assert Scheduler(workdir, FakePlace(30, workdir, nodes, attempts), each_alone(nodes), Quiet()).run()
    longest = max(later - earlier for earlier, later in itertools.pairwise(beats))
    assert len(beats) > 5 and longest < jobs.HEARTBEAT_SECONDS + scheduler.START_SECONDS + 2 * SLOW_START


def test_ends_that_a_place_knows_of(clock, workdir):
    """A worker without an exit status: its class counts. One that never began counts against nobody."""
    nodes = nodes_of(cases(SMALL))
    ends = [NotStarted("node", "quota")] * 3 + [Failure("crash", "a job that broke"), Failure("crash", "again")]
    place = FakePlace(1, workdir, nodes, lambda nodes: Attempt({}, ends[len(place.started)]))
    display = Quiet()
    assert Scheduler(workdir, place, each_alone(nodes), display).run()
    state = workdir.state(nodes[0].fingerprint)
    assert state.status == "failed" and state.reason == "again (attempts: 2 crash)"


def test_a_disk_that_has_answered_meanwhile_fails_anew(clock, workdir, monkeypatch):
    """Failures with quiet turns between them are not failures in a row, and end no launch."""
    nodes = nodes_of(cases(SMALL))
    place = FakePlace(1, workdir, nodes, lambda nodes: dataclasses.replace(complete(nodes), turns=400))
    launch = Scheduler(workdir, place, each_alone(nodes), Quiet(), budgets=retries.BUDGETS | {"disk": 1})
    look = launch.fates.look_elsewhere
    looks = itertools.count()

    def looked() -> list[Node]:
        if next(looks) % 10 == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return look()

    monkeypatch.setattr(launch.fates, "look_elsewhere", looked)
    assert launch.run() and next(looks) > 50
    assert statuses(workdir, nodes) == ["complete"]


def test_what_another_launcher_gave_up_meanwhile_is_not_trained_again(clock, workdir):
    """--retry_failed is for what had failed before; a run that waits for its next attempt may fail elsewhere by then."""
    (node,) = nodes_of(cases(SMALL))
    write_record(workdir, node, "failed")
    attempts = iter([Attempt({}, Failure("node", "the host went away")), complete([node])])

    def elsewhere() -> None:
        write_record(workdir, node, "failed")

    def begin(nodes: list[Node]) -> Attempt:
        clock.alarm(clock.now + scheduler.POLL_SECONDS + retries.backoff("node", 1) / 2, elsewhere)
        return next(attempts)

    place = FakePlace(1, workdir, [node], begin)
    assert Scheduler(workdir, place, each_alone([node]), Quiet(), retry_failed=True).run()
    assert len(place.started) == 1, "once for the record of before"
    assert statuses(workdir, [node]) == ["failed"]


# --- fates, by hand; at random in test_fates.py


def made(nodes: list[Node], parents: dict[int, int]) -> list[Node]:
    """The nodes, some of them children of others, by number."""
    out = []
    for number, node in enumerate(nodes):
        parent = nodes[parents[number]].fingerprint if number in parents else None
        out.append(dataclasses.replace(node, run=dataclasses.replace(node.run, parent=parent)))
    return out


def test_a_failed_chain_is_trained_anew_in_one_launch(clock, workdir):
    """Four pieces of a trunk, all failed earlier: what older records say is no fate. Each starts from a parent that is
    complete."""
    nodes = made(nodes_of(product(cases(SMALL), over("seed", 1, 2, 3, 4))), {1: 0, 2: 1, 3: 2})
    for node in nodes:
        write_record(workdir, node, "failed")

    def attempts(nodes: list[Node]) -> Attempt:
        parent = nodes[0].run.parent
        assert parent is None or workdir.state(parent).status == "complete"
        return complete(nodes)

    place = FakePlace(2, workdir, nodes, attempts)
    assert Scheduler(workdir, place, each_alone(nodes), Quiet(), retry_failed=True).run()
    assert statuses(workdir, nodes) == ["complete"] * 4


def test_a_divergence_that_is_to_be_trained_again_is_no_fate(clock, workdir):
    """While a trunk of the same program goes on for a hundred turns, the child of the one that diverged waits."""
    nodes = made(nodes_of(product(cases(SMALL), over("seed", 1, 2, 3))), {2: 0})
    trunks = Population((nodes[0], nodes[1]))
    count = [0]

    def attempts(started: list[Node]) -> Attempt:
        count[0] += 1
        if count[0] == 1:
            write_record(workdir, nodes[0], "diverged")
            return Attempt({nodes[1].fingerprint: "complete"}, turns=100)
        return complete(started)

    place = FakePlace(2, workdir, nodes, attempts)
    budgets = retries.BUDGETS | {"diverged": 1}
    assert Scheduler(workdir, place, [trunks, Population((nodes[2],))], Quiet(), budgets=budgets).run()
    assert statuses(workdir, nodes) == ["complete"] * 3


def test_a_child_of_a_failed_run_is_recorded_once(clock, workdir, monkeypatch):
    """Beside a child of the same program whose parent trains for hundreds of turns: said once, written once."""
    nodes = made(nodes_of(product(cases(SMALL), over("seed", 1, 2, 3, 4, 5))), {2: 0, 3: 1, 4: 2})
    written = []
    write = Workdir.write_failed
    monkeypatch.setattr(
        Workdir, "write_failed", lambda self, node, reason: [written.append(node.name), write(self, node, reason)]
    )

    def attempts(started: list[Node]) -> Attempt:
        if started[0] == nodes[0]:
            return Attempt({}, Failure("user", "a bad value"))
        return Attempt({node.fingerprint: "complete" for node in started}, turns=300)

    place = FakePlace(2, workdir, nodes, attempts)
    children = Population((nodes[2], nodes[3]), level=1)
    tasks = [*each_alone(nodes[:2]), children, Population((nodes[4],), level=2)]
    display = Quiet()
    assert Scheduler(workdir, place, tasks, display).run()
    assert statuses(workdir, nodes) == ["failed", "complete", "failed", "complete", "failed"]
    assert written == [nodes[0].name, nodes[2].name, nodes[4].name]
    assert sum("its parent" in line for line in display.said) == 2
    assert workdir.state(nodes[4].fingerprint).reason == f"its parent {nodes[2].fingerprint} has status failed"


def test_orphans_are_packed_as_the_launch_packs(clock, workdir):
    """Runs of a launcher that is dead are arranged by the same rule as all others, not one host's memory."""
    nodes = nodes_of(product(cases(SMALL), over("seed", *range(6))))
    looks = [0]
    by_other = workdir.claims.by_other

    def held_for_a_while(fingerprint: str):
        looks[0] += 1
        own = by_other(fingerprint)
        return own or ("another launcher" if looks[0] <= 2 * len(nodes) else None)

    workdir.claims.by_other = held_for_a_while
    place = FakePlace(2, workdir, nodes, complete)
    arranged = []

    def arrange(orphans: list[Node]) -> list[Population]:
        arranged.append(len(orphans))
        return [Population(tuple(orphans[at : at + 2])) for at in range(0, len(orphans), 2)]

    assert Scheduler(workdir, place, [Population(tuple(nodes))], Quiet(), arrange=arrange).run()
    assert arranged == [6] and [len(started) for started in place.started] == [2, 2, 2]


@pytest.mark.parametrize(("comes_further", "status"), [(True, "complete"), (False, "failed")])
def test_progress_renews_the_budgets_of_preemption_and_lost_nodes(clock, workdir, comes_further, status):
    """A run that comes further each time is preempted more often than its budget says; one that does not is given up."""
    (node,) = nodes_of(cases(SMALL))
    folder = workdir.run_dir(node.fingerprint)
    place = FakePlace(1, workdir, [node], lambda nodes: attempt_of_many(place, folder, comes_further))
    budgets = retries.BUDGETS | {"preempted": 1, "node": 1}
    assert Scheduler(workdir, place, each_alone([node]), Quiet(), budgets=budgets).run()
    assert statuses(workdir, [node]) == [status]


def attempt_of_many(place: FakePlace, folder: epath.Path, comes_further: bool) -> Attempt:
    """Six ends, preempted or without a node; then it completes."""
    number = len(place.started)
    if number == 6:
        return complete(list(place.by_name.values()))
    if comes_further:
        (folder / "checkpoints" / str(number + 1)).mkdir(parents=True)
    return Attempt({}, Failure(("preempted", "node")[number % 2], "gone"))


def test_waits_between_tries_grow_to_a_limit():
    """By class; what a run itself has done wrong is tried again at once."""
    assert [retries.backoff("node", times) for times in (1, 2, 3, 7, 100)] == [1.0, 2.0, 4.0, 60.0, 60.0]
    assert [retries.backoff("disk", times) for times in (1, 2)] == [5.0, 10.0]
    assert retries.backoff("preempted", 1) == 1.0 and retries.backoff("crash", 1) == 0.0


def test_a_retry_waits_as_long_as_its_class_says(clock, workdir):
    (node,) = nodes_of(cases(SMALL))
    times = []

    def attempts(nodes: list[Node]) -> Attempt:
        times.append(clock.now)
        return complete(nodes) if len(times) == 4 else Attempt({}, Failure("node", "gone"), turns=1)

    assert Scheduler(workdir, FakePlace(1, workdir, [node], attempts), each_alone([node]), Quiet()).run()
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert [wait >= least for wait, least in zip(waits, (1, 2, 4), strict=True)] == [True] * 3


def test_a_request_to_stop_is_gone_when_its_run_is_trained_again(workdir):
    """Or the worker would end it at once."""
    (node,) = nodes_of(cases(SMALL))
    folder = workdir.run_dir(node.fingerprint)
    write_record(workdir, node, "complete", censored=True)
    stops.ask(folder, stops.Stop("complete", "dominated"))
    workdir.set_aside(node.fingerprint)
    assert stops.asked(folder) is None and workdir.recorded(node.fingerprint) is None
    assert (folder / "record.replaced.json").exists()


def test_a_heartbeat_writes_one_file(clock, workdir, monkeypatch):
    """However many jobs are running; and a disk that does not answer it ends nothing."""
    nodes = nodes_of(product(cases(SMALL), over("seed", *range(8))))
    place = FakePlace(8, workdir, nodes, lambda nodes: Attempt({nodes[0].fingerprint: "complete"}, turns=100))
    written = []
    write = files.write_json

    def count(path, value):
        if "launchers" in str(path):
            written.append(clock.now)
            if len(written) == 2:
                raise OSError(errno.ESTALE, "Stale file handle")
        write(path, value)

    monkeypatch.setattr(files, "write_json", count)
    display = Quiet()
    assert Scheduler(workdir, place, each_alone(nodes), display).run()
    assert statuses(workdir, nodes) == ["complete"] * 8
    gaps = [later - earlier for earlier, later in itertools.pairwise(written)]
    assert len(written) >= 3 and min(gaps[1:]) >= claims.HEARTBEAT_SECONDS
    assert sum("Stale file handle" in line for line in display.said) == 1


# --- what a poll costs

touched: list[str] | None = None  # paths that were opened or listed, while somebody asks


def note_path(event: str, arguments: tuple) -> None:
    if touched is not None and event in ("open", "os.listdir", "os.scandir"):
        touched.append(str(arguments[0]))


def paths_touched(workdir: Workdir, nodes: list[Node], turns: int) -> collections.Counter[str]:
    """What a launch opens and lists whose workers take so many turns; heartbeats are left out."""
    global touched
    place = FakePlace(
        4, workdir, nodes, lambda nodes: Attempt({node.fingerprint: "complete" for node in nodes}, turns=turns)
    )
    scheduler = Scheduler(workdir, place, each_alone(nodes), Quiet())
    touched = []
    try:
        assert scheduler.run()
        seen = [path for path in touched if str(workdir.root) in path]
    finally:
        touched = None
    beats = ("launchers", ".lock", "claim.json")
    names = [path.partition(str(workdir.root))[2] for path in seen if not any(word in path for word in beats)]
    return collections.Counter(name for name in names if not name.endswith(".tmp"))


def test_a_poll_reads_and_lists_nothing(clock, tmp_path, monkeypatch):
    """However long the workers take, a launch opens the same files; a record twice: before its run, and after."""
    monkeypatch.setattr(record, "environment", dict)
    sys.addaudithook(note_path)
    nodes = nodes_of(product(cases(SMALL), over("seed", *range(6))))
    short = paths_touched(Workdir(tmp_path / "short"), nodes, 1)
    long = paths_touched(Workdir(tmp_path / "long"), nodes, 2000)
    assert short == long
    for node in nodes:
        assert long[f"/runs/{node.fingerprint}/record.json"] == 2
        assert long[f"/runs/{node.fingerprint}/checkpoints"] <= 1
