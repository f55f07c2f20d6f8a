"""Formulas that users type: `--where` and computed column roles. Parsed with ast, walked by hand, never evaluated.

Only what is listed here exists: there are no attributes, no calls but the few functions below, no names but columns.
"""

import ast
from collections.abc import Callable
import operator
from typing import Any

import numpy as np

from experiments.cli import InputError

Lookup = Callable[[str], np.ndarray]

ARITHMETIC = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
FUNCTIONS = {"log": np.log, "exp": np.exp, "sqrt": np.sqrt}
COMPARISONS = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
DEEPEST = 50


def parse(text: str, what: str) -> ast.expr:
    """The syntax tree of one expression; InputError when it is not one."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"{what}: {text!r} is not an expression in Python's spelling") from None
    if _depth(tree) > DEEPEST:
        raise InputError(f"{what}: the expression is nested more than {DEEPEST} deep")
    return tree


def _depth(tree: ast.AST) -> int:
    """Levels of nesting, counted without recursion."""
    level, nodes = 0, [tree]
    while nodes and level <= DEEPEST:
        nodes = [child for node in nodes for child in ast.iter_child_nodes(node)]
        level += 1
    return level


def names(tree: ast.AST) -> set[str]:
    """Every name in an expression, function names left out."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(FUNCTIONS)


def compute(text: str, lookup: Lookup, what: str) -> np.ndarray:
    """The value of an arithmetic formula such as `C/(6*N)` for every row.

    `lookup` gives the float column behind a name. Raises InputError for anything but numbers, names, + - * / **,
    log, exp and sqrt.
    """

    def walk(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float()):
                return np.float64(node.value)
            case ast.Name():
                return lookup(node.id)
            case ast.UnaryOp(op=ast.USub()):
                return -walk(node.operand)
            case ast.BinOp() if type(node.op) in ARITHMETIC:
                return ARITHMETIC[type(node.op)](walk(node.left), walk(node.right))
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](walk(argument))
        raise InputError(
            f"{what}: {ast.unparse(node)!r} is not allowed; expected a column name or a formula of names and numbers "
            f"with + - * / ** and {', '.join(FUNCTIONS)}"
        )

    with np.errstate(all="ignore"):  # a row whose formula has no finite value is dropped and counted by the caller
        return np.asarray(walk(parse(text, what)), dtype=np.float64)


def select(text: str, lookup: Lookup) -> np.ndarray:
    """The rows (booleans) for which a `--where` condition holds.

    Comparisons `== != < <= > >= in, not in` between a name and a number or string (or two names), joined by and, or,
    not. `lookup` gives the column behind a name as numpy values. Raises InputError for anything else.
    """

    def refuse(node: ast.AST) -> InputError:
        return InputError(
            f"--where: {ast.unparse(node)!r} is not a comparison of a column with a number or a string; "
            "expected for example \"a==1 and (b<2 or not c=='x')\""
        )

    def side(node: ast.AST) -> Any:
        match node:
            case ast.Name():
                return lookup(node.id)
            case ast.Constant(value=bool() | int() | float() | str()):
                return node.value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -value
            case ast.List(elts=items) | ast.Tuple(elts=items):
                if not any(isinstance(item, ast.List | ast.Tuple | ast.Name) for item in items):
                    return [side(item) for item in items]
        raise refuse(node)

    def compare(node: ast.Compare, op: ast.cmpop, left: Any, right: Any) -> np.ndarray:
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, list) or not isinstance(left, np.ndarray):
                raise refuse(node)
            found = np.any([_equal(left, item, node) for item in right], axis=0) if right else np.zeros(len(left), bool)
            return found if isinstance(op, ast.In) else ~found
        if type(op) not in COMPARISONS or isinstance(left, list) or isinstance(right, list):
            raise refuse(node)
        if not isinstance(left, np.ndarray) and not isinstance(right, np.ndarray):
            raise refuse(node)
        if isinstance(op, ast.Eq | ast.NotEq):
            same = _equal(left, right, node)
            return same if isinstance(op, ast.Eq) else ~same
        if _is_text(left) != _is_text(right):
            raise InputError(f"--where: {ast.unparse(node)!r} compares text with a number")
        if _is_text(left):
            left, right = _as_text(left), _as_text(right)
        with np.errstate(invalid="ignore"):
            return np.asarray(COMPARISONS[type(op)](left, right), dtype=bool)

    def walk(node: ast.AST) -> np.ndarray:
        match node:
            case ast.BoolOp(op=op, values=values):
                parts = [walk(value) for value in values]
                return np.all(parts, axis=0) if isinstance(op, ast.And) else np.any(parts, axis=0)
            case ast.UnaryOp(op=ast.Not()):
                return ~walk(node.operand)
            case ast.Compare():
                sides = [side(item) for item in [node.left, *node.comparators]]
                pairs = zip(node.ops, sides[:-1], sides[1:], strict=True)
                return np.all([compare(node, op, left, right) for op, left, right in pairs], axis=0)
        raise refuse(node)

    return walk(parse(text, "--where"))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind in "OUS")


def _as_text(value: Any) -> Any:
    return value.astype(str) if isinstance(value, np.ndarray) else value


def _equal(left: Any, right: Any, node: ast.AST) -> np.ndarray:
    if _is_text(left) != _is_text(right):
        raise InputError(f"--where: {ast.unparse(node)!r} compares text with a number")
    if _is_text(left):
        left, right = _as_text(left), _as_text(right)
    return np.asarray(left == right, dtype=bool)
