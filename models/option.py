"""Declare an option of a config once: its default, what it may be, when it has an effect, what it does to a run.

    window: int | None = option(None, valid=AT_LEAST_ONE, when=when("attention", "softmax"))

`check_options` refuses values that cannot be, and values that would do nothing where they stand: an option that is
accepted and ignored gives a run a new identity and the same numbers.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

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


@dataclasses.dataclass(frozen=True)
class When:
    """A condition on another option of the same section, under which an option has an effect.

    `text` continues "only where SECTION.": "attention='linear'".
    """

    name: str
    text: str
    holds: Callable[[Any], bool]


def when(name: str, *values: Any, above: int | float | None = None) -> When:
    """Make the condition that option `name` has one of these values, or is above a number."""
    if above is not None:
        return When(name, f"{name} is above {above}", lambda value: value is not None and value > above)
    wanted = " or ".join(repr(value) for value in values)
    return When(name, f"{name}={wanted}", lambda value: value in values)


def when_set(name: str) -> When:
    """Make the condition that option `name` is not None."""
    return When(name, f"{name} is set", lambda value: value is not None)


def when_unset(name: str) -> When:
    """Make the condition that option `name` is None, so that a rule gives its value."""
    return When(name, f"{name} is not set", lambda value: value is None)


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
    growth: "size", which a child may have more of than its parent; "free", in which it may differ, because the meaning
        of the parameters does not depend on it; "fixed".
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
    }
    return dataclasses.field(default=default, metadata=metadata)


def unmet(options: Any, field: dataclasses.Field[Any]) -> When | None:
    """Return the first condition of an option that does not hold; None where the option has an effect.

    An option also waits for the conditions of those that its own are about.
    """
    fields = {other.name: other for other in dataclasses.fields(options)}
    for condition in field.metadata.get("when", ()):
        if not condition.holds(getattr(options, condition.name)):
            return condition
        above = unmet(options, fields[condition.name])
        if above is not None:
            return above
    return None


def check_options(options: Any, section: str) -> None:
    """Check every option of a section against its declaration. An empty `section` is that of a run's own options.

    Raises InputError, one line naming the field, for a value that is not known, is out of range, or has no effect.
    """
    prefix = f"{section}." if section else ""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        name = f"{prefix}{field.name}"
        check_value(name, value, field)
        condition = unmet(options, field)
        if condition is None or value == field.default:
            continue
        raise InputError(
            f"{name}={value!r} has an effect only where {prefix}{condition.text}; "
            f"here {prefix}{condition.name}={getattr(options, condition.name)!r}: expected {field.default!r}"
        )


def with_idle_options_unset(options: Any) -> Any:
    """Return a section with every option that has no effect at its default. Written runs of before may have others."""
    idle = {field.name: field.default for field in dataclasses.fields(options) if unmet(options, field) is not None}
    return dataclasses.replace(options, **idle)


def check_value(name: str, value: Any, field: dataclasses.Field[Any]) -> None:
    """Check one value against the choices and the range of its field. Raises InputError naming it."""
    choices = field.metadata.get("choices", ())
    if choices and value not in choices:
        known = [choice for choice in choices if isinstance(choice, str)]
        raise InputError(f"{name}={value!r} is not known; {nearest(str(value), known, 'choice')}")
    valid = field.metadata.get("valid")
    if valid is not None and value is not None and not valid.holds(value):
        raise InputError(f"{name}={value!r} must be {valid.text}")
