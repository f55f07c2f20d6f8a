"""Measure speed and memory, side by side in one run: a table on the terminal and JSON.

    python -m experiments.benchmark                     the quick part: steps, start, 16 small runs (about 6 minutes)
    python -m experiments.benchmark --parts=population --runs=1,4,16,64 --sizes=tiny,small,large

step        our train step against hand-written jax.jit steps of the same shapes, taken in turn
start       from process start to the first step, with an empty and with a warm compilation cache
population  runs of 100 steps as one population, in sequence in one process, and in cold processes of their own; records,
            checkpoints and evaluation on 16,384 tokens included
torch       our train step against a lean PyTorch one of the same shapes, eager and compiled; left out without torch
families    what each family promises: step times and memory beside the dense family, compiled FLOPs, compile times
save        how long a save of 0.6 GB keeps the training waiting, beside one that makes its checksums first
gpu         on one accelerator, in under 8 minutes: MFU, kernels, mixtures, fp8, small runs, memory (benchmarks/gpu.py)
Times are of this machine at this moment: compare within one table, quote ratios and medians.
"""

from collections.abc import Callable, Sequence
import json
import os
import sys
import tempfile
from typing import Any

from absl import flags
from etils import epath
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import cli, files
from experiments.benchmarks import gpu, processes
from experiments.benchmarks.processes import SIZES, config_of
from experiments.run.schema import Execution, Run
from models.errors import InputError, nearest

SHAPES = {
    "128 wide, 4 deep, 16x256": {"width": 128, "depth": 4, "heads": 4, "batch": 16, "seq_len": 256},
    "512 wide, 8 deep, 8x512": {"width": 512, "depth": 8, "heads": 8, "batch": 8, "seq_len": 512},
}
PARTS = ("step", "torch", "start", "population", "families", "save", "gpu")


# --- the train step


def bench_steps(rounds: int) -> list[dict[str, Any]]:
    """Measure steady step times, the contestants taken in turn."""
    rows = []
    for name, shape in SHAPES.items():
        rows += _bench_shape(name, shape, rounds)
    return rows


def _bench_shape(name: str, shape: dict[str, int], rounds: int) -> list[dict[str, Any]]:
    """Measure our step on one device and on all of them, beside the hand-written one."""
    import jax

    from experiments.benchmarks.families import stepper, take_turns
    from experiments.run.freeze import freeze
    from experiments.store import record

    run, execution = freeze(config_of(shape))
    devices = jax.devices()
    contestants = {
        "hand-written": _hand_written_stepper(shape, run),
        "ours, 1 device": stepper(run, execution, devices[:1]),
        f"ours, {len(devices)} devices": stepper(run, execution, devices),
    }
    times = take_turns(contestants, rounds)
    base = np.array(times["hand-written"])
    flops = record.ledger(run)["flops_per_token"] * run.batch_tokens
    rows = []
    for label, seconds in times.items():
        median = float(np.median(seconds))
        rows.append(
            {
                "shape": name,
                "step": label,
                "median_seconds": median,
                "tokens_per_second": run.batch_tokens / median,
                "flops_per_second": flops / median,
                "speedup": float(np.median(base / np.array(seconds))),
            }
        )
    return rows


def bench_torch_steps(rounds: int) -> list[dict[str, Any]]:
    """Measure our steps beside PyTorch's; where that is missing, return a row that says so."""
    from experiments.benchmarks import torch_step
    from experiments.run.freeze import freeze

    reason = torch_step.missing()
    if reason:
        return [{"left out": reason}]
    runs = {}
    for name, shape in SHAPES.items():
        run, _ = freeze(config_of(shape))
        runs[name] = run
    return torch_step.bench_torch(runs, rounds)


def _hand_written_stepper(shape: dict[str, int], run: Run) -> Callable[[], None]:
    """Return a function that takes one hand-written step and waits for it."""
    import jax

    from experiments.benchmarks.hand_written import hand_written

    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 256, (shape["batch"], shape["seq_len"] + 1)).astype(np.uint16)
    step, state = hand_written(shape, run.model.ff, run.model.vocab)

    def take() -> None:
        nonlocal state
        state, value = step(state, tokens)
        jax.block_until_ready(value)

    return take


# --- the command


# Endings of columns, the unit in which they are shown, and what to multiply with.
_UNITS = {
    "_bytes": ("MB", 1e-6),
    "flops_per_second": ("GFLOP/s", 1e-9),
    "seconds": ("s", 1.0),
    "per_second": ("/s", 1.0),
}


def _cell(name: str, value: Any) -> str:
    """Write a value in the unit that its name ends with."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    for ending, (_, scale) in _UNITS.items():
        if name.endswith(ending):
            value = value * scale
            break
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _heading(name: str) -> str:
    """Write a name as a heading, with the unit that it ends with."""
    for ending, (unit, _) in _UNITS.items():
        if name.endswith(ending):
            words = name.removesuffix(ending).replace("_", " ")
            return f"{words.strip()} {unit}".strip()
    return name.replace("_", " ")


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Return rows of equal keys as a table for people."""
    table = Table(title=title, title_justify="left")
    names = [name for name in rows[0] if name != "all"]
    for name in names:
        table.add_column(_heading(name), justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in names))
    return table


def _check_flags(parts: Sequence[str], sizes: Sequence[str], runs: Sequence[str]) -> list[int]:
    """Check the flags, and return the numbers of runs. Raises InputError."""
    for part in parts:
        if part not in PARTS:
            raise InputError(f"--parts={part}; {nearest(part, PARTS, 'part')}")
    for size in sizes:
        if size not in SIZES:
            raise InputError(f"--sizes={size}; {nearest(size, SIZES, 'size')}")
    try:
        return [int(count) for count in runs]
    except ValueError:
        raise InputError(f"--runs={','.join(runs)}; expected counts such as 1,4,16") from None


def _measure_processes(parts: Sequence[str], runs: Sequence[int]) -> dict[str, Any]:
    """Measure the parts that are in processes of their own."""
    from experiments import prepare
    from experiments.data.options import Data

    given = flags.FLAGS
    root = os.path.abspath(given.data_root)
    result: dict[str, Any] = {}
    if "start" in parts or "population" in parts:
        prepare.prepare(Data(), epath.Path(root))
    with tempfile.TemporaryDirectory() as scratch:
        if "gpu" in parts:
            result |= gpu.bench_gpu(scratch, given.gpu_lines, given.gpu_seconds)
        if "start" in parts:
            result["start"] = processes.bench_start(scratch, root, given.rounds)
        if "population" in parts:
            result["population"] = processes.bench_population(scratch, root, given.sizes, runs)
    return result


def _measure_here(parts: Sequence[str], rounds: int) -> dict[str, Any]:
    """Measure the parts that are in this process, which takes all devices."""
    from experiments import train
    from experiments.benchmarks import saves
    from experiments.benchmarks.families import bench_families

    result: dict[str, Any] = {}
    if not {"step", "torch", "families", "save"}.isdisjoint(parts):
        train.set_up_devices(Execution(compile_cache=None))
    if "step" in parts:
        result["step"] = bench_steps(rounds)
    if "torch" in parts:
        result["torch"] = bench_torch_steps(rounds)
    if "families" in parts:
        result["families"] = bench_families(rounds)
    if "save" in parts:
        with tempfile.TemporaryDirectory() as scratch:
            result["save"] = saves.bench_saves(scratch, rounds)
    return result


def main(_: list[str]) -> int:
    """Run the command line."""
    given = flags.FLAGS
    if given.job:
        print(json.dumps(processes.do_job(json.loads(given.job))))
        return 0
    runs = _check_flags(given.parts, given.sizes, given.runs)
    result = _measure_processes(given.parts, runs) | _measure_here(given.parts, given.rounds)
    console = Console(width=None if sys.stdout.isatty() else 120)
    for part, rows in result.items():
        console.print(_table(part, rows))
    if given.json:
        files.write_json(given.json, cli.signed({"schema": 1, **result}))
        console.print(f"written to {given.json}")
    return 0


if __name__ == "__main__":
    flags.DEFINE_list("parts", ["step", "start", "population"], f"which parts: {', '.join(PARTS)}")
    flags.DEFINE_list("sizes", ["small"], "run sizes of the population part: tiny (width 24), small (48), large (128)")
    flags.DEFINE_list("runs", ["1", "16"], "numbers of runs of the population part")
    cli.define_integer("rounds", 5, "rounds of the step, torch, start, families and save parts", lower_bound=1)
    flags.DEFINE_list("gpu_lines", [], "lines of the gpu part, by a part of their names; empty: all")
    flags.DEFINE_float(
        "gpu_seconds", gpu.BUDGET_SECONDS, "seconds of the gpu part, compilation included", lower_bound=0.0
    )
    cli.define_path("data_root", "data", "where prepared corpora are")
    cli.define_output("json", "write the numbers here too")
    flags.DEFINE_string("job", None, "used by the benchmark itself: a job for a child process")
    cli.run(main)
