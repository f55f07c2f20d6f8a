"""Numbers that carry their derivatives: a formula of coefficients gives its slopes and curvatures along with its value.

A jet holds a value and its first and second derivatives with respect to named coefficients (forward mode to second
order: Griewank & Walther 2008, chapter 13), so that no law states a derivative and none is approximated. Arithmetic,
indexing and the functions of numpy in the tables at the end of this file work on jets as on arrays; what does not raises
TypeError. Where a formula chooses (np.where, minimum, maximum, abs), a jet follows the side on which its value lies.
"""

from collections.abc import Callable, Mapping, Sequence
import itertools
import math
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

Slopes = dict[str, Any]  # of a jet over a coefficient; what is missing is zero
Bends = dict[tuple[str, str], Any]  # the second derivatives; both orders of two names have the same entry's key

LN_2 = math.log(2.0)
LN_10 = math.log(10.0)


class Jet(NDArrayOperatorsMixin):
    """A value with its slopes, and with its bends unless they are None; arrays that broadcast."""

    __slots__ = ("bends", "slopes", "value")

    def __init__(self, value: Any, slopes: Slopes, bends: Bends | None):
        self.value = value
        self.slopes = slopes
        self.bends = bends

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        if ufunc in OF_VALUES:
            return ufunc(*map(value_of, inputs))
        function = ONE_ARGUMENT.get(ufunc) or TWO_ARGUMENTS.get(ufunc)
        if function is None:
            return NotImplemented
        with np.errstate(all="ignore"):  # where a search has gone too far, it is told so by what is not finite
            return function(*inputs)

    def __array_function__(self, function: Callable[..., Any], types: Any, inputs: Any, options: Any) -> Any:
        del types
        if function not in FUNCTIONS:
            return NotImplemented
        return FUNCTIONS[function](*inputs, **options)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("an array has no place for the derivatives of a jet")

    def __getitem__(self, key: Any) -> "Jet":
        whole = self.spread(self.shape)
        bends = None if whole.bends is None else {pair: bend[key] for pair, bend in whole.bends.items()}
        return Jet(whole.value[key], {name: slope[key] for name, slope in whole.slopes.items()}, bends)

    def sum(self, axis: int | tuple[int, ...] | None = None) -> "Jet":
        """Return the sum over axes."""
        return _total(self, axis)

    def spread(self, shape: tuple[int, ...]) -> "Jet":
        """Return the same with the value and every derivative of this shape."""
        slopes = {name: np.broadcast_to(slope, shape) for name, slope in self.slopes.items()}
        bends = self.bends
        if bends is not None:
            bends = {pair: np.broadcast_to(bend, shape) for pair, bend in bends.items()}
        return Jet(np.broadcast_to(self.value, shape), slopes, bends)

    @property
    def real(self) -> Any:
        """The value alone."""
        return self.value

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return np.shape(self.value)

    @property
    def ndim(self) -> int:
        """The number of axes of the value."""
        return np.ndim(self.value)


def value_of(number: Any) -> Any:
    """Return a number without its derivatives."""
    return number.value if isinstance(number, Jet) else number


def variable(name: str, value: np.ndarray, slope: Any, bend: Any, second: bool) -> Jet:
    """Return a coefficient as a jet; slope and bend are its own over the parameter that is searched."""
    bends = {(name, name): bend} if second and bend is not None else {}
    return Jet(value, {name: slope}, bends if second else None)


def constant(value: Any, shape: tuple[int, ...], second: bool) -> Jet:
    """Return what depends on no coefficient as a jet of this shape."""
    return Jet(np.broadcast_to(value, shape), {}, {} if second else None)


# --- the chain rule


def through(x: Jet, value: Any, first: Any, second: Any) -> Jet:
    """Return a function of one jet from its value and its first and second derivative at x."""
    slopes = {name: first * slope for name, slope in x.slopes.items()}
    if x.bends is None:
        return Jet(value, slopes, None)
    bends = {pair: first * bend for pair, bend in x.bends.items()}
    if second is not None:
        for one, other in itertools.combinations_with_replacement(sorted(x.slopes), 2):
            _add(bends, (one, other), second * x.slopes[one] * x.slopes[other])
    return Jet(value, slopes, bends)


def _add(found: dict[Any, Any], key: Any, value: Any) -> None:
    found[key] = found[key] + value if key in found else value


def _sum(x: Any, y: Any) -> Jet:
    value = value_of(x) + value_of(y)
    if not isinstance(x, Jet):
        return Jet(value, y.slopes, y.bends)
    if not isinstance(y, Jet):
        return Jet(value, x.slopes, x.bends)
    return Jet(value, _merged(x.slopes, y.slopes), None if x.bends is None else _merged(x.bends, y.bends))


def _merged(first: Mapping[Any, Any], second: Mapping[Any, Any] | None) -> dict[Any, Any]:
    found = dict(first)
    for key, value in (second or {}).items():
        _add(found, key, value)
    return found


def _difference(x: Any, y: Any) -> Jet:
    return _sum(x, _scaled(y, -1.0) if isinstance(y, Jet) else -y)


def _scaled(x: Jet, factor: Any) -> Jet:
    return through(x, x.value * factor, factor, None)


def _product(x: Any, y: Any) -> Jet:
    if not isinstance(x, Jet):
        return _scaled(y, x)
    if not isinstance(y, Jet):
        return _scaled(x, y)
    slopes = {name: slope * y.value for name, slope in x.slopes.items()}
    for name, slope in y.slopes.items():
        _add(slopes, name, x.value * slope)
    if x.bends is None:
        return Jet(x.value * y.value, slopes, None)
    bends = {pair: bend * y.value for pair, bend in x.bends.items()}
    for pair, bend in (y.bends or {}).items():
        _add(bends, pair, x.value * bend)
    for one, of_x in x.slopes.items():
        for other, of_y in y.slopes.items():
            crossed = of_x * of_y
            _add(bends, (min(one, other), max(one, other)), 2 * crossed if one == other else crossed)
    return Jet(x.value * y.value, slopes, bends)


def _inverse(x: Jet) -> Jet:
    value = np.divide(1.0, x.value)
    return through(x, value, -(value**2), 2 * value**3)


def _quotient(x: Any, y: Any) -> Jet:
    return _product(x, _inverse(y) if isinstance(y, Jet) else np.divide(1.0, y))


def _power(x: Any, y: Any) -> Jet:
    value = np.power(value_of(x), value_of(y))
    if isinstance(x, Jet) and not isinstance(y, Jet):
        first = y * np.power(x.value, y - 1.0)
        second = y * (y - 1.0) * np.power(x.value, y - 2.0)
        return through(x, value, _finite(first, x.value), _finite(second, x.value))
    base = value_of(x)
    if not isinstance(x, Jet):
        log = _log_above_zero(base)
        return through(y, value, log * value, log**2 * value)
    found = _exp(_product(y, _where(base > 0, np.log(_where(base > 0, x, 1.0)), np.nan)))
    at_zero = _power(_where(base == 0, x, 1.0), y.value)  # whose slopes over the exponent vanish where the base does
    return _where(base == 0, at_zero, Jet(value, found.slopes, found.bends))


def _finite(derivative: Any, base: Any) -> Any:
    """Return the derivative of a power; 0 where it does not exist at a base of 0, from which a search could not move."""
    return np.where(np.equal(base, 0) & ~np.isfinite(derivative), 0.0, derivative)


def _log_above_zero(base: Any) -> Any:
    """Return the logarithm; 0 for a base of 0, whose powers do not depend on a positive exponent."""
    is_zero = np.equal(base, 0)
    return np.where(is_zero, 0.0, np.log(np.where(is_zero, 1.0, base)))


# --- functions of one argument


def _exp(x: Jet) -> Jet:
    value = np.exp(x.value)
    return through(x, value, value, value)


def _exp2(x: Jet) -> Jet:
    return _exp(_scaled(x, LN_2))


def _expm1(x: Jet) -> Jet:
    slope = np.exp(x.value)
    return through(x, np.expm1(x.value), slope, slope)


def _logarithm(function: Callable[[Any], Any], base: float, shift: float) -> Callable[[Jet], Jet]:
    """Return the logarithm of `shift` more than a jet, to the base e^base."""

    def logarithm(x: Jet) -> Jet:
        inverse = np.divide(1.0, x.value + shift)
        return through(x, function(x.value), inverse / base, -(inverse**2) / base)

    return logarithm


def _sqrt(x: Jet) -> Jet:
    value = np.sqrt(x.value)
    first = np.divide(0.5, value)
    return through(x, value, first, -np.divide(first, 2 * x.value))


def _tanh(x: Jet) -> Jet:
    value = np.tanh(x.value)
    first = 1 - value**2
    return through(x, value, first, -2 * value * first)


def _arctan(x: Jet) -> Jet:
    first = np.divide(1.0, 1 + x.value**2)
    return through(x, np.arctan(x.value), first, -2 * x.value * first**2)


def _sin(x: Jet) -> Jet:
    value = np.sin(x.value)
    return through(x, value, np.cos(x.value), -value)


def _cos(x: Jet) -> Jet:
    value = np.cos(x.value)
    return through(x, value, -np.sin(x.value), -value)


# --- choices


def _where(condition: Any, x: Any, y: Any) -> Any:
    """Choose between two numbers, and so between their derivatives."""
    chosen = value_of(condition)
    value = np.where(chosen, value_of(x), value_of(y))
    jets = [number for number in (x, y) if isinstance(number, Jet)]
    if not jets:
        return value
    slopes = _chosen(chosen, getattr(x, "slopes", {}), getattr(y, "slopes", {}))
    if jets[0].bends is None:
        return Jet(value, slopes, None)
    return Jet(value, slopes, _chosen(chosen, getattr(x, "bends", {}), getattr(y, "bends", {})))


def _chosen(condition: Any, first: Mapping[Any, Any], second: Mapping[Any, Any]) -> dict[Any, Any]:
    keys = dict.fromkeys([*first, *second])
    return {key: np.where(condition, first.get(key, 0.0), second.get(key, 0.0)) for key in keys}


def _minimum(x: Any, y: Any) -> Any:
    is_first = (value_of(x) <= value_of(y)) | np.isnan(value_of(x))
    return _where(is_first, x, y)


def _maximum(x: Any, y: Any) -> Any:
    is_first = (value_of(x) >= value_of(y)) | np.isnan(value_of(x))
    return _where(is_first, x, y)


def _abs(x: Jet) -> Jet:
    return _where(x.value < 0, _scaled(x, -1.0), x)


def _clip(x: Any, low: Any = None, high: Any = None) -> Any:
    bounded = x if low is None else _maximum(x, low)
    return bounded if high is None else _minimum(bounded, high)


def _total(x: Jet, axis: int | tuple[int, ...] | None = None) -> Jet:
    """Return the sum over axes that every derivative has too."""

    def total(part: Any) -> Any:
        return np.sum(np.broadcast_to(part, x.shape), axis=axis)

    slopes = {name: total(slope) for name, slope in x.slopes.items()}
    bends = None if x.bends is None else {pair: total(bend) for pair, bend in x.bends.items()}
    return Jet(total(x.value), slopes, bends)


def _same(x: Jet) -> Jet:
    return x


ONE_ARGUMENT: dict[np.ufunc, Callable[[Jet], Jet]] = {
    np.negative: lambda x: _scaled(x, -1.0),
    np.positive: _same,
    np.conjugate: _same,
    np.absolute: _abs,
    np.exp: _exp,
    np.exp2: _exp2,
    np.expm1: _expm1,
    np.log: _logarithm(np.log, 1.0, 0.0),
    np.log2: _logarithm(np.log2, LN_2, 0.0),
    np.log10: _logarithm(np.log10, LN_10, 0.0),
    np.log1p: _logarithm(np.log1p, 1.0, 1.0),
    np.sqrt: _sqrt,
    np.square: lambda x: _product(x, x),
    np.reciprocal: _inverse,
    np.tanh: _tanh,
    np.arctan: _arctan,
    np.sin: _sin,
    np.cos: _cos,
}
TWO_ARGUMENTS: dict[np.ufunc, Callable[[Any, Any], Any]] = {
    np.add: _sum,
    np.subtract: _difference,
    np.multiply: _product,
    np.divide: _quotient,
    np.power: _power,
    np.float_power: _power,
    np.minimum: _minimum,
    np.maximum: _maximum,
}
# What has no slope: it tells something of the value.
OF_VALUES: Sequence[np.ufunc] = (
    np.less,
    np.less_equal,
    np.greater,
    np.greater_equal,
    np.equal,
    np.not_equal,
    np.isfinite,
    np.isnan,
    np.isinf,
    np.sign,
    np.signbit,
)
FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    np.where: _where,
    np.clip: _clip,
    np.sum: _total,
    np.real: value_of,
    np.shape: lambda x: x.shape,
    np.ndim: lambda x: x.ndim,
    np.ones_like: lambda x: np.ones(x.shape),
    np.zeros_like: lambda x: np.zeros(x.shape),
}
