"""Fit families of curves over scale by least squares: straight ones, ones that level off, ones that turn.

Time runs over t, ln x moved and scaled to -1..1. What the fits mean is the affair of trend.py.
"""

import dataclasses
import math

import numpy as np

from analysis.laws.base import Array
from analysis.procedures.parabola import vertex

SLOWEST = 0.25  # exponents of power curves, over the range of ln x
FASTEST = 12.0
SIZES = np.geomspace(SLOWEST, FASTEST, 24)
RATES = np.column_stack([-SIZES, SIZES]).ravel()


@dataclasses.dataclass(frozen=True)
class Shape:
    """A family of curves y = sum of columns: `bases` [members, rows, columns] are orthonormal, `spans` as written.

    `rates` [members] are the exponents, nan where there are none.
    """

    name: str
    spans: Array
    bases: Array
    rates: Array
    parameters: int
    turns: bool

    def fit(self, y: Array) -> tuple[Array, Array]:
        """Fit y [copies, rows]. Returns the residual sum of squares and the member that has it, [copies] each."""
        explained = ((y @ self.bases) ** 2).sum(axis=2)  # [members, copies]
        member = np.argmax(explained, axis=0)
        best = explained[member, np.arange(len(y))]
        total = (y**2).sum(axis=1)
        return np.maximum(total - best, 0.0), member

    def coefficients(self, y: Array, member: int) -> Array:
        """Return the coefficients of one y [rows] on the columns as written."""
        found, *_ = np.linalg.lstsq(self.spans[member], y, rcond=None)
        return found

    def curve(self, y: Array, member: int) -> Array:
        """Return the fitted values [rows] of one y [rows]."""
        basis = self.bases[member]
        return basis @ (basis.T @ y)

    def turning_point(self, y: Array, member: int) -> tuple[float, int]:
        """Return t of the extremum and +1 for a minimum, -1 for a maximum; (nan, 0) where there is none in -1..1."""
        _, tilt, bend = self.coefficients(y, member)
        rate = float(self.rates[member])
        t = _parabola_turn(tilt, bend) if math.isnan(rate) else _bent_turn(tilt, bend, rate)
        if not -1 < t < 1:
            return math.nan, 0
        return t, int(np.sign(bend))


def _parabola_turn(tilt: float, bend: float) -> float:
    """Return t where tilt t + bend t^2 turns; nan for a straight line."""
    return float(vertex(float(bend), float(tilt))) if bend else math.nan


def _bent_turn(tilt: float, bend: float, rate: float) -> float:
    """Return t where tilt t + bend e^(rate t - |rate|) turns; nan where it does not."""
    growth = -tilt / (bend * rate) if bend else math.nan
    return (math.log(growth) + abs(rate)) / rate if growth > 0 else math.nan


def shapes(t: Array) -> list[Shape]:
    """Return the competing families over t [rows]: flat, linear, power, quadratic, bent.

    Those with as many columns as there are different t are left out.
    """
    one = np.ones_like(t)
    no_rates = np.array([np.nan])
    flat = np.stack([one], axis=1)[None]
    linear = np.stack([one, t], axis=1)[None]
    quadratic = np.stack([one, t, t * t], axis=1)[None]
    exponentials = [np.exp(abs(rate) * (np.sign(rate) * t - 1)) for rate in RATES]  # at most 1
    power = np.stack([np.stack([one, curve], axis=1) for curve in exponentials])
    bent = np.stack([np.stack([one, t, curve], axis=1) for curve in exponentials])
    found = [
        _shape("flat", flat, no_rates, 1, turns=False),
        _shape("linear", linear, no_rates, 2, turns=False),
        _shape("power", power, RATES, 3, turns=False),
        _shape("quadratic", quadratic, no_rates, 3, turns=True),
        _shape("bent", bent, RATES, 4, turns=True),
    ]
    values = len(np.unique(t))
    return [shape for shape in found if shape.parameters < values]


def _shape(name: str, spans: Array, rates: Array, parameters: int, turns: bool) -> Shape:
    """Return a family with orthonormal columns."""
    bases, _ = np.linalg.qr(spans)
    return Shape(name, spans, bases, rates, parameters, turns)
