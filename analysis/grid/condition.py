"""Choose rows by conditions that users type in `--where`: parsed with ast, walked by hand, never evaluated."""

import ast
from collections.abc import Callable
import operator

import numpy as np

from analysis.grid.expression import Lookup, parse
from experiments.cli import InputError

Scalar = bool | int | float | str
Side = np.ndarray | Scalar | list[Scalar]  # a column, a constant, or what `in` compares with

ORDERINGS: dict[type[ast.cmpop], Callable] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def rows_where(text: str, lookup: Lookup) -> np.ndarray:
    """Return the rows (booleans) for which a `--where` condition holds.

    Comparisons `== != < <= > >= in, not in` between a name and a number or string (or two names), joined by and, or,
    not. `lookup` gives the column behind a name as numpy values. Raises InputError for anything else.
    """
    return _holds(parse(text, "--where"), lookup)


def _holds(node: ast.AST, lookup: Lookup) -> np.ndarray:
    """Return the rows for which one node of a condition holds."""
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return np.all([_holds(value, lookup) for value in values], axis=0)
        case ast.BoolOp(op=ast.Or(), values=values):
            return np.any([_holds(value, lookup) for value in values], axis=0)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_holds(operand, lookup)
        case ast.Compare(left=first, ops=ops, comparators=others):
            sides = [_side(item, lookup) for item in [first, *others]]
            compared = []
            for op, left, right in zip(ops, sides[:-1], sides[1:], strict=True):  # a < b < c is a < b and b < c
                compared.append(_compare(node, op, left, right))
            return np.all(compared, axis=0)
    raise _refusal(node)


def _side(node: ast.AST, lookup: Lookup) -> Side:
    """Return what stands on one side of a comparison."""
    match node:
        case ast.Name(id=name):
            return lookup(name)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_constant(item) for item in items]
    return _constant(node)


def _constant(node: ast.AST) -> Scalar:
    """Return the number, text or truth value that a node writes out. Raises InputError for anything else."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    raise _refusal(node)


def _compare(node: ast.Compare, op: ast.cmpop, left: Side, right: Side) -> np.ndarray:
    """Compare two sides, of which at least one is a column."""
    if isinstance(op, ast.In | ast.NotIn):
        found = _is_in(node, left, right)
        return found if isinstance(op, ast.In) else ~found
    if isinstance(left, list) or isinstance(right, list):
        raise _refusal(node)
    if not isinstance(left, np.ndarray) and not isinstance(right, np.ndarray):
        raise _refusal(node)
    if isinstance(op, ast.Eq):
        return _equal(node, left, right)
    if isinstance(op, ast.NotEq):
        return ~_equal(node, left, right)
    if type(op) not in ORDERINGS:
        raise _refusal(node)
    first, second = _of_one_kind(node, left, right)
    with np.errstate(invalid="ignore"):
        return np.asarray(ORDERINGS[type(op)](first, second), dtype=bool)


def _is_in(node: ast.Compare, left: Side, right: Side) -> np.ndarray:
    """Return the rows of a column that hold one of the values of a list."""
    if not isinstance(left, np.ndarray) or not isinstance(right, list):
        raise _refusal(node)
    found = np.zeros(len(left), dtype=bool)
    for value in right:
        found |= _equal(node, left, value)
    return found


def _equal(node: ast.Compare, left: np.ndarray | Scalar, right: np.ndarray | Scalar) -> np.ndarray:
    first, second = _of_one_kind(node, left, right)
    return np.asarray(first == second, dtype=bool)


def _of_one_kind(
    node: ast.Compare, left: np.ndarray | Scalar, right: np.ndarray | Scalar
) -> tuple[np.ndarray | Scalar, np.ndarray | Scalar]:
    """Return both sides as numbers or both as text; InputError where they differ."""
    if _is_text(left) != _is_text(right):
        raise InputError(f"--where: {ast.unparse(node)!r} compares text with a number")
    if _is_text(left):
        return _as_text(left), _as_text(right)
    return left, right


def _is_text(value: np.ndarray | Scalar) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "OUS"
    return isinstance(value, str)


def _as_text(value: np.ndarray | Scalar) -> np.ndarray | Scalar:
    return value.astype(str) if isinstance(value, np.ndarray) else value


def _refusal(node: ast.AST) -> InputError:
    """Make the error for a part of --where that is no comparison."""
    return InputError(
        f"--where: {ast.unparse(node)!r} is not a comparison of a column with a number or a string; "
        "expected for example \"a==1 and (b<2 or not c=='x')\""
    )
