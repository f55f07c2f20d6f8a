"""The launcher's loop: populations to workers, claims, retries by class of failure, records for what failed.

One thread, and nothing on disk but claims and what the workers write, so that it may die at any time. Where each run stands
is one table (sweeps/work/runs.py). A population waits in line (sweeps/work/waiting.py) for the parents of its runs and for a
worker, and then is one of the `jobs` that a worker is at (sweeps/work/jobs.py); when the worker is over, those of its runs
that have no record wait again, whole or in halves, or are given up (sweeps/work/outcomes.py, sweeps/work/fates.py).

Whatever does not answer, a place without workers or a disk, is tried again with backoff (sweeps/work/backoff.py).
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import time
from typing import Any

from experiments.alive import requests
from experiments.cli import explain
from sweeps.executors.support.outside import not_started
from sweeps.executors.support.protocol import Executor, NotStarted
from sweeps.work import populations, retries
from sweeps.work.backoff import Backoff
from sweeps.work.display import Display
from sweeps.work.fates import Fates
from sweeps.work.jobs import Job, Jobs
from sweeps.work.outcomes import Ended, Outcomes
from sweeps.work.populations import Population
from sweeps.work.runs import Fate, Runs, Stage
from sweeps.work.stopping import Stopping
from sweeps.work.waiting import Line, Task
from sweeps.work.workdir import Node, State, Workdir

POLL_SECONDS = 0.5
GIVE_BACK_TRIES = 10  # at the end of a launch, where the disk does not answer
GIVE_BACK_SECONDS = 0.5  # between two of them
START_SECONDS = 2.0  # of each turn, at most, are spent on starting workers


class Scheduler:
    """Trains populations until every run has a record.

    A population that ends early is tried again with the runs that have no record yet, as often as the retry budget of that
    class of failure allows (sweeps/work/retries.py). Then its halves are tried apart, so that one bad run does not take its
    neighbours with it. A run that has used up a budget alone is recorded as failed, and so are those that start from it.
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
        known: Mapping[str, State] | None = None,
        arrange: Callable[[Sequence[Node]], list[Population]] | None = None,
    ):
        """`known`: states of runs that have their record from before, such as parents of those to be trained.

        `arrange`: how runs become populations that are taken over from a launcher that is dead; by default each alone.
        """
        self.workdir = workdir
        self.display = display
        self.retry_failed = retry_failed
        self.budgets = budgets
        self.stopping = stopping
        self.arrange = arrange or populations.each_alone
        self.runs = Runs(node for population in to_train for node in population.nodes)
        self.jobs = Jobs(workdir, executor, display)
        self.line = Line(self.runs)
        self.fates = Fates(workdir, display, self.runs, self.line, known or {}, retry_failed)
        self.starting = Backoff(workdir, budgets, "no worker can be started")
        self.settling = Backoff(workdir, budgets, "the workdir cannot be used")
        self.outcomes = Outcomes(workdir, display, budgets, self.runs, self.line, self.jobs, self.fates, self.starting)
        self.ended: list[Ended] = []
        self.stops = 0  # requests to stop, from outside
        for population in to_train:
            self.line.add(Task(population))

    def run(self) -> bool:
        """Train everything. False when it was stopped from outside; all is saved then.

        Raises AgainError, OSError or InputError where the launch cannot go on; all is saved then, too.
        """
        with requests.heard(self._on_signal):
            try:
                while not (self._is_over() or self.stops or self.ending):
                    self._turn()
                self._settle()
            finally:
                before = self.stops
                stopped = self.jobs.stop_all(at_once=lambda: self.stops > before)
                self._give_back([*stopped, *(ended.job for ended in self.ended)])
                with contextlib.suppress(OSError):  # the lease runs out by itself
                    self.workdir.claims.close()
        if self.ending is not None:
            raise self.ending
        return not self.stops

    def _give_back(self, jobs: list[Job]) -> None:
        """Let go of the runs of jobs that end with the launch, as far as the disk answers within a few seconds."""
        left = jobs
        for _ in range(GIVE_BACK_TRIES):
            failed = []
            for job in left:
                try:
                    self.outcomes.give_back(job)
                except OSError:  # what ended the loop is to be shown; claims end with this process, too
                    failed.append(job)
            if not failed:
                return
            left = failed
            time.sleep(GIVE_BACK_SECONDS)

    @property
    def ending(self) -> Exception | None:
        """What the launch ends for, once it has to."""
        return self.starting.over or self.settling.over or self.outcomes.over

    def _is_over(self) -> bool:
        return not self.runs.left  # what a worker is at has no fate

    def _on_signal(self, *_: object) -> None:
        self.stops += 1

    def _turn(self) -> None:
        """Do once what there is to do, and listen for a while."""
        self._settle()
        self._start_what_can()
        if self.jobs:
            for job, end in self.jobs.hear(POLL_SECONDS):
                self.jobs.close(job)
                self.ended.append(Ended(job, end))
        elif not self._is_over():
            time.sleep(POLL_SECONDS)
        if self.jobs.begun():
            self.starting.succeeded()
        self.jobs.heartbeat()
        self._stop_early()
        self.display.done = self.runs.done
        self.display.refresh()

    # --- a population starts

    def _start_what_can(self) -> None:
        """Give waiting populations to workers, as far as there is room; a heartbeat waits for START_SECONDS at most."""
        began = time.monotonic()
        while self._may_start() and time.monotonic() - began < START_SECONDS:
            task = self.line.next()
            if task is None:
                return
            self._start(task)

    def _may_start(self) -> bool:
        if self.stops or self.ending or not self.starting.due:
            return False
        return len(self.jobs) < self.jobs.slots

    def _start(self, task: Task) -> None:
        """Give the runs of a task that are still to be trained, and that nobody is at, to a worker."""
        try:
            with self.workdir.claims.lock():  # so that no other launcher looks between our look and our claim
                job = self._claim(task)
        except OSError as error:
            job = not_started(error)
        if isinstance(job, NotStarted):
            self.outcomes.hold(task, job, idle=not self.jobs)
        elif job is not None:
            self.display.begin(job, job.population)
            job.go()

    def _claim(self, task: Task) -> Job | NotStarted | None:
        """Start a worker and claim its runs. None when none of them is free."""
        free = self._free_runs(task.population)
        if not free:
            return None
        population = task.population.of(free)
        for node in free:
            self.workdir.set_aside(node.fingerprint)
        job = self.jobs.start(population, task.spent)
        if isinstance(job, NotStarted):
            return job
        self.runs.move(free, Stage.RUNNING)
        try:
            job.token = self.workdir.claims.take(job.fingerprints, job.worker.pid, population.name)
        except OSError as error:
            job.end(not_started(error))
        return job

    def _free_runs(self, population: Population) -> list[Node]:
        """Return the runs without a record that nobody else is at; note what has become of the others.

        Raises OSError where the workdir cannot be read now.
        """
        free = []
        for node in population.nodes:
            fingerprint = node.fingerprint
            retry = self.retry_failed and self.runs.stage(node) is Stage.READY  # not what has failed in this launch
            state = self.workdir.recorded(fingerprint)
            if state and state.final(retry):
                self.fates.decide(fingerprint, Fate.of(state))
                continue
            claim = self.workdir.claims.by_other(fingerprint)
            if claim is None:
                free.append(node)
            else:
                self.runs.move([node], Stage.ELSEWHERE)
                self.fates.elsewhere.add(fingerprint)
                self.display.say(f"{node.name} is being trained by {claim}; waiting for its record")
        return free

    # --- what has happened meanwhile

    def _settle(self) -> None:
        """Deal with what has happened: workers that are over, news of other launchers, runs that are given up."""
        if not self.settling.due:
            return
        try:
            self.fates.look_up_parents()
            while self.ended:
                self.outcomes.deal_with(self.ended[0])
                self.ended.pop(0)
                self.settling.succeeded()
            self._take_over(self.fates.look_elsewhere())
            self.fates.write_failures()
        except OSError as error:
            failure = not_started(error)
            self.display.say(f"{failure.reason}; trying again")
            self.settling.failed(failure, idle=not self.jobs)
        else:
            self.settling.succeeded()

    def _take_over(self, orphans: Sequence[Node]) -> None:
        """Have runs wait for a worker here that nobody is at any more."""
        if orphans:
            self.display.say(f"taking over {len(orphans)} runs that nobody is at any more")
            for population in self.arrange(orphans):
                self.line.add(Task(population))

    def _stop_early(self) -> None:
        """Have the runs judged that are being trained here, where the launch asks for it."""
        if self.stopping:
            running = []
            for job in self.jobs.running:
                running += job.population.nodes
            try:
                self.stopping.look(running)
            except OSError as error:
                self.display.say(f"loss curves cannot be read now: {explain(error)}")
