"""What becomes of a population whose worker is over: its runs have their fates, or are tried again, or are given up."""

from collections.abc import Mapping, Sequence
import dataclasses
import time

from sweeps.executors.support.protocol import Failure, NotStarted
from sweeps.work import populations, retries
from sweeps.work.backoff import Backoff, disk_error
from sweeps.work.display import Display, describe
from sweeps.work.fates import Fates
from sweeps.work.jobs import Job, Jobs
from sweeps.work.populations import Population
from sweeps.work.retries import Decision
from sweeps.work.runs import Fate, Runs, Stage
from sweeps.work.waiting import Line, Spent, Task
from sweeps.work.workdir import Node, State, Workdir


@dataclasses.dataclass(eq=False)
class Ended:
    """A job whose worker is over, until its runs are dealt with: that takes a disk that answers."""

    job: Job
    end: int | Failure
    states: dict[str, State | None] | None = None  # by fingerprint: what the records of its runs say


class Outcomes:
    """Deals with jobs that are over. `over`: what the launch ends for, once a worker has met it."""

    def __init__(
        self,
        workdir: Workdir,
        display: Display,
        budgets: Mapping[str, int],
        runs: Runs,
        line: Line,
        jobs: Jobs,
        fates: Fates,
        starting: Backoff,
    ):
        self.over: Exception | None = None
        self._workdir = workdir
        self._display = display
        self._budgets = budgets
        self._runs = runs
        self._line = line
        self._jobs = jobs
        self._fates = fates
        self._starting = starting

    def hold(self, task: Task, failure: NotStarted, idle: bool) -> None:
        """Have a population wait for which there is no worker; its runs are not charged. `idle`: nothing is trained."""
        self._display.say(f"{describe(task.population)}: not started: {failure.reason}; trying again")
        self._line.add(task, in_front=True)
        self._starting.failed(failure, idle)

    def deal_with(self, ended: Ended) -> None:
        """Note the fates of a job's runs; those without one are tried again, or given up.

        Raises OSError where the disk does not answer. All that may raise comes first, and may come twice.
        """
        job = ended.job
        if ended.states is None:
            ended.states = self._recorded(job)
        states = ended.states
        missing = []
        for node in job.population.nodes:
            if states[node.fingerprint] is None:
                missing.append(node)
        suspects = self._suspects(job, states)
        for node in suspects:
            self._workdir.set_aside(node.fingerprint)
        failure = self._jobs.failure(job, ended.end) if missing else None
        has_progressed = bool(missing) and self._has_progressed(job, states)
        self._workdir.claims.release(job.fingerprints)

        self._display.end(job, [*missing, *suspects])
        for name, state in states.items():
            node = self._runs.nodes[name]
            if state is not None and node not in suspects:
                fate = Fate.of(state)
                self._fates.decide(name, fate)
        self._runs.move([*missing, *suspects], Stage.RETRY)
        if suspects:
            spent = retries.own(job.spent, len(job.population.nodes), len(suspects))
            spent["diverged"] += 1
            again = Task(job.population.of(suspects), spent)
            self._line.add(again)
        if isinstance(failure, NotStarted):
            task = Task(job.population.of(missing), job.spent)
            self.hold(task, failure, idle=not self._jobs.training)
        elif failure is not None:
            self._starting.succeeded()
            self._ended_without_records(job, failure, has_progressed, missing)

    def give_back(self, job: Job) -> None:
        """Give up the claims on a job's runs, for the launch ends. Raises OSError where the disk does not answer.

        Of those that diverged and are to be trained once more, the next launch finds no record.
        """
        for node in self._suspects(job, self._recorded(job)):
            self._workdir.set_aside(node.fingerprint)
        self._workdir.claims.release(job.fingerprints)

    def _recorded(self, job: Job) -> dict[str, State | None]:
        """Return what the records of a job's runs say, by fingerprint. Raises OSError."""
        states = {}
        for name in job.fingerprints:
            states[name] = self._workdir.recorded(name)
        return states

    def _suspects(self, job: Job, states: Mapping[str, State | None]) -> list[Node]:
        """Return runs that diverged and are to be trained once more."""
        if job.spent["diverged"] >= self._budgets["diverged"]:
            return []
        suspects = []
        for node in job.population.nodes:
            state = states[node.fingerprint]
            if state is not None and state.status == "diverged":
                suspects.append(node)
        return suspects

    def _has_progressed(self, job: Job, states: Mapping[str, State | None]) -> bool:
        """Whether the runs of a job have been saved at a later step than when it began."""
        saved = 0
        for node in job.population.nodes:
            if states[node.fingerprint] is not None:
                saved += node.run.steps
            else:
                saved += self._workdir.newest_step(node.fingerprint) or 0
        return saved > job.steps_before

    def _ended_without_records(self, job: Job, failure: Failure, has_progressed: bool, missing: Sequence[Node]) -> None:
        """Charge the failure of a worker to the retry budget of its class, and go on as that says."""
        for node in missing:
            self._workdir.note_attempt(node.fingerprint, failure.kind, failure.reason)
        spent = job.spent.copy()
        if has_progressed:
            for kind in retries.RESTARTED_BY_PROGRESS:
                spent[kind] = 0
        spent[failure.kind] += 1
        population = job.population.of(missing)
        own = retries.own(spent, len(job.population.nodes), len(missing))
        self._try_again(population, own, failure)

    # --- runs without a record are tried again, or given up

    def _try_again(self, population: Population, spent: Spent, failure: Failure) -> None:
        """Try the runs of a population again, whole or in halves, or give up the only one that is left."""
        kind = failure.kind
        times = spent[kind]
        budget = self._budgets[kind]
        alone = len(population.nodes) == 1
        what = f"{describe(population)}: {failure.reason}"
        decision = retries.decide(kind, times, budget, alone)
        if decision is Decision.HALVE:
            self._display.say(f"{what}; trying its halves apart")
            if kind == "memory":  # each half needs less: what is counted is how often a run fails alone
                del spent["memory"]
            for half in populations.halves(population):
                own = retries.own(spent, len(population.nodes), len(half.nodes))
                task = Task(half, own)
                self._line.add(task)
        elif decision is Decision.GIVE_UP:
            reason = failure.reason
            if spent.total() > 1:
                reason += f" (attempts: {retries.describe(spent)})"
            (node,) = population.nodes
            self._fates.give_up(node, reason)
        else:
            self._display.say(f"{what}; trying again ({kind}, {times} of {budget})")
            not_before = time.monotonic() + retries.backoff(kind, times)
            again = Task(population, spent, not_before)
            self._line.add(again, in_front=True)
            if decision is Decision.END_LAUNCH:
                self.over = disk_error(self._workdir, failure.reason)
