"""Know machines to plan for by their names. What their chips can do and cost: experiments/benchmarks/chips.py.

    cpu                 this machine
    v5e-16, v5p-128     a TPU slice by its accelerator type. As Google Cloud has it, the number counts chips for v5e and v6e, but
                        TensorCores, of which a chip has two, for v4, v5p and tpu7x: v5p-128 is 64 chips, tpu7x-16 is 8
    v5litepod-16        the same as v5e-16
    v5p:4x4x4           a TPU slice by its topology in chips: any that libtpu knows
    v5e-256x4           so many such slices, which the data center's network joins (Multislice)
    h100-8, a100-pcie-2 NVIDIA GPUs of this machine

Nothing here starts jax.
"""

import dataclasses
import math
import re

from experiments.benchmarks.chips import load_chips
from experiments.cli import InputError, nearest

# Slices that are sold under an accelerator type, by their number of chips.
_TWO_D = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_THREE_D = {
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
    1024: "8x8x16",
    2048: "8x16x16",
    4096: "16x16x16",
}
SLICES = {"v5e": _TWO_D, "v6e": _TWO_D, "v4": _THREE_D, "v5p": _THREE_D, "tpu7x": _THREE_D}
EXAMPLES = ("cpu", "v5e-16", "v5p-128", "v6e-256", "v5p:4x4x4", "v5e-256x4", "h100-8")


_TPU_NAME = re.compile(
    r"(?P<chip>v\d+[a-z]?|tpu7x)(?:-(?P<count>\d+)(?:x(?P<slices>\d+))?|:(?P<topology>\d+(?:x\d+)+))"
)
_GPU_NAME = re.compile(r"(?P<chip>[a-z]+\d+(?:-[a-z0-9]+)*)-(?P<count>\d+)")


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine. `chip`: its row in the table; None for a CPU. `topology`: of each of its TPU slices, in chips."""

    name: str
    kind: str  # cpu | gpu | tpu
    chip: str | None = None
    topology: str | None = None
    chips: int = 1  # of all slices
    slices: int = 1

    @property
    def devices(self) -> int:
        """Count the devices as jax does."""
        return self.chips * self.devices_per_chip

    @property
    def devices_per_chip(self) -> int:
        """Count the devices that jax sees of one chip."""
        return load_chips()[self.chip].devices if self.chip else 1


def target(name: str) -> Target:
    """Return the machine of a name. Raises InputError for what is not one."""
    if name == "cpu":
        return Target(name, "cpu")
    found = _tpu(name) or _gpu(name)
    if found is None:
        raise InputError(f"--target={name!r} cannot be planned for; {nearest(name, EXAMPLES, 'target')}")
    return found


def _tpu(name: str) -> Target | None:
    """Return the slice of `v5e-16` or `v5p:4x4x4`; None for what is no name of one. Raises InputError for a wrong size."""
    found = _TPU_NAME.fullmatch(name.replace("v5litepod", "v5e"))
    if found is None or found["chip"] not in SLICES:
        return None
    chip = found["chip"]
    if topology := found["topology"]:
        sizes = [int(size) for size in topology.split("x")]
        return Target(name, "tpu", chip, topology, math.prod(sizes))
    topologies = SLICES[chip]
    cores = load_chips()[chip].cores
    chips, left = divmod(int(found["count"]), cores)
    if left or chips not in topologies:
        sold = ", ".join(f"{chip}-{count * cores}" for count in topologies)
        raise InputError(f"--target={name} is no slice; expected one of {sold}, or a topology such as {chip}:2x2")
    slices = int(found["slices"] or 1)
    if slices == 0 or (slices > 1 and load_chips()[chip].dcn_bytes_per_second is None):
        raise InputError(f"--target={name}: expected 1 slice or more, and of a chip whose data center network is known")
    return Target(name, "tpu", chip, topologies[chips], chips * slices, slices)


def _gpu(name: str) -> Target | None:
    """Return the GPUs of `h100-8`; None for what is no name of any."""
    found = _GPU_NAME.fullmatch(name)
    if found is None or int(found["count"]) == 0:
        return None
    chip = found["chip"]
    if chip in SLICES or chip not in load_chips():
        return None
    return Target(name, "gpu", chip, None, int(found["count"]))
