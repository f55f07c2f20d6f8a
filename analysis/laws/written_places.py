"""Say where in a written formula each coefficient stands, and what its place alone says of it. Knows no data."""

import ast
from collections.abc import Iterator
import dataclasses
import math

from analysis.laws.written_text import Formula, called


@dataclasses.dataclass(frozen=True)
class Place:
    """Say where in a formula a coefficient stands.

    in_exponent: of a power. falls: below a fraction's line or behind a minus sign. in_exp: in the argument of exp.
    beside: what it is multiplied with, divided by or added to; sign: how. against: what the product is added to or
    compared with.
    """

    in_exponent: bool = False
    falls: bool = False
    in_exp: bool = False
    beside: ast.expr | None = None
    sign: str = ""
    against: ast.expr | None = None


def find_places(formula: Formula) -> dict[str, Place]:
    """Return where each coefficient stands first."""
    found: dict[str, Place] = {}
    for name, place in walk(formula.tree, Place()):
        if name in formula.coefficients:
            found.setdefault(name, place)
    return found


def walk(node: ast.expr, place: Place) -> Iterator[tuple[str, Place]]:
    """Yield each name below a node with its place."""
    match node:
        case ast.Name(id=name):
            yield name, place
        case ast.UnaryOp(op=sign, operand=operand):
            is_minus = isinstance(sign, ast.USub)
            turned = dataclasses.replace(place, falls=place.falls != is_minus)
            yield from walk(operand, turned)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            yield from walk(left, Place(falls=place.falls))
            yield from walk(right, Place(in_exponent=True, falls=place.falls))
        case ast.BinOp(left=left, op=sign, right=right):
            turns = isinstance(sign, ast.Div | ast.Sub)
            is_sum = isinstance(sign, ast.Add | ast.Sub)
            kind = type(sign).__name__
            first = dataclasses.replace(place, beside=right, sign=kind)
            second = dataclasses.replace(place, beside=left, sign=f"{kind} right", falls=place.falls != turns)
            if is_sum:
                first = dataclasses.replace(first, against=right)
                second = dataclasses.replace(second, against=left)
            yield from walk(left, first)
            yield from walk(right, second)
        case ast.Call(args=[one, other]):  # the smaller or larger of two
            yield from walk(one, Place(falls=place.falls, against=other))
            yield from walk(other, Place(falls=place.falls, against=one))
        case ast.Call(args=arguments):
            is_exp = called(node) == "exp"
            inside = Place(in_exp=is_exp, falls=place.falls)
            for argument in arguments:
                yield from walk(argument, inside)


def linear_names(formula: Formula) -> list[str]:
    """Return coefficients in which the formula is linear, all together, when the others are given."""
    found: list[str] = []
    for name in formula.coefficients:
        with_it = {*found, name}
        if degree(formula.tree, with_it) <= 1:
            found.append(name)
    return found


def degree(node: ast.expr, names: set[str]) -> float:
    """Return the degree of a formula as a polynomial of some of its names; infinite where it is none."""
    match node:
        case ast.Name(id=name):
            return float(name in names)
        case ast.UnaryOp(operand=operand):
            return degree(operand, names)
        case ast.Call(args=arguments):
            inside = [degree(argument, names) for argument in arguments]
            return math.inf if any(inside) else 0.0
        case ast.BinOp(left=left, op=sign, right=right):
            first = degree(left, names)
            second = degree(right, names)
            match sign:
                case ast.Add() | ast.Sub():
                    return max(first, second)
                case ast.Mult():
                    return first + second
                case ast.Div():
                    return math.inf if second else first
            return math.inf if first or second else 0.0
    return 0.0


def is_positive_by_form(formula: Formula, name: str) -> bool:
    """Say whether a coefficient's place says its sign, as A in A/N^alpha and E beside it; g in g*log(lr)^2 has either.

    It multiplies a power with an exponent that is fitted, or an exp, which is how what falls to nothing is written; or it is
    a constant, and something else is such a power.
    """
    places = find_places(formula)
    place = places[name]
    others = places.items()
    if place.beside is not None and place.sign.startswith(("Mult", "Div")):
        others = walk(place.beside, Place())
    exponents = [other for other, at in others if at.in_exponent or at.in_exp]
    return any(other in formula.coefficients for other in exponents)
