"""Bound the time of a step from below by what its compiled program does.

A program is bound by the slowest of four: its matmuls at the chip's peak, its traffic with HBM, what it sends over the
links of one torus axis, and what it keeps in the host's memory (a copy of it each way), all overlapping perfectly. A real
step is slower, never faster.
"""

import dataclasses

from experiments.benchmarks.chips import Chip
from sweeps.cost.compiler import Compiled
from sweeps.cost.machines import Target

BOUNDS = ("compute", "memory", "network", "host")


@dataclasses.dataclass(frozen=True)
class Bound:
    """Seconds of a step that each of BOUNDS takes by itself."""

    compute: float
    memory: float
    network: float
    host: float = 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds of a step at best."""
        return max(self.compute, self.memory, self.network, self.host)

    @property
    def by(self) -> str:
        """Name the one of BOUNDS that takes longest."""
        return max(BOUNDS, key=lambda name: getattr(self, name))


def bound_step(program: Compiled, chip: Chip, devices_per_chip: int = 1) -> Bound:
    """Bound one step of a compiled program that fits."""
    flops = program.flops or 0.0
    hbm_bytes = program.hbm_bytes or 0.0
    sent_bytes = sum(program.collective_bytes.values())
    host_bytes_per_second = chip.host_bytes_per_second or float("inf")
    return Bound(
        compute=flops * devices_per_chip / chip.peak_flops,
        memory=hbm_bytes * devices_per_chip / chip.hbm_bytes_per_second,
        network=sent_bytes * devices_per_chip / chip.ici_bytes_per_second,
        host=program.host_bytes * devices_per_chip / host_bytes_per_second,
    )


def mfu(flops: float, seconds: float, chip: Chip, target: Target) -> float:
    """Return the ledger's FLOPs of a program's step over what all chips could do in that time."""
    return flops / (seconds * chip.peak_flops * target.chips)
