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
TEXT_FIELDS = ("source", "date", "price_source", "price_date")  # of a chip; all others are numbers
# What jax calls a device (jax.Device.device_kind) -> its row of the table.
_CHIP_OF_KIND = (
    (r"TPU v4$", "v4"),
    (r"TPU (v5 lite|v5e)", "v5e"),
    (r"TPU v5p?$", "v5p"),
    (r"TPU (v6 lite|v6e)", "v6e"),
    (r"TPU ?(v7|7x)", "tpu7x"),
    (r"H100\b", "h100"),
    (r"H200\b", "h200"),
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


def chip_of(device_kind: str | None) -> Chip | None:
    """Return the chip of a device by what jax calls it; None for one that the table does not have."""
    for pattern, name in _CHIP_OF_KIND:
        if device_kind and re.search(pattern, device_kind):
            return load_chips().get(name)
    return None


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
        raise InputError(f"--prices={path} is not a table like experiments/benchmarks/chips.json ({error})") from error
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
