"""Plan for this machine by taking steps on it: on one CPU core, or on the GPUs that a target names. Random tokens."""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import os
import time
from typing import Any

from experiments.benchmarks.chips import Chip, chip_name
from experiments.cli import InputError
from experiments.run.schema import Execution, Run
from models.mesh.mesh import MeshShape
from sweeps.cost.bound import mfu
from sweeps.cost.compiler import token_type
from sweeps.cost.guess import best_guesses
from sweeps.cost.layouts import Layout
from sweeps.cost.machines import Target
from sweeps.cost.signature_plan import SignaturePlan, ledger_fields, no_layout, program_steps
from sweeps.executors import local
from sweeps.study.cells import Cell
from sweeps.work import populations

WARM_STEPS = 2
TIMED_SECONDS = 0.5  # at least, of steps that are timed
MOST_WARMUPS = 20  # but no more than so many times what the first steps took


@dataclasses.dataclass(frozen=True)
class Timing:
    """Of a population's program: seconds of one step (of all trials of a device where they run at once, of one else)."""

    fits: bool
    step_seconds: float
    peak_bytes: int | None
    compile_seconds: float


def plan_on_cpu(groups: Sequence[Sequence[Cell]]) -> list[SignaturePlan]:
    """Plan the signatures of a study, measured on one core of this machine."""
    from experiments.train import set_up_devices

    cores = len(local.available_cores())
    with one_core():
        set_up_devices(dataclasses.replace(groups[0][0].execution, cpu_devices=1))
        return [_plan_on_core(group, cores) for group in groups]


def _plan_on_core(group: Sequence[Cell], cores: int) -> SignaturePlan:
    """Plan one signature whose runs are shared by `cores` cores."""
    import jax

    trials = -(-len(group) // cores)
    execution = dataclasses.replace(group[0].execution, cpu_devices=1)
    timing = time_steps(group[0].run, trials, execution, jax.devices()[:1])
    fields = ledger_fields(group)
    training_seconds = fields["steps"] * timing.step_seconds
    needed = None if timing.peak_bytes is None else timing.peak_bytes * cores
    return SignaturePlan(
        **fields,
        fits=needed is None or needed <= local.memory_bytes(),
        peak_bytes=timing.peak_bytes,
        step_seconds_bound=timing.step_seconds,
        bound_by="measured",
        compile_seconds=timing.compile_seconds,
        seconds=training_seconds + timing.compile_seconds + populations.START_SECONDS,
        mesh={},
        packing="map",
        trials_per_program=trials,
        programs=-(-len(group) // trials),
    )


def plan_on_gpu(groups: Sequence[Sequence[Cell]], target: Target, chip: Chip) -> list[SignaturePlan]:
    """Plan the signatures of a study, each measured on the GPUs of this machine with the layout that promises most."""
    devices = gpus(target)
    return [_plan_on_gpus(group, target, chip, devices) for group in groups]


def _plan_on_gpus(group: Sequence[Cell], target: Target, chip: Chip, devices: Sequence[Any]) -> SignaturePlan:
    """Plan one signature by steps taken on the GPUs of this machine."""
    run = group[0].run
    execution = group[0].execution
    fields = ledger_fields(group)
    mean_steps = fields["steps"] / fields["runs"]
    layout = most_promising(run, len(group), mean_steps, target, execution, chip)
    placed = dataclasses.replace(execution, mesh=MeshShape(**layout.mesh))
    timing = time_steps(run, layout.trials, placed, devices)
    steps = program_steps(group, layout.trials)
    overhead = len(steps) * (timing.compile_seconds + populations.START_SECONDS)
    program_flops = fields["flops_per_step"] * layout.trials
    return SignaturePlan(
        **fields,
        fits=timing.fits,
        peak_bytes=timing.peak_bytes,
        step_seconds_bound=timing.step_seconds,
        bound_by="measured",
        compile_seconds=timing.compile_seconds,
        seconds=sum(steps) * timing.step_seconds + overhead,
        mesh=layout.mesh,
        packing=execution.packing,
        trials_per_program=layout.trials,
        programs=len(steps),
        mfu_bound=mfu(program_flops, timing.step_seconds, chip, target) if timing.fits else None,
    )


def most_promising(run: Run, runs: int, steps: float, target: Target, execution: Execution, chip: Chip) -> Layout:
    """Return the layout that is guessed to be the fastest. Raises InputError where the sizes of the run allow none."""
    guesses = best_guesses(run, runs, steps, target.devices, execution, chip)
    if not guesses:
        raise InputError(no_layout(run, target))
    return guesses[0].layout


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Bind this process to one core, as a worker of the local executor has it. To be entered before jax starts threads."""
    cores = local.available_cores()
    can_bind = hasattr(os, "sched_setaffinity")
    if can_bind:
        os.sched_setaffinity(0, cores[:1])
    try:
        yield
    finally:
        if can_bind:
            os.sched_setaffinity(0, cores)


def gpus(target: Target) -> Sequence[Any]:
    """Return the devices of a GPU target. Raises InputError where this machine has not so many of them."""
    import jax

    try:
        devices = [device for device in jax.devices("gpu") if chip_name(device.device_kind) == target.chip]
    except RuntimeError:
        devices = []
    if len(devices) < target.chips:
        raise InputError(
            f"--target={target.name} is measured, and so needs a machine with {target.chips} of them; here jax sees "
            f"{len(devices)} (TPU targets are compiled for, without a TPU)"
        )
    return devices[: target.chips]


def time_steps(run: Run, trials: int, execution: Execution, devices: Sequence[Any]) -> Timing:
    """Compile a population's program and take a few steps. One that runs out of memory does not fit."""
    import jax

    from experiments.training.program import Program

    start = time.monotonic()
    try:
        program = Program(run, trials, execution, devices).compile(token_type(run))
        state = program.init([run] * program.slots)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Timing(False, 0.0, None, time.monotonic() - start)
    stepper = _Stepper(program, run, state)
    warm_seconds = stepper.take(min(WARM_STEPS, program.steps_per_dispatch))
    steps = 0
    seconds = 0.0
    while seconds < min(TIMED_SECONDS, MOST_WARMUPS * warm_seconds):
        seconds += stepper.take(program.steps_per_dispatch)
        steps += program.steps_per_dispatch
    return Timing(True, seconds / steps, program.memory_bytes, program.compile_seconds)


class _Stepper:
    """Take steps of a population's program on random tokens, and time them."""

    def __init__(self, program: Any, run: Run, state: Any):
        import jax
        import numpy as np

        self.program = program
        self.state = state
        self.values = jax.device_put(program.stack_values([run] * program.slots), program.slot_sharding)
        draw = np.random.default_rng(0)
        self.tokens = draw.integers(0, run.model.vocab, program.token_shape()).astype(token_type(run))
        # Packed by map, one slot of each device takes all steps; packed by vmap, all slots take them together.
        self.stride = program.slots // program.groups if program.packing == "map" else 1

    def take(self, steps: int) -> float:
        """Take so many steps in one dispatch; return their seconds."""
        import jax
        import numpy as np

        steps_by_slot = np.zeros(self.program.slots, np.int32)
        start = time.monotonic()
        steps_by_slot[:: self.stride] = steps
        self.state, metrics = self.program.train(self.state, self.values, self.tokens, steps_by_slot)
        jax.block_until_ready(metrics)
        return time.monotonic() - start
