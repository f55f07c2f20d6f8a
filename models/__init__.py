"""Model families, found by name: `load("dense")` returns the module models/dense.py."""

import importlib
import pathlib
from types import ModuleType

from experiments.cli import InputError, nearest

_NOT_FAMILIES = (
    "__init__",
    "attention",
    "collectives",
    "contract",
    "decoder",
    "layers",
    "linear_attention",
    "parametrization",
    "partition",
    "quantize",
    "routing",
    "growth",
    "growth_maps",
    "upcycling",
    "hf",
    "hf_layouts",
    "ternary",
)


def families() -> tuple[str, ...]:
    """Names of the family files in this package."""
    files = pathlib.Path(__file__).parent.glob("*.py")
    return tuple(sorted(file.stem for file in files if file.stem not in _NOT_FAMILIES))


def load(family: str) -> ModuleType:
    """The module of a family. Raises InputError with the nearest name when there is none."""
    if family not in families():
        raise InputError(f"family={family!r} is not known; {nearest(family, families(), 'family')}")
    return importlib.import_module(f"{__name__}.{family}")
