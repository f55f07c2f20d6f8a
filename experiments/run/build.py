"""Build an options dataclass from a mapping, checking names and types."""

from collections.abc import Mapping
import dataclasses
import math
import types
import typing
from typing import Any

from experiments.cli import InputError, nearest


def _cast(name: str, value: Any, annotation: Any) -> Any:
    """`value` as the annotated type. Raises InputError when it is of another."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    for kind in options:
        if kind is type(None) and value is None:
            return None
        if kind is bool and isinstance(value, bool):
            return value
        if kind is int and not isinstance(value, bool):
            if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
                return int(value)
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            if math.isfinite(value):
                return float(value)
            raise InputError(f"{name}={value} must be finite")
        if kind is str and isinstance(value, str):
            return value
        if typing.get_origin(kind) is tuple and isinstance(value, list | tuple | str):
            items = (value,) if isinstance(value, str) else value
            return tuple(_cast(name, item, typing.get_args(kind)[0]) for item in items)
    expected = " or ".join("unset (None)" if k is type(None) else getattr(k, "__name__", str(k)) for k in options)
    raise InputError(f"{name}={value!r} is of type {type(value).__name__}; expected {expected}")


def build(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A dataclass from a mapping. Raises InputError for a key that it lacks (nearest named) or a wrong type."""
    hints, fields = typing.get_type_hints(cls), {field.name: field for field in dataclasses.fields(cls)}
    if not isinstance(values, Mapping):
        raise InputError(f"{prefix.rstrip('.') or 'the run'}={values!r:.40}: expected options by name")
    for key in values:
        if key not in fields:
            raise InputError(f"unknown config key {prefix}{key}; {nearest(key, fields, 'key')}")
    out = {}
    for key, value in values.items():
        hint = hints[key]
        nested = dataclasses.is_dataclass(hint)
        out[key] = build(hint, value, f"{prefix}{key}.") if nested else _cast(prefix + key, value, hint)
    return cls(**out)
