"""How far the runs of a workdir are, how fast, at what share of the chips' peak, and what is left in time and money.

Everything is computed from what lies in the workdir: metrics, records, machine.json (what a run's worker ran on) and,
for the price, plan.json. What is not known is None: no peak is made up for a chip that sweeps/cost/chips.json does not have.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import json
import re
from typing import Any

from experiments import files
from experiments.cli import InputError
from experiments.run import schema, stored
from experiments.store.record import ledger
from sweeps.cost import plan_file
from sweeps.cost.machines import load_chips
from sweeps.work import curves, stopping
from sweeps.work.workdir import State, Workdir

LEVEL = 0.9
# What jax calls a device (jax.Device.device_kind) -> the row of sweeps/cost/chips.json.
_KINDS = (
    (r"TPU v4$", "v4"),
    (r"TPU (v5 lite|v5e)", "v5e"),
    (r"TPU v5p?$", "v5p"),
    (r"TPU (v6 lite|v6e)", "v6e"),
    (r"TPU ?(v7|7x)", "tpu7x"),
    (r"H100", "h100"),
)


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


def peak_flops(device_kind: str | None) -> float | None:
    """Dense bfloat16 FLOP/s of one device, where it is known."""
    name = next((name for pattern, name in _KINDS if device_kind and re.search(pattern, device_kind)), None)
    chip = load_chips().get(name or "")
    return chip.peak_flops if chip else None


def _machine(store: Workdir, fingerprint: str) -> Mapping[str, Any]:
    try:
        value = files.read_json(store.run_dir(fingerprint) / "machine.json")
    except (OSError, ValueError):
        return {}
    if not isinstance(value, dict) or not isinstance(value.get("device"), str):
        return {}
    return value if type(value.get("devices")) is int and value["devices"] > 0 else {}


def _number(row: Mapping[str, Any], name: str) -> float:
    """What a log says, where that can be: 0 for anything else."""
    value = row.get(name)
    return value if isinstance(value, int | float) and 0 <= value < 1e18 else 0


@functools.lru_cache(maxsize=100_000)
def _counted(text: str) -> tuple[schema.Run, dict[str, Any]] | None:
    """A run of study.json and its ledger, once however often the table is shown."""
    try:
        run = stored.read_checked(json.loads(text))
        return run, ledger(run)
    except (InputError, ArithmeticError):
        return None


def of_run(store: Workdir, fingerprint: str, point: Mapping[str, Any], state: State) -> Progress | None:
    """The progress of one run; None for a run that this version cannot read."""
    known = _counted(json.dumps(point["run"], sort_keys=True))
    if known is None:
        return None
    run, counts = known
    machine = _machine(store, fingerprint)
    devices = machine.get("devices")
    rows = files.read_lines(store.run_dir(fingerprint) / "metrics.jsonl") if state.status != "complete" else []
    last = next((row for row in reversed(rows) if "loss" in row), {})
    if state.record:
        columns = state.record["columns"]
        step, seconds = _number(columns, "steps_done"), _number(columns, "wall_seconds")
    else:
        step, seconds = _number(last, "step"), _number(last, "seconds")
    speed = _number(last, "tokens_per_second") if state.status == "running" else None
    rate = speed * counts["flops_per_token"] if speed else None
    peak = peak_flops(machine.get("device"))
    forecast = None
    if state.status == "running" and step >= stopping.SHARE * run.steps:
        curve = stopping.read(store, fingerprint)
        forecast = curves.forecast(curve.steps, curve.losses, run.steps, LEVEL)
    total = counts["flops_total"]
    return Progress(
        step=int(step),
        steps=run.steps,
        flops=total,
        flops_done=total if state.record else total * step / run.steps,
        tokens_per_second=speed,
        flops_per_second=rate,
        mfu=rate / (peak * devices) if rate and peak and devices else None,
        chip_seconds=seconds * (devices or 1),
        devices=devices,
        device=machine.get("device"),
        forecast=forecast,
    )


def totals(store: Workdir, found: Sequence[Progress]) -> dict[str, Any]:
    """Sums over the runs of a study: share done, speed, time left, chip-hours and price, spent and remaining."""
    flops, done = sum(p.flops for p in found), sum(p.flops_done for p in found)
    rate = sum(p.flops_per_second or 0.0 for p in found)
    spent = sum(p.chip_seconds for p in found) / 3600
    trained = sum(p.flops_done for p in found if p.chip_seconds)
    out = {
        "flops": flops,
        "flops_done": done,
        "tokens_per_second": sum(p.tokens_per_second or 0.0 for p in found) or None,
        "seconds_left": (flops - done) / rate if rate else None,
        "chip_hours_spent": spent,
        "chip_hours_left": spent * (flops - done) / trained if trained else None,
        "price_usd_spent": None,
        "price_usd_left": None,
    }
    price, hours = _planned(store)
    if out["chip_hours_left"] is None:
        out["chip_hours_left"] = hours
    if price is not None:
        out["price_usd_spent"] = price * spent
        out["price_usd_left"] = None if out["chip_hours_left"] is None else price * out["chip_hours_left"]
    return out


def _planned(store: Workdir) -> tuple[float | None, float | None]:
    """Price of a chip-hour and chip-hours of the whole study, where the plan in the workdir states them."""
    try:
        plan = plan_file.read(store.root)
        stated = plan["totals"] if plan else {}
        price, hours = _number(stated, "price_usd") or None, _number(stated, "chip_hours") or None
    except (InputError, KeyError, AttributeError):
        return None, None
    return (price / hours if price and hours else None), hours
