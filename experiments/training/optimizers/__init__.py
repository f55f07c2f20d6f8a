"""Optimizers, found by name: `load("adamw")` returns the module experiments/training/optimizers/adamw.py.

A file here exports `Config`, the options under `opt` of a run, and `chain`, what they make of gradients
(experiments/training/transformations.py has the pieces besides optax's own). Nothing else names an optimizer. It may export
TRANSFERS = True, where its chain applies the multiples of muP and CompleteP, and GROWS = False, where its state cannot grow.
"""

import importlib
import pkgutil
import sys
from types import ModuleType
from typing import Any, ClassVar, Protocol

from models.errors import InputError, nearest

DEFAULT = "adamw"


class Options(Protocol):
    """What the options of every optimizer have: a dataclass with the name of its file and a peak learning rate."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """Return the name of the optimizer's file."""
        ...

    @property
    def lr(self) -> float:
        """Return the peak learning rate."""
        ...


def optimizer_names() -> tuple[str, ...]:
    """Return the names of the files in this folder, and in those that `__path__` has been given besides."""
    return tuple(sorted(file.name for file in pkgutil.iter_modules(__path__)))


def load(name: str) -> ModuleType:
    """Import the module of an optimizer. Raises InputError with the nearest name when there is none."""
    module = f"{__name__}.{name}"
    if module not in sys.modules and name not in optimizer_names():  # one that is loaded is known
        raise InputError(f"opt.name={name!r} is not known; {nearest(str(name), optimizer_names(), 'choice')}")
    return importlib.import_module(module)


def transfers(name: str) -> bool:
    """Say whether an optimizer's options hold at other sizes by muP's and CompleteP's multiples: its TRANSFERS."""
    return getattr(load(name), "TRANSFERS", False)


def grows(name: str) -> bool:
    """Say whether an optimizer's state becomes that of a larger model, as gradients do: its GROWS, True unless it says."""
    return getattr(load(name), "GROWS", True)
