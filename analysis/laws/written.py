"""Make a law of a formula that a user writes; it is fitted, predicts and is compared as every other one.

Sums of monomials become a SumLaw, with its faster fit; for a loss of N and D the best allocation of compute is found by
search. Where the search for coefficients starts is told by the data: analysis/laws/written_starts.py.
"""

import ast
from collections.abc import Collection, Mapping
import dataclasses
from typing import Any, ClassVar, Self, cast

import numpy as np

from analysis.laws import written_starts, written_text
from analysis.laws.base import (
    FLOPS_PER_PARAM_TOKEN,
    Array,
    Coefficient,
    FormulaLaw,
    Inputs,
    Number,
    SumLaw,
    Term,
)
from analysis.laws.written_text import WHAT, Formula, column_role
from analysis.laws.written_value import value_of
from analysis.solve import best_size
from experiments.cli import InputError

ALLOCATIONS = (("N", "D"), ("C",), ("N", "C"), ("D", "C"))
SIZES = 192  # tried for the best one at a budget, before the search between the nearest
REACH = 40.0  # e-foldings of N on either side of N = D, in whatever units, between which they lie


def law_of(text: str, columns: Collection[str] = (), name: str = "formula") -> type[FormulaLaw]:
    """Return the law that a text writes, such as `L = E + A/N^alpha + B/D^beta`, for a grid with these columns.

    A name before the text, as in `mine: L = ...`, comes before `name`.

    Raises InputError for what is no formula, see analysis/laws/written_text.py.
    """
    formula = written_text.read(text, columns, name)
    for coefficient in formula.coefficients:
        if hasattr(SumLaw, coefficient):
            raise InputError(f"{WHAT}: {coefficient!r} cannot be the name of a coefficient; expected another")
    terms = None if formula.hints else monomials(formula)
    bases: list[type] = [SumLaw if terms else Written]
    members: dict[str, Any] = {
        "WRITTEN": formula,
        "NAME": formula.name,
        "FORMULA": formula.text,
        "SOURCE": "written by the user",
        "ROLES": (*formula.inputs, formula.target),
        "OWN_ROLES": {column: column_role(column) for column in formula.columns},
        "TARGET": formula.target,
        "SIGNED": _may_be_negative(formula),
        "HAS_CORNERS": formula.is_kinked,
        "COEFFICIENTS": written_starts.before_data(formula),
        "DEFINITION": {"text": f"{formula.name}: {formula.text}", "columns": list(formula.columns)},
        "__doc__": formula.text,
    }
    if terms:
        members["TERMS"] = terms
    if set(formula.inputs) == {"N", "D"}:
        bases.insert(0, Allocated)
        members["INPUTS"] = ALLOCATIONS
    fields = [(name, Number) for name in formula.coefficients]
    return dataclasses.make_dataclass("WrittenLaw", fields, bases=tuple(bases), namespace=members, frozen=True)


def restore(definition: Mapping[str, Any]) -> type[FormulaLaw]:
    """Return the law that a fit.json defines. Raises KeyError or InputError where it is damaged."""
    return law_of(definition["text"], definition["columns"])


@dataclasses.dataclass(frozen=True)
class Written(FormulaLaw):
    """Hold a law that a user wrote; base of those that `law_of` makes."""

    WRITTEN: ClassVar[Formula]
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {}

    @classmethod
    def for_data(cls, values: Mapping[str, Array], raw: bool) -> type[Self]:
        """Return the law with bounds and starts for these data."""
        inputs = {name: values[name] for name in cls.inputs()}
        target = values[cls.TARGET]
        known = written_starts.coefficients(cls.WRITTEN, cls, inputs, target, raw)
        told = type(cls.__name__, (cls,), {"COEFFICIENTS": known})
        return cast(type[Self], told)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict TARGET at the inputs, in their order or by name."""
        names = dict(zip(self.inputs(), args, strict=False)) | kwargs
        for coefficient in self.names():
            names[coefficient] = getattr(self, coefficient)
        with np.errstate(all="ignore"):
            return value_of(self.WRITTEN.tree, names)


class Allocated:
    """Find the best allocation of compute under a law of N and D."""

    def optimum(self, C: Any, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> tuple[Any, Any]:
        """Return (N, D) of least loss among those with flops_per_param_token * N * D = C; NaN where there is none.

        Sizes far to either side of N = D are tried, and between the neighbours of the best one the slope along the
        budget changes its sign.
        """
        product = np.asarray(C, dtype=np.float64) / flops_per_param_token

        def loss_at(log_n: Array) -> Array:
            N = np.exp(log_n)
            D = product / N
            with np.errstate(all="ignore"):
                predicted = self.predict(N=N, D=D)  # pyright: ignore[reportAttributeAccessIssue]
            loss = np.asarray(predicted, dtype=np.float64)
            is_finite = np.isfinite(loss)
            return np.where(is_finite, loss, np.inf)

        places = np.linspace(-REACH, REACH, SIZES)
        middle = np.log(product) / 2
        tried = [loss_at(middle + place) for place in places]
        losses = np.stack(np.broadcast_arrays(*tried))
        best = losses.argmin(axis=0)
        least = losses.min(axis=0)
        last = SIZES - 1
        is_inside = (best > 0) & (best < last) & np.isfinite(least)
        below = np.maximum(best - 1, 0)
        above = np.minimum(best + 1, last)

        def is_rising(log_n: Array) -> Array:
            slope = best_size.slope(
                lambda N, D: self.predict(N=N, D=D),  # pyright: ignore[reportAttributeAccessIssue]
                log_n,
                C,
                flops_per_param_token,
                0.0,
            )
            return slope > 0

        with np.errstate(all="ignore"):
            N = np.exp(best_size.bisect(is_rising, middle + places[below], middle + places[above]))
        N = np.where(is_inside, N, np.nan)
        return N, product / N

    def optimum_exponents(self) -> dict[str, Any]:
        """Return the exponents of the optimum of a law with one power of N and one of D; none for other laws."""
        powers = {}
        for term in getattr(self, "TERMS", ()):
            for role, _, name in term.powers:
                powers[role] = None if role in powers or len(term.powers) > 1 else name
        if set(powers) != {"N", "D"} or None in powers.values():
            return {}
        alpha = getattr(self, powers["N"])
        beta = getattr(self, powers["D"])
        with np.errstate(divide="ignore", invalid="ignore"):
            total = np.asarray(alpha + beta)  # may be zero
            return {"exponent_N": beta / total, "exponent_D": alpha / total}

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """Predict at (N, D), at C with N and D at their optimum, or at C with one of them given."""
        given = dict(at)
        if "N" not in given and "D" not in given:
            given["N"], given["D"] = self.optimum(given["C"], flops_per_param_token)
        for one, other in (("N", "D"), ("D", "N")):
            if one not in given:
                given[one] = given["C"] / flops_per_param_token / given[other]
        return self.predict(N=given["N"], D=given["D"])  # pyright: ignore[reportAttributeAccessIssue]


# --- the form of a formula


def monomials(formula: Formula) -> tuple[Term, ...] | None:
    """Return the terms of a sum of falling monomials, such as E + A/N^alpha; None for any other formula."""
    terms = [_monomial(part, formula) for part in _summands(formula.tree)]
    found = [term for term in terms if term is not None]
    prefactors = [term.prefactor for term in found]
    exponents = {name for term in found for _, _, name in term.powers}
    is_sum = len(found) == len(terms) and len(set(prefactors)) == len(prefactors) and not exponents & set(prefactors)
    constants = [term for term in found if not term.powers]
    return tuple(found) if is_sum and exponents and len(constants) <= 1 else None


def _summands(node: ast.expr) -> list[ast.expr]:
    """Return the parts of a sum."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_summands(node.left), *_summands(node.right)]
    return [node]


def _monomial(node: ast.expr, formula: Formula) -> Term | None:
    """Return a part of a sum as a monomial: a coefficient over powers of data, or times falling powers."""
    match node:
        case ast.Name(id=name) if name in formula.coefficients:
            return Term(name)
        case ast.BinOp(left=left, op=ast.Div() | ast.Mult() as sign, right=right):
            term = _monomial(left, formula)
            powers = _powers(right, formula, falls=isinstance(sign, ast.Mult))
            return Term(term.prefactor, (*term.powers, *powers)) if term and powers else None
    return None


def _powers(node: ast.expr, formula: Formula, falls: bool) -> tuple[tuple[str, float, str], ...]:
    """Return a product of powers of data with free exponents; empty for anything else.

    falls: the exponents have a minus sign, as they have not in a denominator.
    """
    match node:
        case ast.BinOp(left=ast.Name(id=role), op=ast.Pow(), right=exponent) if role in formula.inputs:
            name = _free_exponent(exponent, formula, falls)
            return ((role, -1.0, name),) if name else ()
        case ast.BinOp(left=left, op=ast.Mult(), right=right) if not falls:
            first = _powers(left, formula, falls)
            second = _powers(right, formula, falls)
            return (*first, *second) if first and second else ()
    return ()


def _free_exponent(node: ast.expr, formula: Formula, falls: bool) -> str | None:
    """Return the coefficient that is an exponent, behind a minus sign where it `falls`; None for any other exponent."""
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id=name)) if falls:
            return name if name in formula.coefficients else None
        case ast.Name(id=name) if not falls:
            return name if name in formula.coefficients else None
    return None


def _may_be_negative(formula: Formula) -> tuple[str, ...]:
    """Return the columns whose values may be zero or negative: neither in a power with a free exponent nor a logarithm."""
    positive: set[str] = set()
    for node in ast.walk(formula.tree):
        match node:
            case ast.BinOp(op=ast.Pow(), right=ast.Constant()):
                continue
            case ast.BinOp(left=ast.Name(id=name), op=ast.Pow()):
                positive.add(name)
            case ast.Call(func=ast.Name(id="log" | "sqrt"), args=[ast.Name(id=name)]):
                positive.add(name)
    return tuple(column for column in formula.columns if column not in positive)
