"""Model families, found by name: `load("dense")` returns the module models/families/dense.py."""

import importlib
import pathlib
from types import ModuleType

from models.errors import InputError, nearest


def family_names() -> tuple[str, ...]:
    """Names of the files in models/families."""
    folder = pathlib.Path(__file__).parent / "families"
    return tuple(sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__"))


def load(family: str) -> ModuleType:
    """The module of a family. Raises InputError with the nearest name when there is none."""
    if family not in family_names():
        raise InputError(f"family={family!r} is not known; {nearest(family, family_names(), 'family')}")
    return importlib.import_module(f"{__name__}.families.{family}")
