"""Declare an option of a config once: its default, what it may be, when it has an effect, what it does to a run.

    window: int | None = option(None, valid=AT_LEAST_ONE, when=when("attention", "softmax"))

`check_options` refuses values that cannot be, and values that would do nothing where they stand: an option that is
accepted and ignored gives a run a new identity and the same numbers. `describe` lists all options of a config.

A config that builds on another gets its options with it, and says with `inherit` what it changes of one, or with
`missing` that it has it not.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
import types
import typing
from typing import Any, NamedTuple

from models.errors import InputError, nearest


@dataclasses.dataclass(frozen=True)
class Valid:
    """What a number may be. `text` goes on where an error says "must be"."""

    text: str
    holds: Callable[[Any], bool]


POSITIVE = Valid("a positive number", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Valid("zero or a positive number", lambda value: 0 <= value < math.inf)
FRACTION = Valid("a number from 0 to 1", lambda value: 0 <= value <= 1)
BELOW_ONE = Valid("a number from 0 to below 1", lambda value: 0 <= value < 1)
AT_LEAST_ONE = Valid("at least 1", lambda value: 1 <= value < math.inf)

# Numbers enter programs as float32: what is smaller becomes 0 there, what is larger infinite.
FLOAT32_LEAST = 2.0**-126
FLOAT32_MOST = (2 - 2.0**-23) * 2.0**127
COUNT_MOST = 2**53  # what tables, which compute in float64, hold exactly
AXIS_MOST = 2**30  # indices of arrays are of int32
_SHOWN = 24  # digits of a number that is too large


@dataclasses.dataclass(frozen=True)
class When:
    """A condition on another option of the same section, under which an option has an effect.

    `text` continues "only where SECTION.": "attention='linear'". `name` may also be a property of the config that says
    something of several options. `example` has values of options under which the condition holds.
    """

    name: str
    text: str
    holds: Callable[[Any], bool]
    example: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def when(name: str, *values: Any, above: int | float | None = None) -> When:
    """Make the condition that option `name` has one of these values, or is above a number."""
    if above is not None:
        return When(
            name, f"{name} is above {above}", lambda value: value is not None and value > above, {name: above + 1}
        )
    wanted = " or ".join(repr(value) for value in values)
    return When(name, f"{name}={wanted}", lambda value: value in values, {name: values[0]})


def when_set(name: str) -> When:
    """Make the condition that option `name` is not None."""
    return When(name, f"{name} is set", lambda value: value is not None)


def when_unset(name: str) -> When:
    """Make the condition that option `name` is None, so that a rule gives its value."""
    return When(name, f"{name} is not set", lambda value: value is None, {name: None})


def option(
    default: Any,
    *,
    runtime: bool = False,
    numerics: bool = True,
    choices: tuple[Any, ...] = (),
    valid: Valid | None = None,
    when: When | tuple[When, ...] = (),
    growth: str = "fixed",
    help: str = "",
) -> Any:
    """Declare a field of a config dataclass.

    runtime: a number that enters the compiled program as an input, so that runs which differ in it share one program.
    numerics: False for what may change speed or memory but not the result; it is left out of the fingerprint.
    choices: the values that are known; empty for a field that is not a choice.
    valid: what the number must be, where it is set.
    when: all of these have to hold for the option to have an effect; elsewhere only the default is accepted.
    growth: "size", which a child may have more of than its parent if it trains; "free", in which it may differ, because
        the meaning of the parameters does not depend on it; "fixed".
    help: what the option does, in one line for a reader of the table of options.
    """
    conditions = when if isinstance(when, tuple) else (when,)
    metadata = {
        "runtime": runtime,
        "numerics": numerics,
        "choices": choices,
        "valid": valid,
        "when": conditions,
        "growth": growth,
        "help": help,
        "missing": "",
    }
    return dataclasses.field(default=default, metadata=metadata)


def inherit(base: type[Any], name: str, **changes: Any) -> Any:
    """Declare an option as the config `base` has it, but for `changes`: a default, or what `option` takes."""
    field = _fields(base)[name]
    default = changes.pop("default", field.default)
    unknown = changes.keys() - field.metadata.keys()
    assert not unknown, f"{name}: no such part of a declaration: {unknown}"
    if "when" in changes and isinstance(changes["when"], When):
        changes["when"] = (changes["when"],)
    return dataclasses.field(default=default, metadata=dict(field.metadata) | changes)


def missing(base: type[Any], name: str, why: str) -> Any:
    """Declare that a config has not the option `name` of the config `base`: only the default is accepted. `why` says so."""
    return inherit(base, name, missing=why)


def _fields(options: Any) -> Mapping[str, dataclasses.Field[Any]]:
    """Return the fields of a dataclass, or of one that is given as a value, by name."""
    return _fields_of(options if isinstance(options, type) else type(options))


@functools.cache  # the points of a study ask for them a million times
def _fields_of(config: type[Any]) -> Mapping[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(config)}


def unmet(options: Any, field: dataclasses.Field[Any]) -> When | None:
    """Return the first condition of an option that does not hold; None where the option has an effect.

    An option also waits for the conditions of those that its own are about.
    """
    for condition in field.metadata.get("when", ()):
        if not condition.holds(getattr(options, condition.name)):
            return condition
        other = _fields(options).get(condition.name)
        above = None if other is None else unmet(options, other)
        if above is not None:
            return above
    return None


def check_options(options: Any, section: str, most: int = COUNT_MOST) -> None:
    """Check every option of a section against its declaration. An empty `section` is that of a run's own options.

    `most`: no whole number may be larger.

    Raises InputError, one line naming the field, for a value that is not known, is out of range, or has no effect.
    """
    prefix = f"{section}." if section else ""
    for field in _fields(options).values():
        value = getattr(options, field.name)
        name = f"{prefix}{field.name}"
        if field.metadata.get("missing") and value != field.default:
            raise InputError(f"{name}={value!r} cannot be: {field.metadata['missing']}; expected {field.default!r}")
        check_value(name, value, field)
        _check_size(name, value, most)
        condition = unmet(options, field)
        if condition is None or value == field.default:
            continue
        raise InputError(
            f"{name}={value!r} has an effect only where {prefix}{condition.text}; "
            f"here {prefix}{condition.name}={getattr(options, condition.name)!r}: "
            f"change that, or leave {name} at {field.default!r}"
        )


def with_idle_options_unset(options: Any) -> Any:
    """Return a section with every option that has no effect at its default. Written runs of before may have others."""
    idle = {}
    for field in dataclasses.fields(options):
        if field.metadata.get("missing") or unmet(options, field) is not None:
            idle[field.name] = field.default
    return dataclasses.replace(options, **idle)


def check_value(name: str, value: Any, field: dataclasses.Field[Any]) -> None:
    """Check one value against the choices and the range of its field. Raises InputError naming it."""
    choices = field.metadata.get("choices", ())
    if choices and value not in choices:
        known = [str(choice) for choice in choices if choice is not None]
        raise InputError(f"{name}={value!r} is not known; {nearest(str(value), known, 'choice')}")
    valid = field.metadata.get("valid")
    if valid is not None and value is not None and not valid.holds(value):
        raise InputError(f"{name}={value!r} must be {valid.text}")


def _check_size(name: str, value: Any, most: int) -> None:
    """Check that a number, or each of several, is what a program can compute with. Raises InputError naming it."""
    if isinstance(value, tuple):
        for item in value:
            _check_size(name, item, most)
    elif isinstance(value, int):
        if abs(value) > most:
            raise InputError(f"{name}={str(value)[:_SHOWN]} is too large; expected at most {most}")
    elif isinstance(value, float):
        size = abs(value)
        if size != 0 and not FLOAT32_LEAST <= size <= FLOAT32_MOST:
            what = "small" if size < 1 else "large"
            raise InputError(f"{name}={value!r} is too {what} for float32; expected between 1.2e-38 and 3.4e38")


class Row(NamedTuple):
    """One option, in words: a line of the table of a config's options."""

    name: str
    default: str
    allowed: str  # choices or range; the type where neither is declared
    applies_when: str  # condition under which it has an effect; empty: always
    help: str
    child: str = ""  # what it may be where a parent is known: free, more, the same


def describe(config: type[Any]) -> list[Row]:
    """List the options of a config dataclass in the order of their declaration, without those that it has not."""
    fields = _fields(config)
    return [row_of(config, field) for field in fields.values() if _can_apply(field, fields)]


def row_of(config: type[Any], field: dataclasses.Field[Any], prefix: str = "") -> Row:
    """Describe one option of a config dataclass; `prefix` is the section that its names stand behind: "model."."""
    hint = typing.get_type_hints(config)[field.name]
    conditions = [f"{prefix}{condition.text}" for condition in field.metadata.get("when", ())]
    return Row(
        name=f"{prefix}{field.name}",
        default=_spelt(field.default),
        allowed=_allowed(field, hint),
        applies_when=" and ".join(conditions),
        help=field.metadata.get("help", ""),
    )


def _spelt(value: Any) -> str:
    """Return a value as a command line has it."""
    return "none" if value is None else str(value)


def _allowed(field: dataclasses.Field[Any], hint: Any) -> str:
    """Return the choices of an option, or its range, or its type; with `none` where it may be unset."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    may_be_unset = type(None) in kinds
    choices = field.metadata.get("choices", ())
    if choices:
        return " | ".join(_spelt(choice) for choice in choices)
    valid = field.metadata.get("valid")
    if valid is not None:
        allowed = valid.text
    else:
        allowed = " or ".join(_type_name(kind) for kind in kinds if _is_plain(kind))
    return f"{allowed}, or none" if may_be_unset else allowed


_TYPES = {str: "text", int: "a whole number", float: "a number", bool: "True | False"}
_ITEMS = {str: "texts", int: "whole numbers", float: "numbers", int | None: "whole numbers or None"}


def _is_plain(kind: Any) -> bool:
    """Tell whether a user can write a value of the type: some options may also be arrays, in a compiled program."""
    return kind in _TYPES or typing.get_origin(kind) is tuple


def _type_name(kind: Any) -> str:
    """Return a type in words."""
    if typing.get_origin(kind) is tuple:
        return f"a tuple of {_ITEMS[typing.get_args(kind)[0]]}"
    return _TYPES[kind]


def _can_apply(field: dataclasses.Field[Any], fields: Mapping[str, dataclasses.Field[Any]]) -> bool:
    """Whether a config has an option, and those that its conditions are about."""
    if field.metadata.get("missing"):
        return False
    for condition in field.metadata.get("when", ()):
        for name, value in condition.example.items():
            other = fields[name]
            choices = other.metadata.get("choices", ())
            if choices and value not in choices:
                return False
            if value != other.default and not _can_apply(other, fields):
                return False
    return True
