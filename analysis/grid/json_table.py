"""Read a table that is JSON: a list of records, one record a line, columns, records under a name, nested fields, curves."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import json
from typing import TYPE_CHECKING, Any

from analysis.grid.text_table import Table, shorten

if TYPE_CHECKING:  # imported where it is used: --help stays instant
    import pandas as pd

DEEPEST = 3  # levels that a list of records is looked for in
SHOWN = 12  # keys in a message

Record = Mapping[str, Any]


def looks_like_json(text: str) -> bool:
    """Say whether a text begins as JSON does."""
    return text.lstrip()[:1] in ("{", "[")


def read(text: str) -> Table:
    """Read the table in a text of JSON. Raises ValueError with what it holds where that is no table."""
    records, notes = _records(_parse(text))
    if not records:
        raise ValueError("it has no rows; expected records")
    records, more = _unrolled(records)
    frame = _flat(records)
    return Table(frame, [str(name) for name in frame.columns], (*notes, *more))


def _parse(text: str) -> Any:
    """Return the one value in a text, or the list of those in its lines."""
    try:
        return json.loads(text)
    except ValueError as error:
        whole = error
    found = []
    for at, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except ValueError as error:
            told = error if found else whole
            place = f"line {at}: " if found else ""
            raise ValueError(f"it begins as JSON and is not: {place}{told}") from None
    return found


def _records(value: Any) -> tuple[Sequence[Record], list[str]]:
    """Return the records in a value, whatever shape they are in, and a note where they were looked for."""
    if _is_records(value) or value == []:
        return value, []
    if isinstance(value, list) and value and all(isinstance(row, list) for row in value):
        header, *rows = value  # a table as a list of lists
        if all(isinstance(name, str) for name in header):
            return _named(header, rows), []
    if isinstance(value, dict):
        return _records_of(value)
    raise ValueError(f"it is JSON of {_describe(value)}; expected a list of records such as {{'N': 1e9, 'loss': 2.5}}")


def _named(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[Record]:
    """Return rows as records of these names."""
    return [dict(zip(names, row, strict=False)) for row in rows]


def _under(lists: Mapping[str, Sequence[Record]]) -> tuple[Sequence[Record], list[str]]:
    """Return the only list of records that was found, and a note on where it was."""
    [(path, records)] = lists.items()
    return records, [f"the rows are the records under {path!r}"]


def _records_of(value: Mapping[str, Any]) -> tuple[Sequence[Record], list[str]]:
    """Return the records in an object."""
    parts = list(value.values())
    if "columns" in value and _are_lists(value.get("data")):  # the parts of a table, as pandas splits it
        return _named(value["columns"], value["data"]), []
    if len(value) > 1 and _are_columns(value):
        rows = zip(*parts, strict=True)
        return _named(list(value), rows), []
    if parts and all(isinstance(part, dict) for part in parts):
        return _keyed(value)
    under = _find_lists(value, (), DEEPEST)
    if "schema" in value and "data" in under:  # a table with its schema, as pandas writes it
        under = {"data": under["data"]}
    if len(under) == 1:
        return _under(under)
    if not under and not any(isinstance(part, list) for part in parts):
        return [value], []
    several = ", ".join(map(repr, under))
    hint = f"lists of records under {several}; keep one of them" if under else "expected a list of records"
    raise ValueError(f"it is JSON of {_describe(value)}: {hint}")


def _keyed(value: Mapping[str, Any]) -> tuple[Sequence[Record], list[str]]:
    """Return the records of an object of objects: columns by row number, as pandas writes them, or records by name."""
    inner = list(value.values())
    rows = list(dict.fromkeys(key for part in inner for key in part))
    is_by_number = bool(rows) and all(map(str.isdigit, rows))
    if is_by_number:
        columns = [[part.get(row) for row in rows] for part in inner]
        return _named(list(value), zip(*columns, strict=True)), []
    under = _find_lists(value, (), DEEPEST)
    if len(value) == 1 and len(under) == 1:
        return _under(under)
    if len(value) == 1:
        return _records(inner[0])
    return [{"name": key, **part} for key, part in value.items()], ["the keys of the records are the column name"]


def _find_lists(value: Any, path: tuple[str, ...], deepest: int) -> dict[str, Sequence[Record]]:
    """Return the lists of records inside an object, by where they are: found.runs."""
    if _is_records(value):
        return {".".join(path): value}
    found: dict[str, Sequence[Record]] = {}
    if isinstance(value, dict) and deepest:
        for key, part in value.items():
            found |= _find_lists(part, (*path, key), deepest - 1)
    return found


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _are_lists(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, list) for row in value)


def _are_columns(value: Mapping[str, Any]) -> bool:
    """Say whether all parts of an object are lists of one length and of plain values."""
    parts = list(value.values())
    if not all(isinstance(part, list) for part in parts):
        return False
    lengths = {len(part) for part in parts}
    cells = [cell for part in parts for cell in part]
    return len(lengths) == 1 and not any(isinstance(cell, dict | list) for cell in cells)


def _describe(value: Any) -> str:
    """Say what a value is, for a message."""
    if isinstance(value, dict):
        keys = ", ".join(list(value)[:SHOWN])
        return f"one object with the keys {shorten(keys)}"
    if isinstance(value, list):
        kinds = sorted({type(row).__name__ for row in value})
        return f"a list of {' and '.join(kinds) or 'nothing'}"
    return f"one {type(value).__name__}"


def _flat(records: Sequence[Record]) -> "pd.DataFrame":
    """Return records as a table; fields of fields get names with dots, as in summary.loss."""
    import pandas as pd

    plain = [dict(record) for record in records]
    return pd.json_normalize(plain)


def _unrolled(records: Sequence[Record]) -> tuple[Sequence[Record], list[str]]:
    """Return a record for each point where all records hold a curve: a list of records, or lists of one length."""
    count = len(records)
    lists = _fields(records, _is_records)
    if len(lists) == 1:
        [name] = lists
        rows = []
        for record in records:
            rest = _without(record, lists)
            rows += [{**rest, **point} for point in record[name]]
        return rows, [f"the rows are the records in {name!r} of {count} records"]
    curves = _fields(records, _is_curve)
    if not curves:
        return records, []
    rows = []
    for record in records:
        values = [record[name] for name in curves]
        lengths = set(map(len, values))
        if len(lengths) > 1:
            return records, []
        rest = _without(record, curves)
        points = _named(curves, zip(*values, strict=True))
        rows += [{**rest, **point} for point in points]
    named = ", ".join(curves)
    return rows, [f"the rows are the points of the curves {named} of {count} records"]


def _fields(records: Sequence[Record], is_such: Callable[[Any], bool]) -> list[str]:
    """Return the fields that are such in all records."""
    found = []
    for name in records[0]:
        values = [record.get(name) for record in records]
        if all(map(is_such, values)):
            found.append(name)
    return found


def _without(record: Record, names: Sequence[str]) -> Record:
    """Return a record without some of its fields."""
    return {key: part for key, part in record.items() if key not in names}


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(cell, int | float) for cell in value)
