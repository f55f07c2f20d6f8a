"""A run's fate follows from its own attempts and its parents' fates, whatever the order of events: random graphs of runs
with random troubles, in random company, against a model of twenty lines."""

import collections
import dataclasses
import errno
import itertools
import json
import pathlib
import random
import sys
import tempfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest

from sweeps.executors.local import LocalExecutor
from sweeps.executors.support.protocol import Failure, NotStarted
from sweeps.study.grid import cases
from sweeps.work import retries
from sweeps.work.populations import Population
from sweeps.work.runs import Fate
from sweeps.work.scheduler import Scheduler
from sweeps.work.workdir import Node, Workdir
from tests.support.fake_place import Attempt, Clock, FakePlace, Quiet, write_record
from tests.support.studies import nodes_of

BUDGETS = {"start": 50, "preempted": 2, "node": 1, "memory": 1, "disk": 0, "crash": 1, "user": 0, "diverged": 1}
TROUBLES = ["preempted", "preempted+", "node", "node+", "memory", "crash", "user", "never began"]


@dataclasses.dataclass
class Story:
    """What a run will meet. `troubles`: how its worker ends before it, one after the other, where it is alone ("+": it has
    come further meanwhile); in company the first one of them ends the worker of all, and is still there. `results`: what
    its records say, one after the other. `before`: the status of a record that it has already; "censored": stopped early."""

    parent: int | None
    troubles: list[str]
    results: list[str]
    before: str | None


def fate_of(story: Story, parent: Fate | None, budgets: dict[str, int], retry_failed: bool) -> Fate:
    """The model."""
    if story.before and not (retry_failed and story.before in ("failed", "censored")):
        return Fate("complete", censored=True) if story.before == "censored" else Fate(story.before)
    if parent and not (parent.status == "complete" and not parent.censored):
        return Fate("failed")
    spent = collections.Counter()
    for trouble in story.troubles:
        kind = trouble.rstrip("+")
        if kind == "never began":
            continue
        if trouble.endswith("+"):
            spent["preempted"] = spent["node"] = 0
        spent[kind] += 1
        if spent[kind] > budgets[kind]:
            return Fate("failed")
    for result in story.results:
        if result == "diverged" and spent["diverged"] < budgets["diverged"]:
            spent["diverged"] += 1
        else:
            return Fate(result)
    raise AssertionError("a story has an end")


def fates_of(stories: list[Story], budgets: dict[str, int], retry_failed: bool) -> list[Fate]:
    fates = []
    for story in stories:
        parent = None if story.parent is None else fates[story.parent]
        fates.append(fate_of(story, parent, budgets, retry_failed))
    return fates


@st.composite
def graphs(draw) -> list[Story]:
    out = []
    for number in range(draw(st.integers(1, 7))):
        parent = draw(st.none() | st.integers(0, number - 1)) if number else None
        troubles = draw(st.lists(st.sampled_from(TROUBLES), max_size=4))
        results = [*draw(st.lists(st.just("diverged"), max_size=2)), "complete"]
        before = draw(st.none() | st.none() | st.sampled_from(["failed", "censored", "complete", "diverged"]))
        out.append(Story(parent, troubles, results, before))
    return out


class World:
    """A workdir with runs that live through their stories; workers end in random company."""

    def __init__(self, root: str, stories: list[Story], draw):
        self.workdir = Workdir(pathlib.Path(root))
        self.disk = Workdir(pathlib.Path(root))  # as it is, whatever the launcher is told
        self.stories = stories
        self.draw = draw
        (base,) = nodes_of(cases({"model.width": 16, "model.depth": 1, "model.heads": 1, "tokens": 4096}))
        self.nodes: list[Node] = []
        for number, story in enumerate(stories):
            parent = None if story.parent is None else self.nodes[story.parent].fingerprint
            run = dataclasses.replace(base.run, parent=parent)
            self.nodes.append(dataclasses.replace(base, fingerprint=f"{number:016x}", name=f"run{number}", run=run))
            if story.before:
                status = "complete" if story.before == "censored" else story.before
                write_record(self.workdir, self.nodes[-1], status, censored=story.before == "censored")
        self.number = {node.fingerprint: number for number, node in enumerate(self.nodes)}
        self.progress = collections.Counter()

    def attempt(self, nodes: list[Node]) -> Attempt:
        """What a worker that is started now will do."""
        for node in nodes:
            if node.run.parent:
                state = self.disk.recorded(node.run.parent)
                assert state and Fate.of(state).bears_children, "it starts from a parent that is complete"
            assert not (state := self.disk.recorded(node.fingerprint)), f"it has its record: {state}"
        turns = self.draw(st.integers(1, 4))
        stories = [self.stories[self.number[node.fingerprint]] for node in nodes]
        alone = len(nodes) == 1
        trouble = next((story.troubles[0] for story in stories if story.troubles), None)
        ends = {}
        over = []  # stories that come to a result in this attempt
        for node, story in zip(nodes, stories, strict=True):
            if not story.troubles and (trouble is None or self.draw(st.booleans())):
                ends[node.fingerprint] = story.results[0]
                over.append(story)

        def begun() -> None:
            for story in over:
                if len(story.results) > 1:
                    story.results.pop(0)
            if trouble is None:
                return
            if alone or trouble == "never began":  # which halves nothing: in company, it would be there for ever
                next(story for story in stories if story.troubles).troubles.pop(0)
            if alone and trouble.endswith("+"):
                self.progress[nodes[0].fingerprint] += 1
                step = self.progress[nodes[0].fingerprint]
                (self.workdir.run_dir(nodes[0].fingerprint) / "checkpoints" / str(step)).mkdir(parents=True)

        if trouble is None:
            return Attempt(ends, 0, turns, begun=begun)
        kind = trouble.rstrip("+")
        if kind == "never began":
            return Attempt({} if alone else ends, NotStarted("node", "a quota"), turns, begun=begun)
        return Attempt(ends, Failure(kind, f"{kind} of its own"), turns, begun=begun)

    def break_disk(self, faults: set[int]) -> None:
        """Have the disk not answer the launcher at these of the times when it is asked."""
        asked = itertools.count()

        def broken(method):
            def call(*arguments):
                if next(asked) in faults:
                    raise OSError(errno.ESTALE, "Stale file handle")
                return method(*arguments)

            return call

        for name in ("recorded", "set_aside", "write_failed", "newest_step"):
            setattr(self.workdir, name, broken(getattr(self.workdir, name)))
        for name in ("take", "release", "by_other", "beat"):
            setattr(self.workdir.claims, name, broken(getattr(self.workdir.claims, name)))

    def launch(self, retry_failed: bool, budgets: dict[str, int], stop_after: float | None, clock: Clock) -> bool:
        """Train what has no record yet, in random company. False: it was stopped."""
        level = []
        for story in self.stories:
            level.append(0 if story.parent is None else level[story.parent] + 1)
        left = [node for node in self.nodes if not self.disk.finished(node.fingerprint, retry_failed)]
        populations = []
        for _, group in itertools.groupby(
            sorted(left, key=lambda node: level[self.number[node.fingerprint]]),
            key=lambda node: level[self.number[node.fingerprint]],
        ):
            members = list(group)
            while members:
                size = self.draw(st.integers(1, len(members)))
                populations.append(Population(tuple(members[:size])))
                members = members[size:]
        place = FakePlace(self.draw(st.integers(1, 3)), self.workdir, self.nodes, self.attempt)
        scheduler = Scheduler(self.workdir, place, populations, Quiet(), retry_failed, budgets)
        if stop_after is not None:
            clock.alarm(clock.now + stop_after, scheduler._on_signal)
        finished = scheduler.run()
        assert finished or stop_after is not None
        if finished:
            assert scheduler.runs.left == 0
        return finished

    def fates(self) -> list[Fate | None]:
        states = [self.disk.recorded(node.fingerprint) for node in self.nodes]
        return [Fate.of(state) if state else None for state in states]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """No disk that has to be waited for, no environment to describe, a clock that only sleep moves."""
    from experiments.store import record

    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(record, "environment", dict)
    clock = Clock()
    clock.install(monkeypatch)
    return clock


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    graphs(),
    st.booleans(),
    st.fixed_dictionaries({"diverged": st.integers(0, 2), "crash": st.integers(0, 2)}),
    st.none() | st.floats(0, 20),
    st.sets(st.integers(0, 80), max_size=8),
    st.data(),
)
def test_fates_follow_from_attempts_and_parents(quick: Clock, stories, retry_failed, counts, stop_after, faults, data):
    """Also where the launch is stopped and launched again, and while the disk does not answer: what has a fate by then has
    the one that it was to have."""
    budgets = BUDGETS | counts
    with tempfile.TemporaryDirectory() as root:
        world = World(root, stories, data.draw)
        expected = fates_of(stories, budgets, retry_failed)
        world.break_disk(faults)
        if not world.launch(retry_failed, budgets, stop_after, quick):
            found = world.fates()
            retried = [story.before in ("failed", "censored") and retry_failed for story in stories]
            for fate, goal, again in zip(found, expected, retried, strict=True):
                assert fate in (None, goal) or again
            left = [
                dataclasses.replace(story, before=fate and ("censored" if fate.censored else fate.status))
                for story, fate in zip(stories, found, strict=True)
            ]
            expected = fates_of(left, budgets, retry_failed)
            assert world.launch(retry_failed, budgets, None, quick)
        assert world.fates() == expected
        assert not list(world.disk.root.glob("runs/*/claim.json"))


PLAYER = '''"""A worker that plays the next act of its run's story."""
import json, os, pathlib, signal, sys

population, workdir = (word.partition("=")[2] for word in sys.argv[1:])
(name,) = json.loads(pathlib.Path(population).read_text())["fingerprints"]
folder = pathlib.Path(workdir, "runs", name)
acts = folder / "acts.json"
act, *left = json.loads(acts.read_text())
acts.write_text(json.dumps(left))
if act == "node":
    os.kill(os.getpid(), signal.SIGKILL)
if act == "preempted":
    sys.exit(75)
if act == "crash":
    sys.exit("error: KeyError: what is this?")
if act == "user":
    print("error: opt.lr=-1 must be positive", file=sys.stderr)
    sys.exit(2)
(folder / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
value = {"schema": 1, "fingerprint": name, "status": act, "reason": None, "run": {}, "columns": {"steps_done": 1}}
(folder / "record.json").write_text(json.dumps(value))
'''


@pytest.mark.parametrize("seed", range(3))
def test_fates_of_real_processes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, seed: int):
    """Killed, crashed and preempted ones: the fates are those of the model."""
    from experiments.store import record

    monkeypatch.setattr(record, "environment", dict)
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", {})
    rng = random.Random(seed)
    stories = []
    for number in range(6):
        parent = rng.choice([None, *range(number)])
        troubles = rng.choices(["node", "preempted", "crash", "user"], [4, 4, 2, 1], k=rng.randrange(3))
        results = ["diverged"] * rng.randrange(2) + ["complete"]
        stories.append(Story(parent, troubles, results, rng.choice([None, None, "failed"])))
    world = World(str(tmp_path), stories, None)
    for node, story in zip(world.nodes, stories, strict=True):
        folder = tmp_path / "runs" / node.fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "acts.json").write_text(json.dumps([*story.troubles, *story.results]))
    (tmp_path / "player.py").write_text(PLAYER)
    place = LocalExecutor([sys.executable, "-S", str(tmp_path / "player.py")])
    to_train = [Population((node,)) for node in world.nodes]
    assert Scheduler(world.workdir, place, to_train, Quiet(), True, BUDGETS).run()
    assert world.fates() == fates_of(stories, BUDGETS, retry_failed=True)
