"""Say which way a quantity goes with scale, and whether it turns: falling, rising, U-shaped, or flat.

Inverse scaling (McKenzie et al. 2023, arXiv 2306.09479) is a loss that rises with scale, U-shaped scaling (Wei et al. 2022,
arXiv 2211.02011) one that turns. Both are claims about few noisy rows: a turn is stated only where a curve that turns has
the lower AICc and no monotone curve at all would often look as bent.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.questions.curves import Shape, shapes
from analysis.trust.information import aicc_of_squares
from analysis.trust.interval import Interval
from analysis.writing.strict_json import finite_or_null
from experiments.cli import InputError

SCHEMA = 1
FEWEST = 4
NOISE_FLOOR = 1e-12  # of the spread of y: less is rounding


@dataclasses.dataclass(frozen=True)
class Trend:
    """What a series does. verdict: falls, rises, U-shaped, inverted U, or flat.

    turning_point: x of the minimum or maximum with its interval, for the two that turn. p_trend: how often rows without
    any trend fit a monotone curve as well; p_turn: how often monotone rows look as bent. aicc: by curve; lowest is best.
    """

    verdict: str
    turning_point: float | None
    interval: Interval | None
    p_trend: float
    p_turn: float
    aicc: dict[str, float]


@dataclasses.dataclass(frozen=True)
class _Series:
    """Rows in units of their own: t from -1 to 1 over ln x, y around its mean with largest size 1."""

    log_x: Array
    y: Array
    middle: float  # of ln x
    half: float  # of the range of ln x

    @property
    def t(self) -> Array:
        """ln x, moved and scaled."""
        return (self.log_x - self.middle) / self.half

    def x_of(self, t: Array) -> Array:
        """Return x at t."""
        return np.exp(self.middle + self.half * t)


def find_trend(
    x: Array, y: Array, *, significance: float = 0.05, replicates: int = 999, level: float = 0.9, seed: int = 0
) -> Trend:
    """Find the trend of y [rows] over x [rows] > 0, from curves in ln x fitted by least squares.

    Flat, linear, monotone power (c + k x^p), quadratic, and bent (c + a ln x + k x^p, which turns where the two parts
    pull apart) compete by AICc. p_trend permutes the rows. p_turn draws rows around the best monotone sequence, of any
    form (isotonic regression), with its residuals; so a curve that only levels off does not pass for one that turns, and
    rows without a single reversal never do. The turning point's interval draws residuals around the turning curve.
    AICc lets five rows never show a turn, and six only one far above the noise.
    Raises InputError for fewer than 4 rows or 3 different x, or values that are not finite.
    """
    x = np.asarray(x, dtype=np.float64)
    y = np.asarray(y, dtype=np.float64)
    series = _series(x, y)
    if series is None:
        return Trend("flat", None, None, 1.0, 1.0, {"flat": 0.0})
    stream = np.random.default_rng(seed)
    competing = shapes(series.t)
    aicc = {shape.name: _aicc(shape, series.y) for shape in competing}
    monotone = [shape for shape in competing if not shape.turns]
    p_trend = _p_of_no_trend(series, monotone, replicates, stream)

    p_turn = 1.0
    turning = _best_that_turns(series, competing, aicc)
    if turning is not None:
        p_turn = _p_of_no_turn(series, monotone, turning, replicates, stream)
        best_monotone = min(aicc[shape.name] for shape in monotone)
        if aicc[turning.name] < best_monotone and p_turn <= significance:
            sign, point, interval = _turning_point(series, turning, replicates, level, stream)
            verdict = "U-shaped" if sign > 0 else "inverted U"
            return Trend(verdict, point, interval, p_trend, p_turn, aicc)
    if p_trend > significance:
        verdict = "flat"
    else:
        verdict = "rises" if _slope(series, competing) > 0 else "falls"
    return Trend(verdict, None, None, p_trend, p_turn, aicc)


def _series(x: Array, y: Array) -> _Series | None:
    """Return the rows in units of their own; None where y does not vary. Raises InputError for what is no series."""
    is_series = x.shape == y.shape and x.ndim == 1
    if not is_series or not (np.isfinite(x) & np.isfinite(y)).all() or (x <= 0).any():
        raise InputError("x, y: not a series; expected as many finite y as positive x")
    if len(x) < FEWEST or len(np.unique(x)) < 3:
        raise InputError(f"x: {len(x)} rows at {len(np.unique(x))} values; expected 4 rows at 3 values or more")
    log_x = np.log(x)
    mean = float(y.mean())
    centred = y - mean
    scale = float(np.abs(centred).max())
    if scale <= NOISE_FLOOR * abs(mean):
        return None
    low = log_x.min()
    high = log_x.max()
    return _Series(log_x, centred / scale, middle=(high + low) / 2, half=(high - low) / 2)


def _aicc(shape: Shape, y: Array) -> float:
    """Return Akaike's criterion of a family of curves; the noise is one of the parameters."""
    squares, _ = shape.fit(y[None])
    mean_square = max(float(squares[0]) / len(y), NOISE_FLOOR**2)
    return aicc_of_squares(len(y), mean_square, shape.parameters + 1)


def _p_of_no_trend(series: _Series, monotone: list[Shape], replicates: int, stream: np.random.Generator) -> float:
    """Return how often the rows in another order gain as much from a trend."""
    flat = monotone[:1]
    trends = monotone[1:]
    permuted = np.stack([stream.permutation(series.y) for _ in range(replicates)])
    observed = _gain(series.y[None], flat, trends)
    return _p_value(observed[0], _gain(permuted, flat, trends))


def _p_of_no_turn(
    series: _Series, monotone: list[Shape], turning: Shape, replicates: int, stream: np.random.Generator
) -> float:
    """Return how often rows around the best monotone sequence gain as much from a turn."""
    null = _monotone(series.log_x, series.y)
    residual = series.y - null
    around = null + _resample(residual, len(np.unique(null)), replicates, stream)
    observed = _gain(series.y[None], monotone, [turning])
    return _p_value(observed[0], _gain(around, monotone, [turning]))


def _best_that_turns(series: _Series, competing: list[Shape], aicc: dict[str, float]) -> Shape | None:
    """Return the family of lowest AICc whose best curve turns within the rows; None where none does."""
    found = []
    for shape in competing:
        if not shape.turns:
            continue
        _, member = shape.fit(series.y[None])
        _, sign = shape.turning_point(series.y, int(member[0]))
        if sign:
            found.append(shape)
    return min(found, key=lambda shape: aicc[shape.name], default=None)


def _turning_point(
    series: _Series, turning: Shape, replicates: int, level: float, stream: np.random.Generator
) -> tuple[int, float, Interval | None]:
    """Return +1 for a minimum or -1 for a maximum, x of it, and its interval from residuals drawn around the curve."""
    _, member = turning.fit(series.y[None])
    t, sign = turning.turning_point(series.y, int(member[0]))
    curve = turning.curve(series.y, int(member[0]))
    copies = curve + _resample(series.y - curve, turning.parameters, replicates, stream)
    _, members = turning.fit(copies)
    turns = [t]
    for copy, at in zip(copies, members, strict=True):
        turns.append(turning.turning_point(copy, int(at))[0])
    point, *others = series.x_of(np.array(turns))
    return sign, float(point), Interval.of(np.array(others), level)


def _slope(series: _Series, competing: list[Shape]) -> float:
    """Return the slope of the straight line."""
    line = next(shape for shape in competing if shape.name == "linear")
    _, slope = line.coefficients(series.y, 0)
    return float(slope)


def _resample(residual: Array, parameters: int, copies: int, stream: np.random.Generator) -> Array:
    """Draw residuals with replacement [copies, rows], scaled up by what the fitted parameters took of them."""
    rows = len(residual)
    scale = math.sqrt(rows / max(rows - parameters, 1))
    drawn = stream.integers(0, rows, (copies, rows))
    return scale * residual[drawn]


def _gain(y: Array, without: list[Shape], added: list[Shape]) -> Array:
    """Return ln of the share by which the best of `added` lowers the squares that the best of `without` leaves [copies]."""
    floor = y.shape[1] * NOISE_FLOOR**2
    before = _least_squares(y, without) + floor
    after = _least_squares(y, added) + floor
    return np.log(before / after)


def _least_squares(y: Array, competing: list[Shape]) -> Array:
    """Return the sum of squares [copies] that the best of some families leaves."""
    squares = []
    for shape in competing:
        left, _ = shape.fit(y)
        squares.append(left)
    return np.min(squares, axis=0)


def _p_value(observed: float, draws: Array) -> float:
    """Return the share of the draws, the observation among them, that are at least as extreme."""
    extreme = (draws >= observed - 1e-12).sum()
    return float((1 + extreme) / (1 + len(draws)))


def _monotone(log_x: Array, y: Array) -> Array:
    """Return the monotone sequence closest to y [rows], rising or falling; rows of equal x have one value."""
    from scipy.optimize import isotonic_regression

    _, member, repeats = np.unique(log_x, return_inverse=True, return_counts=True)
    means = np.bincount(member, weights=y) / repeats
    rising = isotonic_regression(means, weights=repeats, increasing=True).x
    falling = isotonic_regression(means, weights=repeats, increasing=False).x

    def distance(sequence: Array) -> float:
        return float((repeats * (means - sequence) ** 2).sum())

    nearest = min(rising, falling, key=distance)
    return nearest[member]


def to_json(trend: Trend, columns: Columns) -> dict[str, Any]:
    """Return the trend of the role loss over the role X for JSON."""
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "x": columns.sources["X"],
        "y": columns.sources["loss"],
        "rows_used": len(columns),
        **dataclasses.asdict(trend),
    }
    data["aicc"] = finite_or_null(trend.aicc)
    return data
