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
from experiments.benchmarks.chips import chip_name, chip_of
from experiments.run import schema, stored
from experiments.store import segments
from experiments.store.record import ledger
from models.errors import InputError
from sweeps.cost import machines, plan_file
from sweeps.work import curves, rivals
from sweeps.work.workdir import State, Workdir

FORECAST_LEVEL = 0.9  # of the interval of a forecast
LARGEST = 1e18  # of a number in a log that means anything
SECONDS_PER_HOUR = 3600


@dataclasses.dataclass(frozen=True)
class Progress:
    """One run. FLOPs are the ledger's training FLOPs; `chip_seconds` is its share of its worker's chips.

    `flops_left`: what a launch would train of it; nothing of a run with a record, whatever came of it.
    """

    step: int
    steps: int
    flops: float
    flops_done: float
    flops_left: float
    running: bool
    tokens_per_second: float | None  # the newest of a run that is running; else the mean over its wall time
    flops_per_second: float | None  # while it is running
    mfu: float | None  # while it is running
    chip_seconds: float  # of a CPU: seconds of cores
    devices: int | None
    device: str | None
    chip: str | None  # the device's row in the table of chips
    forecast: curves.Forecast | None


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over the runs of a study. A price is known of hours on the chips that the workdir's plan states one for."""

    flops: float
    flops_done: float
    flops_left: float
    tokens_per_second: float | None  # of the runs that are running
    seconds_left: float | None
    chip_hours_spent: float
    chip_hours_left: float | None
    price_usd_spent: float | None
    price_usd_left: float | None


@dataclasses.dataclass(frozen=True)
class _Planned:
    """What the plan in the workdir states: the price of a chip-hour, the chip, and the chip-hours of the whole study."""

    price_per_hour: float | None = None
    chip: str | None = None
    hours: float | None = None


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
    """Return the newest numbers of a run: from its metrics log, or its record once it has one that tells them."""
    columns = state.record["columns"] if state.record else {}
    step = _number(columns, "steps_done")
    seconds = _number(columns, "wall_seconds")
    if step:
        return _LogEnd(step, seconds)
    last: Mapping[str, Any] = {}
    for row in segments.read(workdir.run_dir(fingerprint)):
        if "loss" in row:
            last = row
    return _LogEnd(_number(last, "step"), _number(last, "seconds"), _number(last, "tokens_per_second"))


def of_run(workdir: Workdir, fingerprint: str, point: Mapping[str, Any], state: State) -> Progress | None:
    """Return the progress of one run, whose `point` study.json has; None for a run that this version cannot read."""
    known = _read_run(json.dumps(point["run"], sort_keys=True))
    if known is None:
        return None
    run, costs = known
    machine = _read_machine(workdir, fingerprint)
    end = _log_end(workdir, fingerprint, state)
    running = state.status == "running"
    chip = chip_of(machine.device)
    devices_per_chip = chip.devices if chip else 1
    chips = (machine.devices or 1) / devices_per_chip

    speed = end.tokens_per_second if running else _mean_speed(run, end)
    flops_per_second = speed * costs["flops_per_token"] if running and speed else None
    mfu = None
    if flops_per_second and chip and machine.devices:
        mfu = flops_per_second / (chip.peak_flops * chips)
    forecast = None
    if running and end.step >= rivals.SHARE * run.steps:
        curve = workdir.curve(fingerprint)
        forecast = curves.forecast(curve, run.steps, FORECAST_LEVEL)
    flops = costs["flops_total"]
    whole = state.status == "complete" and not state.censored
    steps = max(1, run.steps)  # one that evaluates its parent takes none
    flops_done = flops if whole else flops * min(1.0, end.step / steps)
    return Progress(
        step=int(end.step),
        steps=run.steps,
        flops=flops,
        flops_done=flops_done,
        flops_left=0.0 if state.record else flops - flops_done,
        running=running,
        tokens_per_second=speed or None,
        flops_per_second=flops_per_second,
        mfu=mfu,
        chip_seconds=end.seconds * chips,
        devices=machine.devices,
        device=machine.device,
        chip=chip_name(machine.device),
        forecast=forecast,
    )


def _mean_speed(run: schema.Run, end: _LogEnd) -> float | None:
    """Return the tokens that a run has trained on for each second of its wall time."""
    return end.step * run.batch_tokens / end.seconds if end.seconds else None


def totals(workdir: Workdir, found: Sequence[Progress]) -> Totals:
    """Sum over the runs of a study: share done, speed, time left, chip-hours and price, spent and remaining."""
    flops_left = sum(one.flops_left for one in found)
    flops_per_second = sum(one.flops_per_second or 0.0 for one in found)
    tokens_per_second = sum(one.tokens_per_second or 0.0 for one in found if one.running)
    planned = _planned(workdir)
    hours_spent, hours_left = _hours(found, flops_left)
    if not hours_spent:
        hours_left = _planned_hours_left(planned, found, flops_left)
    price_spent, price_left = _price(planned, found, flops_left, hours_left)
    return Totals(
        flops=sum(one.flops for one in found),
        flops_done=sum(one.flops_done for one in found),
        flops_left=flops_left,
        tokens_per_second=tokens_per_second or None,
        seconds_left=flops_left / flops_per_second if flops_per_second else None,
        chip_hours_spent=hours_spent,
        chip_hours_left=hours_left,
        price_usd_spent=price_spent,
        price_usd_left=price_left,
    )


def _hours(found: Sequence[Progress], flops_left: float) -> tuple[float, float | None]:
    """Return the chip-hours that runs have taken, and those that `flops_left` will take at the same pace."""
    hours_spent = sum(one.chip_seconds for one in found) / SECONDS_PER_HOUR
    flops_timed = sum(one.flops_done for one in found if one.chip_seconds)  # of which we know how long they took
    return hours_spent, hours_spent * flops_left / flops_timed if flops_timed else None


def _planned_hours_left(planned: _Planned, found: Sequence[Progress], flops_left: float) -> float | None:
    """Return the share that is left of the hours that the plan states, for a study of which nothing was trained yet."""
    flops = sum(one.flops for one in found)
    return None if planned.hours is None or not flops else planned.hours * flops_left / flops


def _price(
    planned: _Planned, found: Sequence[Progress], flops_left: float, hours_left: float | None
) -> tuple[float | None, float | None]:
    """Return what was paid for the chips that the plan states a price for, and what is to come.

    None where all that was trained was trained on other devices, whose hours have no price here.
    """
    price = planned.price_per_hour
    if price is None:
        return None, None
    paid = [one for one in found if one.chip == planned.chip]
    hours_paid, hours_left_paid = _hours(paid, flops_left)
    if hours_paid:
        return price * hours_paid, None if hours_left_paid is None else price * hours_left_paid
    if any(one.chip_seconds for one in found):
        return None, None
    return 0.0, None if hours_left is None else price * hours_left


def _planned(workdir: Workdir) -> _Planned:
    """Return what the plan in the workdir states of hours and price; nothing for one that cannot be read."""
    try:
        plan = plan_file.read(workdir.root)
        if plan is None:
            return _Planned()
        price = _number(plan["totals"], "price_usd")
        hours = _number(plan["totals"], "chip_hours")
    except (InputError, KeyError, AttributeError, TypeError):
        return _Planned()
    if not hours:
        return _Planned()
    chip = machines.target(plan["target"]).chip
    return _Planned(price / hours if price and chip else None, chip, hours)
