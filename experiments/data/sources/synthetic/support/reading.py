"""Read the options of a kind as they are typed behind its name: `order=2,symbols=64`."""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any, TypeVar, get_type_hints

from experiments.data.sources.synthetic.support.process import Corpus
from experiments.key_values import read_pairs, refusal
from models.option import describe

Options = TypeVar("Options", bound=Corpus)
TRUTH_VALUES = {"true": True, "false": False}


def _whole_number(text: str) -> int:
    """Read a whole number, also where it is written as 1e6."""
    value = float(text)
    if not value.is_integer():
        raise ValueError(text)
    return int(value)


def _number(text: str) -> float:
    """Read a finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


READERS: Mapping[type, tuple[Callable[[str], Any], str]] = {
    bool: (TRUTH_VALUES.__getitem__, "true or false"),
    int: (_whole_number, "a whole number"),
    float: (_number, "a number"),
    str: (str, "text"),
}


def read(cls: type[Options], text: str, name: str) -> Options:
    """Make the options of a kind from a text. `name`: of the corpus, for errors, which are InputError of one line."""
    flag = f"data.corpus={name!r}"
    hints = get_type_hints(cls)
    values = {}
    for key, value in read_pairs(text, flag, "OPTION=VALUE", "seed=3").items():
        if key not in hints:
            raise refusal(flag, key, "is no option of it", f"one of {', '.join(known(cls))}")
        reader, expected = READERS[hints[key]]
        try:
            values[key] = reader(value)
        except (ValueError, KeyError, OverflowError):
            raise refusal(flag, f"{key}={value}", f"is not {expected}", expected) from None
    return cls(**values)


def known(cls: type[Corpus]) -> list[str]:
    """Return the names of the options."""
    return [row.name for row in describe(cls)]


def changed(options: Corpus) -> dict[str, Any]:
    """Return the options that are not at their default, so that a new one renames no corpus."""
    found = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default:
            found[field.name] = value
    return found
