"""Workers as subprocesses of this machine: one per core on a CPU, one per accelerator otherwise.

Two workers that are pinned to one core each beat one worker with two simulated devices: imports and compilations run
side by side too. A worker that crashes takes its own population with it and nothing else.
"""

from collections.abc import Sequence
import dataclasses
import glob
import importlib.util
import os
import sys
from typing import Any

from etils import epath

from experiments.run.schema import Execution
from sweeps.executors.support.outside import not_started
from sweeps.executors.support.protocol import Executor, Hardware, NotStarted
from sweeps.executors.support.subprocess_worker import SubprocessWorker, wait_for_output

CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


@dataclasses.dataclass(frozen=True)
class Options:
    """None: the machine says it all."""


def executor(_: Options) -> "LocalExecutor":
    """Make the executor of this machine."""
    return LocalExecutor()


def available_cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def memory_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def accelerators() -> list[dict[str, str]]:
    """Return the environment of one worker per accelerator that jax can use here; empty on a CPU. Does not start jax."""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if wanted.split(",")[0] == "cpu":
        return []
    if any(importlib.util.find_spec(plugin) for plugin in CUDA_PLUGINS):
        return [{"CUDA_VISIBLE_DEVICES": device} for device in _visible_gpus()]
    if importlib.util.find_spec("libtpu") and _tpu_files():
        return [{}]  # one process drives all chips of a TPU host
    return []


def _tpu_files() -> list[str]:
    """Return the device files of this host's TPU chips."""
    return glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")


def _visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device]
    number = len(glob.glob("/dev/nvidia[0-9]*"))
    return [str(index) for index in range(number)]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a worker runs. cores: None when it may use all."""

    cores: tuple[int, ...] | None
    env: dict[str, str]


class LocalExecutor(Executor[SubprocessWorker]):
    """Room for workers on this machine: one per accelerator; on a CPU one per core, or fewer with more cores each."""

    def __init__(self, command: Sequence[str] = ()):
        """Run `command` with --population and --workdir; by default the real worker."""
        self._command = list(command) or [sys.executable, "-m", "experiments.train"]
        self._cores = available_cores()
        self._devices = accelerators()
        self._taken: dict[int, Place] = {}  # by process id
        self.share(len(self._cores))

    def share(self, populations: int) -> None:
        """Divide the machine among at most so many workers. Only while none is running."""
        on_cpu = max(1, min(len(self._cores), populations))
        count = len(self._devices) or on_cpu
        environments = self._devices or [{}] * count
        pinned = hasattr(os, "sched_setaffinity") and count > 1
        self._free = []
        for index, env in enumerate(environments):
            cores = tuple(self._cores[index::count]) if pinned else None
            self._free.append(Place(cores, env))
        self.slots = count
        self.memory = memory_bytes() // count

    def hardware(self) -> Hardware:
        """Return what one worker trains on: CPU cores, one GPU, or all chips of a TPU host."""
        return Hardware(self._kind, len(_tpu_files()) if self._kind == "tpu" else 1)

    def devices(self, execution: Execution) -> int | None:
        """Return how many devices one worker has at most: the simulated ones of a CPU, which are its cores, or chips."""
        if self._kind == "cpu":
            return execution.cpu_devices or len(self._cores)
        return super().devices(execution)

    @property
    def _kind(self) -> str:
        """Name the kind of device of the places: cpu, gpu or tpu."""
        if not self._devices:
            return "cpu"
        return "gpu" if self._devices[0] else "tpu"

    def options(self) -> dict[str, Any]:
        """Give the next worker as many simulated devices as its place has cores."""
        if self._devices:
            return {}
        next_place = self._free[-1]
        return {"cpu_devices": len(next_place.cores or self._cores)}

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> SubprocessWorker | NotStarted:
        """Start a worker in a free place."""
        place = self._free[-1]
        command = [*self._command, f"--population={os.fspath(population)}", f"--workdir={os.fspath(workdir)}"]
        try:
            worker = SubprocessWorker(command, place.cores, place.env, log)
        except OSError as error:  # no processes, memory or file descriptors are left
            return not_started(error)
        self._taken[worker.pid] = self._free.pop()
        return worker

    def release(self, worker: SubprocessWorker) -> None:
        """Take back the place of a worker that is over."""
        self._free.append(self._taken.pop(worker.pid))

    def wait(self, workers: Sequence[SubprocessWorker], seconds: float) -> None:
        """Return when one of the workers writes or ends, or after so long."""
        wait_for_output(workers, seconds)
