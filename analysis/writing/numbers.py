"""Write numbers as people read them."""

import math
from typing import Protocol

UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
LARGEST_WITH_UNIT = 1e15  # above a thousand trillions a power of ten says more than a word


class HasEnds(Protocol):
    """Anything with two ends, such as analysis.trust.interval.Interval."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


def number(value: float | None, digits: int = 4) -> str:
    """Write a number with `digits` significant digits: 1.82, 2.10e+09. A dash stands for a missing one."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits}g}"
    decimals = max(digits - 1, 1)
    return f"{value:.{decimals}e}"


def span(interval: HasEnds | None, digits: int = 4) -> str:
    """Write an interval as `low to high`. A dash stands for a missing one."""
    if interval is None:
        return "-"
    return f"{number(interval.low, digits)} to {number(interval.high, digits)}"


def human(value: float | None, digits: int = 3) -> str:
    """Write a count with a unit: 1.5M, 20B. A power of ten stands where the units end."""
    if value is None or math.isnan(value):
        return "-"
    # 999,999 is written 1M and not 1000k: the unit is chosen after rounding.
    rounded = float(f"{value:.{digits - 1}e}")
    for limit, unit in UNITS:
        if not limit <= rounded < LARGEST_WITH_UNIT:
            continue
        scaled = f"{value / limit:.{digits}g}"
        if "e" in scaled:
            scaled = f"{float(scaled):.0f}"
        return scaled + unit
    return f"{value:.{digits}g}"


def counted(count: int, noun: str) -> str:
    """Write how many there are of something: 1 row, 12 rows."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def share(value: float | None) -> str:
    """Write a share in per cent; a dash for one that is not known."""
    is_known = value is not None and math.isfinite(value)
    return f"{value:.0%}" if is_known else "-"
