"""Find the laws by name: every class with a NAME in a file of this folder is one.

A law from elsewhere (a notebook, another package) joins them with `add`.
"""

from collections.abc import Iterator, Mapping
import importlib
import pkgutil
from types import ModuleType
from typing import Any, TypeVar

from analysis.laws import several_breaks
from analysis.laws.base import Law
from experiments.cli import InputError, nearest

LawClass = TypeVar("LawClass", bound=type[Law])


def _files() -> Iterator[ModuleType]:
    """Import the files of this folder, in the order of their names."""
    for file in pkgutil.iter_modules(__path__):
        yield importlib.import_module(f"{__name__}.{file.name}")


def _laws_of(file: ModuleType) -> Iterator[type[Law]]:
    """Yield the laws that a file defines itself; bases have no NAME."""
    for value in vars(file).values():
        is_law = isinstance(value, type) and issubclass(value, Law) and hasattr(value, "NAME")
        if is_law and value.__module__ == file.__name__:
            yield value


LAWS: dict[str, type[Law]] = {law.NAME: law for file in _files() for law in _laws_of(file)}


def add(law: LawClass) -> LawClass:
    """Make a law of one's own known by its NAME, to commands as well as to functions; usable as a decorator.

    Raises ValueError when the name is taken.
    """
    known = LAWS.setdefault(law.NAME, law)
    if known is not law:
        raise ValueError(f"NAME: {law.NAME!r} is the name of {known.__module__}.{known.__qualname__}; expected another")
    return law


def described() -> list[Mapping[str, Any]]:
    """Describe every law for JSON: its formula, coefficients, columns, target and source."""
    found = []
    for name, law in LAWS.items():
        described_law = {
            "law": name,
            "formula": law.FORMULA,
            "coefficients": list(law.names()),
            "columns": list(law.ROLES),
            "optional": list(law.OPTIONAL),
            "target": law.TARGET,
            "source": law.SOURCE,
        }
        found.append(described_law)
    return found


def load(name: str) -> type[Law]:
    """Return the class of a law; InputError with the nearest name for an unknown one.

    `broken_4` and so on up to nine breaks are made when they are asked for.
    """
    made = several_breaks.named(name)
    if made is not None:
        return made
    if name not in LAWS:
        raise InputError(f"--law: {name!r} is not a law; {nearest(name, LAWS, 'law')}")
    return LAWS[name]
