"""How far the runs of a workdir are, how fast, at what share of the chips' peak, and what is left in time and money.

Everything is computed from what lies in the workdir: metrics, records, machine.json (what a run's worker ran on) and,
for the price, plan.json. What is not known is None: no peak is made up for a chip that experiments/benchmarks/chips.json does not have.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import json
from typing import Any

from experiments import files
from experiments.benchmarks.chips import chip_of
from experiments.run import schema, stored
from experiments.store.record import ledger
from models.errors import InputError
from sweeps.cost import plan_file
from sweeps.work import curves, stopping
from sweeps.work.workdir import State, Workdir

FORECAST_LEVEL = 0.9  # of the interval of a forecast
LARGEST = 1e18  # of a number in a log that means anything
SECONDS_PER_HOUR = 3600


@dataclasses.dataclass(frozen=True)
class Progress:
    """One run. FLOPs are the ledger's training FLOPs; `chip_seconds` is its share of its worker's devices."""

    step: int
    steps: int
    flops: float
    flops_done: float
    tokens_per_second: float | None  # while it is running
    flops_per_second: float | None
    mfu: float | None
    chip_seconds: float
    devices: int | None
    device: str | None
    forecast: curves.Forecast | None


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over the runs of a study. A price is known where the plan in the workdir states one."""

    flops: float
    flops_done: float
    tokens_per_second: float | None
    seconds_left: float | None
    chip_hours_spent: float
    chip_hours_left: float | None
    price_usd_spent: float | None
    price_usd_left: float | None


@dataclasses.dataclass(frozen=True)
class _Machine:
    """What a run's worker runs on, by its machine.json; None where that does not say."""

    device: str | None = None
    devices: int | None = None


@dataclasses.dataclass(frozen=True)
class _LogEnd:
    """Where a run stands by its newest numbers; 0 for what is not known."""

    step: float = 0
    seconds: float = 0
    tokens_per_second: float = 0


def peak_flops(device_kind: str | None) -> float | None:
    """Return the dense bfloat16 FLOP/s of one device, where it is known."""
    chip = chip_of(device_kind)
    return chip.peak_flops if chip else None


def _read_machine(workdir: Workdir, fingerprint: str) -> _Machine:
    """Return what the worker of a run has written about its devices."""
    try:
        value = files.read_json(workdir.run_dir(fingerprint) / "machine.json")
    except (OSError, ValueError):
        return _Machine()
    if not isinstance(value, dict):
        return _Machine()
    device = value.get("device")
    devices = value.get("devices")
    if isinstance(device, str) and type(devices) is int and devices > 0:
        return _Machine(device, devices)
    return _Machine()


def _number(row: Mapping[str, Any], name: str) -> float:
    """Return what a log says, where that can be: 0 for anything else."""
    value = row.get(name)
    return value if isinstance(value, int | float) and 0 <= value < LARGEST else 0


@functools.lru_cache(maxsize=100_000)
def _read_run(text: str) -> tuple[schema.Run, dict[str, Any]] | None:
    """Return a run of study.json and its ledger, computed once however often the table is shown."""
    try:
        run = stored.read_checked(json.loads(text))
        return run, ledger(run)
    except (InputError, ArithmeticError):
        return None


def _log_end(workdir: Workdir, fingerprint: str, state: State) -> _LogEnd:
    """Return the newest numbers of a run: from its metrics log, or its record once it has one."""
    last: Mapping[str, Any] = {}
    if state.status != "complete":
        for row in files.read_lines(workdir.run_dir(fingerprint) / "metrics.jsonl"):
            if "loss" in row:
                last = row
    speed = _number(last, "tokens_per_second")
    if state.record:
        columns = state.record["columns"]
        return _LogEnd(_number(columns, "steps_done"), _number(columns, "wall_seconds"), speed)
    return _LogEnd(_number(last, "step"), _number(last, "seconds"), speed)


def of_run(workdir: Workdir, fingerprint: str, point: Mapping[str, Any], state: State) -> Progress | None:
    """Return the progress of one run, whose `point` study.json has; None for a run that this version cannot read."""
    known = _read_run(json.dumps(point["run"], sort_keys=True))
    if known is None:
        return None
    run, costs = known
    machine = _read_machine(workdir, fingerprint)
    end = _log_end(workdir, fingerprint, state)
    running = state.status == "running"

    speed = end.tokens_per_second if running else None
    flops_per_second = speed * costs["flops_per_token"] if speed else None
    peak = peak_flops(machine.device)
    mfu = None
    if flops_per_second and peak and machine.devices:
        mfu = flops_per_second / (peak * machine.devices)
    forecast = None
    if running and end.step >= stopping.SHARE * run.steps:
        curve = workdir.curve(fingerprint)
        forecast = curves.forecast(curve, run.steps, FORECAST_LEVEL)
    flops = costs["flops_total"]
    return Progress(
        step=int(end.step),
        steps=run.steps,
        flops=flops,
        flops_done=flops if state.record else flops * end.step / run.steps,
        tokens_per_second=speed,
        flops_per_second=flops_per_second,
        mfu=mfu,
        chip_seconds=end.seconds * (machine.devices or 1),
        devices=machine.devices,
        device=machine.device,
        forecast=forecast,
    )


def totals(workdir: Workdir, found: Sequence[Progress]) -> Totals:
    """Sum over the runs of a study: share done, speed, time left, chip-hours and price, spent and remaining."""
    flops = sum(one.flops for one in found)
    flops_done = sum(one.flops_done for one in found)
    flops_left = flops - flops_done
    flops_timed = sum(one.flops_done for one in found if one.chip_seconds)  # of which we know how long they took
    flops_per_second = sum(one.flops_per_second or 0.0 for one in found)
    tokens_per_second = sum(one.tokens_per_second or 0.0 for one in found)
    hours_spent = sum(one.chip_seconds for one in found) / SECONDS_PER_HOUR

    price_per_hour, hours_planned = _planned(workdir)
    hours_left = hours_spent * flops_left / flops_timed if flops_timed else hours_planned
    price_spent = None
    price_left = None
    if price_per_hour is not None:
        price_spent = price_per_hour * hours_spent
        price_left = None if hours_left is None else price_per_hour * hours_left
    return Totals(
        flops=flops,
        flops_done=flops_done,
        tokens_per_second=tokens_per_second or None,
        seconds_left=flops_left / flops_per_second if flops_per_second else None,
        chip_hours_spent=hours_spent,
        chip_hours_left=hours_left,
        price_usd_spent=price_spent,
        price_usd_left=price_left,
    )


def _planned(workdir: Workdir) -> tuple[float | None, float | None]:
    """Return the price of a chip-hour and the chip-hours of the whole study, where the plan in the workdir states them."""
    try:
        plan = plan_file.read(workdir.root)
        stated = plan["totals"] if plan else {}
        price = _number(stated, "price_usd")
        hours = _number(stated, "chip_hours")
    except (InputError, KeyError, AttributeError):
        return None, None
    if not hours:
        return None, None
    return (price / hours if price else None), hours
