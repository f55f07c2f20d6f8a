"""Compile a population's program for a TPU that is elsewhere, and read what the compiler says of it.

libtpu compiles for any topology that it knows without a chip: the whole train step with its shardings, the
evaluation and the copy that a checkpoint is written from. A program that does not fit is refused within seconds.
What is compiled is what would run, but for the compiler's effort, which is at its least here: a quarter of the time, the
same collectives and matmuls, and peak memory within a percent or so (sweeps.plan states both).

sweeps/cost/compile_cache.py remembers the results.
"""

from collections.abc import Sequence
import dataclasses
import functools
import importlib.util
import os
import re
import threading
import time
from typing import Any

from experiments.cli import InputError
from experiments.run import identity
from experiments.run.schema import Execution, Run
from models.mesh.mesh import MeshShape
from sweeps.cost.layouts import Layout

LARGEST = 8  # buffers that are kept of a program
EFFORT = -1.0  # the least that the compiler has
EFFORT_OPTION = "jax_exec_time_optimization_effort"
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else two processes at once abort on a lock file
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # of no consequence; quiets a warning
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}

# "… (16.5G) exceeds …", "Used 16.5G of …": what a program asks for that is refused.
_ASKED = re.compile(r"\(([\d.]+)([KMGT])\) exceeds|[Uu]sed ([\d.]+)([KMGT]) of")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of one program. Bytes, FLOPs and collectives are of one chip and one step of all its trials.

    `error` is set, and what cannot be known is None, where the program does not fit. `flops` are those of matmuls.
    """

    fits: bool
    peak_bytes: int | None
    evaluation_bytes: int | None
    checkpoint_bytes: int | None
    state_bytes: int
    flops: float | None
    hbm_bytes: float | None
    collective_bytes: dict[str, int]
    opaque_kernels: dict[str, float]
    compile_seconds: float
    buffers: list[dict[str, Any]]
    error: str | None = None
    host_bytes: float = 0.0  # each way, between the chip and its host
    ici_bytes: dict[str, float] = dataclasses.field(
        default_factory=dict
    )  # sent, by the torus axes that they may go over
    dcn_bytes: float = 0.0  # sent to other slices


def missing() -> str | None:
    """Say what is missing here to compile for a TPU; None where nothing is."""
    if importlib.util.find_spec("libtpu") is None:
        return "libtpu is not installed (pip install -r requirements-tpu.txt)"
    return None


def set_up() -> None:
    """Make jax compile for a TPU and compute on the CPU. Before any jax computation; raises InputError without libtpu."""
    if reason := missing():
        raise InputError(f"--target: {reason}")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import jax

    jax.config.update("jax_platforms", "cpu")


@functools.cache
def topology(chip: str, shape: str, slices: int = 1) -> tuple[Any, ...]:
    """Return the devices of a slice, or of several of one shape. Raises InputError for a shape that libtpu does not know."""
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if chip == "v4":
        options["chip_config_name"] = "megacore"
    if slices > 1:
        options["num_slices"] = slices
    if shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=f"{chip}:{shape}", **options)
    except Exception as error:  # of the plugin: its type differs between versions
        line = str(error).strip().splitlines()[0]
        raise InputError(f"--target={chip}:{shape} is no topology that libtpu can compile for ({line})") from error
    return tuple(found.devices)


def token_type(run: Run) -> Any:
    """Return the type in which experiments/data/batches.py stores a run's tokens."""
    import numpy as np

    return np.uint16 if run.model.vocab <= 1 << 16 else np.uint32


def build(run: Run, layout: Layout, execution: Execution, devices: Sequence[Any]) -> Any:
    """Make the population's program on a mesh of `devices`. Raises InputError for what cannot be split so."""
    from experiments.training.program import Program

    execution = dataclasses.replace(execution, mesh=MeshShape(**layout.mesh))
    return Program(identity.representative(run), layout.trials, execution, devices)


class _LeastEffort:
    """Keep the compiler's effort low while any thread is inside: jax has it as a setting of the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 0.0

    def __enter__(self) -> None:
        import jax

        with self._lock:
            if self._inside == 0:
                self._before = getattr(jax.config, EFFORT_OPTION)
                jax.config.update(EFFORT_OPTION, EFFORT)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        import jax

        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                jax.config.update(EFFORT_OPTION, self._before)


_least_effort = _LeastEffort()


def compile_for(devices: Sequence[Any], run: Run, layout: Layout, execution: Execution, rest: bool = True) -> Compiled:
    """Compile the program of a signature for devices that need not be there. `rest`: evaluation and checkpoint as well."""
    import jax

    start = time.monotonic()
    program = build(run, layout, execution, devices)
    state_bytes = program.device_bytes()
    peaks: dict[str, int | None] = {}
    try:
        with _least_effort:
            program.compile(token_type(run))
            if rest:
                batches = max(1, -(-run.evaluation.tokens // run.batch_tokens))
                peaks = program.compile_rest(token_type(run), batches)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _refused(str(error), state_bytes, time.monotonic() - start)
    return _read(program, state_bytes, peaks, start)


def _read(program: Any, state_bytes: int, peaks: dict[str, int | None], start: float) -> Compiled:
    """Read the text of a program that fits. `start`: the monotonic time at which its compilation began."""
    from sweeps.cost import hlo, hlo_buffers, hlo_flops, hlo_traffic, torus

    module = hlo.Module(program.compiled.as_text())
    buffers = hlo_buffers.largest_buffers(module, LARGEST)
    sent = hlo_traffic.traffic(module, torus.Places.of(program.mesh.devices.flat))
    return Compiled(
        fits=True,
        peak_bytes=program.memory_bytes,
        evaluation_bytes=peaks.get("evaluation"),
        checkpoint_bytes=peaks.get("checkpoint"),
        state_bytes=state_bytes,
        flops=hlo_flops.flops(module),
        hbm_bytes=hlo_traffic.bytes_in_hbm(module),
        collective_bytes=hlo_traffic.collective_bytes(module),
        opaque_kernels=hlo_flops.uncounted_kernels(module),
        compile_seconds=time.monotonic() - start,
        buffers=[dataclasses.asdict(buffer) for buffer in buffers],
        host_bytes=hlo_traffic.host_bytes(module),
        ici_bytes=sent.by_axes,
        dcn_bytes=sent.to_slices,
    )


def _refused(message: str, state_bytes: int, seconds: float) -> Compiled:
    """Read the message about a program that does not fit: it says how much memory the program asks for."""
    lines = [line for line in message.splitlines() if line.strip()]
    first_line = lines[0][:300] if lines else ""
    peak = _asked_bytes(message)
    # The message speaks of temporaries, where it says so; the state lies beside them.
    if "temporaries" in first_line:
        peak += state_bytes
    return Compiled(
        fits=False,
        peak_bytes=peak or None,
        evaluation_bytes=None,
        checkpoint_bytes=None,
        state_bytes=state_bytes,
        flops=None,
        hbm_bytes=None,
        collective_bytes={},
        opaque_kernels={},
        compile_seconds=seconds,
        buffers=[],
        error=first_line,
    )


def _asked_bytes(message: str) -> int:
    """Return the bytes that a refused program asks for; 0 where the message does not say."""
    asked = _ASKED.search(message)
    if asked is None:
        return 0
    number = asked[1] or asked[3]
    unit = asked[2] or asked[4]
    return int(float(number) * 1024 ** ("KMGT".index(unit) + 1))
