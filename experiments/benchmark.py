"""Measure speed and memory, side by side in one run: a table on the terminal and JSON.

    python -m experiments.benchmark                     the quick part: steps, start, 16 small runs (about 6 minutes)
    python -m experiments.benchmark --parts=population --runs=1,4,16,64 --sizes=small,large

step        our train step against hand-written jax.jit steps of the same shapes, taken in turn
start       from process start to the first step, with an empty and with a warm compilation cache
population  runs of 100 steps as one population, in sequence in one process, and in cold processes of their own; records,
            checkpoints and evaluation on 16,384 tokens included
families    what each family promises: step times and memory beside the dense family, compiled FLOPs, compile times
Times are of this machine at this moment: compare within one table, quote ratios and medians.
"""

from collections.abc import Callable, Sequence
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags
from etils import epath
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import cli, files
from experiments.run.schema import Execution, Run
from models.errors import InputError, nearest

SHAPES = {
    "128 wide, 4 deep, 16x256": {"width": 128, "depth": 4, "heads": 4, "batch": 16, "seq_len": 256},
    "512 wide, 8 deep, 8x512": {"width": 512, "depth": 8, "heads": 8, "batch": 8, "seq_len": 512},
}
SIZES = {
    "small": {"width": 48, "depth": 3, "heads": 3, "batch": 8, "seq_len": 128},
    "large": {"width": 128, "depth": 4, "heads": 4, "batch": 8, "seq_len": 128},
}
STEPS = 100
PARTS = ("step", "start", "population", "families")


def config_of(shape: dict[str, int], **options: Any) -> dict[str, Any]:
    """Return the config of a run of 100 steps as a plain mapping, for freeze."""
    batch_tokens = shape["batch"] * shape["seq_len"]
    value = {
        "family": "dense",
        "model": {name: shape[name] for name in ("width", "depth", "heads")},
        "seq_len": shape["seq_len"],
        "batch_tokens": batch_tokens,
        "tokens": STEPS * batch_tokens,
        "opt": {"lr": 4e-3},
        "schedule": {"warmup_tokens": 10 * batch_tokens},
        "evaluation": {"tokens": 16_384},
    }
    return value | options


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


# --- whole processes


def child(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job in a fresh process.

    Returns its wall seconds, its peak memory in bytes, and the events with their seconds since the start.
    """
    start = time.time()
    command = [sys.executable, "-m", "experiments.benchmark", f"--job={json.dumps(job)}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a benchmark process failed: {done.stderr.strip().splitlines()[-1:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    result["seconds"] = time.time() - start
    result["events"] = [(event, at - start) for event, at in result["events"]]
    return result


def do_job(job: dict[str, Any]) -> dict[str, Any]:
    """Train the runs of a job in this process, in one population or one after the other."""
    from experiments import train
    from experiments.run.freeze import freeze

    events: list[tuple[str, float]] = []

    def report(event: dict[str, Any]) -> None:
        events.append((event["event"], time.time()))

    frozen = [freeze(config) for config in job["configs"]]
    runs = [run for run, _ in frozen]
    execution = frozen[0][1]
    folders = [epath.Path(folder) for folder in job["folders"]]
    if job["sequence"]:
        for run, folder in zip(runs, folders, strict=True):
            train.train([run], [folder], execution, report)
    else:
        train.train(runs, folders, execution, report)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"events": events, "peak_bytes": peak}


def _job(
    shape: dict[str, int], count: int, folder: str, root: str, cache: str | None = None, sequence: bool = False
) -> dict[str, Any]:
    """Describe the training of so many runs that differ in their seed."""
    execution = {"data_root": root, "compile_cache": cache, "steps_per_dispatch": None}
    seeds = range(count)
    configs = [config_of(shape, seed=seed, execution=execution) for seed in seeds]
    return {"configs": configs, "folders": [f"{folder}/{seed}" for seed in seeds], "sequence": sequence}


def bench_start(scratch: str, root: str, rounds: int) -> list[dict[str, Any]]:
    """Measure seconds from process start to the end of the first dispatch (a few steps) of a small run."""
    cold = [_seconds_to_start(f"{scratch}/start-cold-{i}", root, None) for i in range(rounds)]
    # The first of these fills the cache.
    filled = [_seconds_to_start(f"{scratch}/start-warm-{i}", root, f"{scratch}/cache") for i in range(rounds + 1)]
    rows = []
    for label, seconds in (("cold", cold), ("warm", filled[1:])):
        rows.append({"cache": label, "median_seconds": float(np.median(seconds)), "all": seconds})
    return rows


def _seconds_to_start(folder: str, root: str, cache: str | None) -> float:
    result = child(_job(SIZES["small"], 1, folder, root, cache))
    return next(at for event, at in result["events"] if event == "progress")


def bench_population(scratch: str, root: str, sizes: Sequence[str], runs: Sequence[int]) -> list[dict[str, Any]]:
    """Measure runs per hour in the three ways of training them."""
    from experiments.run.freeze import freeze
    from experiments.store import record

    rows = []
    for size in sizes:
        shape = SIZES[size]
        params = record.ledger(freeze(config_of(shape))[0])["params_total"]
        single = child(_job(shape, 1, f"{scratch}/{size}-process", root))
        for count in runs:
            folder = f"{scratch}/{size}-{count}"
            ways = {
                "population": child(_job(shape, count, folder + "-packed", root)),
                "sequence": child(_job(shape, count, folder + "-sequence", root, sequence=True)),
                "processes": single | {"seconds": single["seconds"] * count},
            }
            for way, result in ways.items():
                seconds = result["seconds"]
                rows.append(
                    {
                        "size": size,
                        "params": params,
                        "runs": count,
                        "way": way,
                        "seconds": seconds,
                        "runs_per_hour": 3600 * count / seconds,
                        "peak_bytes": float(result["peak_bytes"]),
                        "over_sequence": ways["sequence"]["seconds"] / seconds,
                        "over_processes": ways["processes"]["seconds"] / seconds,
                    }
                )
    return rows


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


def _measure(parts: Sequence[str], sizes: Sequence[str], runs: Sequence[int], rounds: int, root: str) -> dict[str, Any]:
    """Measure the parts. Those in processes of their own come first: this one then takes all devices."""
    from experiments import prepare, train
    from experiments.benchmarks.families import bench_families
    from experiments.data.options import Data

    result: dict[str, Any] = {}
    if "start" in parts or "population" in parts:
        prepare.prepare(Data(), epath.Path(root))
    with tempfile.TemporaryDirectory() as scratch:
        if "start" in parts:
            result["start"] = bench_start(scratch, root, rounds)
        if "population" in parts:
            result["population"] = bench_population(scratch, root, sizes, runs)
    if "step" in parts or "families" in parts:
        train.set_up_devices(Execution(compile_cache=None))
    if "step" in parts:
        result["step"] = bench_steps(rounds)
    if "families" in parts:
        result["families"] = bench_families(rounds)
    return result


def main(_: list[str]) -> int:
    """Run the command line."""
    given = flags.FLAGS
    if given.job:
        print(json.dumps(do_job(json.loads(given.job))))
        return 0
    runs = _check_flags(given.parts, given.sizes, given.runs)
    result = _measure(given.parts, given.sizes, runs, given.rounds, os.path.abspath(given.data_root))
    console = Console(width=None if sys.stdout.isatty() else 120)
    for part, rows in result.items():
        console.print(_table(part, rows))
    if given.json:
        files.write_json(given.json, {"schema": 1, **result})
        console.print(f"written to {given.json}")
    return 0


if __name__ == "__main__":
    flags.DEFINE_list("parts", ["step", "start", "population"], f"which parts: {', '.join(PARTS)}")
    flags.DEFINE_list("sizes", ["small"], "run sizes of the population part: small (width 48), large (width 128)")
    flags.DEFINE_list("runs", ["1", "16"], "numbers of runs of the population part")
    cli.define_integer("rounds", 5, "rounds of the step, start and families parts", lower_bound=1)
    cli.define_path("data_root", "data", "where prepared corpora are")
    cli.define_path("json", None, "write the numbers here too")
    flags.DEFINE_string("job", None, "used by the benchmark itself: a job for a child process")
    cli.run(main)
