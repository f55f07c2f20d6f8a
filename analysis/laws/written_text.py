"""Read a law that a user writes as text, such as `L = E + A/N^alpha + B/D^beta`: parsed with ast and never evaluated.

A name is data where it is a role (N, D, C, lr, ...), a column of the grid, or stands in back-ticks; every other one is a
coefficient. What is known of a coefficient may follow it in brackets: alpha[0:2] are bounds, alpha[0.3] a start,
alpha[0:2, 0.3, 0.5] both; A[:] may have either sign.
"""

import ast
from collections.abc import Collection, Mapping
import dataclasses
import math
import re

from analysis.grid import expression
from analysis.grid.roles import ROLES, Role
from experiments.cli import InputError

WHAT = "--formula"
FUNCTIONS = ("log", "exp", "sqrt", "abs", "min", "max")
KINKED = {"abs", "min", "max"}  # functions without a slope somewhere
NOT_INPUTS = {"weight", "run", "censored", "group", "family"}
LOSS = ("L", "loss")  # how the loss is called on the left
OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
SIGNS = {"^": "**", "\u00b7": "*", "\u00d7": "*", "\u2212": "-"}


@dataclasses.dataclass(frozen=True)
class Hint:
    """Hold what a user says of a coefficient: bounds, and values to start from; either: it may have either sign."""

    low: float = -math.inf
    high: float = math.inf
    start: tuple[float, ...] = ()
    either: bool = False


@dataclasses.dataclass(frozen=True)
class Formula:
    """Hold a law as text and as a syntax tree.

    inputs: the roles and columns that it is a function of; columns: those of them, and of the target, that are no roles.
    """

    name: str
    text: str
    target: str
    tree: ast.expr
    coefficients: tuple[str, ...]
    inputs: tuple[str, ...]
    columns: tuple[str, ...]
    hints: Mapping[str, Hint]

    @property
    def is_kinked(self) -> bool:
        """Whether the formula has no slope somewhere."""
        return any(isinstance(node, ast.Call) and called(node) in KINKED for node in ast.walk(self.tree))


def read(text: str, columns: Collection[str] = (), name: str = "formula") -> Formula:
    """Read a formula; columns: those of the grid. A name may stand before it: `mine: L = E + A/N^alpha`.

    Raises InputError for what is no formula, or has no coefficients or no data in it.
    """
    plain, quoted = expression.without_back_ticks(text)
    for sign, spelling in SIGNS.items():
        plain = plain.replace(sign, spelling)
    named = re.match(r"\s*([A-Za-z_]\w*)\s*:(?!=)(?=[^\]]*=)", plain)
    if named:
        name = named[1]
        plain = plain[named.end() :]
    left, equals, right = plain.partition("=")
    if not equals:
        left = LOSS[0]
        right = plain
    tree = expression.parse_plain(right, quoted, text, WHAT)
    hints: dict[str, Hint] = {}
    tree = _Hints(hints).visit(tree)
    data = {*quoted.values(), *columns, *_dotted(tree)}
    found = _names(tree)
    target = _target(expression.parse_plain(left, quoted, text, WHAT), data)
    inputs = [one for one in found if one not in hints and (one in data or _is_role(one))]
    coefficients = [one for one in found if one not in inputs]
    _check(text, tree, target, inputs, coefficients)
    return Formula(
        name=name,
        text=text[text.index(":") + 1 :].strip() if named else text.strip(),
        target=target,
        tree=tree,
        coefficients=tuple(coefficients),
        inputs=tuple(inputs),
        columns=tuple(one for one in (*inputs, target) if not _is_role(one)),
        hints=hints,
    )


def called(node: ast.Call) -> str:
    """Return the name of the function that a node calls; empty for anything but a name."""
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _is_role(name: str) -> bool:
    """Say whether a name is a role that a formula may be of: a number for each row."""
    if name not in ROLES or name in NOT_INPUTS or ROLES[name] == column_role(name):
        return False
    return not ROLES[name].label and not ROLES[name].many


def column_role(name: str) -> Role:
    """Return what a column means that is no role but stands in a formula."""
    return Role(f"column {name}", (name,))


def _dotted(tree: ast.AST) -> set[str]:
    """Return the names with dots, which only columns have."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and "." in node.id}


def _names(tree: ast.expr) -> list[str]:
    """Return the names in a formula in the order in which they are written, functions left out."""
    found: dict[str, None] = {}

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.Name):
            found[node.id] = None
        parts = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
        for part in parts:
            walk(part)

    walk(tree)
    return list(found)


def _target(node: ast.expr, data: Collection[str]) -> str:
    """Return the role or column that the formula predicts."""
    if not isinstance(node, ast.Name):
        raise InputError(
            f"{WHAT}: {ast.unparse(node)!r} stands on the left; expected one name, such as L in 'L = E + A/N^alpha'"
        )
    if node.id in LOSS:
        return "loss"
    if node.id in data or _is_role(node.id):
        return node.id
    raise InputError(
        f"{WHAT}: {node.id!r} on the left is neither L, a role nor a column; expected for example 'L = E + A/N^alpha'"
    )


def _check(text: str, tree: ast.expr, target: str, inputs: list[str], coefficients: list[str]) -> None:
    """Raise InputError for a formula that cannot be fitted."""
    _check_nodes(tree)
    if target in inputs:
        raise InputError(f"{WHAT}: {target} stands on both sides of {text!r}; expected it on the left alone")
    if not inputs:
        raise InputError(
            f"{WHAT}: {text!r} names no data; expected a role (N, D, C, ...) or a column of the grid, such as N"
        )
    if not coefficients:
        raise InputError(f"{WHAT}: {text!r} has no coefficients to fit; expected names that are no columns, such as E")


def _check_nodes(tree: ast.expr) -> None:
    """Raise InputError for anything but numbers, names, + - * / ^ and the functions."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float()) | ast.Name() | ast.Load():
                continue
            case ast.BinOp(op=sign) if isinstance(sign, OPERATORS):
                continue
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()) | ast.operator() | ast.unaryop():
                continue
            case ast.Call(args=arguments, keywords=[]) if called(node) in FUNCTIONS and arguments:
                several = called(node) in ("min", "max")
                if several == (len(arguments) > 1):
                    continue
        raise InputError(
            f"{WHAT}: {ast.unparse(node)!r} is not allowed; expected names and numbers with + - * / ^ "
            f"and {', '.join(FUNCTIONS)}"
        )


class _Hints(ast.NodeTransformer):
    """Take the brackets behind coefficients out of a formula, and keep what they say."""

    def __init__(self, hints: dict[str, Hint]):
        self.hints = hints

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """Return the name alone."""
        if not isinstance(node.value, ast.Name):
            return node
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        bounds = [part for part in parts if isinstance(part, ast.Slice)]
        starts = [_number(part, node) for part in parts if not isinstance(part, ast.Slice)]
        low = -math.inf
        high = math.inf
        for part in bounds:
            low = low if part.lower is None else _number(part.lower, node)
            high = high if part.upper is None else _number(part.upper, node)
        if not low < high or len(bounds) > 1 or not all(low <= start <= high for start in starts):
            raise InputError(
                f"{WHAT}: {ast.unparse(node)!r} is not a coefficient with bounds and starts within them; "
                "expected for example alpha[0:2] or alpha[0:2, 0.3]"
            )
        has_no_bounds = bool(bounds) and math.isinf(low) and math.isinf(high)
        self.hints[node.value.id] = Hint(low, high, tuple(starts), either=has_no_bounds)
        return node.value


def _number(node: ast.expr, whole: ast.expr) -> float:
    """Return the number that a node writes out."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -float(value)
    raise InputError(f"{WHAT}: {ast.unparse(node)!r} in {ast.unparse(whole)!r} is not a number")
