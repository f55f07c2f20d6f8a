"""Read the options of an executor as they are typed: `key=value,key=value` becomes a dataclass."""

import dataclasses
import re
from typing import TYPE_CHECKING, Any, TypeVar

from models.errors import InputError, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OptionsClass = TypeVar("OptionsClass", bound="DataclassInstance")
TRUTH_VALUES = {"true": True, "false": False}


def at_least(least: int, default: int) -> Any:
    """Declare an option that is a whole number, and the least that it may be."""
    return dataclasses.field(default=default, metadata={"least": least})


def parse_options(cls: type[OptionsClass], text: str, flag: str) -> OptionsClass:
    """Make a `cls` from `key=value,…`. Its fields have defaults, whose types say how a value is read.

    A comma between brackets is part of a value, as in nodes=n[1,3]. Raises InputError naming the flag, the key and what
    was expected.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {}
    for word in re.split(r",(?![^\[\]]*\])", text):
        if not word:
            continue
        key, given, value = word.partition("=")
        if key not in fields:
            raise InputError(f"{flag}:{word}: unknown option; {nearest(key, fields, 'option')}")
        kind = type(fields[key].default)
        try:
            if not given:
                raise ValueError("no value")
            values[key] = TRUTH_VALUES[value] if kind is bool else kind(value)
        except (ValueError, KeyError):
            expected = "true or false" if kind is bool else f"{key}=… of type {kind.__name__}"
            raise InputError(f"{flag}:{word}: expected {expected}") from None
        least = fields[key].metadata.get("least")
        if least is not None and values[key] < least:
            raise InputError(f"{flag}:{word}: expected at least {least}")
    return cls(**values)


def options_text(options: "DataclassInstance") -> str:
    """Return options as they are typed, `key=value,…`, without those that have their default."""
    words = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default:
            text = str(value).lower() if isinstance(value, bool) else value
            words.append(f"{field.name}={text}")
    return ",".join(words)
