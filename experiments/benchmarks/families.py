"""Measure what each family promises about speed and memory, beside what it gives: a part of experiments/benchmark.py.

Steps are taken in turn on all devices, and a ratio is the median over rounds of the ratios within a round. Compiled
FLOPs and memory are what the compiler counts, and compile times include tracing.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import time
from typing import Any

import numpy as np

from experiments.run import freeze
from experiments.run.schema import Execution, Run
import models

WIDE = {"width": 256, "depth": 4, "heads": 4}
MOE = WIDE | {"experts": 8, "top_k": 2}
LENGTHS = (256, 1024, 4096)
TOKENS = 4096  # of one step, whatever the length of its sequences
MOE_TOKENS = (2048, 8192)  # of one step of the mixture and its dense equal

Row = dict[str, Any]
Times = dict[str, list[float]]  # seconds of each contestant in every round


def take_turns(contestants: dict[str, Callable[[], None]], rounds: int) -> Times:
    """Return the seconds of each contestant in every round, after one round of warm-up."""
    times: Times = {label: [] for label in contestants}
    for number in range(rounds + 1):
        for label, function in contestants.items():
            start = time.monotonic()
            function()
            if number:
                times[label].append(time.monotonic() - start)
    return times


def _run(family: str, seq_len: int, tokens: int = TOKENS, **model: Any) -> Run:
    """Return a frozen run. Options that the family has not are left out, so that two families can share a shape."""
    known = {field.name for field in dataclasses.fields(models.load(family).Config)}
    config = {
        "family": family,
        "model": {name: value for name, value in model.items() if name in known},
        "seq_len": seq_len,
        "batch_tokens": tokens,
        "tokens": 100 * tokens,
    }
    run, _ = freeze.freeze(config)
    return run


def stepper(run: Run, execution: Execution, devices: Sequence[Any] | None = None) -> Callable[[], None]:
    """Return a function that takes one training step as users take it: on all devices (a CPU's cores) or those given."""
    import jax

    from experiments.training.program import Program

    program = Program(run, 1, execution, devices)
    state = program.init([run])
    values = jax.device_put(program.stack_values([run]), program.slot_sharding)
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 256, program.token_shape()).astype(np.uint16)
    one_step = np.array([1], np.int32)

    def step() -> None:
        nonlocal state  # each step uses up the state before it
        state, metrics = program.train(state, values, tokens, one_step)
        jax.block_until_ready(metrics)

    return step


def _compile(run: Run, gradient_only: bool = False, **model: Any) -> Any:
    """Compile a run's training step, or its gradient, as a population compiles it. `model`: options to replace."""
    import jax

    from experiments.training import compiling, step

    run = dataclasses.replace(run, model=dataclasses.replace(run.model, **model))

    def gradient(state: Any, tokens_BT: Any) -> Any:
        def objective(params: Any) -> Any:
            total, _ = step.objective(run, run, params, tokens_BT)
            return total

        return jax.value_and_grad(objective)(state.params)

    def whole_step(state: Any, tokens_BT: Any) -> Any:
        return step.train_step(run, run, state, tokens_BT)

    state = step.abstract_state(run)
    tokens = jax.ShapeDtypeStruct((run.batch, run.seq_len + 1), np.int32)
    function = gradient if gradient_only else whole_step
    lowered = jax.jit(function).lower(state, tokens)
    options = compiling.CPU_COMPILER if jax.default_backend() == "cpu" else None
    return lowered.compile(compiler_options=options)


def _row(measure: str, family: str, against: str, values: Any, bases: Any, at_most: float | None) -> Row:
    """Return one line of the table; `values` and `bases` are numbers, or their measurements in each round.

    `at_most`: what their ratio is promised to be; None: nothing is.
    """
    values = np.atleast_1d(values)
    bases = np.atleast_1d(bases)
    ratio = float(np.median(values / bases))
    met = ""
    if at_most is not None:
        met = "yes" if ratio <= at_most else "no"
    return {
        "measure": measure,
        "family": family,
        "value": float(np.median(values)),
        "against": against,
        "base": float(np.median(bases)),
        "ratio": ratio,
        "at_most": "" if at_most is None else f"{at_most:g}",
        "met": met,
    }


def _step_times(rounds: int) -> list[Row]:
    """Compare step times of the mixture and of the MatMul-free model with those of dense models.

    A mixture pays for its optimizer's passes over all experts once a step, whatever the tokens of a step: two sizes of it.
    """
    execution = Execution(steps_per_dispatch=1)
    runs = {
        "matmul_free": _run("matmul_free", 512, ff=768, **WIDE),
        "its equal": _run("dense", 512, ff=768, **WIDE),
    }
    for tokens in MOE_TOKENS:
        runs[f"moe {tokens}"] = _run("moe", 256, tokens, **MOE)
        runs[f"dense {tokens}"] = _run("dense", 256, tokens, **WIDE)
    times = take_turns({label: stepper(run, execution) for label, run in runs.items()}, rounds)
    name = "step seconds"
    rows = []
    for tokens in MOE_TOKENS:
        label = f"moe, 8 experts, 2 active, {tokens:,} tokens a step"
        rows.append(
            _row(name, label, "dense, equal active FLOPs", times[f"moe {tokens}"], times[f"dense {tokens}"], 1.3)
        )
    rows.append(
        _row(name, "matmul_free at 512", "dense, equal parameters", times["matmul_free"], times["its equal"], 1.5)
    )
    return rows


def _times_by_length(rounds: int) -> list[Row]:
    """Compare the time per token of long sequences with that of short ones: recurrent models promise the same."""
    execution = Execution(steps_per_dispatch=1)
    at_most = {"matmul_free": 1.2, "min_gru": None, "dense": None}
    contestants = {}
    for family in at_most:
        for length in LENGTHS:
            run = _run(family, length, **WIDE | {"depth": 2})
            contestants[f"{family} at {length}"] = stepper(run, execution)
    times = take_turns(contestants, rounds)
    rows = []
    for family, limit in at_most.items():
        base = np.array(times[f"{family} at {LENGTHS[0]}"]) / TOKENS
        for length in LENGTHS[1:]:
            label = f"{family} at {length}"
            per_token = np.array(times[label]) / TOKENS
            rows.append(_row("seconds per token", label, f"at {LENGTHS[0]}", per_token, base, limit))
    return rows


def _flops() -> list[Row]:
    """Compare the FLOPs of a compiled step with the ledger's."""
    from experiments.store.record import ledger

    rows = []
    # Not of a mixture: the compiler counts its loop over blocks of rows once.
    for family, shape, at_most in (("dense", WIDE, None),):
        run = _run(family, 256, 2048, **shape)
        cost = _compile(run, unroll=True).cost_analysis()
        per_token = cost["flops"] / run.batch_tokens
        model = ledger(run)["flops_per_token"]
        rows.append(_row("compiled FLOPs per token", family, "active model FLOPs", per_token, model, at_most))
    return rows


def _gradient_bytes(family: str, unroll: bool) -> float:
    run = _run(family, 512, ff=768, **WIDE)
    compiled = _compile(run, gradient_only=True, unroll=unroll)
    return float(compiled.memory_analysis().temp_size_in_bytes)


def _memory() -> list[Row]:
    """Compare the memory of a compiled gradient with the dense family's."""
    rows = []
    for unroll in (True, False):
        label = f"matmul_free, {'unrolled' if unroll else 'scanned'}"
        own = _gradient_bytes("matmul_free", unroll)
        dense = _gradient_bytes("dense", unroll)
        rows.append(_row("bytes of the backward pass", label, "dense, equal parameters", own, dense, 1.0))
    return rows


def _compile_times(rounds: int) -> list[Row]:
    """Compare the seconds that 32 scanned layers take to compile with those of 4, for every family."""
    rows = []
    for family in models.family_names():
        contestants = {}
        for depth in (4, 32):
            run = _run(family, 64, 512, width=64, depth=depth, unroll=False)
            contestants[str(depth)] = functools.partial(_compile, run)
        times = take_turns(contestants, min(rounds, 3))
        rows.append(_row("compile seconds", f"{family}, 32 layers", "4 layers", times["32"], times["4"], 1.5))
    return rows


def bench_families(rounds: int) -> list[Row]:
    """Return all of it as rows of one table: a value, what it is compared with, their ratio, the most that it should be."""
    return _step_times(rounds) + _times_by_length(rounds) + _flops() + _memory() + _compile_times(rounds)
