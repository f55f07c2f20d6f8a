"""The families part of experiments/benchmark.py: what each family promises about speed and memory, beside what it gave.

Steps are taken in turn on all devices, and a ratio is the median over rounds of the ratios within a round. Compiled
FLOPs and memory are what the compiler counts, and compile times include tracing.
"""

from collections.abc import Callable
import time
from typing import Any

import numpy as np

WIDE = {"width": 256, "depth": 4, "heads": 4}
MOE = WIDE | {"experts": 8, "top_k": 2}
LENGTHS = (256, 1024, 4096)
TOKENS = 4096  # of one step, whatever the length of its sequences


def take_turns(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in every round, after one round of warm-up."""
    times: dict[str, list[float]] = {label: [] for label in contestants}
    for i in range(rounds + 1):
        for label, function in contestants.items():
            start = time.monotonic()
            function()
            if i:
                times[label].append(time.monotonic() - start)
    return times


def _run(family: str, seq_len: int, tokens: int = TOKENS, **model: Any) -> Any:
    """A frozen run. Options that the family has not are left out, so that two families can share a shape."""
    import dataclasses

    from experiments.run import freeze
    import models

    known = {field.name for field in dataclasses.fields(models.load(family).Config)}
    model = {name: value for name, value in model.items() if name in known}
    config = {"family": family, "model": model, "seq_len": seq_len, "batch_tokens": tokens, "tokens": 100 * tokens}
    return freeze.freeze(config)[0]


def stepper(run: Any, execution: Any, devices: Any = None) -> Callable[[], None]:
    """Takes one training step of a run as users run it: split over all devices (a CPU's cores) or those given."""
    import jax

    from experiments.training import program as population

    program = population.Program(run, 1, execution, devices)
    held = {"state": program.init([run])}
    values = jax.device_put(program.stack_values([run]), program.slot_sharding)
    tokens = np.random.default_rng(0).integers(0, 256, program.token_shape()).astype(np.uint16)

    def step() -> None:
        held["state"], metrics = program.train(held["state"], values, tokens, np.array([1], np.int32))
        jax.block_until_ready(metrics)

    return step


def _compile(run: Any, gradient_only: bool = False, **model: Any) -> Any:
    """A run's training step, or its gradient, compiled as a population compiles it. `model`: options to replace."""
    import dataclasses

    import jax

    from experiments.training import program as population
    from experiments.training import step

    run = dataclasses.replace(run, model=dataclasses.replace(run.model, **model))

    def gradient(state: Any, tokens_BT: Any) -> Any:
        def objective(params: Any) -> Any:
            return step.objective(run, run, params, tokens_BT)[0]

        return jax.value_and_grad(objective)(state.params)

    state = jax.eval_shape(lambda: step.init_state(run, run))
    tokens = jax.ShapeDtypeStruct((run.batch, run.seq_len + 1), np.int32)
    whole = lambda state, tokens: step.train_step(run, run, state, tokens)  # noqa: E731
    lowered = jax.jit(gradient if gradient_only else whole).lower(state, tokens)
    options = population.CPU_COMPILER if jax.default_backend() == "cpu" else None
    return lowered.compile(compiler_options=options)


def _row(measure: str, family: str, against: str, values: Any, bases: Any, most: float | None) -> dict[str, Any]:
    """One line of the table; `values` and `bases` are numbers, or their measurements in each round."""
    values, bases = np.atleast_1d(values), np.atleast_1d(bases)
    ratio = float(np.median(values / bases))
    row = {"measure": measure, "family": family, "value": float(np.median(values)), "against": against}
    row |= {"base": float(np.median(bases)), "ratio": ratio, "at_most": "" if most is None else f"{most:g}"}
    return row | {"met": "" if most is None else "yes" if ratio <= most else "no"}


def _steps(rounds: int) -> list[dict[str, Any]]:
    """Step times of the mixture and of the MatMul-free model beside dense models, and time per token by length."""
    from experiments.run.schema import Execution

    execution = Execution(steps_per_dispatch=1)
    runs = {
        "moe": _run("moe", 256, 2048, **MOE),
        "its dense": _run("dense", 256, 2048, **WIDE),
        "matmul_free": _run("matmul_free", 512, ff=768, **WIDE),
        "its equal": _run("dense", 512, ff=768, **WIDE),
    }
    times = take_turns({label: stepper(run, execution) for label, run in runs.items()}, rounds)
    name = "step seconds"
    rows = [
        _row(name, "moe, 8 experts, 2 active", "dense, equal active FLOPs", times["moe"], times["its dense"], 1.3),
        _row(name, "matmul_free at 512", "dense, equal parameters", times["matmul_free"], times["its equal"], 1.5),
    ]
    families = {"matmul_free": 1.2, "min_gru": None, "dense": None}
    shapes = [(family, length) for family in families for length in LENGTHS]
    times = take_turns({str(s): stepper(_run(*s, **WIDE | {"depth": 2}), execution) for s in shapes}, rounds)
    for family, most in families.items():
        base = np.array(times[str((family, LENGTHS[0]))]) / TOKENS
        for length in LENGTHS[1:]:
            per_token = np.array(times[str((family, length))]) / TOKENS
            rows.append(_row("seconds per token", f"{family} at {length}", f"at {LENGTHS[0]}", per_token, base, most))
    return rows


def _counts() -> list[dict[str, Any]]:
    """FLOPs of a compiled step beside the ledger's, and memory of a compiled gradient beside the dense family's."""
    from experiments.store.record import ledger

    rows = []
    for family, shape, most in (("moe", MOE, 1.15), ("dense", WIDE, None)):
        run = _run(family, 256, 2048, **shape)
        flops = _compile(run, unroll=True).cost_analysis()["flops"] / run.batch_tokens
        model = ledger(run)["flops_per_token"]
        rows.append(_row("compiled FLOPs per token", family, "active model FLOPs", flops, model, most))

    def memory(family: str, unroll: bool) -> float:
        compiled = _compile(_run(family, 512, ff=768, **WIDE), gradient_only=True, unroll=unroll)
        return float(compiled.memory_analysis().temp_size_in_bytes)

    for unroll in (True, False):
        label = f"matmul_free, {'unrolled' if unroll else 'scanned'}"
        sizes = memory("matmul_free", unroll), memory("dense", unroll)
        rows.append(_row("bytes of the backward pass", label, "dense, equal parameters", *sizes, 1.0))
    return rows


def _compile_times(rounds: int) -> list[dict[str, Any]]:
    """Seconds to compile 32 scanned layers beside 4, for every family."""
    import models

    rows = []
    for family in models.family_names():
        runs = {depth: _run(family, 64, 512, width=64, depth=depth, unroll=False) for depth in (4, 32)}
        compile_both = {str(depth): lambda run=run: _compile(run) for depth, run in runs.items()}
        times = take_turns(compile_both, min(rounds, 3))
        rows.append(_row("compile seconds", f"{family}, 32 layers", "4 layers", times["32"], times["4"], 1.5))
    return rows


def bench_families(rounds: int) -> list[dict[str, Any]]:
    """All of it, as rows of one table: a value, what it is compared with, their ratio, and the most that it should be."""
    return _steps(rounds) + _counts() + _compile_times(rounds)
