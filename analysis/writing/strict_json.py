"""Prepare values for strict JSON, which has no word for a number that is not finite."""

import math
from typing import Any


def finite_or_null(value: Any) -> Any:
    """Replace numbers that are not finite by None, in dicts and lists too; tuples become lists.

    `value` is whatever JSON can hold, therefore Any.
    """
    if isinstance(value, dict):
        return {name: finite_or_null(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
