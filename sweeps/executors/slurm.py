"""Workers as Slurm jobs, through submitit: one job a population, on one host or several.

    --executor=slurm:partition=a100,gpus=1,minutes=240,slots=16
    --executor=slurm:cluster=local            the same without a Slurm: submitit's local jobs

Launcher and job talk through a folder of the workdir, which both see: the job waits for `go`, appends its events, and
leaves its exit code; the launcher writes `stop`, and raises a counter in `tether` as long as it lives. A job whose tether
has stood still for TETHER_SECONDS saves and ends, as a local worker does when its launcher dies. At the end of its time
limit, or when it is preempted, Slurm signals the job, which saves and says 'again': the launcher submits it anew.
requirements-slurm.txt has what this needs.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import time
from typing import Any
import uuid

from etils import epath

from experiments import files
from experiments.cli import EXIT_AGAIN, InputError
from sweeps.executors import protocol
from sweeps.executors.protocol import Event
from sweeps.work.claims import Process

TETHER_SECONDS = 60.0  # after which a job whose launcher's counter stands still saves and ends
BEAT_SECONDS = 2.0
GRACE_SECONDS = 10.0  # for the hosts of a job to end by themselves once one has
LOOK_SECONDS = 10.0  # between two questions to Slurm about a job that has not left its exit code
# Of a job that left no exit code: what a local worker in that position would have ended with.
_STATES = {"PREEMPTED": EXIT_AGAIN, "TIMEOUT": EXIT_AGAIN, "CANCELLED": EXIT_AGAIN, "REQUEUED": EXIT_AGAIN}


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
    """Through submitit. Raises InputError when it, or Slurm, is not here."""
    if options.cluster not in ("slurm", "local"):
        raise InputError(f"--executor=slurm:cluster={options.cluster}: expected slurm or local")
    return SlurmExecutor(options)


# --- in the job


def serve(box: str, arguments: list[str], log: str, hosts: int, port: int) -> int:
    """What a job runs on each of its hosts: the worker, until it is over. Returns its exit code, which `box` keeps."""
    import submitit  # pyright: ignore[reportMissingImports]

    from sweeps.executors.local import LocalWorker

    folder, rank = epath.Path(box), submitit.JobEnvironment().global_rank
    asked: list[int] = []
    for name in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, _: asked.append(number))
    tether = _Tether(folder / "tether")
    if (folder / f"exit.{rank}").exists():  # Slurm has queued again what its launcher has done with
        return EXIT_AGAIN
    while not (tether.held and (folder / "go").exists()):
        if asked or tether.torn or (folder / "stop").exists():
            return _leave(folder, rank, EXIT_AGAIN)
        time.sleep(0.1)
    if hosts > 1:
        arguments = [*arguments, f"--hosts={_coordinator(folder, rank)}:{port},{rank},{hosts}"]
    path = epath.Path(log if rank == 0 else f"{log}.{rank}")
    worker, stopping = LocalWorker([sys.executable, *arguments], None, {}, path), False
    worker.go(str(files.read_json(folder / "go")) if rank == 0 else "")
    with open(folder / f"events.{rank}", "a", buffering=1) as out:
        while True:
            code = worker.poll()  # before the last events are read
            for event in worker.events():
                out.write(json.dumps(event) + "\n")
            if code is not None:
                worker.close()
                return _leave(folder, rank, code)
            if (folder / "kill").exists():
                worker.stop(force=True)
            elif not stopping and (asked or tether.torn or (folder / "stop").exists()):
                worker.stop()
                stopping = True
            elif any((folder / f"exit.{other}").exists() for other in range(hosts) if other != rank):
                time.sleep(GRACE_SECONDS)  # to end by itself: what spans hosts cannot go on without one
                worker.stop(force=True)
            time.sleep(0.1)


def _leave(folder: epath.Path, rank: int, code: int) -> int:
    files.write_json(folder / f"exit.{rank}", code)
    return code


def _coordinator(folder: epath.Path, rank: int) -> str:
    """Name of the first host."""
    path = folder / "coordinator"
    if rank == 0:
        files.write_json(path, socket.gethostname())
    while not path.exists():
        time.sleep(0.2)
    return files.read_json(path)


class _Tether:
    """Whether the launcher lives, by its counter and our own clock."""

    def __init__(self, path: epath.Path):
        self._path, self._since, self._moves = path, time.monotonic(), 0
        self._seen = self._read()

    def _read(self) -> str | None:
        with contextlib.suppress(OSError):
            return self._path.read_text()
        return None

    @property
    def torn(self) -> bool:
        """It has stood still for too long."""
        counter = self._read()
        if counter not in (None, self._seen):
            self._seen, self._since, self._moves = counter, time.monotonic(), self._moves + 1
        return time.monotonic() - self._since > TETHER_SECONDS

    @property
    def held(self) -> bool:
        """We have seen it move: the launcher lives."""
        return not self.torn and self._moves > 0


# --- in the launcher


class SlurmWorker:
    """A job."""

    def __init__(self, job: Any, box: epath.Path, hosts: int, log: epath.Path):
        self._job, self._box, self._hosts, self._log = job, box, hosts, log
        self.pid, self._beat, self._beat_at, self._look_at = os.getpid(), 0, -BEAT_SECONDS, time.monotonic()
        self._read, self._over_since, self._killed_at, self._over = [0] * hosts, None, None, False

    def _hold(self) -> None:
        if time.monotonic() - self._beat_at >= BEAT_SECONDS:
            self._beat, self._beat_at = self._beat + 1, time.monotonic()
            files.write_json(self._box / "tether", self._beat)

    def go(self, token: str = "") -> None:
        """Let it begin."""
        self._hold()
        files.write_json(self._box / "go", token)

    def events(self) -> list[Event]:
        """What its hosts have reported since the last call."""
        self._hold()
        out = []
        for rank in range(self._hosts):
            path = self._box / f"events.{rank}"
            if path.exists():
                text = path.read_bytes()[self._read[rank] :]
                whole = text[: text.rfind(b"\n") + 1]
                self._read[rank] += len(whole)
                out += [json.loads(line) for line in whole.splitlines()]
        return out

    def poll(self) -> int | None:
        """The worker's exit code once all hosts are done; else what Slurm says of a job that ended without one."""
        self._hold()
        paths = [self._box / f"exit.{rank}" for rank in range(self._hosts)]
        if all(path.exists() for path in paths):
            self._over = True
            return next((code for code in map(_code, paths) if code), 0)
        if time.monotonic() - self._look_at < LOOK_SECONDS:
            return None
        self._look_at = time.monotonic()
        if not self._job.done():
            self._over_since = None
            return None
        self._over_since = self._over_since or time.monotonic()
        if time.monotonic() - self._over_since < LOOK_SECONDS:  # files of another host may be seen late
            return None
        return self._without_code(str(self._job.state).split()[0].rstrip("+"))

    def _without_code(self, state: str) -> int:
        what = "out of memory" if state == "OUT_OF_MEMORY" else "the job is over"
        with open(self._log, "a") as file:
            file.write(f"error: slurm: {what} (job {self._job.job_id} is {state})\n")
        return _STATES.get(state, -signal.SIGKILL)

    def close(self) -> None:
        """Nothing is left queued."""
        if not self._over and not self._job.done():
            self._job.cancel(check=False)

    def stop(self, force: bool = False) -> None:
        """Ask it to save and end, or end it at once. One that has not started leaves the queue."""
        files.write_json(self._box / ("kill" if force else "stop"), True)
        started = any((self._box / f"events.{rank}").exists() for rank in range(self._hosts))
        self._killed_at = self._killed_at or (time.monotonic() if force else None)
        if not started:
            self._job.cancel(check=False)
            for rank in range(self._hosts):
                _leave(self._box, rank, EXIT_AGAIN)
        elif self._killed_at and time.monotonic() - self._killed_at > LOOK_SECONDS:  # its host does not hear
            self._job.cancel(check=False)


def _code(path: epath.Path) -> int:
    try:
        return int(files.read_json(path))
    except ValueError:
        return 1


class SlurmExecutor:
    """Room for so many jobs."""

    def __init__(self, options: Options):
        try:
            import submitit  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise InputError(
                "--executor=slurm: submitit is not installed; pip install -r requirements-slurm.txt"
            ) from None
        self._submitit, self._options, self.slots = submitit, options, options.slots

    def share(self, populations: int) -> None:
        """Each job has what the options say, however many there are."""

    def clear(self, workdir: epath.Path) -> None:
        """Ask the jobs of launchers of this host that have died to end. Their runs are theirs until they have."""
        root = epath.Path(os.path.abspath(workdir)) / "slurm"
        for box in root.iterdir() if root.exists() else ():
            try:
                launcher = Process.read(files.read_json(box / "launcher"))
            except (OSError, ValueError, TypeError):
                continue
            if launcher.local and not launcher.alive and not (box / "exit.0").exists():
                files.write_json(box / "stop", True)

    def options(self) -> dict[str, Any]:
        """Simulated devices on a CPU: one per core that was asked for."""
        return {} if self._options.gpus else {"cpu_devices": self._options.cpus}

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> SlurmWorker:
        """Submit the job of a population. Raises InputError when Slurm cannot be asked."""
        if "://" in os.fspath(workdir):
            raise InputError(f"--workdir={workdir}: Slurm jobs need a folder that all hosts see; expected no address")
        given, root = self._options, epath.Path(os.path.abspath(workdir)) / "slurm"
        box = root / f"{epath.Path(population).stem}-{uuid.uuid4().hex[:6]}"
        files.write_json(box / "launcher", dataclasses.asdict(Process.of(os.getpid())))
        log = epath.Path(os.path.abspath(log))
        log.parent.mkdir(parents=True, exist_ok=True)
        os.environ["PYTHONPATH"] = protocol.python_path()  # submitit starts Python on the host by itself
        arguments = protocol.train_command(population, workdir)[1:]
        try:
            auto = self._submitit.AutoExecutor(folder=os.fspath(box / "job"), cluster=given.cluster)
            auto.update_parameters(**self._parameters())
            job = auto.submit(serve, os.fspath(box), arguments, os.fspath(log), given.hosts, given.port)
        except (RuntimeError, OSError, ValueError, self._submitit.core.utils.FailedJobError) as error:
            raise InputError(f"--executor=slurm: {' '.join(str(error).split())[:300]}") from error
        return SlurmWorker(job, box, given.hosts, log)

    def _parameters(self) -> dict[str, Any]:
        given, local = self._options, self._options.cluster == "local"
        out: dict[str, Any] = {"name": "lossgrid", "timeout_min": given.minutes, "gpus_per_node": given.gpus}
        out |= {"tasks_per_node": given.hosts if local else 1, "nodes": 1 if local else given.hosts}
        if local:
            return out
        out |= {"cpus_per_task": given.cpus, "slurm_signal_delay_s": given.signal_seconds}
        named = {f"slurm_{name}": getattr(given, name) for name in ("partition", "account", "qos", "constraint")}
        return (
            out
            | {key: value for key, value in named.items() if value}
            | ({"mem_gb": given.mem_gb} if given.mem_gb else {})
        )

    def release(self, worker: SlurmWorker) -> None:
        """Its place is free again."""

    def wait(self, workers: Sequence[SlurmWorker], seconds: float) -> None:
        """There is nothing to wait for but time."""
        time.sleep(min(seconds, 0.3))
