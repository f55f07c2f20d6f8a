"""Print every option of a run of a family: its name on the command line, its default, what it may be, when it applies."""

from collections.abc import Iterator
import dataclasses
import typing

from rich import box
from rich.table import Table
from rich.text import Text

from experiments.run.schema import SECTIONS, Execution, Run
from experiments.training import optimizers
import models
from models.growing.options import in_child
from models.option import Row, row_of


def rows(family: str, optimizer: str = optimizers.DEFAULT) -> Iterator[Row]:
    """Yield the options of a run of a family by an optimizer, and of its execution. Raises InputError for an unknown one."""
    sections: dict[str, type] = {"model": models.load(family).Config}
    sections["opt"] = optimizers.load(optimizer).Config
    sections |= SECTIONS
    yield Row("family", family, " | ".join(models.family_names()), "", "architecture; the argument of the config file")
    for field in dataclasses.fields(Run):
        if field.name not in ("family", *sections):
            yield row_of(Run, field)
    for name, cls in sections.items():
        for row in _section(cls, f"{name}."):
            # Each optimizer's options know its own name alone.
            if row.name == "opt.name":
                row = row._replace(allowed=" | ".join(optimizers.optimizer_names()))
            yield row
    yield from _section(Execution, "execution.")


def _section(cls: type, prefix: str) -> Iterator[Row]:
    """Yield the rows of a section's options, those of sections inside it too."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _section(hint, f"{prefix}{field.name}.")
        else:
            child = in_child(field) if prefix == "model." else ""
            yield row_of(cls, field, prefix)._replace(child=child)


def table(family: str, optimizer: str = optimizers.DEFAULT) -> Table:
    """Return the options as a table for the terminal."""
    shown = Table(box=box.SIMPLE, pad_edge=False)
    shown.add_column("--config.", no_wrap=True)
    for heading in ("default", "may be", "has an effect where", "what it does", "in a child"):
        shown.add_column(heading, overflow="fold")
    for row in rows(family, optimizer):
        shown.add_row(*(Text(cell) for cell in row))
    return shown
