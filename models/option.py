"""How a config dataclass marks what its fields do to a run. Imports nothing, so that every layer may use it."""

import dataclasses
from typing import Any


def option(default: Any, *, runtime: bool = False, numerics: bool = True) -> Any:
    """A dataclass field.

    runtime: a number that enters the compiled program as an input, so that runs which differ in it share one program.
    numerics: False for what may change speed or memory but not the result; it is left out of the fingerprint.
    """
    return dataclasses.field(default=default, metadata={"runtime": runtime, "numerics": numerics})
