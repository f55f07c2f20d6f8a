"""Compute formulas that users type, such as `C/(6*N)`: parsed with ast, walked by hand, never evaluated.

Only what is listed here exists: there are no attributes, no calls but the few functions below, no names but columns.
Conditions on rows (`--where`) are analysis/grid/condition.py's.
"""

import ast
from collections.abc import Callable, Mapping
import re

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
    """Parse one expression to its syntax tree; InputError when it is not one, or nested too deep to walk.

    Names of columns that are no words of Python stand in back-ticks, as in pandas' queries: `eval/loss`; those with
    dots may stand alone: summary.loss.
    """
    plain, columns = without_back_ticks(text)
    return parse_plain(plain, columns, text, what)


def parse_plain(plain: str, columns: Mapping[str, str], text: str, what: str) -> ast.expr:
    """Parse what `without_back_ticks` has made of `text`."""
    try:
        tree = ast.parse(plain.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(
            f"{what}: {text!r} is not an expression in Python's spelling (a name with spaces or the like stands in "
            "back-ticks: `eval/loss`)"
        ) from None
    if _depth(tree) > DEEPEST:
        raise InputError(f"{what}: the expression is nested more than {DEEPEST} deep")
    return _Names(columns).visit(tree)


def is_quoted(text: str) -> bool:
    """Say whether a text is one name in back-ticks."""
    return len(text) > 2 and text[0] == text[-1] == "`" and "`" not in text[1:-1]


def without_back_ticks(text: str) -> tuple[str, dict[str, str]]:
    """Return an expression with a word in the place of each name in back-ticks, and what the words stand for."""
    columns: dict[str, str] = {}

    def word(found: re.Match[str]) -> str:
        stands_for = f"_{len(columns)}_{'_' * len(text)}"  # longer than any name that is there
        columns[stands_for] = found[1]
        return f" {stands_for} "

    return re.sub("`([^`]+)`", word, text), columns


class _Names(ast.NodeTransformer):
    """Put the names of columns in their places: those that stood in back-ticks, and those with dots."""

    def __init__(self, columns: Mapping[str, str]):
        self.columns = columns

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """Return the name of the column that a word stands for."""
        return ast.Name(self.columns.get(node.id, node.id), node.ctx)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Return names between dots as one name; what looks into an object stays, and is refused later."""
        inner = self.visit(node.value)
        if isinstance(inner, ast.Name) and not node.attr.startswith("__"):
            return ast.Name(f"{inner.id}.{node.attr}", node.ctx)
        return node


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
        return np.asarray(value_of(tree, lookup, what), dtype=np.float64)


def value_of(node: ast.AST, lookup: Lookup, what: str) -> np.ndarray | np.float64:
    """Compute one node of a formula."""
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return np.float64(number)
        case ast.Name(id=name):
            return lookup(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -value_of(operand, lookup, what)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in ARITHMETIC:
            first = value_of(left, lookup, what)
            second = value_of(right, lookup, what)
            return ARITHMETIC[type(sign)](first, second)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            return FUNCTIONS[name](value_of(argument, lookup, what))
    raise InputError(
        f"{what}: {ast.unparse(node)!r} is not allowed; expected a column name or a formula of names and numbers "
        f"with + - * / ** and {', '.join(FUNCTIONS)}"
    )
