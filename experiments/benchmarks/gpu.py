"""Measure what one accelerator does, in a few minutes and whatever fails: the part "gpu" of experiments/benchmark.py.

Each line is measured in a process of its own, one after the other, so that none holds the memory that another one needs and
none ends the others. A line that is expected to pass the time that is left is skipped and says so. Without an accelerator
the same lines are measured on a CPU at toy sizes.

dense        two sizes in bfloat16 at two lengths, each with XLA's attention and with the fused kernel
moe          dropless, beside the dense model of equal active FLOPs; both ways to meet experts' matrices
matmul_free  beside the dense model of equal size
fp8          8-bit matmuls beside those of bfloat16
runs         small runs as one population (vmap), in sequence, and in a process each
start        from process start to the first step, without and with compiled programs in the cache

MFU is the ledger's FLOPs of a step over the device's peak in bfloat16; what a policy of recomputation adds does not count.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import pathlib
import sys
import time
from typing import Any

import numpy as np

from experiments.benchmarks import processes
from experiments.benchmarks.chips import chip_of
from models.errors import InputError, nearest

BUDGET_SECONDS = 480.0
MEMORY_SHARE = "0.92"  # of the device, that a process takes at its start
DOCUMENTS = 64  # of the corpus that the runs are trained on

Row = dict[str, Any]
Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured: models by name, sequence lengths, tokens of a step, and the small runs."""

    models: Mapping[str, Mapping[str, int]]
    lengths: tuple[int, int]
    batch_tokens: int
    runs: int  # of a population
    runs_in_sequence: int  # that stand for all of them
    small: Mapping[str, int]
    fp8_kernel: str
    line_seconds: float  # that a line is expected to take
    most_seconds: float  # after which a line is ended


FULL = Sizes(
    models={
        "0.3B": {"width": 1024, "depth": 20, "heads": 16, "vocab": 32_768},
        "1B": {"width": 2048, "depth": 18, "heads": 16, "vocab": 32_768},
    },
    lengths=(2048, 8192),
    batch_tokens=16_384,
    runs=64,
    runs_in_sequence=8,
    small=processes.SIZES["large"],
    fp8_kernel="real",
    line_seconds=25.0,
    most_seconds=90.0,
)
TOY = Sizes(
    models={
        "0.3B": {"width": 32, "depth": 1, "heads": 2, "vocab": 512},
        "1B": {"width": 64, "depth": 1, "heads": 2, "vocab": 512},
    },
    lengths=(32, 128),
    batch_tokens=256,
    runs=4,
    runs_in_sequence=2,
    small={"width": 16, "depth": 1, "heads": 1, "batch": 2, "seq_len": 32},
    fp8_kernel="simulated",
    line_seconds=10.0,
    most_seconds=300.0,
)


@dataclasses.dataclass(frozen=True)
class Line:
    """One measurement. `beside`: the line whose step it is compared with."""

    name: str
    job: dict[str, Any]
    beside: str | None = None


@dataclasses.dataclass
class Outcome:
    """What came of a line: its result, or why there is none."""

    line: Line
    status: str  # ok | failed | skipped
    seconds: float = 0.0
    note: str = ""
    result: Result = dataclasses.field(default_factory=dict)


# --- the lines


def _config(sizes: Sizes, size: str, length: int, family: str = "dense", **model: Any) -> dict[str, Any]:
    """Return the config of a program whose steps are timed."""
    options = dict(sizes.models[size]) | {"dtype": "bfloat16"} | model
    if family == "matmul_free":
        del options["heads"]
    return {
        "family": family,
        "model": options,
        "seq_len": length,
        "batch_tokens": sizes.batch_tokens,
        "tokens": 100 * sizes.batch_tokens,
    }


def _dense_name(size: str, length: int, kernel: str) -> str:
    return f"dense {size} {length:,} {kernel}"


def step_lines(sizes: Sizes, kernel: str, scratch: str) -> list[Line]:
    """Return the lines that time steps. `kernel`: of attention, for the models that are compared with one another."""
    execution = {"compile_cache": f"{scratch}/cache"}
    lines = []

    def add(name: str, beside: str | None, *where: Any, family: str = "dense", **model: Any) -> None:
        config = _config(sizes, *where, family=family, **model) | {"execution": execution}
        lines.append(Line(name, {"kind": "step", "config": config}, beside))

    short, long = sizes.lengths
    for length in (short, long):
        for size in sizes.models:
            fused = _dense_name(size, length, "fused")
            add(fused, None, size, length, attention_kernel="fused")
            # Scores of all layers would not fit: they are computed again.
            name = _dense_name(size, length, "xla")
            add(name, fused, size, length, attention_kernel="xla", remat="dots")
        if length == short:
            _add_families(add, sizes, kernel)
    return lines


def _add_families(add: Callable[..., None], sizes: Sizes, kernel: str) -> None:
    """Add what is compared with dense models at the shorter length."""
    small, large = sizes.models
    length = sizes.lengths[0]
    equal = _dense_name(small, length, kernel)
    same = {"attention_kernel": kernel} | ({"remat": "dots"} if kernel == "xla" else {})
    for way in ("blocks", "ragged"):
        add(f"moe {small} active, {way}", equal, small, length, family="moe", kernel=way, **same)
    add(f"matmul_free {small}", equal, small, length, family="matmul_free")
    fp8 = {"quant_act": "e4m3", "quant_weight": "e4m3", "quant_grad": "e5m2", "quant_saved": "e4m3"}
    fp8["quant_kernel"] = sizes.fp8_kernel
    name = f"fp8 {large} ({sizes.fp8_kernel})"
    add(name, _dense_name(large, length, kernel), large, length, **fp8, **same)


def run_lines(sizes: Sizes, scratch: pathlib.Path) -> list[Line]:
    """Return the lines that train small runs from process start to record; the first two also time the first step."""
    data = {"corpus": (str(_write_corpus(scratch / "text")),)}
    cache = str(scratch / "cache")
    root = str(scratch / "data")

    def job(name: str, count: int, packing: str, sequence: bool = False) -> dict[str, Any]:
        folder = str(scratch / name)
        made = processes.training(dict(sizes.small), count, folder, root, cache, sequence, data=data)
        for config in made["configs"]:
            config["execution"]["packing"] = packing
        return made

    return [
        Line("one run, cold", job("cold", 1, "auto")),
        Line("one run, warm", job("warm", 1, "auto")),
        Line(f"population of {sizes.runs}", job("population", sizes.runs, "vmap")),
        Line(f"sequence of {sizes.runs_in_sequence}", job("sequence", sizes.runs_in_sequence, "auto", True)),
    ]


def _write_corpus(folder: pathlib.Path) -> pathlib.Path:
    """Write a text of drawn words: what runs learn is of no interest here."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    words = ["".join(draw.choice(list("etaoinshr"), 5)) for _ in range(500)]
    for number in range(DOCUMENTS):
        text = " ".join(draw.choice(words, 8_000))
        (folder / f"{number}.txt").write_text(text)
    return folder


# --- measuring


class Clock:
    """The time that is left of a budget in seconds."""

    def __init__(self, budget: float):
        self._end = time.monotonic() + budget

    @property
    def left(self) -> float:
        """Return the seconds that are left."""
        return max(0.0, self._end - time.monotonic())


def measure(line: Line, sizes: Sizes, clock: Clock) -> Outcome:
    """Measure a line in a process of its own, if there is time for it."""
    left = clock.left
    expected = sizes.line_seconds
    if expected > left:
        return Outcome(line, "skipped", note=f"takes about {expected:.0f} s, and {left:.0f} s are left")
    start = time.monotonic()
    try:
        result = processes.child(line.job, min(left, sizes.most_seconds))
    except processes.Failed as failure:
        return Outcome(line, "failed", time.monotonic() - start, _shortened(str(failure)))
    return Outcome(line, "ok", time.monotonic() - start, result=result)


def _shortened(reason: str) -> str:
    """Return a reason without what a compiler says besides."""
    if "RESOURCE_EXHAUSTED" in reason:
        reason = "out of memory: " + reason.partition("RESOURCE_EXHAUSTED:")[2].strip()
    return reason[:160]


def chosen(lines: Sequence[Line], wanted: Sequence[str]) -> Sequence[Line]:
    """Return the lines in whose names one of some words stands; without words all. Raises InputError for a word in none."""
    if not wanted:
        return lines
    chosen: list[Line] = []
    names = [line.name for line in lines]
    for word in wanted:
        found = [line for line in lines if word in line.name]
        if not found:
            raise InputError(f"--gpu_lines={word}: no line is named so; {nearest(word, names, 'line')}")
        chosen += found
    return [line for line in lines if line in chosen]


def bench_gpu(scratch: str, wanted: Sequence[str] = (), budget: float = BUDGET_SECONDS) -> dict[str, list[Row]]:
    """Return tables by name: the device, steps, small runs, and what became of each line.

    `wanted`: measure only lines in whose names one of these stands; none: all.
    """
    clock = Clock(budget)
    os.environ.setdefault(
        "XLA_PYTHON_CLIENT_MEM_FRACTION", MEMORY_SHARE
    )  # for the processes: this one touches no device
    device = processes.child({"kind": "device"})
    on_cpu = device["platform"] == "cpu"
    sizes = TOY if on_cpu else FULL
    kernel = "xla" if on_cpu else "fused"
    lines = run_lines(sizes, pathlib.Path(scratch)) + step_lines(sizes, kernel, scratch)
    outcomes = []
    for line in chosen(lines, wanted):
        outcome = measure(line, sizes, clock)
        outcomes.append(outcome)
        print(f"{line.name}: {outcome.status}, {outcome.seconds:.0f} s {outcome.note}", file=sys.stderr)
    tables = {
        "gpu_device": [_device_row(device, sizes)],
        "gpu_steps": _step_rows(outcomes, device),
        "gpu_runs": _run_rows(outcomes, sizes),
        "gpu_start": _start_rows(outcomes),
        "gpu_lines": [_line_row(outcome) for outcome in outcomes],
    }
    return {name: rows for name, rows in tables.items() if rows}


# --- tables


def _device_row(device: Result, sizes: Sizes) -> Row:
    """Say what was measured on, and whether at toy sizes."""
    chip = chip_of(device["device"])
    return {
        "device": device["device"],
        "devices": device["devices"],
        "sizes": "toy" if sizes is TOY else "full",
        "peak_flops": chip.peak_flops if chip else None,
        "limit_bytes": device["limit_bytes"],
    }


def _step_rows(outcomes: list[Outcome], device: Result) -> list[Row]:
    """Return a row for each program whose steps were timed."""
    chip = chip_of(device["device"])
    timed = {}
    for outcome in outcomes:
        if "step_seconds" in outcome.result:
            timed[outcome.line.name] = outcome.result["step_seconds"]
    rows = []
    for outcome in outcomes:
        line = outcome.line
        result = outcome.result
        if line.name not in timed:
            continue
        seconds = timed[line.name]
        base = timed.get(line.beside)
        peak = seconds * chip.peak_flops if chip else None
        rows.append(
            {
                "program": line.name,
                "step_seconds": seconds,
                "tokens_per_second": result["batch_tokens"] / seconds,
                "mfu": result["flops_per_step"] / peak if peak else None,
                "mfu_causal": result["causal_flops_per_step"] / peak if peak else None,
                "beside": line.beside or "",
                "times_its_step": seconds / base if base else None,
                "plan_bytes": result["plan_bytes"],
                "held_bytes": result["held_bytes"],
                "compile_seconds": result["compile_seconds"],
            }
        )
    return rows


def _run_rows(outcomes: list[Outcome], sizes: Sizes) -> list[Row]:
    """Return runs an hour in each way of training them, for as many as a population has."""
    results = {outcome.line.name: outcome.result for outcome in outcomes if outcome.result}
    count = sizes.runs
    total = {}
    if packed := results.get(f"population of {count}"):
        total["population"] = packed["seconds"]
    if sequence := results.get(f"sequence of {sizes.runs_in_sequence}"):
        total["sequence"] = _seconds_in_sequence(sequence, count)
    if single := results.get("one run, warm"):
        total["processes"] = single["seconds"] * count
    rows = []
    for way, seconds in total.items():
        rows.append(
            {
                "way": way,
                "runs": count,
                "seconds": seconds,
                "runs_per_hour": 3600 * count / seconds,
                "over_sequence": _ratio(total.get("sequence"), seconds),
                "over_processes": _ratio(total.get("processes"), seconds),
            }
        )
    return rows


def _start_rows(outcomes: list[Outcome]) -> list[Row]:
    """Return the seconds from process start to a first step."""
    rows = []
    for outcome in outcomes:
        if outcome.line.name.startswith("one run") and outcome.result:
            seconds = processes.seconds_to_first_step(outcome.result)
            rows.append({"process": outcome.line.name, "first_step_seconds": seconds})
    return rows


def _seconds_in_sequence(result: Result, count: int) -> float:
    """Return what `count` runs in sequence take: the first with the start of the process, the others as the median of some."""
    ends = [at for event, at in result["events"] if event == "record"]
    each = float(np.median(np.diff(ends)))
    closing = result["seconds"] - ends[-1]
    return ends[0] + each * (count - 1) + closing


def _ratio(base: float | None, seconds: float) -> float | None:
    return None if base is None else base / seconds


def _line_row(outcome: Outcome) -> Row:
    """Say what became of a line."""
    return {
        "line": outcome.line.name,
        "status": outcome.status,
        "whole_seconds": outcome.seconds,
        "note": outcome.note,
    }
