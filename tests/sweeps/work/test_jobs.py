"""What becomes of workers, one thing at a time: asked, killed, taken over, not heard of; and of what lies outside of them."""

import dataclasses
import errno
import itertools
import json

import pytest

from experiments.cli import AgainError
from experiments.store import record
from sweeps.executors.support.protocol import Failure, NotStarted
from sweeps.study.grid import cases, over, product
from sweeps.work import elsewhere, failures, jobs, retries
from sweeps.work.populations import Population, each_alone
from sweeps.work.scheduler import Scheduler
from sweeps.work.workdir import Node, Workdir
from tests.support.fake_place import Attempt, FakePlace, Quiet, write_record
from tests.support.studies import nodes_of

SMALL = {"model.width": 16, "model.depth": 1, "model.heads": 1, "tokens": 4096}
FOR_EVER = 10**6  # turns


def some(count: int) -> list[Node]:
    return nodes_of(product(cases(SMALL), over("seed", *range(count))))


def complete(nodes: list[Node], turns: int = 1) -> Attempt:
    return Attempt({node.fingerprint: "complete" for node in nodes}, turns=turns)


def statuses(workdir: Workdir, nodes: list[Node]) -> list[str]:
    return [workdir.state(node.fingerprint).status for node in nodes]


def one_after_the_other(*attempts):
    """What workers will do, in the order in which they are started; the last for all that come after."""
    left = list(attempts)

    def attempt(nodes: list[Node]):
        found = left.pop(0) if len(left) > 1 else left[0]
        return found(nodes) if callable(found) else found

    return attempt


def classes(workdir: Workdir, node: Node) -> list[str]:
    return [attempt["class"] for attempt in workdir.attempts(node.fingerprint)]


# --- workers


@pytest.mark.parametrize(
    ("deaf", "again", "killed_after"), [(False, None, None), (True, None, jobs.STOP_SECONDS), (True, 7.0, 7.0)]
)
def test_workers_are_asked_to_save_before_they_are_killed(clock, workdir, deaf, again, killed_after):
    """After a while, or on the second request; claims are given back."""
    nodes = some(2)
    place = FakePlace(2, workdir, nodes, lambda nodes: Attempt({}, turns=FOR_EVER, deaf=deaf))
    scheduler = Scheduler(workdir, place, each_alone(nodes), Quiet())
    clock.alarm(clock.now + 5, scheduler._on_signal)
    if again is not None:
        clock.alarm(clock.now + 5 + again, scheduler._on_signal)
    asked_at = clock.now + 5
    assert not scheduler.run()
    for worker in place.workers:
        assert worker.asked_to_stop
        after = None if worker.killed_at is None else worker.killed_at - asked_at
        assert after == (None if killed_after is None else pytest.approx(killed_after, abs=1.0))
    assert not list(workdir.root.glob("runs/*/claim.json"))


def test_a_place_is_never_overfull_and_has_all_its_places_back(clock, workdir):
    nodes = some(5)
    place = FakePlace(2, workdir, nodes, lambda nodes: complete(nodes, turns=3))
    assert Scheduler(workdir, place, each_alone(nodes), Quiet()).run()
    assert (place.most, place.held, len(place.started)) == (2, [], 5)
    assert not list(workdir.root.glob("runs/*/claim.json"))


def test_a_worker_whose_claims_cannot_be_written_does_not_begin(clock, workdir, monkeypatch):
    """Its runs are not charged, and another is started."""
    (node,) = some(1)
    take = workdir.claims.take
    errors = [OSError(errno.ESTALE, "Stale file handle")]

    def broken(*arguments):
        if errors:
            raise errors.pop()
        return take(*arguments)

    monkeypatch.setattr(workdir.claims, "take", broken)
    place = FakePlace(1, workdir, [node], complete)
    budgets = dict.fromkeys(retries.BUDGETS, 0) | {"start": 1}
    assert Scheduler(workdir, place, each_alone([node]), Quiet(), budgets=budgets).run()
    assert [worker.begun for worker in place.workers] == [False, True]
    assert classes(workdir, node) == []


def test_a_place_that_does_not_answer_now_and_then_loses_no_worker(clock, workdir):
    """For less than three minutes at a time, however often; for longer, the worker counts as lost."""
    (node,) = some(1)
    now_and_then = complete([node], turns=4)
    now_and_then.silent = lambda number: number % 300 != 0  # polls: two a second
    place = FakePlace(1, workdir, [node], one_after_the_other(now_and_then))
    budgets = dict.fromkeys(retries.BUDGETS, 0)
    assert Scheduler(workdir, place, each_alone([node]), Quiet(), budgets=budgets).run()
    assert statuses(workdir, [node]) == ["complete"] and len(place.started) == 1


def test_a_worker_of_which_nobody_can_say_anything_is_lost(clock, workdir):
    (node,) = some(1)
    gone = Attempt({}, turns=FOR_EVER, silent=lambda number: True)
    place = FakePlace(1, workdir, [node], one_after_the_other(gone, complete))
    assert Scheduler(workdir, place, each_alone([node]), Quiet()).run()
    assert classes(workdir, node) == ["node"] and statuses(workdir, [node]) == ["complete"]


def test_a_worker_that_has_spoken_once_and_freezes_is_killed(clock, workdir):
    """One that has never spoken may take its time: it compiles, or waits in a queue."""
    nodes = some(2)
    frozen = Attempt({}, turns=FOR_EVER, events=[{"event": "start"}])
    slow = Attempt({nodes[1].fingerprint: "complete"}, turns=800)
    place = FakePlace(2, workdir, nodes, one_after_the_other(frozen, slow, complete))
    began = clock.now
    assert Scheduler(workdir, place, each_alone(nodes), Quiet()).run()
    assert statuses(workdir, nodes) == ["complete"] * 2
    assert place.workers[0].killed_at == pytest.approx(began + jobs.FROZEN_SECONDS, abs=5)
    assert place.workers[1].killed_at is None
    assert classes(workdir, nodes[0]) == ["node"] and classes(workdir, nodes[1]) == []


def test_runs_that_another_launcher_has_taken_over_are_left_to_it(clock, workdir, monkeypatch):
    """Its worker is killed, the run not charged to anything but preemption; the other's record counts."""
    (node,) = some(1)
    taken_at = clock.now + 60

    def beat(fingerprints):
        return list(fingerprints) if clock.now > taken_at else []

    def by_other(fingerprint):
        if clock.now > taken_at + 60:
            write_record(workdir, node, "complete")
            return None
        return "process 7 on another" if clock.now > taken_at else None

    monkeypatch.setattr(workdir.claims, "beat", beat)
    monkeypatch.setattr(workdir.claims, "by_other", by_other)
    place = FakePlace(1, workdir, [node], lambda nodes: Attempt({}, turns=FOR_EVER))
    assert Scheduler(workdir, place, each_alone([node]), Quiet()).run()
    assert len(place.started) == 1 and place.workers[0].killed_at is not None
    assert classes(workdir, node) == ["preempted"] and statuses(workdir, [node]) == ["complete"]


# --- why they ended


@pytest.mark.parametrize(("kills", "kind"), [(1, "memory"), (0, "node")])
def test_what_the_kernel_has_killed_was_out_of_memory(clock, workdir, monkeypatch, tmp_path, kills, kind):
    """By the kernel's own count, before a worker and after it."""
    counter = tmp_path / "vmstat"
    counter.write_text("nr_free_pages 7\noom_kill 3\n")
    monkeypatch.setattr(failures, "KILL_COUNTERS", (str(counter), str(tmp_path / "none")))
    (node,) = some(1)

    def killed(nodes: list[Node]) -> Attempt:
        clock.alarm(clock.now + 0.1, lambda: counter.write_text(f"nr_free_pages 7\noom_kill {3 + kills}\n"))
        return Attempt({}, -9, turns=3)

    place = FakePlace(1, workdir, [node], one_after_the_other(killed, complete))
    assert Scheduler(workdir, place, each_alone([node]), Quiet()).run()
    assert classes(workdir, node) == [kind]


def test_what_an_earlier_worker_has_said_explains_no_later_end(clock, workdir):
    """Both write to one log."""
    (node,) = some(1)
    first = Attempt({}, 1, log=b"error: XlaRuntimeError: RESOURCE_EXHAUSTED: out of memory\n")
    place = FakePlace(1, workdir, [node], one_after_the_other(first, Attempt({}, -9), complete))
    assert Scheduler(workdir, place, each_alone([node]), Quiet()).run()
    assert classes(workdir, node) == ["memory", "node"]


@pytest.mark.parametrize(("said", "code"), [("no space left", errno.ENOSPC), ("Read-only file system", errno.EROFS)])
def test_a_full_disk_ends_the_launch_and_no_run(clock, workdir, said, code):
    """Within its budget, whether the run is alone or not."""
    nodes = some(2)
    place = FakePlace(1, workdir, nodes, lambda nodes: Attempt({}, Failure("disk", said)))
    with pytest.raises(OSError) as raised:
        Scheduler(workdir, place, [Population(tuple(nodes))], Quiet()).run()
    assert raised.value.errno == code
    assert len(place.started) == retries.BUDGETS["disk"] + 1
    assert statuses(workdir, nodes) == ["waiting"] * 2


def test_what_a_run_alone_takes_along_from_a_population():
    """Divergences and full disks are its own; anything else may have been the others'."""
    spent = retries.own(jobs.Spent({"diverged": 1, "disk": 2, "crash": 1, "node": 3}), before=2, after=1)
    assert dict(spent) == {"diverged": 1, "disk": 2}
    assert retries.own(jobs.Spent({"crash": 1}), before=4, after=2) == {"crash": 1}
    assert retries.own(jobs.Spent({"crash": 1}), before=1, after=1) == {"crash": 1}


def test_a_divergence_that_is_to_be_trained_again_is_so_after_a_stop(clock, workdir, monkeypatch):
    """Its worker has recorded it, and goes on with another run; then the launch is stopped, while the disk does not answer."""
    nodes = some(3)
    release = workdir.claims.release
    errors = [OSError(errno.ESTALE, "Stale file handle")] * 3

    def broken(fingerprints):
        if errors:
            raise errors.pop()
        release(fingerprints)

    def attempt(started: list[Node]) -> Attempt:
        write_record(workdir, nodes[0], "diverged")
        return Attempt({}, turns=FOR_EVER)

    place = FakePlace(1, workdir, nodes, attempt)
    scheduler = Scheduler(
        workdir, place, [Population(tuple(nodes))], Quiet(), budgets=retries.BUDGETS | {"diverged": 1}
    )
    clock.alarm(clock.now + 5, scheduler._on_signal)
    monkeypatch.setattr(workdir.claims, "release", broken)
    assert not scheduler.run()
    assert statuses(workdir, nodes) == ["waiting"] * 3
    assert not list(workdir.root.glob("runs/*/claim.json"))


# --- what lies outside of them


def test_the_budget_of_starts_is_spent_to_the_last(clock, workdir):
    (node,) = some(1)
    asked = []
    place = FakePlace(1, workdir, [node], lambda nodes: asked.append(clock.now) or NotStarted("node", "quota"))
    with pytest.raises(AgainError):
        Scheduler(workdir, place, each_alone([node]), Quiet(), budgets=retries.BUDGETS | {"start": 3}).run()
    assert len(asked) == 4


def test_starts_that_fail_while_others_train_are_charged_to_nobody(clock, workdir):
    """And once a worker trains, the next failure is the first of its row again."""
    nodes = some(2)
    asked = []

    def attempt(started: list[Node]):
        if started[0] == nodes[0]:
            return complete(started, turns=400)
        asked.append(clock.now)
        return complete(started) if len(asked) > 8 else NotStarted("node", "quota")

    place = FakePlace(2, workdir, nodes, attempt)
    budgets = retries.BUDGETS | {"start": 2}
    assert Scheduler(workdir, place, each_alone(nodes), Quiet(), budgets=budgets).run()
    assert statuses(workdir, nodes) == ["complete"] * 2 and len(asked) == 9


def test_waits_for_a_worker_begin_anew_once_one_trains(clock, workdir):
    nodes = some(2)
    asked = []

    def attempt(started: list[Node]):
        asked.append(clock.now)
        if len(asked) in (5, 8):
            return dataclasses.replace(complete(started, turns=100), events=[{"event": "start"}])
        return NotStarted("node", "quota")

    place = FakePlace(2, workdir, nodes, attempt)
    assert Scheduler(workdir, place, each_alone(nodes), Quiet()).run()
    waits = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert [round(wait) for wait in waits[:4]] == [1, 2, 4, 8]
    assert waits[5] > 8, "of a failure before the worker was heard of"
    assert waits[6] < 2, "the first failure after it trains"


def test_populations_that_had_no_worker_keep_their_place_in_line(clock, workdir):
    nodes = some(3)
    place = FakePlace(1, workdir, nodes, one_after_the_other(NotStarted("node", "quota"), complete))
    assert Scheduler(workdir, place, each_alone(nodes), Quiet()).run()
    assert place.started == [[node.fingerprint] for node in nodes]


def test_a_disk_that_does_not_answer_now_and_then_ends_nothing(clock, workdir, monkeypatch):
    """More often in all than its budget says, but never so often in a row; and it is not asked without a pause."""
    nodes = some(6)
    recorded = workdir.recorded
    asked = []

    def broken(fingerprint):
        ended = place.started and recorded(fingerprint) is not None
        if ended and asked.count(fingerprint) < 3:
            asked.append(fingerprint)
            raise OSError(errno.ESTALE, "Stale file handle")
        return recorded(fingerprint)

    monkeypatch.setattr(workdir, "recorded", broken)
    place = FakePlace(1, workdir, nodes, complete)
    budgets = retries.BUDGETS | {"start": 3}
    began = clock.now
    assert Scheduler(workdir, place, each_alone(nodes), Quiet(), budgets=budgets).run()
    assert statuses(Workdir(workdir.root), nodes) == ["complete"] * 6
    assert len(asked) == 18 and clock.now - began > 6 * (1 + 2 + 4)


@pytest.mark.parametrize(("ends", "status"), [(True, "complete"), (False, "failed")])
def test_children_wait_for_a_parent_that_another_launcher_trains(clock, workdir, monkeypatch, ends, status):
    """Until it is complete; or until nobody is at it any more, when it is lost, and they are given up."""
    parent, child = some(2)
    child = dataclasses.replace(child, run=dataclasses.replace(child.run, parent=parent.fingerprint))
    until = clock.now + 100

    def by_other(fingerprint):
        if fingerprint == parent.fingerprint and clock.now < until:
            return "process 7 on another"
        if fingerprint == parent.fingerprint and ends:
            write_record(workdir, parent, "complete")
        return None

    monkeypatch.setattr(workdir.claims, "by_other", by_other)
    place = FakePlace(1, workdir, [child], complete)
    assert Scheduler(workdir, place, each_alone([child]), Quiet()).run()
    assert statuses(workdir, [child]) == [status] and clock.now >= until
    if not ends:
        assert workdir.state(child.fingerprint).reason == f"its parent {parent.fingerprint} has status lost"


def test_looks_at_runs_of_others_take_a_fiftieth_of_the_time(clock, workdir, monkeypatch):
    """A look each two seconds, where it takes no time; fewer where a slow disk makes it long."""
    watched = elsewhere.Elsewhere(workdir)
    watched.add("a" * 16)
    looked = []
    takes = [0.0]

    def by_other(fingerprint):
        looked.append(clock.now)
        clock.sleep(takes[0])
        return "process 7 on another"

    monkeypatch.setattr(workdir.claims, "by_other", by_other)
    for _ in range(100):
        assert watched.look() == []
        clock.sleep(0.5)
    assert len(looked) == pytest.approx(25, abs=1)
    takes[0] = 1.0
    looked.clear()
    began = clock.now
    for _ in range(1000):
        watched.look()
        clock.sleep(0.5)
    assert len(looked) / (clock.now - began) == pytest.approx(1 / 52, rel=0.15)


# --- records


def test_a_record_that_cannot_be_read_now_is_no_missing_one(workdir, monkeypatch):
    """Or a finished run would be trained again; what is damaged, or of another run, is none."""
    node, other = some(2)
    write_record(workdir, node, "complete")
    path = workdir.run_dir(node.fingerprint) / "record.json"
    assert workdir.recorded(node.fingerprint).status == "complete"
    assert workdir.recorded(other.fingerprint) is None
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"fingerprint": other.fingerprint}))
    assert workdir.recorded(node.fingerprint) is None
    path.write_text(path.read_text()[:50])
    assert workdir.recorded(node.fingerprint) is None

    def stale(path):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(record.files, "read_json", stale)
    with pytest.raises(OSError, match="Stale"):
        workdir.recorded(node.fingerprint)
