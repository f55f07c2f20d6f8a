"""Compute formulas that users type, such as `C/(6*N)`: parsed with ast, walked by hand, never evaluated.

Only what is listed here exists: there are no attributes, no calls but the few functions below, no names but columns.
Conditions on rows (`--where`) are analysis/grid/condition.py's.
"""

import ast
from collections.abc import Callable

import numpy as np

from experiments.cli import InputError

Lookup = Callable[[str], np.ndarray]  # name -> the values of its column [rows]

ARITHMETIC: dict[type[ast.operator], np.ufunc] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
FUNCTIONS = {"log": np.log, "exp": np.exp, "sqrt": np.sqrt}
DEEPEST = 50


def parse(text: str, what: str) -> ast.expr:
    """Parse one expression to its syntax tree; InputError when it is not one, or nested too deep to walk."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"{what}: {text!r} is not an expression in Python's spelling") from None
    if _depth(tree) > DEEPEST:
        raise InputError(f"{what}: the expression is nested more than {DEEPEST} deep")
    return tree


def _depth(tree: ast.AST) -> int:
    """Count the levels of nesting, without recursion, and no further than needed."""
    level = 0
    nodes = [tree]
    while nodes and level <= DEEPEST:
        below: list[ast.AST] = []
        for node in nodes:
            below += ast.iter_child_nodes(node)
        nodes = below
        level += 1
    return level


def names(tree: ast.AST) -> set[str]:
    """Return every name in an expression, function names left out."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return found - set(FUNCTIONS)


def compute(text: str, lookup: Lookup, what: str) -> np.ndarray:
    """Compute an arithmetic formula for every row.

    `lookup` gives the float column behind a name. Raises InputError for anything but numbers, names, + - * / **,
    log, exp and sqrt.
    """
    tree = parse(text, what)
    with np.errstate(all="ignore"):  # a row whose formula has no finite value is dropped and counted by the caller
        return np.asarray(_value(tree, lookup, what), dtype=np.float64)


def _value(node: ast.AST, lookup: Lookup, what: str) -> np.ndarray | np.float64:
    """Compute one node of a formula."""
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return np.float64(number)
        case ast.Name(id=name):
            return lookup(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, lookup, what)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in ARITHMETIC:
            first = _value(left, lookup, what)
            second = _value(right, lookup, what)
            return ARITHMETIC[type(sign)](first, second)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            return FUNCTIONS[name](_value(argument, lookup, what))
    raise InputError(
        f"{what}: {ast.unparse(node)!r} is not allowed; expected a column name or a formula of names and numbers "
        f"with + - * / ** and {', '.join(FUNCTIONS)}"
    )
