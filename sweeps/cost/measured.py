"""Steps that are taken on this machine, to plan for it: a CPU core, or the GPUs that a target names. Random tokens."""

from collections.abc import Sequence
import contextlib
import dataclasses
import os
import time
from typing import Any

from experiments.cli import InputError
from experiments.run.schema import Execution, Run
from sweeps.cost.compiler import token_type
from sweeps.cost.machines import Target
from sweeps.executors import local

WARM_STEPS, MEASURE_SECONDS = 2, 0.5


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of a population's program: seconds of one step (of all trials of a device where they run at once, of one else)."""

    fits: bool
    step_seconds: float
    peak_bytes: int | None
    compile_seconds: float


@contextlib.contextmanager
def one_core() -> Any:
    """As a worker of the local executor has it. To be entered before jax starts its threads."""
    cores = local.available_cores()
    pinned = hasattr(os, "sched_setaffinity")
    if pinned:
        os.sched_setaffinity(0, cores[:1])
    try:
        yield
    finally:
        if pinned:
            os.sched_setaffinity(0, cores)


def gpus(target: Target) -> Sequence[Any]:
    """The devices of a GPU target. Raises InputError where this machine has not so many of them."""
    import jax

    try:
        devices = [d for d in jax.devices("gpu") if (target.chip or "").upper() in d.device_kind.upper()]
    except RuntimeError:
        devices = []
    if len(devices) < target.chips:
        raise InputError(
            f"--target={target.name} is measured, and so needs a machine with {target.chips} of them; here jax sees "
            f"{len(devices)} (TPU targets are compiled for, without a TPU)"
        )
    return devices[: target.chips]


def measure(run: Run, trials: int, execution: Execution, devices: Sequence[Any]) -> Measured:
    """Compile a population's program and take a few steps. One that runs out of memory does not fit."""
    import jax
    import numpy as np

    from experiments.training import program as population

    start = time.monotonic()
    try:
        program = population.Program(run, trials, execution, devices).compile(token_type(run))
        state = program.init([run] * program.slots)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Measured(False, 0.0, None, time.monotonic() - start)
    values = jax.device_put(program.stack_values([run] * program.slots), program.slot_sharding)
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, run.model.vocab, program.token_shape()).astype(token_type(run))
    # Packed by map, one slot of each device takes all steps; packed by vmap, all slots take them together.
    each = program.slots // program.groups if program.packing == "map" else 1

    def take(steps: int) -> float:
        nonlocal state
        counts, begin = np.zeros(program.slots, np.int32), time.monotonic()
        counts[::each] = steps
        state, metrics = program.train(state, values, tokens, counts)
        jax.block_until_ready(metrics)
        return time.monotonic() - begin

    once = take(min(WARM_STEPS, program.steps_per_dispatch))
    steps, seconds = 0, 0.0
    while seconds < min(MEASURE_SECONDS, 20 * once):
        seconds += take(program.steps_per_dispatch)
        steps += program.steps_per_dispatch
    return Measured(True, seconds / steps, program.memory_bytes, program.compile_seconds)
