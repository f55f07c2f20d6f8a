"""Say where the search for the coefficients of a written formula starts: from its form, and from the data.

A coefficient that enters linearly, given the others, is solved for; an exponent starts where published ones lie; every
other one is compared with data (D0 in 1 + D/D0), and starts where it makes a difference: at quantiles of these data.
"""

import ast
from collections.abc import Mapping
import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.laws.base import Array, Coefficient, FormulaLaw, exponent, prefactor
from analysis.laws.written_places import Place, find_places, is_positive_by_form, linear_names
from analysis.laws.written_text import Formula, Hint
from analysis.laws.written_value import value_of

if TYPE_CHECKING:  # it imports the laws
    from analysis.solve.formula import FormulaProblem

FALLING = (0.05, 0.1, 0.2, 0.35, 0.55, 0.8, 1.2)  # exponents that published laws have
EITHER = (-1.0, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1.0)
MOST = 4.0  # of an exponent
QUANTILES = (0.02, 0.25, 0.5, 0.75, 0.98)
AROUND = 10.0  # times beyond the data a scale may also lie
MUCH_BETTER = 6.0  # ln of the likelihood ratio, for coefficients of either sign to be believed
COMBINATIONS = 600  # of starts, while signs are found
STARTS = 16  # of them that are refined
STEPS = 30
ROUGH = 0.1  # Huber's delta: nearly least squares


def coefficients(
    formula: Formula, law: type[FormulaLaw], inputs: Mapping[str, Array], target: Array, raw: bool
) -> dict[str, Coefficient]:
    """Return what is known of each coefficient before a fit to these data: inputs [rows] by name, target [rows]."""
    places = find_places(formula)
    linear = linear_names(formula)
    known = {}
    for name in formula.coefficients:
        hint = formula.hints.get(name, Hint())
        if name in linear and not hint.start:
            continue
        default = _of_place(formula, places[name], inputs)
        known[name] = _with_hint(default, hint)
    solved = [name for name in formula.coefficients if name not in known]
    return _signed(formula, law, known, solved, inputs, target, raw)


def before_data(formula: Formula) -> dict[str, Coefficient]:
    """Return what the form alone says of the coefficients: which are exponents, and which multiply."""
    known = {}
    for name, place in find_places(formula).items():
        known[name] = exponent() if place.in_exponent else prefactor()
    return known


def _of_place(formula: Formula, place: Place, inputs: Mapping[str, Array]) -> Coefficient:
    """Return what the place of a coefficient says of it."""
    if place.in_exponent:
        if place.falls:
            return Coefficient(FALLING, False, 0.0, MOST)
        return Coefficient(EITHER, False, -MOST, MOST)
    shifts = _shifts(formula, place, inputs)
    if shifts is not None:
        return shifts
    scales = _scales(formula, place, inputs)
    if place.in_exp and not place.falls:  # of either sign
        starts = [*-scales, *scales]
        return Coefficient(tuple(starts), False)
    return Coefficient(tuple(scales.tolist()), True, 0.0)


def _shifts(formula: Formula, place: Place, inputs: Mapping[str, Array]) -> Coefficient | None:
    """Return a coefficient that data of either sign are compared with, such as m in log(lr) - m; None for any other."""
    if place.beside is None or not place.sign.startswith(("Add", "Sub")):
        return None
    beside = _value(formula, place.beside, inputs)
    has_value = np.isfinite(beside)
    beside = beside[has_value]
    if not len(beside) or beside.min() >= 0:
        return None
    middle = np.quantile(beside, QUANTILES)
    starts = middle.tolist()
    if place.sign.startswith("Add"):
        starts += (-middle).tolist()
    spread = float(np.ptp(middle))
    largest = float(np.abs(middle).max())
    return Coefficient(tuple(starts), scale=spread or largest or 1.0)


def _scales(formula: Formula, place: Place, inputs: Mapping[str, Array]) -> Array:
    """Return positive values at which a coefficient makes a difference, from what stands beside it and against it."""
    beside = np.ones(1)
    if place.beside is not None:
        beside = _value(formula, place.beside, inputs)
    against = np.ones(1)
    if place.against is not None and not _has_coefficient(formula, place.against):
        against = _value(formula, place.against, inputs)
    with np.errstate(all="ignore"):
        match place.sign:
            case "Mult" | "Mult right":
                value = against / beside
            case "Div":
                value = against * beside
            case "Div right":
                value = beside / against
            case _:
                value = beside
    size = np.abs(value)
    makes_sense = np.isfinite(size) & (size > 0)
    size = size[makes_sense]
    if not len(size):
        size = np.ones(1)
    middle = np.quantile(size, QUANTILES)
    least = middle[0] / AROUND
    most = middle[-1] * AROUND
    return np.unique([least, *middle, most])


def _has_coefficient(formula: Formula, node: ast.expr) -> bool:
    """Say whether a coefficient stands in a part of the formula."""
    names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return bool(names & set(formula.coefficients))


def _value(formula: Formula, node: ast.expr, inputs: Mapping[str, Array]) -> Array:
    """Return the values [rows] of a part of the formula where each coefficient in it is 1."""
    names: dict[str, Any] = dict.fromkeys(formula.coefficients, 1.0)
    names |= inputs
    with np.errstate(all="ignore"):
        value = value_of(node, names)
    return np.atleast_1d(value)


def _with_hint(known: Coefficient, hint: Hint) -> Coefficient:
    """Return a coefficient with the bounds and starts that a user gave it."""
    low = known.low if math.isinf(hint.low) else hint.low
    high = known.high if math.isinf(hint.high) else hint.high
    if hint.either and low == 0:
        mirrored = tuple(-start for start in known.start)
        return Coefficient((*known.start, *mirrored), False)
    usual = tuple(start for start in known.start if low < start < high)
    starts = hint.start or usual or _between(low, high)
    is_wide = max(starts) > 100 * min(starts)
    is_log = low >= 0 and (known.log or is_wide)
    return Coefficient(starts, is_log, low, high)


def _between(low: float, high: float) -> tuple[float, ...]:
    """Return starts between two bounds, of which one may be infinite."""
    if math.isinf(high) and low <= 0:
        return (low + 1.0, low + 10.0)
    if math.isinf(high):
        return (low * 1.5, low * 10.0)
    if math.isinf(low):
        return (high - 1.0, high - 10.0)
    shares = (0.1, 0.3, 0.5, 0.7, 0.9)
    is_wide = low > 0 and high > 10 * low
    if is_wide:
        factor = high / low
        return tuple(low * factor**share for share in shares)
    width = high - low
    return tuple(low + share * width for share in shares)


def _signed(
    formula: Formula,
    law: type[FormulaLaw],
    known: Mapping[str, Coefficient],
    solved: list[str],
    inputs: Mapping[str, Array],
    target: Array,
    raw: bool,
) -> dict[str, Coefficient]:
    """Add the coefficients that are solved for: those that are positive by form, but for those whose data speak against it.

    Both ways are fitted roughly; either sign is believed where the likelihood is much higher with it.
    """
    few = _fewer(known)
    positive = {}
    either = {}
    for name in solved:
        hint = formula.hints.get(name, Hint())
        positive[name] = _linear(hint, 0.0 if is_positive_by_form(formula, name) else -math.inf)
        either[name] = _linear(hint, -math.inf)
    chosen = dict(positive)
    may_be_negative = [name for name in solved if not either[name].log]
    if may_be_negative:
        trial = _Trial(law, inputs, target, raw)
        values = trial.best_start({**few, **either})
        for name in may_be_negative:
            either[name] = _of_either_sign(either[name], values[name])
            if not positive[name].log:
                positive[name] = either[name]
                chosen[name] = either[name]
        misfit, _ = trial.rough_fit({**few, **positive})
        misfit_of_either, values = trial.rough_fit({**few, **either})
        is_much_better = _log_likelihood_ratio(misfit, misfit_of_either, len(target)) > MUCH_BETTER
        for name in may_be_negative:
            if is_much_better and values[name] <= 0:
                chosen[name] = _of_either_sign(either[name], values[name])
    both = {**known, **chosen}
    return {name: both[name] for name in formula.coefficients}


def _log_likelihood_ratio(misfit: float, other: float, rows: int) -> float:
    """Return how much more likely rows are with the other misfit; minus infinity where there is no other fit."""
    if not math.isfinite(other):
        return -math.inf
    log_misfit = math.log(max(misfit, 1e-300))
    log_other = math.log(max(other, 1e-300))
    return rows * (log_misfit - log_other)


def _of_either_sign(known: Coefficient, value: float) -> Coefficient:
    """Return a coefficient whose typical size is that of `value`; where that is zero, no row tells one."""
    return dataclasses.replace(known, scale=abs(value) or None)


def _fewer(known: Mapping[str, Coefficient]) -> dict[str, Coefficient]:
    """Return coefficients with so few starts that there are not many combinations of them."""
    dimensions = max(len(known), 1)
    each = round(COMBINATIONS ** (1 / dimensions))
    each = max(each, 2)
    fewer = {}
    for name, one in known.items():
        count = len(one.start)
        places = np.linspace(0, count - 1, min(each, count))
        starts = tuple(one.start[round(place)] for place in places)
        fewer[name] = dataclasses.replace(one, start=starts)
    return fewer


def _linear(hint: Hint, least: float) -> Coefficient:
    """Return a coefficient that is solved for, within its bounds and above `least` where these say nothing."""
    low = least if math.isinf(hint.low) and not hint.either else hint.low
    if hint.high <= low:
        low = -math.inf
    is_log = low == 0 or hint.low >= 0
    return Coefficient((), is_log, low, hint.high)


@dataclasses.dataclass(frozen=True)
class _Trial:
    """Fit a law roughly with one or another knowledge of its coefficients."""

    law: type[FormulaLaw]
    inputs: Mapping[str, Array]
    target: Array
    raw: bool

    def best_start(self, known: Mapping[str, Coefficient]) -> dict[str, float]:
        """Return the coefficients at the best start; 1 where the formula has a value at none."""
        posed = self._pose(known, 1)
        if posed is None:
            return dict.fromkeys(known, 1.0)
        problem, starts = posed
        return self._named(problem, starts[0])

    def rough_fit(self, known: Mapping[str, Coefficient]) -> tuple[float, dict[str, float]]:
        """Return the misfit after a few steps from the best starts, and the coefficients there; infinite without any."""
        from analysis.solve import newton

        posed = self._pose(known, STARTS)
        if posed is None:
            return math.inf, dict.fromkeys(known, 1.0)
        problem, starts = posed
        weight = np.ones(len(self.target))
        delta = ROUGH * problem.unit
        ends = newton.minimise(problem, starts, weight, (delta,), max_steps=STEPS)
        values = newton.values_at(problem, ends, weight, delta)
        best = int(np.argmin(values))
        return float(values[best]), self._named(problem, ends[best])

    def _pose(self, known: Mapping[str, Coefficient], keep: int) -> "tuple[FormulaProblem, Array] | None":
        """Return the problem with its best starts [keep, p]; None where the formula has a value at none."""
        from analysis.solve import formula as posing
        from experiments.cli import InputError

        order = {name: known[name] for name in self.law.names()}
        trial = type(self.law.__name__, (self.law,), {"COEFFICIENTS": order})
        columns = {**self.inputs, self.law.TARGET: self.target}
        weight = np.ones(len(self.target))
        try:
            problem = posing.problem(trial, columns, self.raw, {})
            starts = problem.starts(weight, keep)
        except InputError:
            return None
        return problem, starts

    def _named(self, problem: "FormulaProblem", theta: Array) -> dict[str, float]:
        """Return the coefficients at one point [p] by name."""
        values = problem.coefficients(theta[None])[0]
        names = self.law.names()
        return dict(zip(names, values.tolist(), strict=True))
