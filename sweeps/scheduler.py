"""The launcher's loop: populations to workers, claims, retries, records for what failed.

One thread, and nothing on disk but claims and what the workers write, so that it may die at any time.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import signal
import time
from typing import Any

from experiments import files, schema
from sweeps import graph
from sweeps.claims import HEARTBEAT_SECONDS
from sweeps.display import Display, describe
from sweeps.executors import Executor, Worker
from sweeps.graph import Population
from sweeps.store import Node, Store

POLL_SECONDS = 0.5
LOOK_SECONDS = 2.0  # between two looks at runs that another launcher is at
STOP_SECONDS = 60.0  # for a worker to save after it was asked to stop
AGAIN_LIMIT = 5  # times that a population may end as 'again' without anybody here having asked
EXIT_INPUT, EXIT_AGAIN = 2, 75


@dataclasses.dataclass
class Task:
    """A population and what has happened to it so far."""

    population: Population
    crashes: int = 0
    again: int = 0


@dataclasses.dataclass
class Job:
    """A task that a worker is at."""

    task: Task
    worker: Worker
    log_start: int  # where this attempt begins in the log
    robbed: bool = False  # another launcher has taken runs of it

    @property
    def key(self) -> int:
        """For the display."""
        return id(self)


class Scheduler:
    """Trains populations until every run has a record.

    A population that crashes is tried once more with the runs that have no record yet; if it crashes again, its halves
    are tried apart, so that one bad run does not take its neighbours with it. A run that crashes alone is recorded as
    failed.
    """

    def __init__(
        self,
        store: Store,
        executor: Executor,
        populations: Sequence[Population],
        display: Display,
        retry_failed: bool = False,
    ):
        self.store, self.executor, self.display, self.retry_failed = store, executor, display, retry_failed
        self.waiting = [Task(population) for population in populations]
        self.jobs: list[Job] = []
        self.elsewhere: dict[str, Node] = {}  # runs that another launcher is at
        self.stops = 0
        self._beat_at = self._look_at = 0.0

    def run(self) -> bool:
        """Train everything. False when it was stopped from outside; all is saved then."""
        names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {name: signal.signal(name, self._on_signal) for name in names}
        try:
            while (self.waiting or self.jobs or self.elsewhere) and not self.stops:
                self._start_what_can()
                self._turn()
                self._heartbeat()
                self._look_elsewhere()
            return not self.stops
        finally:
            self._stop_workers()
            for name, handler in before.items():
                signal.signal(name, handler)

    def _on_signal(self, *_: Any) -> None:
        self.stops += 1

    # --- starting

    def _start_what_can(self) -> None:
        for task in list(self.waiting):
            if len(self.jobs) >= self.executor.slots:
                return
            if self._ready(task):
                self.waiting.remove(task)
                self._start(task)

    def _ready(self, task: Task) -> bool:
        """Whether all parents are trained. Runs whose parent has failed are recorded as failed and leave the task."""
        ready = []
        for node in task.population.nodes:
            parent = node.run.parent
            status = "complete" if parent is None else self.store.state(parent).status
            if status in ("failed", "diverged"):
                self._fail(node, f"its parent {parent} has status {status}")
                continue
            if status != "complete":
                return False
            ready.append(node)
        task.population = dataclasses.replace(task.population, nodes=tuple(ready))
        return True

    def _start(self, task: Task) -> None:
        """Give the runs of a task that are still to be trained, and that nobody is at, to a worker."""
        store, free = self.store, []
        with store.claims.lock():
            for node in task.population.nodes:
                if store.finished(node.fingerprint, self.retry_failed):
                    self.display.recorded += 1
                elif claim := store.claims.by_other(node.fingerprint):
                    self.elsewhere[node.fingerprint] = node
                    self.display.say(f"{node.name} is being trained by {claim}; waiting for its record")
                else:
                    free.append(node)
            if not free:
                return
            task.population = dataclasses.replace(task.population, nodes=tuple(free))
            for node in free:
                store.set_aside(node.fingerprint)
            worker, start = self._worker(task.population)
            self.jobs.append(job := Job(task, worker, start))
            store.claims.take([node.fingerprint for node in free], worker.pid, task.population.name)
        worker.go()
        self.display.begin(job.key, task.population)

    def _worker(self, population: Population) -> tuple[Worker, int]:
        """A worker that waits for `go`, and the length of its log before it."""
        store, name, nodes = self.store, population.name, population.nodes
        execution = dataclasses.asdict(nodes[0].execution)
        execution |= {key: v for key, v in self.executor.options().items() if execution[key] is None}
        value = {
            "schema": 1,
            "runs": [schema.to_dict(node.run) for node in nodes],
            "fingerprints": [node.fingerprint for node in nodes],
            "execution": execution,
        }
        path, log = store.population_path(name), store.log_path(name)
        files.write_json(path, value)
        start = log.stat().length if log.exists() else 0
        return self.executor.start(path, store.root, log), start

    # --- while they work

    def _turn(self) -> None:
        """Wait a little, hear what the workers say, and see who is over."""
        if self.jobs:
            self.executor.wait([job.worker for job in self.jobs], POLL_SECONDS)
        elif self.elsewhere or self.waiting:
            time.sleep(POLL_SECONDS)
        for job in list(self.jobs):
            code = job.worker.poll()  # before its last events are read, or some could be missed
            for event in job.worker.events():
                self.display.event(job.key, event)
            if code is not None:
                self._ended(job, code)
        self.display.tick()

    def _ended(self, job: Job, code: int) -> None:
        """A worker is over: done, or to be tried again, or failed."""
        job.worker.close()
        self.jobs.remove(job)
        self.executor.release(job.worker)
        task, nodes = job.task, job.task.population.nodes
        missing = [node for node in nodes if not self.store.finished(node.fingerprint)]
        self.display.end(job.key, missing)
        self.store.claims.release([node.fingerprint for node in nodes])
        if not missing or self.stops:
            return
        population = dataclasses.replace(task.population, nodes=tuple(missing))
        if (code == EXIT_AGAIN or job.robbed) and task.again < AGAIN_LIMIT:
            self.waiting.insert(0, Task(population, task.crashes, task.again + 1))
            return
        reason = self._reason(job, code)
        if task.crashes == 0 and code != EXIT_INPUT:
            self.display.say(f"{describe(population)}: {reason}; trying once more")
            self.waiting.insert(0, Task(population, crashes=1))
        elif len(missing) > 1:
            self.display.say(f"{describe(population)}: {reason}; trying its halves apart")
            self.waiting += [Task(half, crashes=1) for half in graph.halves(population)]
        else:
            self._fail(missing[0], reason)

    def _fail(self, node: Node, reason: str) -> None:
        self.display.say(f"{node.name} failed: {reason}")
        self.store.write_failed(node, reason)
        self.display.recorded += 1

    def _reason(self, job: Job, code: int) -> str:
        """One line on why a worker ended: its signal or exit code, and the last error in its log."""
        log = self.store.log_path(job.task.population.name)
        with contextlib.suppress(ValueError):
            return _cause(log.read_bytes()[job.log_start :], f"killed by {signal.Signals(-code).name}")
        return _cause(log.read_bytes()[job.log_start :], f"exit code {code}")

    # --- claims

    def _heartbeat(self) -> None:
        if time.monotonic() - self._beat_at < HEARTBEAT_SECONDS:
            return
        self._beat_at = time.monotonic()
        for job in self.jobs:
            names = [n.fingerprint for n in job.task.population.nodes]
            if taken := self.store.claims.beat(names):
                self.display.say(f"another launcher has taken over {len(taken)} runs; leaving them to it")
                job.robbed = True
                job.worker.stop(force=True)

    def _look_elsewhere(self) -> None:
        """Runs of other launchers: done, or to be taken over because nobody is at them any more."""
        if not self.elsewhere or time.monotonic() - self._look_at < LOOK_SECONDS:
            return
        self._look_at = time.monotonic()
        orphans = []
        for name, node in list(self.elsewhere.items()):
            if self.store.claims.by_other(name) is not None:
                continue
            del self.elsewhere[name]
            if self.store.finished(name):
                self.display.recorded += 1
            else:
                orphans.append(node)
        if orphans:
            self.display.say(f"taking over {len(orphans)} runs that nobody is at any more")
            again = graph.populations(orphans, self.executor.slots, known=lambda _: True)
            self.waiting += [Task(population) for population in again]

    # --- the end

    def _stop_workers(self) -> None:
        """Ask all workers to save and end; end them by force after a while, or at the second request to stop."""
        if self.jobs:
            self.display.say(f"stopping {len(self.jobs)} workers; they save first (once more to stop at once)")
        for job in self.jobs:
            job.worker.stop()
        deadline, requests = time.monotonic() + STOP_SECONDS, self.stops
        while self.jobs and (running := [job for job in self.jobs if job.worker.poll() is None]):
            if time.monotonic() > deadline or self.stops > requests:
                for job in running:
                    job.worker.stop(force=True)
            for job in running:
                job.worker.events()  # a full pipe would keep it from ending
            time.sleep(0.05)
        for job in self.jobs:
            job.worker.close()
            with contextlib.suppress(OSError):  # the error that ended the loop is the one to show
                self.store.claims.release([node.fingerprint for node in job.task.population.nodes])
        self.jobs = []


def _cause(log: bytes, how: str) -> str:
    """`how` a worker ended, with the last error line of its log (or its last line)."""
    lines = [line.strip() for line in log.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    last = (errors or lines or [""])[-1].removeprefix("error: ")
    return f"{how}: {last[:300]}" if last else how
