"""Workers as Slurm jobs: one job a population, on one host or several.

    --executor=slurm:partition=a100,gpus=1,minutes=240,slots=16,setup=cluster.sh

A job is a script that can be read (support/slurm_script.py), in a folder of the workdir, which all hosts see; its
worker is told to save before its time is up (`signal_seconds`), and by Slurm before it is preempted. A job that Slurm
queues again goes on from its checkpoint; one that is over without having finished is submitted anew. The launcher asks
Slurm about all its jobs at once (support/slurm_queue.py), and reads what their workers print from the job's folder.

Jobs outlive a launcher that is killed: they hold their runs themselves (experiments/alive/lease.py), and the next
launch waits for them. Those that had not started leave the queue then. A launcher that is asked to stop has its jobs
save and end.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import os
import re
import shlex
import sys
import time
from typing import Any
import uuid

from etils import epath

from experiments import files
from experiments.alive.lease import Process
from models.errors import InputError
from sweeps.executors.support import slurm_queue, slurm_script
from sweeps.executors.support.options import at_least
from sweeps.executors.support.protocol import Executor, Hardware, NotStarted, train_command
from sweeps.executors.support.slurm_queue import LimitReached, Queue
from sweeps.executors.support.slurm_worker import SlurmWorker

LIMIT_SECONDS = 60.0  # after which Slurm is asked again to take more jobs than it did
# Options of sbatch that the job's scripts depend on, each with ours that says the same; "" where there is none.
SPOKEN_FOR = {
    "-N": "hosts",
    "--nodes": "hosts",
    "-n": "hosts",
    "--ntasks": "hosts",
    "--ntasks-per-node": "hosts",
    "-c": "cpus",
    "--cpus-per-task": "cpus",
    "-t": "minutes",
    "--time": "minutes",
    "-G": "gpus",
    "--gpus": "gpus",
    "--gpus-per-node": "gpus",
    "-J": "",
    "--job-name": "",
    "-o": "",
    "--output": "",
    "--open-mode": "",
    "-a": "",
    "--array": "",
    "--wrap": "",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Of one job; `slots` is how many may be queued or running at a time. Names as in sbatch, where it has one."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gres: str = ""
    reservation: str = ""
    exclude: str = ""
    nodelist: str = ""
    gpus: int = at_least(0, 0)  # a host
    cpus: int = at_least(1, 1)  # a host
    mem_gb: int = at_least(0, 0)  # a host; 0: the partition's default
    minutes: int = at_least(1, 120)
    hosts: int = at_least(1, 1)
    slots: int = at_least(1, 8)
    port: int = at_least(0, 0)  # of the first host, on which several join; 0: by the number of the job
    signal_seconds: int = at_least(0, 120)  # so long before its time limit a job is told to save
    sbatch: str = ""  # any other options of sbatch, as on its command line
    setup: str = ""  # file of shell lines that run before the worker; its #SBATCH lines are options of sbatch
    python: str = ""  # interpreter on the hosts; "": the launcher's

    def check(self) -> None:
        """Raise InputError for values that no job could have."""
        if self.signal_seconds >= 60 * self.minutes:
            raise InputError(
                f"--executor=slurm:signal_seconds={self.signal_seconds}: expected less than "
                f"minutes={self.minutes}, in seconds"
            )
        if self.port > 65535:
            raise InputError(f"--executor=slurm:port={self.port}: expected at most 65535")
        try:
            words = shlex.split(self.sbatch)
        except ValueError as error:
            raise InputError(f"--executor=slurm:sbatch={self.sbatch}: {error}") from None
        for word in words:
            if not word.startswith("-"):
                raise InputError(f"--executor=slurm:sbatch={self.sbatch}: expected options such as --mail-type=END")

    def read_setup(self) -> tuple[list[str], list[str]]:
        """Return the options of sbatch and the lines of shell of the setup file. Raises InputError."""
        if not self.setup:
            return [], []
        try:
            with open(self.setup) as file:
                return slurm_script.split_setup(file.read())
        except (OSError, ValueError) as error:
            raise InputError(f"--executor=slurm:setup={self.setup}: cannot be read ({error})") from None

    def directives(self) -> list[str]:
        """Return the options of sbatch for a job."""
        words = [
            f"--nodes={self.hosts}",
            "--ntasks-per-node=1",
            f"--cpus-per-task={self.cpus}",
            f"--time={self.minutes}",
            f"--signal=TERM@{self.signal_seconds}",
            "--requeue",
        ]
        for name in ("partition", "account", "qos", "constraint", "gres", "reservation", "exclude", "nodelist"):
            value = getattr(self, name)
            if value:
                words.append(f"--{name}={value}")
        if self.gpus:
            words.append(f"--gpus-per-node={self.gpus}")
        if self.mem_gb:
            words.append(f"--mem={self.mem_gb}G")
        from_file, _ = self.read_setup()
        others = [*from_file, *shlex.split(self.sbatch)]
        _check_others(others)
        return [*words, *others]  # of two equal ones Slurm takes the last

    @property
    def gpus_of_host(self) -> int:
        """How many GPUs a host of a job has, whichever option says so."""
        found = re.match(r"(?:gres[:/])?gpu(?::[a-zA-Z][^:,]*)?(?::(\d+))?(?:,|$)", self.gres)
        return self.gpus or (int(found[1] or 1) if found else 0)


def _check_others(words: Sequence[str]) -> None:
    """Raise InputError for an option of sbatch that the job's scripts depend on."""
    for word in words:
        name = word.partition("=")[0]
        if not name.startswith("--"):
            name = name[:2]  # -N2
        if name not in SPOKEN_FOR:
            continue
        ours = SPOKEN_FOR[name]
        instead = f"expected {ours}=" if ours else "the launcher sets it"
        raise InputError(f"--executor=slurm: {word} is not for sbatch= and setup=; {instead}")


def executor(options: Options) -> "SlurmExecutor":
    """Make the executor. Raises InputError where Slurm is not here, and for options that no job could have."""
    options.check()
    options.directives()
    slurm_queue.check_installed()
    return SlurmExecutor(options)


def _boxes_of(workdir: epath.Path) -> epath.Path:
    """Return the folder of the jobs' folders."""
    return epath.Path(os.path.abspath(workdir)) / "slurm"


class SlurmExecutor(Executor[SlurmWorker]):
    """Room for so many jobs."""

    def __init__(self, options: Options):
        self._options = options
        self._queue = Queue()
        self._workers: list[SlurmWorker] = []
        self._limited_at: float | None = None  # when Slurm last took no more jobs, on the monotonic clock
        self.slots = options.slots

    def check(self, workdir: epath.Path) -> None:
        """Raise InputError for a workdir that is no folder, and for options that Slurm refuses."""
        if "://" in os.fspath(workdir):
            raise InputError(f"--workdir={workdir}: Slurm jobs need a folder that all hosts see; expected no address")
        answer = slurm_queue.rehearse(slurm_script.job_script(self._example(workdir)))
        if isinstance(answer, NotStarted) and answer.kind == "user":
            raise InputError(f"--executor=slurm: {answer.reason}")

    def rehearse(self, workdir: epath.Path) -> str:
        """Return the scripts of a job, and what Slurm says of it, which takes none."""
        job = self._example(workdir)
        script = slurm_script.job_script(job)
        answer = slurm_queue.rehearse(script)
        said = answer.reason if isinstance(answer, NotStarted) else answer
        return f"# job.sh\n{script}\n# host.sh\n{slurm_script.host_script(job)}\nsbatch --test-only: {said}"

    def _example(self, workdir: epath.Path) -> slurm_script.Job:
        """Return the job of a population that is called ID."""
        folder = workdir / "populations"
        return self._job(folder / "ID.json", workdir, folder / "ID.log")

    def clear(self, workdir: epath.Path) -> None:
        """Take jobs from the queue that have not started and whose launcher, of this host, is dead."""
        for path in _boxes_of(workdir).glob("*/job"):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                value = files.read_json(path)
                launcher = Process.read(value["launcher"])
                if launcher.local and not launcher.alive:
                    self._queue.tell(["scancel", "--state=PENDING", str(int(value["number"]))])

    def hardware(self) -> Hardware:
        """Return what one job trains on."""
        options = self._options
        gpus = options.gpus_of_host
        return Hardware("gpu", gpus * options.hosts) if gpus else Hardware("cpu", 1)

    def options(self) -> dict[str, Any]:
        """Return the simulated devices on a CPU: one per core that was asked for."""
        return {} if self._options.gpus_of_host else {"cpu_devices": self._options.cpus}

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> SlurmWorker:
        """Prepare the job of a population, which `go` submits."""
        job = self._job(population, workdir, log)
        os.makedirs(job.folder)
        worker = SlurmWorker(self._queue, job)
        self._workers.append(worker)
        return worker

    def release(self, worker: SlurmWorker) -> None:
        """Take back the place of a worker; have no more of them for a while than Slurm takes."""
        self._workers.remove(worker)
        if isinstance(worker.refused, LimitReached):
            accepted = [other for other in self._workers if other.number is not None]
            self.slots = max(1, len(accepted))
            self._limited_at = time.monotonic()
        elif worker.number is not None:
            self.slots = self._options.slots

    def wait(self, workers: Sequence[SlurmWorker], seconds: float) -> None:
        """Return after a while: there is nothing to wait for but time."""
        if self._limited_at and time.monotonic() - self._limited_at > LIMIT_SECONDS:
            self._limited_at = None
            self.slots = self._options.slots
        time.sleep(min(seconds, 0.5))

    def _job(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> slurm_script.Job:
        """Return what the scripts of a population's job say, but for the token of its claims."""
        options = self._options
        _, *arguments = train_command(population, workdir)
        name = f"{population.stem}-{uuid.uuid4().hex[:6]}"
        _, setup = options.read_setup()
        return slurm_script.Job(
            name=f"lossgrid-{name}",
            folder=os.fspath(_boxes_of(workdir) / name),
            log=os.path.abspath(log),
            arguments=arguments,
            token="",
            directives=options.directives(),
            setup=setup,
            hosts=options.hosts,
            cpus=options.cpus,
            port=options.port,
            python=options.python or sys.executable,
        )
