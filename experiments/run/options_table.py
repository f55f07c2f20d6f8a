"""Print every option of a run of a family: its name on the command line, its default, what it may be, when it applies."""

from collections.abc import Iterator
import dataclasses
import types
import typing
from typing import Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from experiments.run.schema import SECTIONS, Execution, Run
from experiments.training import optimizers
import models


class Row(NamedTuple):
    """One option, in words."""

    name: str
    default: str
    allowed: str
    applies_when: str
    help: str


def rows(family: str) -> Iterator[Row]:
    """Yield the options of a run of a family, and of its execution. Raises InputError for an unknown family."""
    sections: dict[str, type] = {"model": models.load(family).Config}
    sections["opt"] = optimizers.load(optimizers.DEFAULT).Config
    sections |= SECTIONS
    yield Row("family", family, " | ".join(models.family_names()), "", "architecture; the argument of the config file")
    for field in dataclasses.fields(Run):
        if field.name not in ("family", *sections):
            yield _row(Run, field, "")
    for name, cls in sections.items():
        yield from _section(cls, f"{name}.")
    yield from _section(Execution, "execution.")


def _section(cls: type, prefix: str) -> Iterator[Row]:
    """Yield the rows of a section's options, those of sections inside it too."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _section(hint, f"{prefix}{field.name}.")
        else:
            yield _row(cls, field, prefix)


def _row(cls: type, field: dataclasses.Field[Any], prefix: str) -> Row:
    """Return one option as a row of text."""
    hint = typing.get_type_hints(cls)[field.name]
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
_ITEMS = {str: "texts", int: "whole numbers", float: "numbers"}


def _is_plain(kind: Any) -> bool:
    """Tell whether a user can write a value of the type: some options may also be arrays, in a compiled program."""
    return kind in _TYPES or typing.get_origin(kind) is tuple


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"a tuple of {_ITEMS[typing.get_args(kind)[0]]}"
    return _TYPES[kind]


def table(family: str) -> Table:
    """Return the options as a table for the terminal."""
    shown = Table(box=box.SIMPLE, pad_edge=False)
    shown.add_column("--config.", no_wrap=True)
    for heading in ("default", "may be", "has an effect where", "what it does"):
        shown.add_column(heading, overflow="fold")
    for row in rows(family):
        shown.add_row(*(Text(cell) for cell in row))
    return shown
