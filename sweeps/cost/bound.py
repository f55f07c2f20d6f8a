"""Bound the time of a step from below by what its program does."""

import dataclasses

from sweeps.cost.compiler import Compiled
from sweeps.cost.machines import Chip

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
        """At best."""
        return max(self.compute, self.memory, self.network, self.host)

    @property
    def by(self) -> str:
        """What binds."""
        return max(BOUNDS, key=lambda name: getattr(self, name))


def bound(program: Compiled, chip: Chip, devices_per_chip: int = 1) -> Bound:
    """Of one step of a compiled program that fits."""
    return Bound(
        (program.flops or 0.0) * devices_per_chip / chip.peak_flops,
        (program.hbm_bytes or 0.0) * devices_per_chip / chip.hbm_bytes_per_second,
        sum(program.collective_bytes.values()) * devices_per_chip / chip.ici_bytes_per_second,
        program.host_bytes * devices_per_chip / (chip.host_bytes_per_second or float("inf")),
    )
