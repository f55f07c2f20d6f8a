"""Read the options of an executor as they are typed: `key=value,key=value` becomes a dataclass."""

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.cli import whole_number
from experiments.key_values import read_pairs, refusal, write_pairs
from models.errors import nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OptionsClass = TypeVar("OptionsClass", bound="DataclassInstance")
TRUTH_VALUES = {"true": True, "false": False}
READERS = {bool: TRUTH_VALUES.__getitem__, int: whole_number, str: str}
KINDS = {bool: "true or false", int: "whole number", str: "text"}


def at_least(least: int, default: int) -> Any:
    """Declare an option that is a whole number, and the least that it may be."""
    return dataclasses.field(default=default, metadata={"least": least})


def parse_options(cls: type[OptionsClass], text: str, flag: str) -> OptionsClass:
    """Make a `cls` from `key=value,…` (experiments/key_values.py). Its fields have defaults, whose types say how to read.

    Raises InputError naming the flag, the key and what was expected.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {}
    example = ",".join(f"{name}=…" for name in [*fields][:1])
    for key, value in read_pairs(text, flag, "OPTION=VALUE", example).items():
        word = f"{key}={value}"
        if key not in fields:
            raise refusal(flag, word, "is no option", f"one that there is; {nearest(key, fields, 'option')}")
        kind = type(fields[key].default)
        try:
            values[key] = READERS[kind](value)
        except (ValueError, KeyError):
            article = "a " if kind is int else ""
            raise refusal(flag, word, f"is not {article}{KINDS[kind]}", f"{key}={KINDS[kind]}") from None
        least = fields[key].metadata.get("least")
        if least is not None and values[key] < least:
            raise refusal(flag, word, "is too small", f"{key} of at least {least}")
    return cls(**values)


def options_text(options: "DataclassInstance") -> str:
    """Return options as they are typed, `key=value,…`, without those that have their default."""
    pairs = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default:
            pairs[field.name] = str(value).lower() if isinstance(value, bool) else str(value)
    return write_pairs(pairs)
