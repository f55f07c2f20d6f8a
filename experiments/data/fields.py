"""Take the text out of a row: a field, one inside another ("content.text"), several joined ("title+content.text")."""

from collections.abc import Mapping
from typing import Any

from models.errors import InputError, nearest

JOINT = "\n\n"  # between the texts of several fields: a title stands above its text


def parts(spec: str) -> list[str]:
    """Return the paths of the fields that data.text_field names."""
    return spec.split("+")


def top_level(spec: str, names: list[str]) -> list[str]:
    """Return the columns of a table that hold the fields.

    Raises InputError, without a place, when one is missing, or two have its name.
    """
    columns = []
    for path in parts(spec):
        column = path if path in names else path.split(".")[0]
        if column not in names:
            raise InputError(f"no column {_named(path, spec)}; {nearest(path, names, 'column')}")
        if names.count(column) > 1:
            raise InputError(f"{names.count(column)} columns are named {column!r}")
        if column not in columns:
            columns.append(column)
    return columns


def text_of(row: Mapping[str, Any], spec: str, where: str) -> str | None:
    """Return the text of a row, None where all of its fields are null. `where` names the row in errors.

    Fields that are null or blank are left out of what is joined. Raises InputError for a field that is missing or holds
    no text.
    """
    found = []
    for path in parts(spec):
        value = _look_up(row, path, spec, where)
        if value is not None:
            found.append(_checked(value, path, spec, where))
    if not found:
        return None
    return JOINT.join(text for text in found if text.strip())


def _named(path: str, spec: str) -> str:
    """Return how an error names a field: as the option, and which of several it is."""
    return f"data.text_field={spec!r}" if path == spec else f"{path!r} of data.text_field={spec!r}"


def _look_up(row: Mapping[str, Any], path: str, spec: str, where: str) -> Any:
    """Return the value of a field; None where it, or what it is in, is null."""
    if path in row:  # a name with dots of its own
        return row[path]
    node: Any = row
    above = ""
    for name in path.split("."):
        if node is None:
            return None
        if not isinstance(node, Mapping):
            kind = type(node).__name__
            raise InputError(
                f"{where}: {above.rstrip('.')!r} of data.text_field={spec!r} holds {kind}, expected fields"
            )
        if name not in node:
            there = [f"{above}{known}" for known in node]
            raise InputError(f"{where}: no field {_named(path, spec)}; {nearest(path, there, 'field')}")
        node = node[name]
        above += f"{name}."
    return node


def _checked(value: Any, path: str, spec: str, where: str) -> str:
    """Return a value that is a text. Raises InputError for anything else, and for what UTF-8 cannot hold."""
    if not isinstance(value, str):
        raise InputError(f"{where}: {_named(path, spec)} holds {type(value).__name__}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {_named(path, spec)} holds half of a surrogate pair, which is no text") from error
    return value
