"""What a process of the benchmark's part "gpu" does: describe the device, or time the steps of one program on it."""

from collections.abc import Callable
import time
from typing import Any

import numpy as np

WARM_DISPATCHES = 2
DISPATCHES = 5  # at least, that are timed
TIMED_SECONDS = 2.0  # at least
MOST_SECONDS = 15.0  # of all timed dispatches


def held_bytes() -> float | None:
    """Return the most bytes that the first device has held in this process; None where it does not say."""
    import jax

    memory = jax.local_devices()[0].memory_stats() or {}
    peak = memory.get("peak_bytes_in_use")
    return None if peak is None else float(peak)


def describe_device() -> dict[str, Any]:
    """Return what the first device is, how many there are, and how many bytes a program may use of it."""
    import jax

    device = jax.devices()[0]
    memory = device.memory_stats() or {}
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "limit_bytes": memory.get("bytes_limit"),
    }


def time_steps(config: dict[str, Any]) -> dict[str, Any]:
    """Compile the program of a run for one device and take steps on drawn tokens; return their time, FLOPs and memory."""
    import jax

    from experiments import train
    from experiments.run.freeze import freeze
    from experiments.store.record import ledger
    from experiments.training.program import Program

    run, execution = freeze(config)
    train.set_up_devices(execution)
    # Its first call finds in the cache what is compiled here for the sake of its memory.
    program = Program(run, 1, execution, jax.devices()[:1]).compile()
    dispatch = _dispatches(program, run)
    for _ in range(WARM_DISPATCHES):
        dispatch()
    seconds = _time_dispatches(dispatch)
    counts = ledger(run)
    return {
        "step_seconds": float(np.median(seconds)) / program.steps_per_dispatch,
        "compile_seconds": program.compile_seconds,
        "batch_tokens": run.batch_tokens,
        "flops_per_step": counts["flops_per_token"] * run.batch_tokens,
        "causal_flops_per_step": counts["flops_causal"] / run.steps,
        "plan_bytes": None if program.memory_bytes is None else float(program.memory_bytes),
        "held_bytes": held_bytes(),
    }


def _dispatches(program: Any, run: Any) -> Callable[[], None]:
    """Return a function that takes the steps of one dispatch on drawn tokens and waits for them."""
    import jax

    state = program.init([run])
    values = jax.device_put(program.stack_values([run]), program.slot_sharding)
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, run.model.vocab, program.token_shape()).astype(np.uint16)
    steps = np.array([program.steps_per_dispatch], np.int32)

    def dispatch() -> None:
        nonlocal state  # each dispatch uses up the state before it
        state, metrics = program.train(state, values, tokens, steps)
        jax.block_until_ready(metrics)

    return dispatch


def _time_dispatches(dispatch: Callable[[], None]) -> list[float]:
    """Return the seconds of dispatches, each waited for."""
    seconds: list[float] = []
    while len(seconds) < DISPATCHES or sum(seconds) < TIMED_SECONDS:
        start = time.monotonic()
        dispatch()
        seconds.append(time.monotonic() - start)
        if sum(seconds) > MOST_SECONDS:
            break
    return seconds
