"""Share devices among the trials of a population: which trial trains where, and how many steps it takes at a time.

Numbers of trials and steps only; what runs on the devices is for slots.py and program.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.chips import chip_of
from experiments.run.schema import Execution, Run
from experiments.store.record import ledger

DISPATCH_SECONDS = 0.25  # of work, so that the host is idle and still answers
MOST_STEPS = 64  # of a dispatch, however small the model
CHECKPOINT_SECONDS = 120.0  # of work between two checkpoints
# FLOP/s of one device while it trains: this share of a chip's peak where that is known, and else about so many.
UTILIZATION = 0.4
_FLOPS_PER_SECOND = {"cpu": 4.8e10}
_FLOPS_PER_SECOND_OF_OTHERS = 8e13


def assign(remaining: Sequence[int], devices: int) -> list[list[int]]:
    """Return the trials of each device: longest first onto the least loaded, so that all devices finish together.

    `remaining`: steps of each trial. Of equally loaded devices the one with fewer trials is taken.
    """
    assigned: list[list[int]] = [[] for _ in range(devices)]
    load = [0] * devices
    longest_first = sorted(range(len(remaining)), key=lambda trial: -remaining[trial])
    for trial in longest_first:
        device = min(range(devices), key=lambda d: (load[d], len(assigned[d])))
        assigned[device].append(trial)
        load[device] += remaining[trial]
    return assigned


def choose_packing(execution: Execution, backend: str) -> str:
    """Return "map" or "vmap": the execution's, or where it leaves that open what is fastest on the device."""
    if execution.packing != "auto":
        return execution.packing
    # One trial's state cannot be picked out of the host's memory, which "map" would have to do.
    return "map" if backend == "cpu" and execution.offload == "none" else "vmap"


def flops_per_second(device: Any) -> float:
    """Return about how much one device computes while it trains."""
    chip = chip_of(device.device_kind)
    if chip is not None:
        return UTILIZATION * chip.peak_flops
    return _FLOPS_PER_SECOND.get(device.platform, _FLOPS_PER_SECOND_OF_OTHERS)


def steps_per_dispatch(run: Run, execution: Execution, device: Any, share: float) -> int:
    """Return the most steps that one call of the train function takes: the execution's, or about a quarter of a second.

    `share`: of a step that one device has to do: less than 1 where devices share it, more where it takes several trials'.
    """
    if execution.steps_per_dispatch:
        return execution.steps_per_dispatch
    flops_per_step = ledger(run)["flops_per_token"] * run.batch_tokens
    flops = DISPATCH_SECONDS * flops_per_second(device)
    return int(np.clip(flops / (flops_per_step * share), 1, MOST_STEPS))


def checkpoint_tokens(runs: Sequence[Run], execution: Execution, device: Any, devices: int) -> int:
    """Return the tokens of a run between two checkpoints: the execution's, or those of about two minutes' work.

    That is work as it is expected of the kind of device, of which each run has its share. The clock is not asked, so that
    the same machine saves at the same steps every time.
    """
    if execution.checkpoint_every_tokens:
        return execution.checkpoint_every_tokens
    run = runs[0]
    per_dispatch = steps_per_dispatch(run, execution, device, share=1.0)
    flops_per_step = ledger(run)["flops_per_token"] * run.batch_tokens
    flops_of_all = CHECKPOINT_SECONDS * flops_per_second(device) * devices
    flops = flops_of_all / len(runs)
    dispatches = max(1, int(flops / flops_per_step / per_dispatch))
    return dispatches * per_dispatch * run.batch_tokens


def next_steps(remaining: Sequence[int], capacity: int, slots_per_device: int, packing: str) -> np.ndarray:
    """Return the steps of each slot in the next dispatch, of which no device takes more than `capacity`.

    remaining: the most that each slot may take. Packed by map, a device works on its first unfinished slot until it is
    done (its state stays in cache, and results come one by one); packed by vmap, all slots go on together.
    """
    steps = np.minimum(np.asarray(remaining, np.int32), capacity)
    if packing == "vmap":
        return steps
    for first in range(0, len(steps), slots_per_device):
        device = slice(first, first + slots_per_device)
        wanted = steps[device]
        taken_before = np.concatenate([[0], np.cumsum(wanted)[:-1]])
        steps[device] = np.clip(capacity - taken_before, 0, wanted)
    return steps
