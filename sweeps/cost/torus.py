"""Know over which links chips of a slice speak to each other: axes of a torus, some of which close to rings, and the data center.

Facts are those of experiments/benchmarks/chips.json. The axes of a slice are called x, y and z.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import itertools
from typing import Any

import numpy as np

from experiments.benchmarks.chips import Chip, chip_of

AXES = "xyz"


def closes(chip: Chip, topology: Sequence[int]) -> list[bool]:
    """Say which axes of a slice come back to where they began: those of a pod's length, or all in whole cubes."""
    if chip.torus_pod:
        return [size == chip.torus_pod for size in topology]
    if chip.torus_cube:
        return [all(size % chip.torus_cube == 0 for size in topology)] * len(topology)
    return [False] * len(topology)


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the devices of a program are, in the order of its partitions."""

    chips: np.ndarray  # [devices, 3]: along x, y and z of their slice
    slices: np.ndarray  # [devices]
    rings: Sequence[bool]  # of x, y and z: whether the axis closes

    @classmethod
    def of(cls, given: Iterable[Any]) -> "Places":
        """Return the places of the devices of TPU slices."""
        devices = list(given)
        chips = np.array([(*device.coords, 0, 0)[:3] for device in devices])
        slices = np.array([getattr(device, "slice_index", None) or 0 for device in devices])
        chip = chip_of(devices[0].device_kind)
        topology = [int(size) for size in chips.max(axis=0) + 1]
        return cls(chips, slices, closes(chip, topology) if chip else [False] * len(topology))

    def span(self, groups: np.ndarray) -> "Span":
        """Return what the groups [groups, members] of a collective reach over."""
        chips = self.chips[groups]
        slices = self.slices[groups]
        differs = (chips != chips[:, :1]).any(axis=(0, 1))
        extent = self.chips.max(axis=0) + 1
        axes = "".join(name for name, differ in zip(AXES, differs, strict=True) if differ)
        links = 0.0  # two of each axis that closes, as the time of the network has them, else one
        links_used = 0.0
        for axis in map(int, np.flatnonzero(differs)):
            is_whole = len(np.unique(chips[0, :, axis])) == extent[axis]
            links += 2 if self.rings[axis] else 1
            links_used += 2 if self.rings[axis] and is_whole else 1
        crossed = max(len(np.unique(row)) for row in slices)
        return Span(axes, slowdown=links / links_used if links_used else 1.0, slices=crossed)


@dataclasses.dataclass(frozen=True)
class Span:
    """What a collective reaches over: axes of a slice, and how many slices.

    `slowdown`: the links of these axes over those that it can use, where it takes up a part of a ring only and cannot go
    round.
    """

    axes: str
    slowdown: float
    slices: int


def ici_seconds(sent: Mapping[str, float], chip: Chip, topology: Sequence[int]) -> float:
    """Return the least seconds in which a chip can send the bytes `sent` by the axes that they may go over.

    Each axis has links of its own, which work at the same time; bytes that may go over several are shared as is best. For
    every set of axes, what may go over no other has to go through their links: the largest such quotient is the time (the
    cut theorem for fractional assignment). An axis that closes to a ring sends both ways round; the chip at the end of one
    that does not has one link.
    """
    speeds = {}
    for name, ring in zip(AXES, closes(chip, topology), strict=False):
        speeds[name] = chip.ici_bytes_per_second * (1.0 if ring else 0.5)
    longest = 0.0
    for count in range(1, len(speeds) + 1):
        for axes in itertools.combinations(speeds, count):
            only_there = sum(count for over, count in sent.items() if set(over) <= set(axes))
            longest = max(longest, only_there / sum(speeds[axis] for axis in axes))
    return longest
