"""Build a dataclass of options from a mapping, checking names and types. What values may be is checked elsewhere."""

from collections.abc import Mapping
import dataclasses
import functools
import math
import types
import typing
from typing import Any

from models.errors import InputError, nearest

# Options of before by the names that they have today.
MOVED = {"execution.spike_factor": "spikes.factor", "execution.spike_limit": "spikes.limit"}

_NO_MATCH = object()  # `None` is a value that an option may have


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields. Evaluating them takes long beside the rest of a point's checks."""
    return typing.get_type_hints(cls)


def build(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Build a dataclass from a mapping. Raises InputError for a key that it lacks (nearest named) or a wrong type."""
    if not isinstance(values, Mapping):
        raise InputError(f"{prefix.rstrip('.') or 'the run'}={values!r:.40}: expected options by name")
    hints = type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        if key not in names:
            check_moved(prefix + key)
            raise InputError(f"unknown config key {prefix}{key}; {nearest(key, names, 'key')}")
    options = {}
    for key, value in values.items():
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            options[key] = build(hint, value, f"{prefix}{key}.")
        else:
            options[key] = cast(prefix + key, value, hint)
    return cls(**options)


def check_moved(name: str) -> None:
    """Raise InputError for the name of an option that has another one today."""
    if name in MOVED:
        raise InputError(f"{name} is {MOVED[name]} today: it changes the run's numbers, and so belongs to the run")


def cast(name: str, value: Any, annotation: Any) -> Any:
    """Return a value as the annotated type. Raises InputError, naming the option, when it is of another type."""
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    for kind in kinds:
        found = _as_kind(name, value, kind)
        if found is not _NO_MATCH:
            return found
    expected = " or ".join(_name_of(kind) for kind in kinds)
    raise InputError(f"{name}={value!r} is of type {type(value).__name__}; expected {expected}")


def _as_kind(name: str, value: Any, kind: Any) -> Any:
    """Return a value as one type, or _NO_MATCH. A bool is no number; an integer is a float, and 2.0 is an integer."""
    if kind is type(None):
        return None if value is None else _NO_MATCH
    if typing.get_origin(kind) is tuple:
        return _as_tuple(name, value, kind)
    if isinstance(value, bool):
        return value if kind is bool else _NO_MATCH
    if kind is int:
        return _as_integer(value)
    if kind is float and isinstance(value, int | float):
        if not math.isfinite(value):
            raise InputError(f"{name}={value} must be finite")
        return float(value)
    if kind is str and isinstance(value, str):
        return value
    return _NO_MATCH


def _as_integer(value: Any) -> Any:
    """Return a whole number as an int, also where it was written as 2e6; else _NO_MATCH."""
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return _NO_MATCH


def _as_tuple(name: str, value: Any, kind: Any) -> Any:
    """Return the items of a sequence in the type of the tuple's. One text is a tuple of one."""
    if not isinstance(value, list | tuple | str):
        return _NO_MATCH
    items = (value,) if isinstance(value, str) else value
    item_kind = typing.get_args(kind)[0]
    return tuple(cast(name, item, item_kind) for item in items)


def _name_of(kind: Any) -> str:
    if kind is type(None):
        return "unset (None)"
    return getattr(kind, "__name__", str(kind))
