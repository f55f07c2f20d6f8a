"""Compute a written formula from the values of its names, which may carry derivatives (analysis/solve/jet.py).

The value decides where a function has a corner or does not exist, and derivatives follow the side that it lies on.
"""

import ast
from collections.abc import Callable, Mapping
import functools
from typing import Any

import numpy as np

from analysis.laws.written_text import called


def _log(value: Any) -> Any:
    """Return the logarithm; NaN where it does not exist."""
    exists = np.real(value) > 0
    positive = np.where(exists, value, 1.0)
    logarithm = np.log(positive)
    return np.where(exists, logarithm, np.nan)


def _power(base: Any, exponent: Any) -> Any:
    """Raise to a power; NaN for a negative base and an exponent that is no whole number."""
    is_constant = isinstance(exponent, float)
    if is_constant and exponent.is_integer():
        whole = int(abs(exponent))
        power = np.power(base, whole)
        return power if exponent >= 0 else 1.0 / power
    rises = np.real(exponent) > 0
    at_zero = np.where(rises, 0.0, np.inf)
    elsewhere = np.exp(exponent * _log(base))
    is_zero = np.real(base) == 0
    return np.where(is_zero, at_zero, elsewhere)


def _least(first: Any, second: Any) -> Any:
    """Return the smaller one."""
    return np.minimum(first, second)


def _largest(first: Any, second: Any) -> Any:
    """Return the larger one."""
    return np.maximum(first, second)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "log": _log,
    "exp": np.exp,
    "sqrt": lambda value: _power(value, 0.5),
    "abs": np.abs,
    "min": lambda *values: functools.reduce(_least, values),
    "max": lambda *values: functools.reduce(_largest, values),
}


def value_of(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Compute one node of a formula from the values of its names, which broadcast."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -value_of(operand, names)
        case ast.UnaryOp(operand=operand):
            return value_of(operand, names)
        case ast.Call(args=arguments):
            function = FUNCTIONS[called(node)]
            values = [value_of(argument, names) for argument in arguments]
            return function(*values)
        case ast.BinOp(left=left, op=sign, right=right):
            first = value_of(left, names)
            second = value_of(right, names)
            match sign:
                case ast.Add():
                    return first + second
                case ast.Sub():
                    return first - second
                case ast.Mult():
                    return first * second
                case ast.Div():
                    return np.divide(first, second)
                case ast.Pow():
                    return _power(first, second)
    raise AssertionError(f"{ast.unparse(node)} has passed the check of written_text")
