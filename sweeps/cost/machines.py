"""Know machines to plan for: their names, and a dated table of what their chips can do and cost (sweeps/cost/chips.json).

    cpu                 this machine
    v5e-16, v5p-128     a TPU slice by its accelerator type. As Google Cloud has it, the number counts chips for v5e and v6e, but
                        TensorCores, of which a chip has two, for v4 and v5p: v5p-128 is 64 chips
    v5litepod-16        the same as v5e-16
    v5p:4x4x4           a TPU slice by its topology in chips: any that libtpu knows
    h100-8              NVIDIA GPUs of this machine

Nothing here starts jax.
"""

import dataclasses
import json
import math
import os
import re
from typing import Any

from experiments.cli import InputError, nearest

TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "chips.json")
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
CORES = {"v4": 2, "v5p": 2}  # in an accelerator type, for each chip
DEVICES = {"tpu7x": 2}  # that jax sees of one chip
TEXT_FIELDS = ("source", "date", "price_source", "price_date")  # of a chip; all others are numbers
EXAMPLES = ("cpu", "v5e-16", "v5p-128", "v6e-256", "v5p:4x4x4", "h100-8")


_TPU_NAME = re.compile(r"(?P<chip>v\d+[a-z]?|tpu7x)(?:-(?P<count>\d+)|:(?P<topology>\d+(?:x\d+)+))")
_GPU_NAME = re.compile(r"(?P<chip>[a-z]+\d+)-(?P<count>\d+)")


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine. `chip`: its row in the table; None for a CPU. `topology`: of a TPU slice, in chips."""

    name: str
    kind: str  # cpu | gpu | tpu
    chip: str | None = None
    topology: str | None = None
    chips: int = 1

    @property
    def devices(self) -> int:
        """Count the devices as jax does."""
        return self.chips * DEVICES.get(self.chip or "", 1)


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
    cores = CORES.get(chip, 1)
    chips, left = divmod(int(found["count"]), cores)
    if left or chips not in topologies:
        sold = ", ".join(f"{chip}-{count * cores}" for count in topologies)
        raise InputError(f"--target={name} is no slice; expected one of {sold}, or a topology such as {chip}:2x2")
    return Target(name, "tpu", chip, topologies[chips], chips)


def _gpu(name: str) -> Target | None:
    """Return the GPUs of `h100-8`; None for what is no name of any."""
    found = _GPU_NAME.fullmatch(name)
    if found is None or int(found["count"]) == 0:
        return None
    chip = found["chip"]
    if chip in SLICES or chip not in load_chips():
        return None
    return Target(name, "gpu", chip, None, int(found["count"]))


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of one chip (units: sweeps/cost/chips.json), and what an hour of it costs, where that is known."""

    peak_flops: float
    hbm_bytes_per_second: float
    ici_bytes_per_second: float
    hbm_bytes: int
    price_usd: float | None
    source: str
    date: str
    price_source: str | None = None
    price_date: str | None = None
    host_bytes_per_second: float | None = None  # None: what moves between a chip and its host counts as nothing


def load_chips(override: str | None = None) -> dict[str, Chip]:
    """Read the table of chips, with the rows and values that a file of the same form has replaced.

    Raises InputError naming the file and the field for what is not a number.
    """
    rows = json.loads(_read(TABLE))["chips"]
    if override is not None:
        for chip, row in _replaced_rows(override).items():
            rows[chip] = rows.get(chip, {}) | row
    return {chip: _chip(chip, row, override) for chip, row in rows.items()}


def _replaced_rows(path: str) -> dict[str, dict[str, Any]]:
    """Read and check the rows of a user's file, which may be parts of rows."""
    try:
        value = json.loads(_read(path))["chips"]
        rows = {chip: dict(row) for chip, row in value.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--prices={path} is not a table like sweeps/cost/chips.json ({error})") from error
    for chip, row in rows.items():
        for name, value in row.items():
            _check_field(path, chip, name, value)
    return rows


def _chip(name: str, row: dict[str, Any], override: str | None) -> Chip:
    """Make a chip of a row of the table. Raises InputError naming the field that is missing."""
    for field in dataclasses.fields(Chip):
        if field.default is dataclasses.MISSING and field.name not in row:
            raise InputError(f"--prices={override}: chip {name!r} has no {field.name}")
    return Chip(**row)


def _read(path: str) -> str:
    """Return the text of a table of prices. Raises InputError when it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"--prices={path} cannot be read ({error.strerror})") from error


def _check_field(path: str, chip: str, name: str, value: Any) -> None:
    """Raise InputError, naming file and field, for a field that no chip has and for a figure that is no number."""
    fields = {f.name for f in dataclasses.fields(Chip)}
    if name not in fields:
        raise InputError(f"--prices={path}: chip {chip!r}: unknown field {name!r}; {nearest(name, fields, 'field')}")
    if name in TEXT_FIELDS or (name == "price_usd" and value is None):
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InputError(f"--prices={path}: chip {chip!r}: {name}={value!r} must be a positive number")
