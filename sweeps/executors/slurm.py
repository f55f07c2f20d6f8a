"""Workers as Slurm jobs, through submitit: one job a population, on one host or several.

    --executor=slurm:partition=a100,gpus=1,minutes=240,slots=16
    --executor=slurm:cluster=local            the same without a Slurm: submitit's local jobs

Launcher and job talk through a folder of the workdir, which both see: the job waits for `go`, appends its events, and
leaves its exit status; the launcher writes `stop`, and raises a counter in `tether` as long as it lives. A job whose tether
has stood still for TETHER_SECONDS saves and ends, as a local worker does when its launcher dies. At the end of its time
limit, or when it is preempted, Slurm signals the job, which saves and says 'again': the launcher submits it anew.
requirements-slurm.txt has what this needs; what runs inside a job is in support/slurm_job.py.
"""

import dataclasses
import json
import os
import signal
import time
from typing import Any, Protocol
import uuid

from etils import epath

from experiments import files
from experiments.alive.lease import Process
from experiments.cli import EXIT_AGAIN
from models.errors import InputError
from sweeps.executors.support import slurm_job
from sweeps.executors.support.protocol import Event, Executor, Hardware, python_path, train_command
from sweeps.executors.support.slurm_job import Box

BEAT_SECONDS = 2.0  # between two beats of the counter in `tether`
LOOK_SECONDS = 10.0  # between two questions to Slurm about a job that has not left its exit status
# Of a job that left no exit status: what a local worker in that position would have ended with.
STATUS_OF_STATE = {"PREEMPTED": EXIT_AGAIN, "TIMEOUT": EXIT_AGAIN, "CANCELLED": EXIT_AGAIN, "REQUEUED": EXIT_AGAIN}


@dataclasses.dataclass(frozen=True)
class Options:
    """Of one job; `slots` is how many may be queued or running at a time."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gpus: int = 0  # a host
    cpus: int = 1  # a host
    mem_gb: int = 0  # a host; 0: the partition's default
    minutes: int = 120
    hosts: int = 1
    slots: int = 8
    port: int = 8476  # of the first host, on which several join
    signal_seconds: int = 120  # so long before its time limit a job is told to save
    cluster: str = "slurm"  # or local


def executor(options: Options) -> "SlurmExecutor":
    """Make the executor. Raises InputError when submitit, or Slurm, is not here."""
    if options.cluster not in ("slurm", "local"):
        raise InputError(f"--executor=slurm:cluster={options.cluster}: expected slurm or local")
    return SlurmExecutor(options)


class SubmittedJob(Protocol):
    """What we use of a submitit.Job, which an optional package defines."""

    job_id: str
    state: str

    def done(self) -> bool:
        """Whether Slurm says that it is over."""
        ...

    def cancel(self, check: bool = True) -> None:
        """Take it from the queue, or end it."""
        ...


class SlurmWorker:
    """A job, as its launcher sees it."""

    def __init__(self, job: SubmittedJob, box: Box, hosts: int, log: epath.Path):
        self.pid = os.getpid()
        self._job = job
        self._box = box
        self._hosts = hosts
        self._log = log
        self._bytes_read = [0] * hosts  # of each host's events
        self._over = False  # all hosts have left their exit status
        # All times are on the monotonic clock.
        self._beat = 0
        self._beat_at = -BEAT_SECONDS
        self._asked_slurm_at = time.monotonic()
        self._over_since: float | None = None  # since when Slurm says that it is over
        self._killed_at: float | None = None

    def _hold(self) -> None:
        """Show the job that its launcher lives."""
        if time.monotonic() - self._beat_at >= BEAT_SECONDS:
            self._beat += 1
            self._beat_at = time.monotonic()
            files.write_json(self._box.tether, self._beat)

    def go(self, token: str = "") -> None:
        """Let it begin."""
        self._hold()
        files.write_json(self._box.go, token)

    def events(self) -> list[Event]:
        """Return what its hosts have reported since the last call."""
        self._hold()
        found = []
        for rank in range(self._hosts):
            path = self._box.events(rank)
            if not path.exists():
                continue
            new = path.read_bytes()[self._bytes_read[rank] :]
            whole_lines = new[: new.rfind(b"\n") + 1]
            self._bytes_read[rank] += len(whole_lines)
            found += [json.loads(line) for line in whole_lines.splitlines()]
        return found

    def poll(self) -> int | None:
        """Return the worker's exit status once all hosts are done; else what Slurm says of a job that ended without one."""
        self._hold()
        ranks = range(self._hosts)
        if all(self._box.exit_file(rank).exists() for rank in ranks):
            self._over = True
            statuses = [self._box.exit_status(rank) for rank in ranks]
            return next((status for status in statuses if status != 0), 0)
        if time.monotonic() - self._asked_slurm_at < LOOK_SECONDS:
            return None
        self._asked_slurm_at = time.monotonic()
        if not self._job.done():
            self._over_since = None
            return None
        self._over_since = self._over_since or time.monotonic()
        if time.monotonic() - self._over_since < LOOK_SECONDS:  # files of another host may be seen late
            return None
        state = str(self._job.state).split()[0].rstrip("+")
        return self._status_without_file(state)

    def _status_without_file(self, state: str) -> int:
        """Return the exit status for a job that left none; say in its log what Slurm calls its end."""
        what = "out of memory" if state == "OUT_OF_MEMORY" else "the job is over"
        with open(self._log, "a") as file:
            file.write(f"error: slurm: {what} (job {self._job.job_id} is {state})\n")
        return STATUS_OF_STATE.get(state, -signal.SIGKILL)

    def close(self) -> None:
        """Leave nothing queued."""
        if not self._over and not self._job.done():
            self._job.cancel(check=False)

    def stop(self, force: bool = False) -> None:
        """Ask it to save and end, or end it at once. One that has not started leaves the queue."""
        request = self._box.kill if force else self._box.stop
        files.write_json(request, True)
        if force and self._killed_at is None:
            self._killed_at = time.monotonic()
        ranks = range(self._hosts)
        if not any(self._box.events(rank).exists() for rank in ranks):  # it has not started
            self._job.cancel(check=False)
            for rank in ranks:
                self._box.leave(rank, EXIT_AGAIN)
        elif self._killed_at and time.monotonic() - self._killed_at > LOOK_SECONDS:  # its host does not hear
            self._job.cancel(check=False)


class SlurmExecutor(Executor[SlurmWorker]):
    """Room for so many jobs."""

    def __init__(self, options: Options):
        try:
            import submitit  # pyright: ignore[reportMissingImports]  # an optional package
        except ImportError:
            raise InputError(
                "--executor=slurm: submitit is not installed; pip install -r requirements-slurm.txt"
            ) from None
        self._submitit = submitit
        self._options = options
        self.slots = options.slots

    def clear(self, workdir: epath.Path) -> None:
        """Ask the jobs of launchers of this host that have died to end. Their runs are theirs until they have."""
        folder = slurm_job.boxes_of(workdir)
        if not folder.exists():
            return
        for box in map(Box, folder.iterdir()):
            try:
                launcher = Process.read(files.read_json(box.launcher))
            except (OSError, ValueError, TypeError):
                continue
            orphaned = launcher.local and not launcher.alive
            if orphaned and not box.exit_file(0).exists():
                files.write_json(box.stop, True)

    def hardware(self) -> Hardware:
        """Return what one job trains on."""
        options = self._options
        return Hardware("gpu", options.gpus * options.hosts) if options.gpus else Hardware("cpu", 1)

    def options(self) -> dict[str, Any]:
        """Return the simulated devices on a CPU: one per core that was asked for."""
        return {} if self._options.gpus else {"cpu_devices": self._options.cpus}

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> SlurmWorker:
        """Submit the job of a population. Raises InputError when Slurm cannot be asked."""
        if "://" in os.fspath(workdir):
            raise InputError(f"--workdir={workdir}: Slurm jobs need a folder that all hosts see; expected no address")
        attempt = uuid.uuid4().hex[:6]
        box = Box(slurm_job.boxes_of(workdir) / f"{epath.Path(population).stem}-{attempt}")
        files.write_json(box.launcher, dataclasses.asdict(Process.of(os.getpid())))
        log = epath.Path(os.path.abspath(log))
        log.parent.mkdir(parents=True, exist_ok=True)
        _, *arguments = train_command(population, workdir)  # without the interpreter: the host has its own
        job = self._submit(box, arguments, log)
        return SlurmWorker(job, box, self._options.hosts, log)

    def _submit(self, box: Box, arguments: list[str], log: epath.Path) -> SubmittedJob:
        """Hand a job to Slurm. Raises InputError with what it says where it refuses."""
        os.environ["PYTHONPATH"] = python_path()  # submitit starts Python on the host by itself
        submitit = self._submitit
        given = self._options
        try:
            auto = submitit.AutoExecutor(folder=os.fspath(box.folder / "job"), cluster=given.cluster)
            auto.update_parameters(**self._parameters())
            return auto.submit(
                slurm_job.serve, os.fspath(box.folder), arguments, os.fspath(log), given.hosts, given.port
            )
        except (RuntimeError, OSError, ValueError, submitit.core.utils.FailedJobError) as error:
            raise InputError(f"--executor=slurm: {' '.join(str(error).split())[:300]}") from error

    def _parameters(self) -> dict[str, Any]:
        """Return the options in submitit's words."""
        given = self._options
        common = {"name": "lossgrid", "timeout_min": given.minutes, "gpus_per_node": given.gpus}
        if given.cluster == "local":  # the hosts of a job are tasks of this machine
            return common | {"tasks_per_node": given.hosts, "nodes": 1}
        parameters: dict[str, Any] = common | {
            "tasks_per_node": 1,
            "nodes": given.hosts,
            "cpus_per_task": given.cpus,
            "slurm_signal_delay_s": given.signal_seconds,
        }
        for name in ("partition", "account", "qos", "constraint"):
            value = getattr(given, name)
            if value:
                parameters[f"slurm_{name}"] = value
        if given.mem_gb:
            parameters["mem_gb"] = given.mem_gb
        return parameters
