"""What runs inside a Slurm job, on each of its hosts: the worker, and the folder through which the launcher reaches it.

No connection leads from a launcher to a job: both see one folder of the workdir, the job's box (`Box`).
"""

from collections.abc import Sequence
import contextlib
import json
import os
import signal
import socket
import sys
import time

from etils import epath

from experiments import files
from experiments.alive import requests
from experiments.cli import EXIT_AGAIN, EXIT_FAILURE
from sweeps.executors.support.subprocess_worker import SubprocessWorker

TETHER_SECONDS = 60.0  # after which a job whose launcher's counter stands still saves and ends
GRACE_SECONDS = 10.0  # for the hosts of a job to end by themselves once one has
LOOK_SECONDS = 0.1  # between two looks into the box


class Box:
    """The files of one job: the launcher writes go, stop, kill and tether, each host its events and its exit status."""

    def __init__(self, folder: epath.PathLike):
        self.folder = epath.Path(folder)
        self.launcher = self.folder / "launcher"  # the process that has submitted the job
        self.tether = self.folder / "tether"  # a counter that the launcher raises as long as it lives
        self.go = self.folder / "go"  # the token of the claims: the worker may begin
        self.stop = self.folder / "stop"  # the worker shall save and end
        self.kill = self.folder / "kill"  # the worker shall end at once
        self.coordinator = self.folder / "coordinator"  # name of the first host, on which the others join

    def events(self, rank: int) -> epath.Path:
        """Return the file of a host's events, one JSON object a line. It exists once the worker has started."""
        return self.folder / f"events.{rank}"

    def exit_file(self, rank: int) -> epath.Path:
        """Return the file of a host's exit status."""
        return self.folder / f"exit.{rank}"

    def leave(self, rank: int, status: int) -> int:
        """Keep the exit status of a host, and return it."""
        files.write_json(self.exit_file(rank), status)
        return status

    def exit_status(self, rank: int) -> int:
        """Return the exit status that a host has left; that of a failure for a file that cannot be understood."""
        try:
            return int(files.read_json(self.exit_file(rank)))
        except ValueError:
            return EXIT_FAILURE


class Tether:
    """Tells whether the launcher lives, by its counter and our own clock."""

    def __init__(self, path: epath.Path):
        self._path = path
        self._since = time.monotonic()  # when the counter last moved
        self._moves = 0
        self._seen = self._read()

    def _read(self) -> str | None:
        """Return the counter as it stands, None when it cannot be read."""
        with contextlib.suppress(OSError):
            return self._path.read_text()
        return None

    @property
    def torn(self) -> bool:
        """Whether it has stood still for too long."""
        counter = self._read()
        if counter is not None and counter != self._seen:
            self._seen = counter
            self._since = time.monotonic()
            self._moves += 1
        return time.monotonic() - self._since > TETHER_SECONDS

    @property
    def held(self) -> bool:
        """Whether we have seen it move: the launcher lives."""
        return not self.torn and self._moves > 0


class _Job:
    """One host's part of a job: what it is asked from outside, and what it leaves in the box."""

    def __init__(self, box: Box, rank: int, hosts: int):
        self.box = box
        self.rank = rank
        self.hosts = hosts
        self.signals: list[int] = []  # by Slurm, before a time limit or a preemption, or by a user
        for number in requests.SIGNALS:
            signal.signal(number, lambda number, _: self.signals.append(number))
        self.tether = Tether(box.tether)

    def asked_to_stop(self) -> bool:
        """Whether somebody wants the worker to save and end, or its launcher is dead."""
        return bool(self.signals) or self.tether.torn or self.box.stop.exists()

    def may_begin(self) -> bool:
        """Wait until the launcher lets us begin. False when we are asked to stop before that."""
        while not (self.tether.held and self.box.go.exists()):
            if self.asked_to_stop():
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def coordinator(self) -> str:
        """Return the name of the first host, as that host itself has written it."""
        path = self.box.coordinator
        if self.rank == 0:
            files.write_json(path, socket.gethostname())
        while not path.exists():
            time.sleep(0.2)
        return files.read_json(path)

    def another_host_is_over(self) -> bool:
        """Whether a host that is not us has left its exit status."""
        others = [rank for rank in range(self.hosts) if rank != self.rank]
        return any(self.box.exit_file(rank).exists() for rank in others)

    def follow(self, worker: SubprocessWorker) -> int:
        """Pass on what the worker says and what it is asked until it is over; return its exit status."""
        stopping = False
        with open(self.box.events(self.rank), "a", buffering=1) as out:
            while True:
                status = worker.poll()  # before the last events are read, or some could be missed
                for event in worker.events():
                    out.write(json.dumps(event) + "\n")
                if status is not None:
                    worker.close()
                    return status
                if self.box.kill.exists():
                    worker.stop(force=True)
                elif not stopping and self.asked_to_stop():
                    worker.stop()
                    stopping = True
                elif self.another_host_is_over():
                    time.sleep(GRACE_SECONDS)  # to end by itself: what spans hosts cannot go on without one
                    worker.stop(force=True)
                time.sleep(LOOK_SECONDS)


def serve(folder: str, arguments: Sequence[str], log: str, hosts: int, port: int) -> int:
    """Run the worker on this host of a job until it is over; return its exit status, which the box keeps.

    `folder` is that of the box; `port` that of the first host, on which several join.
    """
    import submitit  # pyright: ignore[reportMissingImports]  # an optional package

    box = Box(folder)
    rank: int = submitit.JobEnvironment().global_rank
    job = _Job(box, rank, hosts)
    if box.exit_file(rank).exists():  # Slurm has queued again what its launcher has done with
        return EXIT_AGAIN
    if not job.may_begin():
        return box.leave(rank, EXIT_AGAIN)
    command = [sys.executable, *arguments]
    if hosts > 1:
        command.append(f"--hosts={job.coordinator()}:{port},{rank},{hosts}")
    own_log = log if rank == 0 else f"{log}.{rank}"
    worker = SubprocessWorker(command, None, {}, epath.Path(own_log))
    token = str(files.read_json(box.go)) if rank == 0 else ""  # the first host holds the claims
    worker.go(token)
    return box.leave(rank, job.follow(worker))


def boxes_of(root: epath.PathLike) -> epath.Path:
    """Return the folder of a workdir's boxes."""
    return epath.Path(os.path.abspath(root)) / "slurm"
