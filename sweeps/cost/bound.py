"""Bound the time of a step from below by what its compiled program does.

A program is bound by the slowest of five: its matmuls at the chip's peak, its traffic with HBM, what it sends over the
links of each torus axis, which work at the same time (sweeps/cost/torus.py), what it sends to other slices through the data
center's network, and what it keeps in the host's memory (a copy of it each way), all overlapping perfectly. A real step is
slower, never faster.
"""

import dataclasses

from experiments.benchmarks.chips import Chip
from sweeps.cost.compiler import Compiled
from sweeps.cost.machines import Target
from sweeps.cost.torus import ici_seconds

BOUNDS = ("compute", "memory", "network", "slices", "host")


@dataclasses.dataclass(frozen=True)
class Bound:
    """Seconds of a step that each of BOUNDS takes by itself."""

    compute: float
    memory: float
    network: float
    host: float = 0.0
    slices: float = 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds of a step at best."""
        return max(getattr(self, name) for name in BOUNDS)

    @property
    def by(self) -> str:
        """Name the one of BOUNDS that takes longest."""
        return max(BOUNDS, key=lambda name: getattr(self, name))


def bound_step(program: Compiled, chip: Chip, target: Target) -> Bound:
    """Bound one step of a compiled program that fits, on a TPU slice or several."""
    assert target.topology, "programs are compiled for slices"
    devices = target.devices_per_chip
    flops = program.flops or 0.0
    hbm_bytes = program.hbm_bytes or 0.0
    sent = {axes: devices * count for axes, count in program.ici_bytes.items()}
    host_bytes_per_second = chip.host_bytes_per_second or float("inf")
    dcn_bytes_per_second = chip.dcn_bytes_per_second or float("inf")
    return Bound(
        compute=flops * devices / chip.peak_flops,
        memory=hbm_bytes * devices / chip.hbm_bytes_per_second,
        network=ici_seconds(sent, chip, [int(size) for size in target.topology.split("x")]),
        host=program.host_bytes * devices / host_bytes_per_second,
        slices=program.dcn_bytes * devices / dcn_bytes_per_second,
    )


def mfu(flops: float, seconds: float, chip: Chip, target: Target) -> float:
    """Return the ledger's FLOPs of a program's step over what all chips could do in that time."""
    return flops / (seconds * chip.peak_flops * target.chips)
