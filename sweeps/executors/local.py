"""Workers as subprocesses of this machine: one per core on a CPU, one per accelerator otherwise.

Two workers that are pinned to one core each beat one worker with two simulated devices: imports and compilations run
side by side too. A worker that crashes takes its own population with it and nothing else.
"""

from collections.abc import Sequence
import dataclasses
import glob
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
from typing import Any, BinaryIO

from etils import epath

from experiments import files
from experiments.cli import InputError
from sweeps.executors.protocol import Event

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def available_cores() -> list[int]:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def accelerators() -> list[dict[str, str]]:
    """Environment of one worker per accelerator that jax can use here; empty on a CPU. Does not start jax."""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if wanted.split(",")[0] == "cpu":
        return []
    plugins = [f"jax_cuda{version}_plugin" for version in (12, 13)]
    if any(importlib.util.find_spec(name) for name in plugins):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            visible = ",".join(str(i) for i in range(len(glob.glob("/dev/nvidia[0-9]*"))))
        return [{"CUDA_VISIBLE_DEVICES": device} for device in visible.split(",") if device]
    if importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")):
        return [{}]  # one process drives all chips of a TPU host
    return []


class LocalWorker:
    """A subprocess. Its events come through a pipe, everything else it says goes to the log."""

    def __init__(self, command: Sequence[str], cores: Sequence[int] | None, env: dict[str, str], log: epath.Path):
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log: BinaryIO = files.append(log)  # closed by `close`
        pinning = ",".join(map(str, cores)) if cores else "-"
        bootstrap = [sys.executable, "-S", "-E", os.path.join(HERE, "pinned.py"), str(os.getpid()), pinning]
        path = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [*bootstrap, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | {"PYTHONPATH": path} | env,
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches the launcher only, which stops workers in order
        )
        assert self.process.stdin and self.process.stdout
        self.pid, self._partial, self.silent = self.process.pid, b"", False
        os.set_blocking(self.process.stdout.fileno(), False)

    def fileno(self) -> int:
        """Of its output, for `select`."""
        assert self.process.stdout
        return self.process.stdout.fileno()

    def go(self, token: str = "") -> None:
        """Let it begin."""
        assert self.process.stdin
        try:
            self.process.stdin.write(f"go {token}\n".encode())
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it is over already, as its exit code will say

    def events(self) -> list[Event]:
        """Events since the last call; lines that are not events go to the log."""
        assert self.process.stdout
        while not self.silent and (block := self.process.stdout.read(1 << 16)) is not None:
            self._partial += block
            self.silent = not block  # the end of its output
        *lines, self._partial = self._partial.split(b"\n")
        out = []
        for line in lines:
            event = _event(line)
            if event is None:
                self._log.write(line + b"\n")
            else:
                out.append(event)
        return out

    def poll(self) -> int | None:
        """Its exit code once it is over."""
        return self.process.poll()

    def close(self) -> None:
        """Let go of its pipes and its log."""
        assert self.process.stdout and self.process.stdin
        for file in (self.process.stdout, self.process.stdin, self._log):
            file.close()

    def stop(self, force: bool = False) -> None:
        """SIGTERM, on which it saves; or SIGKILL."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if force else signal.SIGTERM)


def _event(line: bytes) -> Event | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("event"), str) else None


@dataclasses.dataclass(frozen=True)
class Options:
    """None: the machine says it all."""


def executor(_: Options) -> "LocalExecutor":
    """This machine."""
    return LocalExecutor()


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a worker runs. cores: None when it may use all."""

    cores: tuple[int, ...] | None
    env: dict[str, str]


class LocalExecutor:
    """Room for workers on this machine: one per accelerator; on a CPU one per core, or fewer with more cores each."""

    def __init__(self, command: Sequence[str] = ()):
        self._command = list(command) or [sys.executable, "-m", "experiments.train"]
        self._cores, self._devices = available_cores(), accelerators()
        self._taken: dict[int, Place] = {}
        self.share(len(self._cores))

    def share(self, populations: int) -> None:
        """Divide the machine among at most so many workers. Only while none is running."""
        count = len(self._devices) or max(1, min(len(self._cores), populations))
        pinned = hasattr(os, "sched_setaffinity") and count > 1
        envs = self._devices or [{}] * count
        self._free = [Place(tuple(self._cores[i::count]) if pinned else None, env) for i, env in enumerate(envs)]
        self.slots = count

    def clear(self, workdir: epath.Path) -> None:
        """A worker here ends with its launcher (pinned.py)."""

    def options(self) -> dict[str, Any]:
        """Simulated devices of the next worker: one per core of its place."""
        if self._devices:
            return {}
        return {"cpu_devices": len(self._free[-1].cores or self._cores)}

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> LocalWorker:
        """Start a worker in a free place."""
        if "://" in os.fspath(workdir):
            raise InputError(f"--workdir={workdir}: the local executor writes logs and locks; expected a local folder")
        place = self._free.pop()
        command = [*self._command, f"--population={os.fspath(population)}", f"--workdir={os.fspath(workdir)}"]
        worker = LocalWorker(command, place.cores, place.env, log)
        self._taken[worker.pid] = place
        return worker

    def release(self, worker: LocalWorker) -> None:
        """Its place is free again."""
        self._free.append(self._taken.pop(worker.pid))

    def wait(self, workers: list[LocalWorker], seconds: float) -> None:
        """Until one of them writes or ends, or so long."""
        with selectors.DefaultSelector() as selector:
            talking = [worker for worker in workers if not worker.silent]
            for worker in talking:
                selector.register(worker.fileno(), selectors.EVENT_READ)
            selector.select(seconds if len(talking) == len(workers) else 0.02)
