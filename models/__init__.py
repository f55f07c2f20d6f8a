"""Model families, found by name: `load("dense")` returns the module models/families/dense.py."""

import importlib
import pkgutil
import sys
from types import ModuleType

from models import families
from models.errors import InputError, nearest


def family_names() -> tuple[str, ...]:
    """Return the names of the files in models/families, and in folders that its `__path__` has been given besides."""
    return tuple(sorted(file.name for file in pkgutil.iter_modules(families.__path__)))


def load(family: str) -> ModuleType:
    """Return the module of a family. Raises InputError with the nearest name when there is none."""
    module = f"{families.__name__}.{family}"
    if module not in sys.modules and family not in family_names():  # one that is loaded is known
        raise InputError(f"family={family!r} is not known; {nearest(family, family_names(), 'family')}")
    return importlib.import_module(module)
