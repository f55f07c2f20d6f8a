"""The workers of a launch that are running: started, heard, killed where they freeze, shown to be alive, stopped.

What becomes of a population whose worker is over is not decided here (sweeps/work/scheduler.py).
"""

import collections
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import time
from typing import Any

from experiments import files
from experiments.alive.claims import HEARTBEAT_SECONDS
from sweeps.executors.support.protocol import Executor, Worker
from sweeps.work import failures, populations
from sweeps.work.display import Display
from sweeps.work.failures import Failure
from sweeps.work.populations import Population
from sweeps.work.workdir import Workdir

STOP_SECONDS = 60.0  # for a worker to save after it was asked to stop
FROZEN_SECONDS = 180.0  # a worker that reports at all, and has not for so long, is killed

Spent = collections.Counter[str]  # ends without a record so far, by class of failure


@dataclasses.dataclass(eq=False)
class Job:
    """A population that a worker is at."""

    population: Population
    spent: Spent
    worker: Worker
    steps_before: int  # that its runs had saved when it was started
    log_start: int  # where this attempt begins in the log, in bytes
    oom_kills: int  # of this host when it was started
    heard_at: float | None = None  # monotonic time of its last event, once there is one
    ended_for: Failure | None = None  # what we have ended it for

    @property
    def fingerprints(self) -> list[str]:
        """Of its runs."""
        return [node.fingerprint for node in self.population.nodes]

    @property
    def frozen(self) -> bool:
        """Whether it has reported once, and then not for FROZEN_SECONDS."""
        return self.heard_at is not None and time.monotonic() - self.heard_at > FROZEN_SECONDS

    def end(self, kind: str, reason: str) -> None:
        """Kill its worker, for a reason that its exit status will not tell."""
        self.ended_for = Failure(kind, reason)
        self.worker.stop(force=True)


class Jobs:
    """The jobs of this launch whose worker is not known to be over."""

    def __init__(self, workdir: Workdir, executor: Executor[Any], display: Display):
        self.workdir = workdir
        self.executor = executor
        self.display = display
        self.running: list[Job] = []
        self._beat_at = 0.0  # the last heartbeat, on the monotonic clock

    def __len__(self) -> int:
        return len(self.running)

    def start(self, population: Population, spent: Spent) -> Job:
        """Start a worker that waits for `go`, which it gets once its runs are claimed."""
        workdir = self.workdir
        executor = self.executor
        steps_before = self.saved_steps(population)
        path = workdir.population_path(population.name)
        log = workdir.log_path(population.name)
        files.write_json(path, populations.worker_input(population, **executor.options()))
        log_start = log.stat().length if log.exists() else 0
        worker = executor.start(path, workdir.root, log)
        job = Job(population, spent, worker, steps_before, log_start, failures.oom_kills())
        self.running.append(job)
        return job

    def saved_steps(self, population: Population) -> int:
        """Return the steps in the newest checkpoints of runs; those that have their record count as done."""
        total = 0
        for node in population.nodes:
            fingerprint = node.fingerprint
            if self.workdir.finished(fingerprint):
                total += node.run.steps
            else:
                total += self.workdir.newest_step(fingerprint) or 0
        return total

    def hear(self, seconds: float) -> Iterator[tuple[Job, int]]:
        """Wait so long for workers to say something, and show it; return the jobs that are over with their exit status."""
        self.executor.wait([job.worker for job in self.running], seconds)
        for job in list(self.running):
            status = job.worker.poll()  # before its last events are read, or some could be missed
            for event in job.worker.events():
                job.heard_at = time.monotonic()
                self.display.event(job, event)
            if status is not None:
                yield job, status
            elif job.frozen and job.ended_for is None:
                job.end("node", f"no sign of life for {FROZEN_SECONDS:.0f} s")

    def close(self, job: Job) -> None:
        """Let go of a worker that is over; its place is free again."""
        job.worker.close()
        self.running.remove(job)
        self.executor.release(job.worker)

    def failure(self, job: Job, status: int) -> Failure:
        """Name the failure of a worker: what we have ended it for, or else by its exit status and what it said."""
        if job.ended_for is not None:
            return job.ended_for
        log = self.workdir.log_path(job.population.name)
        said = log.read_bytes()[job.log_start :] if log.exists() else b""
        oom = failures.oom_kills() > job.oom_kills
        return failures.classify(status, said, oom)

    def heartbeat(self) -> None:
        """Show other launchers that we live; end the workers of runs that one of them has taken over all the same."""
        if time.monotonic() - self._beat_at < HEARTBEAT_SECONDS:
            return
        self._beat_at = time.monotonic()
        for job in self.running:
            taken = self.workdir.claims.beat(job.fingerprints)
            if taken:
                self.display.say(f"another launcher has taken over {len(taken)} runs; leaving them to it")
                job.end("preempted", "another launcher took over")

    def stop_all(self, at_once: Callable[[], bool]) -> None:
        """Ask all workers to save and end; kill them after a while, or as soon as `at_once` says so."""
        if self.running:
            self.display.say(f"stopping {len(self)} workers; they save first (once more to stop at once)")
        for job in self.running:
            job.worker.stop()
        self._wait_for_end(time.monotonic() + STOP_SECONDS, at_once)
        for job in self.running:
            job.worker.close()
            with contextlib.suppress(OSError):  # the error that ended the loop is the one to show
                self.workdir.claims.release(job.fingerprints)
        self.running = []

    def _wait_for_end(self, deadline: float, at_once: Callable[[], bool]) -> None:
        """Return when all workers are over; kill them when the time comes."""
        while True:
            alive = [job.worker for job in self.running if job.worker.poll() is None]
            if not alive:
                return
            if time.monotonic() > deadline or at_once():
                for worker in alive:
                    worker.stop(force=True)
            for worker in alive:
                worker.events()  # a full pipe would keep it from ending
            time.sleep(0.05)
