"""Machines to plan for: their names, and a dated table of what their chips can do and cost (sweeps/chips.json).

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
EXAMPLES = ("cpu", "v5e-16", "v5p-128", "v6e-256", "v5p:4x4x4", "h100-8")


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
        """As jax counts them."""
        return self.chips * DEVICES.get(self.chip or "", 1)


def target(name: str) -> Target:
    """The target of a name. Raises InputError for what is not one."""
    if name == "cpu":
        return Target(name, "cpu")
    found = re.fullmatch(r"(v\d+[a-z]?|tpu7x)(?:-(\d+)|:(\d+(?:x\d+)+))", name.replace("v5litepod", "v5e"))
    if found and found[1] in SLICES:
        chip, count, topology = found[1], found[2], found[3]
        if topology:
            return Target(name, "tpu", chip, topology, math.prod(map(int, topology.split("x"))))
        slices, cores = SLICES[chip], CORES.get(chip, 1)
        if int(count) % cores or int(count) // cores not in slices:
            sold = ", ".join(f"{chip}-{chips * cores}" for chips in slices)
            raise InputError(f"--target={name} is no slice; expected one of {sold}, or a topology such as {chip}:2x2")
        return Target(name, "tpu", chip, slices[int(count) // cores], int(count) // cores)
    if found := re.fullmatch(r"([a-z]+\d+)-(\d+)", name):
        if found[1] in load_chips() and found[1] not in SLICES and int(found[2]) > 0:
            return Target(name, "gpu", found[1], None, int(found[2]))
    raise InputError(f"--target={name!r} cannot be planned for; {nearest(name, EXAMPLES, 'target')}")


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of one chip (units: sweeps/chips.json), and what an hour of it costs, where that is known."""

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
    """The table, with the rows and values that a file of the same form has replaced.

    Raises InputError naming the file and the field for what is not a number.
    """
    rows = json.loads(_read(TABLE))["chips"]
    if override is not None:
        try:
            value = json.loads(_read(override))["chips"]
            changed = {chip: dict(row) for chip, row in value.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"--prices={override} is not a table like sweeps/chips.json ({error})") from error
        for chip, row in changed.items():
            for name, number in row.items():
                _check(override, chip, name, number)
            rows[chip] = rows.get(chip, {}) | row
    out = {}
    for chip, row in rows.items():
        missing = [f.name for f in dataclasses.fields(Chip) if f.default is dataclasses.MISSING and f.name not in row]
        if missing:
            raise InputError(f"--prices={override}: chip {chip!r} has no {missing[0]}")
        out[chip] = Chip(**row)
    return out


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"--prices={path} cannot be read ({error.strerror})") from error


def _check(path: str, chip: str, name: str, value: Any) -> None:
    fields = {f.name for f in dataclasses.fields(Chip)}
    if name not in fields:
        raise InputError(f"--prices={path}: chip {chip!r}: unknown field {name!r}; {nearest(name, fields, 'field')}")
    if name in ("source", "date", "price_source", "price_date") or (name == "price_usd" and value is None):
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InputError(f"--prices={path}: chip {chip!r}: {name}={value!r} must be a positive number")
