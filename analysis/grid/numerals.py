"""Read numbers as people write them: 127.9M, 7B, 1,264,911,064, 3,0781, 12%, 1.5x10^9."""

import math
import re
from typing import TYPE_CHECKING, cast

import numpy as np

from experiments.key_values import read_pairs, refusal

if TYPE_CHECKING:
    import pandas as pd

UNITS = {
    "%": 1e-2,
    "k": 1e3, "thousand": 1e3,
    "m": 1e6, "mn": 1e6, "mio": 1e6, "million": 1e6,
    "b": 1e9, "bn": 1e9, "g": 1e9, "billion": 1e9,
    "t": 1e12, "tn": 1e12, "trillion": 1e12,
}  # fmt: skip
NUMERAL = re.compile(
    r"(?P<sign>[-+\u2212]?)"
    r"(?P<digits>[0-9][0-9.,'_\s]*|[.,][0-9]+)"
    r"(?:(?:e|\s*[x\u00d7*\u00b7]\s*10\s*(?:\^|\*\*))(?P<power>[-+\u2212]?[0-9]+))?"
    r"\s*(?P<unit>%|[a-z]+)?",
    re.IGNORECASE,
)
POWER = re.compile(r"(?P<base>[0-9]+)\s*(?:\^|\*\*)\s*(?P<power>[0-9]+)")
GROUPED = re.compile(r"[0-9]{1,3}(?:(?P<mark>[.,'_\s])[0-9]{3})(?:(?P=mark)[0-9]{3})*")
UNCLEAR = re.compile(r"[1-9][0-9]{0,2}[.,][0-9]{3}")  # 1,234: a thousand and more, or one and a part
MISSING = {"", "-", "nan", "na", "n/a", "none", "null"}  # words for no value
LONGEST = 60  # characters of a number


def number(text: str, decimal: str = ".") -> float:
    """Return the number that a text stands for; NaN where it is none.

    decimal: the decimal mark of what can be read in two ways, such as 1,234; others speak for themselves.
    """
    text = text.strip()
    if len(text) > LONGEST:
        return math.nan
    power = POWER.fullmatch(text)
    if power:
        return _power(power["base"], power["power"])
    found = NUMERAL.fullmatch(text)
    if not found:
        return _word(text)
    digits = _plain_digits(found["digits"].strip(), decimal)
    unit = (found["unit"] or "").lower()
    if digits is None or (unit and unit not in UNITS):
        return math.nan
    sign = "-" if found["sign"] in ("-", "\u2212") else ""
    exponent = (found["power"] or "0").replace("\u2212", "-")
    return _times(float(f"{sign}{digits}e{exponent}"), UNITS.get(unit, 1.0))


def numbers_by_name(text: str, flag: str, form: str, example: str) -> dict[str, float]:
    """Read `name=number,…` (experiments/key_values.py). Raises InputError for what is no finite number."""
    found = {}
    for name, value in read_pairs(text, flag, form, example).items():
        found[name] = number(value)
        if not math.isfinite(found[name]):
            raise refusal(flag, f"{name}={value}", f"is not {form}", f"{name}=finite number")
    return found


def _times(value: float, unit: float) -> float:
    """Multiply by a unit, exactly where the product is a whole number: 50.1M is 50100000."""
    product = value * unit
    whole = round(product) if math.isfinite(product) else 0
    is_rounding = unit > 1 and whole != 0 and abs(product / whole - 1) < 1e-14
    return float(whole) if is_rounding else product


def _power(base: str, power: str) -> float:
    """Return a power that is written out, such as 10^9."""
    try:
        return float(base) ** float(power)
    except OverflowError:
        return math.inf


def _word(text: str) -> float:
    """Return inf and nan, which are numbers of Python's spelling; NaN for any other word."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _plain_digits(text: str, decimal: str) -> str | None:
    """Return digits in Python's spelling, without the marks between thousands; None where the marks make no sense."""
    mark = decimal_mark(text) or decimal
    whole, _, part = text.rpartition(mark) if mark in text else (text, "", "")
    if part and not part.isdigit():
        return None
    if not whole:
        return f"0.{part}"
    if whole.isdigit():
        return f"{whole}.{part}"
    grouped = GROUPED.fullmatch(whole)
    if not grouped or grouped["mark"] == mark:
        return None
    return f"{re.sub('[^0-9]', '', whole)}.{part}"


def decimal_mark(text: str) -> str | None:
    """Return the decimal mark that the marks in a number can only mean; None where there are none, or two readings.

    1,264,911 has a decimal point, if any; 1.264,5 and 3,07 have a decimal comma; 1,264 may have either.
    """
    found = NUMERAL.fullmatch(text.strip())
    if not found:
        return None
    digits = found["digits"].strip()
    marks = re.findall("[.,]", digits)
    if not marks or UNCLEAR.fullmatch(digits):
        return None
    last = marks[-1]
    other = "," if last == "." else "."
    is_repeated = marks.count(last) > 1  # 1.264.911: a mark between thousands
    return other if is_repeated else last


def is_unclear(text: str) -> bool:
    """Say whether a number can be read in two ways, such as 1,234."""
    found = NUMERAL.fullmatch(text.strip())
    return bool(found and UNCLEAR.fullmatch(found["digits"].strip()))


def marks_of(column: "pd.Series") -> set[str]:
    """Return the decimal marks that some texts of a column can only mean; none where it does not hold numbers."""
    if not is_text(column) or not holds_numbers(column):
        return set()
    found = {decimal_mark(text) for text in texts(column)}
    return {mark for mark in found if mark}


def is_text(column: "pd.Series") -> bool:
    """Say whether a column holds text, or several kinds of values."""
    return column.dtype.kind not in "biufcmM"


def numbers(column: "pd.Series", decimal: str = ".") -> np.ndarray:
    """Return a column as float64; what is not a number becomes NaN."""
    import pandas as pd

    if not is_text(column):
        plain = cast("pd.Series", pd.to_numeric(column, errors="coerce"))  # a series of a series
        return plain.to_numpy(np.float64, na_value=np.nan)
    read = {value: number(value, decimal) for value in texts(column)}
    found = [read[value] if isinstance(value, str) else _plain(value) for value in column]
    return np.array(found, dtype=np.float64)


def texts(column: "pd.Series") -> list[str]:
    """Return the different texts of a column, in their order."""
    return [value for value in dict.fromkeys(map(_hashable, column)) if isinstance(value, str)]


def _hashable(value: object) -> object:
    """Return texts as they are, and nothing for all else, which may be a list."""
    return value if isinstance(value, str) else None


def _plain(value: object) -> float:
    """Return what is a number already; NaN for a missing value or a list."""
    try:
        return float(value)  # pyright: ignore[reportArgumentType] an answer of its own for what is none
    except (TypeError, ValueError):
        return math.nan


def holds_numbers(column: "pd.Series") -> bool:
    """Say whether all texts of a column are numbers or stand for none, and there are some."""
    found = [text for text in texts(column) if text.strip().lower() not in MISSING]
    return bool(found) and all(map(is_number, found))


def is_number(text: str) -> bool:
    """Say whether a text is a number, with a decimal point or a decimal comma."""
    readings = [number(text, "."), number(text, ",")]
    return not all(map(math.isnan, readings))
