"""The launcher's loop: populations to workers, claims, retries by class of failure, records for what failed.

One thread, and nothing on disk but claims and what the workers write, so that it may die at any time.
"""

import collections
from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import errno
import os
import signal
import time
from typing import Any

from experiments import files
from sweeps.executors.support.protocol import Executor, Worker
from sweeps.work import failures
from sweeps.work import populations as graph
from sweeps.work.claims import HEARTBEAT_SECONDS
from sweeps.work.display import Display, describe
from sweeps.work.failures import Failure
from sweeps.work.populations import Population
from sweeps.work.stopping import Stopping
from sweeps.work.workdir import Node, Workdir

POLL_SECONDS = 0.5
LOOK_SECONDS = 2.0  # between two looks at runs that another launcher is at
STOP_SECONDS = 60.0  # for a worker to save after it was asked to stop
FROZEN_SECONDS = 180.0  # a worker that reports at all, and has not for so long, is killed


@dataclasses.dataclass
class Task:
    """A population and what has happened to it so far."""

    population: Population
    spent: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # ends by class
    steps: int = -1  # that its runs had saved when it was last started
    after: float = 0.0  # on the monotonic clock: not to be started before


@dataclasses.dataclass
class Job:
    """A task that a worker is at."""

    task: Task
    worker: Worker
    log_start: int  # where this attempt begins in the log
    oom_kills: int
    heard: float | None = None  # monotonic time of its last event, once there is one
    end: Failure | None = None  # what we have ended it for

    @property
    def key(self) -> int:
        """For the display."""
        return id(self)


class Scheduler:
    """Trains populations until every run has a record.

    A population that ends early is tried again with the runs that have no record yet, as often as the budget of that
    class of failure allows (sweeps/work/failures.py). Then its halves are tried apart, so that one bad run does not take its
    neighbours with it. A run that has used up a budget alone is recorded as failed.
    """

    def __init__(
        self,
        store: Workdir,
        executor: Executor,
        populations: Sequence[Population],
        display: Display,
        retry_failed: bool = False,
        budgets: Mapping[str, int] = failures.BUDGETS,
        stopping: Stopping | None = None,
    ):
        self.store, self.executor, self.display, self.retry_failed = store, executor, display, retry_failed
        self.budgets, self.stopping = budgets, stopping
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
                if self.stopping:
                    self.stopping.look([node for job in self.jobs for node in job.task.population.nodes])
            return not self.stops
        finally:
            self._stop_workers()
            self.store.claims.close()
            for name, handler in before.items():
                signal.signal(name, handler)

    def _on_signal(self, *_: Any) -> None:
        self.stops += 1

    # --- starting

    def _start_what_can(self) -> None:
        for task in list(self.waiting):
            if len(self.jobs) >= self.executor.slots:
                return
            if task.after <= time.monotonic() and self._ready(task):
                self.waiting.remove(task)
                self._start(task)

    def _ready(self, task: Task) -> bool:
        """Whether all parents are trained. Runs whose parent has failed are recorded as failed and leave the task."""
        ready = []
        for node in task.population.nodes:
            parent = node.run.parent
            state = None if parent is None else self.store.state(parent)
            status = state.status if state else "complete"
            if state and (status in ("failed", "diverged") or state.censored):
                self._fail(node, f"its parent {parent} has status {status}{' (stopped early)' * state.censored}")
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
            task.steps = self._saved(free)
            worker, start = self._worker(task.population)
            self.jobs.append(job := Job(task, worker, start, failures.oom_kills()))
            token = store.claims.take([node.fingerprint for node in free], worker.pid, task.population.name)
        worker.go(token)
        self.display.begin(job.key, task.population)

    def _saved(self, nodes: Sequence[Node]) -> int:
        """Steps in the newest checkpoints of runs; those that have their record count as done."""
        store = self.store
        return sum(
            n.run.steps if store.finished(n.fingerprint) else store.newest_step(n.fingerprint) or 0 for n in nodes
        )

    def _worker(self, population: Population) -> tuple[Worker, int]:
        """A worker that waits for `go`, and the length of its log before it."""
        store, name = self.store, population.name
        value = graph.worker_input(population, **self.executor.options())
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
                job.heard = time.monotonic()
                self.display.event(job.key, event)
            if code is not None:
                self._ended(job, code)
            elif job.heard and job.end is None and time.monotonic() - job.heard > FROZEN_SECONDS:
                job.end = Failure("node", f"no sign of life for {FROZEN_SECONDS:.0f} s")
                job.worker.stop(force=True)
        self.display.tick()

    def _ended(self, job: Job, code: int) -> None:
        """A worker is over: done, or to be tried again, or failed."""
        job.worker.close()
        self.jobs.remove(job)
        self.executor.release(job.worker)
        task, nodes = job.task, job.task.population.nodes
        missing = [node for node in nodes if not self.store.finished(node.fingerprint)]
        suspects = self._suspects(task, nodes)
        self.display.end(job.key, [*missing, *suspects])
        self.store.claims.release([node.fingerprint for node in nodes])
        if suspects and not self.stops:
            spent = task.spent + collections.Counter(diverged=1)
            self.waiting.append(Task(dataclasses.replace(task.population, nodes=tuple(suspects)), spent))
        if not missing or self.stops:
            return
        failure = job.end or self._failure(job, code)
        for node in missing:
            self.store.note_attempt(node.fingerprint, failure.kind, failure.reason)
        spent = task.spent
        if self._saved(nodes) > task.steps:
            for kind in failures.RESTARTED_BY_PROGRESS:
                spent[kind] = 0
        spent[failure.kind] += 1
        self._again(dataclasses.replace(task.population, nodes=tuple(missing)), spent, failure)

    def _suspects(self, task: Task, nodes: Sequence[Node]) -> list[Node]:
        """Runs that diverged and are to be trained once more, their records set aside."""
        if task.spent["diverged"] >= self.budgets["diverged"]:
            return []
        suspects = [node for node in nodes if self.store.state(node.fingerprint).status == "diverged"]
        for node in suspects:
            self.store.set_aside(node.fingerprint)
            self.display.recorded -= 1
        return suspects

    def _again(self, population: Population, spent: collections.Counter[str], failure: Failure) -> None:
        """Try the runs of a population again, whole or in halves, or record the only one that is left as failed."""
        kind, times, budget = failure.kind, spent[failure.kind], self.budgets[failure.kind]
        alone, what = len(population.nodes) == 1, f"{describe(population)}: {failure.reason}"
        if times <= budget and (alone or kind != "memory"):
            self.display.say(f"{what}; trying again ({kind}, {times} of {budget})")
            wait = time.monotonic() + failures.backoff(kind, times)
            self.waiting.insert(0, Task(population, spent, after=wait))
        elif kind == "disk":  # no fault of the runs: they wait until somebody has seen to it
            code = errno.EROFS if "read-only" in failure.reason.lower() else errno.ENOSPC
            raise OSError(code, os.strerror(code), os.fspath(self.store.root))
        elif not alone:
            self.display.say(f"{what}; trying its halves apart")
            if kind == "memory":  # each half needs less: what is counted is how often a run fails alone
                spent = collections.Counter({k: n for k, n in spent.items() if k != "memory"})
            self.waiting += [Task(half, spent.copy()) for half in graph.halves(population)]
        else:
            tried = sum(spent.values())
            self._fail(population.nodes[0], failure.reason + (f" (attempts: {failures.describe(spent)})" * (tried > 1)))

    def _fail(self, node: Node, reason: str) -> None:
        self.display.say(f"{node.name} failed: {reason}")
        self.store.write_failed(node, reason)
        self.display.recorded += 1

    def _failure(self, job: Job, code: int) -> Failure:
        log = self.store.log_path(job.task.population.name)
        said = log.read_bytes()[job.log_start :] if log.exists() else b""
        return failures.classify(code, said, oom=failures.oom_kills() > job.oom_kills)

    # --- claims

    def _heartbeat(self) -> None:
        if time.monotonic() - self._beat_at < HEARTBEAT_SECONDS:
            return
        self._beat_at = time.monotonic()
        for job in self.jobs:
            names = [n.fingerprint for n in job.task.population.nodes]
            if taken := self.store.claims.beat(names):
                self.display.say(f"another launcher has taken over {len(taken)} runs; leaving them to it")
                job.end = Failure("preempted", "another launcher took over")
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
