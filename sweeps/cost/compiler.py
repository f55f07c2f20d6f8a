"""Compiling a population's program for a TPU that is not here, and remembering what came out.

libtpu compiles for any topology that it knows without a chip: the whole train step with its shardings, the
evaluation and the copy that a checkpoint is written from. A program that does not fit is refused within seconds.
Results are kept as JSON under the signature, the target, the mesh, the sources of the program and the versions of
jax and libtpu, because jax's own cache does not cover such compilations: nothing is compiled twice.

What is compiled is what would run, but for the compiler's effort, which is at its least here: a quarter of the time, the
same collectives and matmuls, and peak memory within a percent or so (sweeps.plan states both).
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import threading
import time
from typing import Any

from etils import epath

from experiments import files
from experiments.cli import InputError
from experiments.run import identity
from experiments.run.schema import Execution, Run
from sweeps.cost.machines import Target

SCHEMA = 1
CACHE = "~/.cache/lossgrid/plans"
LARGEST = 8  # buffers that are kept of a program
# A chip with more memory, whose program shows the buffers of one that does not fit: the compiler then only says how much
# is missing.
ROOMY = "v5p"
EFFORT = -1.0
PROGRAM = (
    "packing",
    "steps_per_dispatch",
    "microbatches",
    "offload",
)  # what a program has of its execution, but the mesh
_SOURCES = (
    "models/**/*.py",
    "experiments/training/**/*.py",
    "sweeps/cost/hlo*.py",
)


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


@dataclasses.dataclass(frozen=True)
class Layout:
    """How runs of one signature share a slice: mesh sizes, and how many train in one program."""

    trial: int = 1
    data: int = 1
    fsdp: int = 1
    expert: int = 1
    sequence: int = 1
    tensor: int = 1
    trials: int = 1

    @property
    def mesh(self) -> dict[str, int]:
        """Sizes by axis."""
        return {name: getattr(self, name) for name in ("trial", "data", "fsdp", "expert", "sequence", "tensor")}

    @property
    def devices(self) -> int:
        """That it uses."""
        return math.prod(self.mesh.values())

    def __str__(self) -> str:
        sizes = " x ".join(f"{name} {size}" for name, size in self.mesh.items() if size > 1)
        return sizes or "one chip"


def available() -> str | None:
    """Why nothing can be compiled for a TPU here, or None."""
    if importlib.util.find_spec("libtpu") is None:
        return "libtpu is not installed (pip install -r requirements-tpu.txt)"
    return None


def set_up() -> None:
    """Make jax compile for a TPU and compute on the CPU. Before any jax computation; raises InputError without libtpu."""
    if reason := available():
        raise InputError(f"--target: {reason}")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # else two processes at once abort on a lock file
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")  # of no consequence; quiets a warning
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    import jax

    jax.config.update("jax_platforms", "cpu")


@functools.cache
def topology(chip: str, shape: str) -> tuple[Any, ...]:
    """The devices of a slice. Raises InputError for a shape that libtpu does not know."""
    from jax.experimental import topologies

    options: dict[str, Any] = {"chip_config_name": "megacore"} if chip == "v4" else {}
    if shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=f"{chip}:{shape}", **options)
    except Exception as error:  # of the plugin: its type differs between versions
        line = str(error).strip().splitlines()[0]
        raise InputError(f"--target={chip}:{shape} is no topology that libtpu can compile for ({line})") from error
    return tuple(found.devices)


def token_type(run: Run) -> Any:
    """As experiments/data/batches.py stores tokens."""
    import numpy as np

    return np.uint16 if run.model.vocab <= 1 << 16 else np.uint32


def build(run: Run, layout: Layout, execution: Execution, devices: Sequence[Any]) -> Any:
    """The population's program on a mesh of `devices`. Raises InputError for what cannot be split so."""
    from experiments.training import program as population
    from models.mesh.mesh import MeshShape

    execution = dataclasses.replace(execution, mesh=MeshShape(**layout.mesh))
    return population.Program(identity.representative(run), layout.trials, execution, devices)


class Compiler:
    """Compiles and remembers. `compiled` counts what was really compiled, `remembered` what was known."""

    def __init__(self, target: Target, cache: str | None = CACHE):
        self.target, self.compiled, self.remembered = target, 0, 0
        self._folder = epath.Path(os.path.expanduser(cache)) if cache else None
        self._known: dict[str, Compiled] = {}

    def __call__(self, run: Run, layout: Layout, execution: Execution, rest: bool = True) -> Compiled:
        """What the program of a signature comes to. `rest`: evaluation and checkpoint as well."""
        key = self._key(run, layout, execution, rest)
        if key not in self._known:
            self._known[key] = self._read(key) or self._make(key, run, layout, execution, rest)
        else:
            self.remembered += 1
        return self._known[key]

    def _key(self, run: Run, layout: Layout, execution: Execution, rest: bool) -> str:
        parts = {
            "schema": SCHEMA,
            "signature": identity.signature(run),
            "target": [self.target.chip, self.target.topology],
            "layout": dataclasses.asdict(layout),
            "execution": [getattr(execution, name) for name in PROGRAM],
            "rest": rest,
            "versions": [importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")],
            "sources": sources(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    def _read(self, key: str) -> Compiled | None:
        path = self._folder / f"{key}.json" if self._folder else None
        if path is None or not path.exists():
            return None
        try:
            value = json.loads(path.read_text())
            self.remembered += 1
            return Compiled(**value["compiled"])
        except (ValueError, KeyError, TypeError):  # half a file of an older version: made anew
            return None

    def _make(self, key: str, run: Run, layout: Layout, execution: Execution, rest: bool) -> Compiled:
        result = compile_for(topology(self.target.chip, self.target.topology), run, layout, execution, rest)
        self.compiled += 1
        if self._folder:
            names = {"target": self.target.name, "signature": identity.signature(run), "layout": str(layout)}
            value = {"schema": SCHEMA, **names, "compiled": dataclasses.asdict(result)}
            files.write_json(self._folder / f"{key}.json", value)
        return result

    def buffers(self, run: Run, layout: Layout, execution: Execution) -> list[dict[str, Any]]:
        """The largest buffers of a program that does not fit, as a chip with more memory has them; none if neither has it."""
        roomy = dataclasses.replace(self.target, chip=ROOMY, topology=roomy_shape(self.target.devices))
        if roomy.topology is None or self.target.chip == ROOMY:
            return []
        other = Compiler(roomy)
        other._folder = self._folder
        found = other(run, layout, execution, rest=False).buffers
        self.compiled, self.remembered = self.compiled + other.compiled, self.remembered + other.remembered
        return found


def roomy_shape(devices: int) -> str | None:
    """A topology of ROOMY with so many chips."""
    from sweeps.cost.machines import SLICES

    return "1x1x1" if devices == 1 else SLICES[ROOMY].get(devices)


@functools.cache
def sources() -> str:
    """Digest of the code that makes the program, and that reads it."""
    root = epath.Path(__file__).parent.parent.parent
    digest = hashlib.sha256()
    for pattern in _SOURCES:
        for path in sorted(root.glob(pattern)):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class _LeastEffort:
    """The compiler's effort while any thread is inside: jax has it as a setting of the whole process."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, 0.0

    def __enter__(self) -> None:
        import jax

        with self._lock:
            if not self._inside:
                self._before = jax.config.jax_exec_time_optimization_effort
                jax.config.update("jax_exec_time_optimization_effort", EFFORT)
            self._inside += 1

    def __exit__(self, *_: Any) -> None:
        import jax

        with self._lock:
            self._inside -= 1
            if not self._inside:
                jax.config.update("jax_exec_time_optimization_effort", self._before)


_least_effort = _LeastEffort()


def compile_for(devices: Sequence[Any], run: Run, layout: Layout, execution: Execution, rest: bool = True) -> Compiled:
    """Compile the program of a signature for devices that need not be there."""
    import jax

    from sweeps.cost import hlo

    start = time.monotonic()
    program = build(run, layout, execution, devices)
    state = program.device_bytes()
    try:
        with _least_effort:
            program.compile(token_type(run))
            batches = max(1, -(-run.evaluation.tokens // run.batch_tokens))
            peaks = program.compile_rest(token_type(run), batches) if rest else {}
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _refused(str(error), state, time.monotonic() - start)
    module = hlo.Module(program.compiled.as_text())
    return Compiled(
        fits=True,
        peak_bytes=program.memory_bytes,
        evaluation_bytes=peaks.get("evaluation"),
        checkpoint_bytes=peaks.get("checkpoint"),
        state_bytes=state,
        flops=module.flops(),
        hbm_bytes=module.hbm_bytes(),
        collective_bytes=module.collective_bytes(),
        opaque_kernels=module.opaque(),
        compile_seconds=time.monotonic() - start,
        buffers=[dataclasses.asdict(buffer) for buffer in module.buffers(LARGEST)],
        host_bytes=module.host_bytes(),
    )


def _refused(text: str, state: int, seconds: float) -> Compiled:
    """Of a program that does not fit: the memory that it asks for is in the message."""
    asked = re.search(r"\(([\d.]+)([KMGT])\) exceeds|[Uu]sed ([\d.]+)([KMGT]) of", text)
    number, unit = (asked[1] or asked[3], asked[2] or asked[4]) if asked else ("0", "K")
    needed = int(float(number) * 1024 ** ("KMGT".index(unit) + 1))
    line = next((line for line in text.splitlines() if line.strip()), "")[:300]
    # The message speaks of temporaries, where it says so; the state lies beside them.
    peak = needed + (state if "temporaries" in line else 0)
    none: dict[str, Any] = {"evaluation_bytes": None, "checkpoint_bytes": None, "flops": None, "hbm_bytes": None}
    return Compiled(False, peak or None, state_bytes=state, collective_bytes={}, opaque_kernels={}, **none,
                    compile_seconds=seconds, buffers=[], error=line)  # fmt: skip
