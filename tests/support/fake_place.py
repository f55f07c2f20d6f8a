"""An executor without processes, and a clock that only sleep moves: the real scheduler in milliseconds."""

from collections.abc import Callable, Sequence
import dataclasses
import json
import os
import pathlib
import sys
import time
from typing import Any

from etils import epath

from experiments.store import record
from sweeps.executors.support.protocol import End, Event, Executor, NotStarted
from sweeps.work import jobs
from sweeps.work.populations import Population
from sweeps.work.workdir import Node, Workdir


class Clock:
    """Stands in for the module time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._alarms: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for alarm in list(self._alarms):
            if alarm[0] <= self.now:
                self._alarms.remove(alarm)
                alarm[1]()

    def alarm(self, at: float, call: Callable[[], None]) -> None:
        """Have something called once so late."""
        self._alarms.append((at, call))

    def install(self, monkeypatch: Any) -> None:
        """Have all files of the room use it."""
        for name, module in list(sys.modules.items()):
            in_room = name.startswith("sweeps.work.") or name == "experiments.alive.claims"
            if in_room and getattr(module, "time", None) is time:
                monkeypatch.setattr(module, "time", self)


@dataclasses.dataclass
class Attempt:
    """What a worker will do: records by fingerprint (status), and how it ends, after so many turns.

    `events`: what it reports at once; `log`: what it says. `deaf`: it ends only when it is killed. `silent`: by the number
    of a poll, whether nobody can say what has become of it. `begun` is called when it may begin, which not every worker
    may that was started.
    """

    statuses: dict[str, str]
    end: End = 0
    turns: int = 1
    events: list[Event] = dataclasses.field(default_factory=list)
    log: bytes = b""
    deaf: bool = False
    silent: Callable[[int], bool] = lambda number: False
    begun: Callable[[], object] = lambda: None


class FakeWorker:
    """Does what its attempt says, one turn at each poll."""

    def __init__(self, attempt: Attempt, nodes: Sequence[Node], workdir: Workdir):
        self.pid = os.getpid()
        self.attempt = attempt
        self.nodes = list(nodes)
        self.workdir = workdir
        self.begun = False
        self.asked_to_stop = False
        self.over: End = None
        self.polls = 0
        self.killed_at: float | None = None

    def go(self, token: str = "") -> None:
        self.begun = True
        self.attempt.begun()

    def events(self) -> list[Event]:
        found = self.attempt.events
        self.attempt.events = []
        return found

    def poll(self) -> End:
        if self.over is not None:
            return self.over
        self.polls += 1
        if self.attempt.silent(self.polls):
            raise ConnectionError("nobody answers")
        if self.asked_to_stop and not (self.attempt.deaf and self.killed_at is None):
            self.over = 75
            return self.over
        assert self.begun, "its runs are claimed before it begins"
        self.attempt.turns -= 1
        if self.attempt.turns <= 0:
            for node in self.nodes:
                if node.fingerprint in self.attempt.statuses:
                    write_record(self.workdir, node, self.attempt.statuses[node.fingerprint])
            self.over = self.attempt.end
        return self.over

    def close(self) -> None: ...

    def stop(self, force: bool = False) -> None:
        self.asked_to_stop = True
        if force and self.killed_at is None:
            self.killed_at = jobs.time.monotonic()


def write_record(workdir: Workdir, node: Node, status: str, censored: bool = False) -> None:
    """As a worker leaves it, with a checkpoint that a child could start from."""
    folder = workdir.run_dir(node.fingerprint)
    columns = {"steps_done": node.run.steps, "censored": int(censored)}
    value = {"schema": 1, "fingerprint": node.fingerprint, "status": status, "reason": None, "run": {}}
    (folder / "checkpoints" / str(node.run.steps)).mkdir(parents=True, exist_ok=True)
    record.write(folder, value | {"columns": columns})


class FakePlace(Executor[FakeWorker]):
    """Room for `slots` fake workers. `attempts` says what each will do, by its runs; NotStarted: none is to be had."""

    def __init__(self, slots: int, workdir: Workdir, nodes: Sequence[Node], attempts: Callable[[list[Node]], Any]):
        self.slots = slots
        self.workdir = workdir
        self.by_name = {node.fingerprint: node for node in nodes}
        self.attempts = attempts
        self.started: list[list[str]] = []  # fingerprints of each worker
        self.workers: list[FakeWorker] = []
        self.held: list[FakeWorker] = []  # that have not given their place back
        self.most = 0  # at a time

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> FakeWorker | NotStarted:
        names = json.loads(pathlib.Path(population).read_text())["fingerprints"]
        nodes = [self.by_name[name] for name in names]
        attempt = self.attempts(nodes)
        if isinstance(attempt, NotStarted):
            return attempt
        self.started.append(names)
        worker = FakeWorker(attempt, nodes, self.workdir)
        self.workers.append(worker)
        self.held.append(worker)
        self.most = max(self.most, len(self.held))
        with open(log, "ab") as file:
            file.write(attempt.log)
        return worker

    def release(self, worker: FakeWorker) -> None:
        self.held.remove(worker)

    def wait(self, workers: Sequence[FakeWorker], seconds: float) -> None:
        jobs.time.sleep(seconds)


class Quiet:
    """Stands in for the display; keeps what was said."""

    def __init__(self) -> None:
        self.done = 0
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def begin(self, key: Any, population: Population) -> None: ...

    def event(self, key: Any, event: Event) -> None: ...

    def end(self, key: Any, missing: Sequence[Node]) -> None: ...

    def refresh(self) -> None: ...
