"""Steps that are taken on this machine, to plan for it: a CPU core, or the GPUs that a target names. Random tokens."""

from collections.abc import Sequence
import contextlib
import dataclasses
import os
import time
from typing import Any

from experiments.cli import InputError
from experiments.run.schema import Execution, Run
from models.mesh.mesh import MeshShape
from sweeps.cost import layouts as roofline
from sweeps.cost import measured
from sweeps.cost.compiler import token_type
from sweeps.cost.machines import Chip, Target
from sweeps.cost.row import Row, base, mfu, program_steps
from sweeps.executors import local
from sweeps.study.file import Cell
from sweeps.work import populations

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


def on_cpu(groups: Sequence[Sequence[Cell]]) -> list[Row]:
    """The signatures of a study, measured on one core of this machine."""
    from experiments.train import set_up_devices

    slots, out = len(local.available_cores()), []
    with measured.one_core():
        set_up_devices(dataclasses.replace(groups[0][0].execution, cpu_devices=1))
        import jax

        for group in groups:
            execution, trials = dataclasses.replace(group[0].execution, cpu_devices=1), -(-len(group) // slots)
            found = measured.measure(group[0].run, trials, execution, jax.devices()[:1])
            row = base(group)
            seconds = row["steps"] * found.step_seconds + found.compile_seconds + populations.START_SECONDS
            out.append(
                Row(
                    **row,
                    fits=found.peak_bytes is None or found.peak_bytes * slots <= populations.memory_bytes(),
                    peak_bytes=found.peak_bytes,
                    step_seconds_bound=found.step_seconds,
                    bound_by="measured",
                    compile_seconds=found.compile_seconds,
                    seconds=seconds,
                    mesh={},
                    packing="map",
                    trials_per_program=trials,
                    programs=-(-len(group) // trials),
                )
            )
    return out


def on_gpu(groups: Sequence[Sequence[Cell]], target: Target, chip: Chip) -> list[Row]:
    """The signatures of a study, each measured on the GPUs of this machine with the layout that promises most."""
    devices, out = measured.gpus(target), []
    for group in groups:
        run, execution, row = group[0].run, group[0].execution, base(group)
        steps = row["steps"] / row["runs"]
        best = roofline.choices(run, len(group), steps, target.devices, execution, chip)[0].layout
        placed = dataclasses.replace(execution, mesh=MeshShape(**best.mesh))
        found = measured.measure(run, best.trials, placed, devices)
        total = program_steps(group, best.trials)
        each = len(total) * (found.compile_seconds + populations.START_SECONDS)
        share = mfu(row["flops_per_step"] * best.trials, found.step_seconds, chip, target) if found.fits else None
        out.append(
            Row(
                **row,
                fits=found.fits,
                peak_bytes=found.peak_bytes,
                step_seconds_bound=found.step_seconds,
                bound_by="measured",
                compile_seconds=found.compile_seconds,
                seconds=sum(total) * found.step_seconds + each,
                mesh=best.mesh,
                packing=execution.packing,
                trials_per_program=best.trials,
                programs=len(total),
                mfu_bound=share,
            )
        )
    return out
