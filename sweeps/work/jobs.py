"""The workers of a launch that are running: started, heard, killed where they freeze, shown to be alive, stopped.

What becomes of a population whose worker is over is not decided here (sweeps/work/scheduler.py). Nothing that an executor
or a worker raises goes further than this file: it is a result (sweeps/executors/support/protocol.py).
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import time
from typing import Any

from experiments import files
from experiments.alive.claims import HEARTBEAT_SECONDS
from experiments.cli import explain
from sweeps.executors.support.outside import not_started
from sweeps.executors.support.protocol import End, Event, Executor, Failure, NotStarted, Worker
from sweeps.work import failures, populations
from sweeps.work.display import Display
from sweeps.work.populations import Population
from sweeps.work.waiting import Spent
from sweeps.work.workdir import Workdir

STOP_SECONDS = 60.0  # for a worker to save after it was asked to stop
TURN_SECONDS = 0.1  # of listening, at least: many workers that talk are heard together
SIGNS_OF_TRAINING = ("start", "progress", "record")
FROZEN_SECONDS = 180.0  # a worker that reports at all, and has not for so long, is killed


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
    unanswered_since: float | None = None  # monotonic time since which all that was asked of it has raised
    trains: bool = False  # it has reported so
    token: str = ""  # of the claims on its runs
    ended_for: Failure | None = None  # what we have ended it for

    @property
    def fingerprints(self) -> list[str]:
        """Of its runs."""
        return [node.fingerprint for node in self.population.nodes]

    @property
    def frozen(self) -> bool:
        """Whether it has reported once, and then not for FROZEN_SECONDS."""
        return self.heard_at is not None and time.monotonic() - self.heard_at > FROZEN_SECONDS

    def end(self, failure: Failure) -> None:
        """Kill its worker, for a reason that its exit status will not tell."""
        self.ended_for = failure
        self.stop(force=True)

    def go(self) -> None:
        """Let its worker begin, unless it was ended before. One that cannot be told has not started."""
        if self.ended_for is not None:
            return
        try:
            self.worker.go(self.token)
        except Exception as error:
            self.end(not_started(error))

    def stop(self, force: bool = False) -> None:
        """Ask its worker to save and end, or end it. Whether it has heard shows in `poll`."""
        with contextlib.suppress(Exception):
            self.worker.stop(force)

    def poll(self) -> End:
        """Return the end of its worker; None before, and while nobody can say, but not for ever."""
        try:
            end = self.worker.poll()
        except Exception as error:
            now = time.monotonic()
            self.unanswered_since = self.unanswered_since or now
            if now - self.unanswered_since < FROZEN_SECONDS:
                return None
            return Failure("node", f"nobody can say what has become of the worker: {explain(error)}")
        self.unanswered_since = None
        return end

    def events(self) -> list[Event]:
        """Return what its worker has reported since the last call; what could not be read comes later."""
        try:
            return self.worker.events()
        except Exception:  # `poll` says when this is the end
            return []

    def close(self) -> None:
        """Let go of what connects us to its worker."""
        with contextlib.suppress(Exception):
            self.worker.close()


class Jobs:
    """The jobs of this launch whose worker is not known to be over."""

    def __init__(self, workdir: Workdir, executor: Executor[Any], display: Display):
        self.workdir = workdir
        self.executor = executor
        self.display = display
        self.running: list[Job] = []
        self._slots = executor.slots
        self._begun = False  # a worker has reported that it trains
        self._beat_at = 0.0  # the last heartbeat, on the monotonic clock

    def __len__(self) -> int:
        return len(self.running)

    @property
    def slots(self) -> int:
        """Workers at a time; what it was last where the place does not say now."""
        with contextlib.suppress(Exception):
            self._slots = self.executor.slots
        return self._slots

    @property
    def training(self) -> bool:
        """Whether any worker has come as far as to train."""
        return any(job.trains for job in self.running)

    def begun(self) -> bool:
        """Tell whether a worker has come as far as to train since the last call."""
        begun = self._begun
        self._begun = False
        return begun

    def start(self, population: Population, spent: Spent) -> Job | NotStarted:
        """Start a worker that waits for `go`, which it gets once its runs are claimed."""
        try:
            return self._start(population, spent)
        except Exception as error:  # an executor is anybody's, and so is the disk
            return not_started(error)

    def _start(self, population: Population, spent: Spent) -> Job | NotStarted:
        workdir = self.workdir
        executor = self.executor
        steps_before = sum(workdir.newest_step(node.fingerprint) or 0 for node in population.nodes)
        path = workdir.population_path(population.name)
        log = workdir.log_path(population.name)
        files.write_json(path, populations.worker_input(population, **executor.options()))
        log_start = workdir.log_length(population.name)
        worker = executor.start(path, workdir.root, log)
        if isinstance(worker, NotStarted):
            return worker
        job = Job(population, spent, worker, steps_before, log_start, failures.oom_kills())
        self.running.append(job)
        return job

    def hear(self, seconds: float) -> Iterator[tuple[Job, int | Failure]]:
        """Wait so long for workers to say something, and show it; return the jobs that are over, each with its end."""
        began = time.monotonic()
        with contextlib.suppress(Exception):
            self.executor.wait([job.worker for job in self.running], seconds)
        time.sleep(max(0.0, TURN_SECONDS - (time.monotonic() - began)))
        for job in list(self.running):
            end = job.poll()  # before its last events are read, or some could be missed
            for event in job.events():
                self._note(job, event)
            if end is not None:
                yield job, end
            elif job.frozen and job.ended_for is None:
                job.end(Failure("node", f"no sign of life for {FROZEN_SECONDS:.0f} s"))

    def _note(self, job: Job, event: Event) -> None:
        """Note and show what a worker reports."""
        job.heard_at = time.monotonic()
        if event["event"] in SIGNS_OF_TRAINING and not job.trains:
            job.trains = True
            self._begun = True
        self.display.event(job, event)

    def close(self, job: Job) -> None:
        """Let go of a worker that is over; its place is free again."""
        job.close()
        self.running.remove(job)
        with contextlib.suppress(Exception):
            self.executor.release(job.worker)

    def failure(self, job: Job, end: int | Failure) -> Failure:
        """Name the failure of a worker: what we have ended it for, what its place says, or else its exit status and log."""
        if job.ended_for is not None:
            return job.ended_for
        if isinstance(end, Failure):
            return end
        said = self.workdir.log_end(job.population.name, job.log_start)
        oom = failures.oom_kills() > job.oom_kills
        return failures.classify(end, said, oom)

    def heartbeat(self) -> None:
        """Show other launchers that we live; end the workers of runs that one of them has taken over all the same."""
        if time.monotonic() - self._beat_at < HEARTBEAT_SECONDS:
            return
        self._beat_at = time.monotonic()
        fingerprints = []
        for job in self.running:
            fingerprints += job.fingerprints
        try:
            taken = set(self.workdir.claims.beat(fingerprints))
        except OSError as error:  # the next one may be written; until then our workers hold their runs themselves
            self.display.say(f"the heartbeat of this launcher cannot be written: {explain(error)}; trying again")
            return
        for job in self.running:
            lost = taken.intersection(job.fingerprints)
            if lost:
                self.display.say(f"another launcher has taken over {len(lost)} runs; leaving them to it")
                job.end(Failure("preempted", "another launcher took over"))

    def stop_all(self, at_once: Callable[[], bool]) -> list[Job]:
        """Ask all workers to save and end; kill them after a while, or as soon as `at_once` says so.

        Return the jobs, whose runs are still claimed.
        """
        if self.running:
            self.display.say(f"stopping {len(self)} workers; they save first (once more to stop at once)")
        for job in self.running:
            job.stop()
        self._wait_for_end(time.monotonic() + STOP_SECONDS, at_once)
        for job in self.running:
            job.close()
        stopped = self.running
        self.running = []
        return stopped

    def _wait_for_end(self, deadline: float, at_once: Callable[[], bool]) -> None:
        """Return when all workers are over; kill them when the time comes."""
        while True:
            alive = [job for job in self.running if job.poll() is None]
            if not alive:
                return
            if time.monotonic() > deadline or at_once():
                for job in alive:
                    job.stop(force=True)
            for job in alive:
                job.events()  # a full pipe would keep it from ending
            time.sleep(0.05)
