"""Choose rows by conditions that users type in `--where`: parsed with ast, walked by hand, never evaluated."""

import ast
from collections.abc import Callable
import fnmatch
import io
import keyword
import math
import operator
import tokenize

import numpy as np

from analysis.grid import expression, numerals
from analysis.grid.expression import Lookup
from experiments.cli import InputError, nearest

Scalar = bool | int | float | str
Side = np.ndarray | Scalar | list[Scalar]  # a column, a constant, or what `in` compares with

ORDERINGS: dict[type[ast.cmpop], Callable] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
TRUE = {"true", "yes", "1", "1.0"}
MISSING = {"", "nan", "none", "<na>"}
FALSE = {"false", "no", "0", "0.0"} | MISSING  # what is missing does not hold


class Condition:
    """Hold one condition and the columns that it speaks of; `absent` fills with texts that no row of a column has."""

    def __init__(self, lookup: Lookup, decimal: str = "."):
        self.lookup = lookup
        self.decimal = decimal
        self.absent: list[str] = []

    def holds(self, node: ast.AST) -> np.ndarray:
        """Return the rows for which one node of a condition holds."""
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                return np.all([self.holds(value) for value in values], axis=0)
            case ast.BoolOp(op=ast.Or(), values=values):
                return np.any([self.holds(value) for value in values], axis=0)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.holds(operand)
            case ast.Name(id=name):
                return _truths(name, self.lookup(name))
            case ast.BinOp(left=ast.Name(id=name), op=ast.MatMult(), right=ast.Constant(value=str() as pattern)):
                return self._like(name, pattern)
            case ast.BinOp(left=ast.Name(id=name), op=ast.FloorDiv(), right=ast.Constant(value=str() as pattern)):
                return ~self._like(name, pattern)
            case ast.Compare(left=first, ops=ops, comparators=others):
                left = self._side(first)
                compared = []
                for op, other in zip(ops, others, strict=True):  # a < b < c is a < b and b < c
                    right = self._side(other)
                    compared.append(self._compare(node, op, left, right))
                    left = right
                return np.all(compared, axis=0)
        raise _refusal(node)

    def _like(self, name: str, pattern: str) -> np.ndarray:
        """Return the rows whose text in a column fits a pattern with * and ?."""
        column = self.lookup(name)
        words = column.astype(str)
        found = []
        for word in words:
            fits = fnmatch.fnmatchcase(word, pattern)
            found.append(fits)
        if not any(found):
            self._note_absent(name, f"like {pattern!r}", words, pattern)
        return np.array(found, dtype=bool)

    def _side(self, node: ast.AST) -> Side:
        """Return what stands on one side of a comparison."""
        match node:
            case ast.Name(id=name):
                return self.lookup(name)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [_constant(item) for item in items]
            case ast.BinOp():
                value = expression.value_of(node, self._numbers, "--where")
                return np.asarray(value)
        return _constant(node)

    def _numbers(self, name: str) -> np.ndarray:
        """Return a column as numbers. Raises InputError for words."""
        column = self.lookup(name)
        if not _is_text(column):
            return column.astype(np.float64)
        found = self._as_numbers(column)
        if found is None:
            raise InputError(f"--where: {name} holds words, such as {str(column[0])!r}; expected numbers")
        return found

    def _as_numbers(self, column: np.ndarray) -> np.ndarray | None:
        """Return a column of texts that are numbers, such as 7B; None for one of words."""
        import pandas as pd

        series = pd.Series(column)
        return numerals.numbers(series, self.decimal) if numerals.holds_numbers(series) else None

    def _compare(self, node: ast.Compare, op: ast.cmpop, left: Side, right: Side) -> np.ndarray:
        """Compare two sides, of which at least one is a column."""
        if isinstance(op, ast.In | ast.NotIn):
            found = self._is_in(node, left, right)
            return found if isinstance(op, ast.In) else ~found
        if isinstance(left, list) or isinstance(right, list):
            raise _refusal(node)
        if not isinstance(left, np.ndarray) and not isinstance(right, np.ndarray):
            raise _refusal(node)
        if isinstance(op, ast.Eq):
            return self._equal(node, left, right)
        if isinstance(op, ast.NotEq):
            return ~self._equal(node, left, right)
        if type(op) not in ORDERINGS:
            raise _refusal(node)
        first, second = self._of_one_kind(node, left, right)
        compare = ORDERINGS[type(op)]
        with np.errstate(invalid="ignore"):
            held = compare(first, second)
        return np.asarray(held, dtype=bool)

    def _is_in(self, node: ast.Compare, left: Side, right: Side) -> np.ndarray:
        """Return the rows of a column that hold one of the values of a list, or that a text is a part of."""
        if isinstance(left, str) and isinstance(right, np.ndarray) and _is_text(right):
            words = right.astype(str)
            found = [left in word for word in words]
            return np.array(found, dtype=bool)
        if not isinstance(left, np.ndarray) or not isinstance(right, list):
            raise _refusal(node)
        held = np.zeros(len(left), dtype=bool)
        for value in right:
            held |= self._equal(node, left, value)
        return held

    def _equal(self, node: ast.Compare, left: np.ndarray | Scalar, right: np.ndarray | Scalar) -> np.ndarray:
        first, second = self._of_one_kind(node, left, right)
        found = np.asarray(first == second, dtype=bool)
        if isinstance(right, str) and isinstance(left, np.ndarray) and not found.any():
            name = ast.unparse(node.left)
            words = left.astype(str)
            self._note_absent(name, f"== {right!r}", words, right)
        return found

    def _note_absent(self, name: str, told: str, words: np.ndarray, value: str) -> None:
        """Note that no row of a column has a text, and the nearest that some have."""
        there = set(words.tolist())
        hint = nearest(value, there, "value")
        self.absent.append(f"--where: no row has {name} {told}; {hint}")

    def _of_one_kind(
        self, node: ast.Compare, left: np.ndarray | Scalar, right: np.ndarray | Scalar
    ) -> tuple[np.ndarray | Scalar, np.ndarray | Scalar]:
        """Return both sides as numbers or both as text; InputError where they differ."""
        if _is_text(left) != _is_text(right):
            left = self._number_of(node, left)
            right = self._number_of(node, right)
        if _is_text(left):
            return _as_text(left), _as_text(right)
        return left, right

    def _number_of(self, node: ast.Compare, side: np.ndarray | Scalar) -> np.ndarray | Scalar:
        """Return a side as numbers, where it is text that stands for some; InputError where it does not."""
        found: np.ndarray | Scalar | None = side
        if isinstance(side, np.ndarray) and _is_text(side):
            found = self._as_numbers(side)
        if isinstance(side, str):
            number = numerals.number(side, self.decimal)
            found = None if math.isnan(number) else number
        if found is None:
            raise InputError(f"--where: {ast.unparse(node)!r} compares text with a number")
        return found


def parse(text: str) -> ast.expr:
    """Parse a condition. `name like 'a*'` and `name not like 'a*'` become operators that nothing else uses here."""
    plain, names = expression.without_back_ticks(text)
    lines = io.StringIO(plain.strip())
    try:
        tokens = list(tokenize.generate_tokens(lines.readline))
    except (tokenize.TokenError, SyntaxError):
        tokens = []  # the parser says what is wrong
    words: list[tuple[int, str]] = []
    for token in tokens:
        word = (token.type, token.string)
        is_behind_not = words[-1:] == [(tokenize.NAME, "not")] and _is_name(words[-2:-1])
        if token.string == "like" and is_behind_not:
            words[-1] = (tokenize.OP, "//")
            continue
        if token.string == "like" and _is_name(words[-1:]):
            word = (tokenize.OP, "@")
        words.append(word)
    plain = tokenize.untokenize(words) if words else plain
    return expression.parse_plain(plain, names, text, "--where")


def _is_name(words: list[tuple[int, str]]) -> bool:
    """Say whether what was read last is a name and no word of Python."""
    if not words:
        return False
    [(kind, word)] = words
    return kind == tokenize.NAME and not keyword.iskeyword(word)


def rows_where(text: str, lookup: Lookup, decimal: str = ".", absent: list[str] | None = None) -> np.ndarray:
    """Return the rows (booleans) for which a `--where` condition holds.

    Comparisons `== != < <= > >= in, not in` between a column or a formula of columns and a number or string, patterns
    (`name like 'run-*'`), parts of text (`'run' in name`) and columns of yes and no, joined by and, or, not. `lookup`
    gives the column behind a name as numpy values, decimal is the mark of texts that can be read in two ways. `absent`
    takes notes on texts that no row has. Raises InputError for anything else.
    """
    condition = Condition(lookup, decimal)
    held = condition.holds(parse(text))
    if absent is not None:
        absent += condition.absent
    return held


def _truths(name: str, column: np.ndarray) -> np.ndarray:
    """Return a column of yes and no as booleans; what is missing does not hold. Raises InputError for other columns."""
    spelled = column.astype(str)
    words = np.char.lower(spelled)
    known = set(words.tolist())
    strange = sorted(known - TRUE - FALSE)
    says_something = known - MISSING
    if strange or not says_something:
        example = strange[0] if strange else "nothing"
        raise InputError(f"--where: {name} is no column of yes and no, it holds {example!r}; expected a comparison")
    return np.isin(words, list(TRUE))


def _constant(node: ast.AST) -> Scalar:
    """Return the number, text or truth value that a node writes out. Raises InputError for anything else."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    raise _refusal(node)


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
