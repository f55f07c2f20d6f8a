"""Measure whole processes: from their start to the first step, and runs an hour in three ways: parts of experiments/benchmark.py."""

from collections.abc import Sequence
import json
import resource
import subprocess
import sys
import time
from typing import Any

from etils import epath
import numpy as np

SIZES = {
    "tiny": {"width": 24, "depth": 2, "heads": 2, "batch": 8, "seq_len": 64},
    "small": {"width": 48, "depth": 3, "heads": 3, "batch": 8, "seq_len": 128},
    "large": {"width": 128, "depth": 4, "heads": 4, "batch": 8, "seq_len": 128},
}
STEPS = 100


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


class Failed(Exception):
    """A process did not give its result; says why in one line."""


def child(job: dict[str, Any], limit: float | None = None) -> dict[str, Any]:
    """Do a job in a fresh process, in at most `limit` seconds.

    Returns its wall seconds, its peak memory in bytes, and the events with their seconds since the start. Raises Failed.
    """
    start = time.time()
    command = [sys.executable, "-m", "experiments.benchmark", f"--job={json.dumps(job)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise Failed(f"ended after {limit:.0f} s, its limit") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        raise Failed(said[-1].removeprefix("error: "))
    result = json.loads(done.stdout.splitlines()[-1])
    result["seconds"] = time.time() - start
    result["events"] = [(event, at - start) for event, at in result.get("events", [])]
    return result


def do_job(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job in this process: train its runs, in one population or one after the other, or what its kind says."""
    from experiments.benchmarks import gpu_jobs

    kind = job.get("kind", "train")
    if kind == "device":
        return gpu_jobs.describe_device()
    if kind == "step":
        return gpu_jobs.time_steps(job["config"])
    return _train(job)


def _train(job: dict[str, Any]) -> dict[str, Any]:
    """Train the runs of a job in this process, in one population or one after the other."""
    from experiments import train
    from experiments.benchmarks import gpu_jobs
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
    return {"events": events, "peak_bytes": peak, "held_bytes": gpu_jobs.held_bytes()}


def training(
    shape: dict[str, int],
    count: int,
    folder: str,
    root: str,
    cache: str | None = None,
    sequence: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Describe the training of so many runs that differ in their seed, as a job. `options`: of their config."""
    execution = {"data_root": root, "compile_cache": cache, "steps_per_dispatch": None}
    seeds = range(count)
    configs = [config_of(shape, seed=seed, execution=execution, **options) for seed in seeds]
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
    return seconds_to_first_step(child(training(SIZES["small"], 1, folder, root, cache)))


def seconds_to_first_step(result: dict[str, Any]) -> float:
    """Return the seconds from a process's start to the end of its first dispatch."""
    return next(at for event, at in result["events"] if event == "progress")


def bench_population(scratch: str, root: str, sizes: Sequence[str], runs: Sequence[int]) -> list[dict[str, Any]]:
    """Measure runs per hour in the three ways of training them."""
    from experiments.run.freeze import freeze
    from experiments.store import record

    rows = []
    for size in sizes:
        shape = SIZES[size]
        params = record.ledger(freeze(config_of(shape))[0])["params_total"]
        single = child(training(shape, 1, f"{scratch}/{size}-process", root))
        for count in runs:
            folder = f"{scratch}/{size}-{count}"
            ways = {
                "population": child(training(shape, count, folder + "-packed", root)),
                "sequence": child(training(shape, count, folder + "-sequence", root, sequence=True)),
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
