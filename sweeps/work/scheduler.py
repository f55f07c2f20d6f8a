"""The launcher's loop: populations to workers, claims, retries by class of failure, records for what failed.

One thread, and nothing on disk but claims and what the workers write, so that it may die at any time. A population is
`waiting` for a worker (and for the parents of its runs), then one of the `jobs` that a worker is at (sweeps/work/jobs.py);
when the worker is over, those of its runs that have no record wait again, whole or in halves, or are recorded as failed.
Runs that another launcher has claimed are `elsewhere` (sweeps/work/elsewhere.py).
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import errno
import os
import time
from typing import Any, NoReturn

from experiments.alive import requests
from experiments.cli import AgainError, InputError
from sweeps.executors.support.protocol import Executor, Failure, NotStarted
from sweeps.work import populations, retries
from sweeps.work.display import Display, describe
from sweeps.work.elsewhere import Elsewhere
from sweeps.work.jobs import Job, Jobs, Spent
from sweeps.work.populations import Population
from sweeps.work.retries import Decision
from sweeps.work.stopping import Stopping
from sweeps.work.workdir import Node, Workdir

POLL_SECONDS = 0.5


@dataclasses.dataclass
class Task:
    """A population that waits for a worker, and how often its runs have ended without a record so far."""

    population: Population
    spent: Spent = dataclasses.field(default_factory=collections.Counter)
    not_before: float = 0.0  # on the monotonic clock


class Scheduler:
    """Trains populations until every run has a record.

    A population that ends early is tried again with the runs that have no record yet, as often as the retry budget of that
    class of failure allows (sweeps/work/retries.py). Then its halves are tried apart, so that one bad run does not take its
    neighbours with it. A run that has used up a budget alone is recorded as failed.
    """

    def __init__(
        self,
        workdir: Workdir,
        executor: Executor[Any],
        to_train: Sequence[Population],
        display: Display,
        retry_failed: bool = False,
        budgets: Mapping[str, int] = retries.BUDGETS,
        stopping: Stopping | None = None,
    ):
        self.workdir = workdir
        self.executor = executor
        self.display = display
        self.retry_failed = retry_failed
        self.budgets = budgets
        self.stopping = stopping
        self.waiting = [Task(population) for population in to_train]
        self.jobs = Jobs(workdir, executor, display)
        self.elsewhere = Elsewhere(workdir)
        self.stops = 0  # requests to stop, from outside
        self.starts_failed = 0  # in a row, while nothing else was being trained
        self.no_start_before = 0.0  # on the monotonic clock

    def run(self) -> bool:
        """Train everything. False when it was stopped from outside; all is saved then."""
        with requests.heard(self._on_signal):
            try:
                self._train_all()
                return not self.stops
            finally:
                before = self.stops
                self.jobs.stop_all(at_once=lambda: self.stops > before)
                self.workdir.claims.close()

    def _train_all(self) -> None:
        """Train until nothing is left to do, or somebody asks to stop."""
        while (self.waiting or self.jobs or self.elsewhere) and not self.stops:
            self._start_what_can()
            self._turn()
            self.jobs.heartbeat()
            self._look_elsewhere()
            self._stop_early()

    def _on_signal(self, *_: object) -> None:
        self.stops += 1

    # --- a population starts

    def _start_what_can(self) -> None:
        """Give waiting populations to workers, as far as there is room and their parents are trained."""
        if time.monotonic() < self.no_start_before:
            return
        for task in list(self.waiting):
            if len(self.jobs) >= self.executor.slots or time.monotonic() < self.no_start_before:
                return
            if task.not_before > time.monotonic():
                continue
            if self._parents_are_trained(task):
                self.waiting.remove(task)
                self._start(task)

    def _parents_are_trained(self, task: Task) -> bool:
        """Whether all runs of a task can start. Those whose parent has failed are recorded as failed and leave the task."""
        startable = []
        for node in task.population.nodes:
            parent = node.run.parent
            if parent is None:
                startable.append(node)
                continue
            state = self.workdir.state(parent)
            if state.status in ("failed", "diverged") or state.censored:
                early = " (stopped early)" if state.censored else ""
                self._record_failure(node, f"its parent {parent} has status {state.status}{early}")
            elif state.status == "complete":
                startable.append(node)
            else:
                return False
        task.population = task.population.of(startable)
        return True

    def _start(self, task: Task) -> None:
        """Give the runs of a task that are still to be trained, and that nobody is at, to a worker."""
        claims = self.workdir.claims
        with claims.lock():  # so that no other launcher looks between our look and our claim
            free = self._free_runs(task.population)
            if not free:
                return
            population = task.population.of(free)
            for node in free:
                self.workdir.set_aside(node.fingerprint)
            job = self.jobs.start(population, task.spent)
            if isinstance(job, NotStarted):
                self._not_started(Task(population, task.spent), job)
                return
            token = claims.take(job.fingerprints, job.worker.pid, population.name)
        job.go(token)
        self.display.begin(job, population)

    def _not_started(self, task: Task, failure: NotStarted) -> None:
        """Have a population wait for which there is no worker. Raises AgainError or InputError where none is to come."""
        self.waiting.insert(0, task)
        if failure.kind == "user":
            raise InputError(f"no worker can be started: {failure.reason}")
        if failure.kind == "disk":
            self._end_for_disk(failure.reason)
        if not self.jobs:
            self.starts_failed += 1
        budget = self.budgets["start"]
        if self.starts_failed > budget:
            raise AgainError(f"no worker could be started {budget} times: {failure.reason}; the same command goes on")
        seconds = retries.backoff("start", max(1, self.starts_failed))
        self.no_start_before = time.monotonic() + seconds
        self.display.say(f"{describe(task.population)}: not started: {failure.reason}; trying again")

    def _free_runs(self, population: Population) -> list[Node]:
        """Return the runs without a record that nobody else is at; note what has become of the others."""
        workdir = self.workdir
        free = []
        for node in population.nodes:
            fingerprint = node.fingerprint
            if workdir.finished(fingerprint, self.retry_failed):
                self.display.recorded += 1
                continue
            claim = workdir.claims.by_other(fingerprint)
            if claim is None:
                free.append(node)
            else:
                self.elsewhere.add(node)
                self.display.say(f"{node.name} is being trained by {claim}; waiting for its record")
        return free

    # --- a worker ends

    def _turn(self) -> None:
        """Wait a little, hear what the workers say, and see who is over."""
        if self.jobs:
            for job, end in self.jobs.hear(POLL_SECONDS):
                self._ended(job, end)
        elif self.elsewhere or self.waiting:
            time.sleep(POLL_SECONDS)
        self.display.refresh()

    def _ended(self, job: Job, end: int | Failure) -> None:
        """Deal with a worker that is over: its runs are done, or to be tried again, or failed."""
        self.jobs.close(job)
        missing = []
        for node in job.population.nodes:
            if not self.workdir.finished(node.fingerprint):
                missing.append(node)
        suspects = self._suspects(job)
        self.display.end(job, [*missing, *suspects])
        self.workdir.claims.release(job.fingerprints)
        if self.stops:
            return
        if suspects:
            spent = job.spent + collections.Counter(diverged=1)
            self.waiting.append(Task(job.population.of(suspects), spent))
        if missing:
            self._ended_without_records(job, end, missing)

    def _suspects(self, job: Job) -> list[Node]:
        """Return runs that diverged and are to be trained once more, their records set aside."""
        if job.spent["diverged"] >= self.budgets["diverged"]:
            return []
        suspects = []
        for node in job.population.nodes:
            state = self.workdir.state(node.fingerprint)
            if state.status == "diverged":
                suspects.append(node)
        for node in suspects:
            self.workdir.set_aside(node.fingerprint)
            self.display.recorded -= 1
        return suspects

    def _ended_without_records(self, job: Job, end: int | Failure, missing: Sequence[Node]) -> None:
        """Charge the failure of a worker to the retry budget of its class, and go on as that says."""
        failure = self.jobs.failure(job, end)
        if isinstance(failure, NotStarted):
            self._not_started(Task(job.population.of(missing), job.spent), failure)
            return
        self.starts_failed = 0
        for node in missing:
            self.workdir.note_attempt(node.fingerprint, failure.kind, failure.reason)
        spent = job.spent
        if self.jobs.saved_steps(job.population) > job.steps_before:
            for kind in retries.RESTARTED_BY_PROGRESS:
                spent[kind] = 0
        spent[failure.kind] += 1
        self._try_again(job.population.of(missing), spent, failure)

    # --- runs without a record are tried again, or given up

    def _try_again(self, population: Population, spent: Spent, failure: Failure) -> None:
        """Try the runs of a population again, whole or in halves, or record the only one that is left as failed."""
        kind = failure.kind
        times = spent[kind]
        budget = self.budgets[kind]
        alone = len(population.nodes) == 1
        what = f"{describe(population)}: {failure.reason}"
        decision = retries.decide(kind, times, budget, alone)
        if decision is Decision.RETRY:
            self.display.say(f"{what}; trying again ({kind}, {times} of {budget})")
            not_before = time.monotonic() + retries.backoff(kind, times)
            self.waiting.insert(0, Task(population, spent, not_before))
        elif decision is Decision.END_LAUNCH:
            self._end_for_disk(failure.reason)
        elif decision is Decision.HALVE:
            self.display.say(f"{what}; trying its halves apart")
            if kind == "memory":  # each half needs less: what is counted is how often a run fails alone
                del spent["memory"]
            for half in populations.halves(population):
                self.waiting.append(Task(half, spent.copy()))
        else:
            reason = failure.reason
            if spent.total() > 1:
                reason += f" (attempts: {retries.describe(spent)})"
            (node,) = population.nodes
            self._record_failure(node, reason)

    def _end_for_disk(self, reason: str) -> NoReturn:
        """Raise the OSError that a worker has met, for the launcher's own user."""
        code = errno.EROFS if "read-only" in reason.lower() else errno.ENOSPC
        raise OSError(code, os.strerror(code), os.fspath(self.workdir.root))

    def _record_failure(self, node: Node, reason: str) -> None:
        """Give up a run."""
        self.display.say(f"{node.name} failed: {reason}")
        self.workdir.write_failed(node, reason)
        self.display.recorded += 1

    # --- runs of other launchers, and runs that need not be trained to their end

    def _look_elsewhere(self) -> None:
        """Note which runs of other launchers are done, and take over those that nobody is at any more."""
        change = self.elsewhere.look()
        self.display.recorded += change.recorded
        if change.orphans:
            self.display.say(f"taking over {len(change.orphans)} runs that nobody is at any more")
            slots = self.executor.slots
            for population in populations.arrange(change.orphans, slots, known=lambda parent: True):
                self.waiting.append(Task(population))

    def _stop_early(self) -> None:
        """Have the runs judged that are being trained here, where the launch asks for it."""
        if self.stopping:
            running = []
            for job in self.jobs.running:
                running += job.population.nodes
            self.stopping.look(running)
