"""Know what chips can do and cost: a dated table of their makers' peak figures and of list prices (chips.json beside it).

Plans (sweeps/cost), the watch (sweeps/watch), benchmarks and the loop, for how many steps to take at a time, read it. Nothing
here starts jax.
"""

import dataclasses
import json
import os
import re
from typing import Any

from experiments.cli import InputError, nearest

TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "chips.json")
SECTIONS = {"chips", "grid"}  # of the table that a user's file may replace
TEXT_FIELDS = ("source", "date", "price_source", "price_date")  # of a chip; all others are numbers
# What jax calls a device (jax.Device.device_kind) -> its row of the table. Of several that match, the first.
_CHIP_OF_KIND = (
    (r"\bMIG\b", None),  # a part of a GPU, whose share of the figures its name does not tell
    (r"TPU v4$", "v4"),
    (r"TPU (v5 lite|v5e)", "v5e"),
    (r"TPU v5p?$", "v5p"),
    (r"TPU (v6 lite|v6e)", "v6e"),
    (r"TPU ?(v7|7x)", "tpu7x"),
    (r"A100-SXM4-80GB", "a100"),
    (r"A100-SXM4-40GB", "a100-40gb"),
    (r"A100 80GB PCIe", "a100-pcie"),
    (r"A100-PCIE-40GB", "a100-pcie-40gb"),
    (r"H100 PCIe", "h100-pcie"),
    (r"H100 NVL", "h100-nvl"),
    (r"H100 80GB HBM3$", "h100"),
    (r"H200 NVL", "h200-nvl"),
    (r"\bH200$", "h200"),
    (r"\bB200$", "b200"),
)


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of one chip (units: experiments/benchmarks/chips.json), and what an hour of it costs, where that is known."""

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
    dcn_bytes_per_second: float | None = None
    torus_pod: int | None = None
    torus_cube: int | None = None
    cores: int = 1
    devices: int = 1
    watts: float | None = None


@dataclasses.dataclass(frozen=True)
class Grid:
    """What turns the energy of chips into that of a data center, and into kg of CO2 equivalents."""

    pue: float  # power usage effectiveness: energy of the data center over that of its machines
    kg_co2e_per_kwh: float
    pue_source: str
    co2e_source: str


def chip_name(device_kind: str | None) -> str | None:
    """Return the table's name of a device by what jax calls it; None for one that the table does not have."""
    for pattern, name in _CHIP_OF_KIND:
        if device_kind and re.search(pattern, device_kind):
            return name
    return None


def chip_of(device_kind: str | None) -> Chip | None:
    """Return the chip of a device by what jax calls it; None for one that the table does not have."""
    return load_chips().get(chip_name(device_kind) or "")


def load_grid(override: str | None = None) -> Grid:
    """Return the figures of the electricity, with the values that a file of the table's form has replaced."""
    values = json.loads(_read(TABLE))["grid"]
    if override is not None:
        values |= _replaced_grid(override)
    return Grid(**values)


def _replaced_grid(path: str) -> dict[str, Any]:
    """Read and check the figures of the electricity in a user's file, which may have none or some."""
    values = _parse(path).get("grid", {})
    fields = [field.name for field in dataclasses.fields(Grid)]
    for name, value in values.items():
        if name not in fields:
            raise InputError(f"--prices={path}: grid: unknown field {name!r}; {nearest(name, fields, 'field')}")
        if not name.endswith("_source"):
            _check_number(f"--prices={path}: grid: {name}", value)
    return values


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
    rows = _parse(path).get("chips", {})
    for chip, row in rows.items():
        for name, value in row.items():
            _check_field(path, chip, name, value)
    return rows


def _parse(path: str) -> dict[str, Any]:
    """Read a user's file as an object of objects. Raises InputError for anything else."""
    try:
        value = json.loads(_read(path))
        if not SECTIONS & value.keys():
            raise ValueError(f"expected {' or '.join(sorted(SECTIONS))}")
        chips = {chip: dict(row) for chip, row in value.get("chips", {}).items()}
        grid = dict(value.get("grid", {}))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"--prices={path} is not a table like experiments/benchmarks/chips.json ({error})") from error
    return {"chips": chips, "grid": grid}


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
    fields = {field.name: field for field in dataclasses.fields(Chip)}
    if name not in fields:
        raise InputError(f"--prices={path}: chip {chip!r}: unknown field {name!r}; {nearest(name, fields, 'field')}")
    optional = fields[name].default is None or name == "price_usd"
    if name in TEXT_FIELDS or (optional and value is None):
        return
    _check_number(f"--prices={path}: chip {chip!r}: {name}", value)


def _check_number(named: str, value: Any) -> None:
    """Raise InputError for what is no positive number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InputError(f"{named}={value!r} must be a positive number")
