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
from analysis.trust.bootstrap import units
from analysis.trust.information import aicc_of_squares
from analysis.trust.interval import Interval
from analysis.writing.strict_json import finite_or_null
from experiments.cli import InputError

SCHEMA = 2
FEWEST = 4
FEWEST_FOR_TURN = 6  # values of x: Akaike's criterion lets five rows never show a turn
NOT_KNOWN = "not known"
SAME_X = 1e-9  # relative difference of x within a run
NOISE_FLOOR = 1e-12  # of the spread of y: less is rounding


@dataclasses.dataclass(frozen=True)
class Trend:
    """What a series does. verdict: falls, rises, U-shaped, inverted U, flat, or not known.

    turning_point: x of the minimum or maximum with its interval, for the two that turn. p_trend: how often rows without
    any trend fit a monotone curve as well; p_turn: how often monotone rows look as bent. aicc: by curve; lowest is best.
    withheld: what the rows do not tell (`trend`, `turn`, `turning point`), with the reason; such numbers are NaN or None.
    """

    verdict: str
    turning_point: float | None
    interval: Interval | None
    p_trend: float
    p_turn: float
    aicc: dict[str, float]
    withheld: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def line(self) -> str:
        """What the rows can say, in one line."""
        for name, verb in (("trend", "a trend"), ("turn", "whether it turns"), ("turning point", "where it turns")):
            if name in self.withheld:
                return f"the rows do not tell {verb}: {self.withheld[name]}"
        return "the rows support a trend and a turn"


def trend_of(columns: Columns, *, level: float = 0.9, seed: int = 0) -> Trend:
    """Find the trend of the role loss over the role X. Rows of one run (the role run) are one row, or no rows to judge by.

    Raises InputError as `find_trend` does.
    """
    x = columns["X"]
    y = columns["loss"]
    if "run" not in columns:
        return find_trend(x, y, level=level, seed=seed)
    member = units(len(columns), columns["run"])
    repeats = np.bincount(member)
    mean_x = np.bincount(member, weights=x) / repeats
    mean_y = np.bincount(member, weights=y) / repeats
    moves = np.abs(x / mean_x[member] - 1).max() > SAME_X
    if not moves:
        return find_trend(mean_x, mean_y, level=level, seed=seed)
    found = find_trend(x, y, level=level, seed=seed)
    why = f"the {len(columns)} rows are those of {len(repeats)} runs, and rows of one run err together; expected one row a run"
    return _withhold_all(found, why)


def _withhold_all(found: Trend, why: str) -> Trend:
    """Return a trend of which nothing is known."""
    return Trend(NOT_KNOWN, None, None, math.nan, math.nan, found.aicc, {"trend": why, "turn": why})


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

    few = _too_few(x, significance)
    if "trend" in few and p_trend > significance:
        return Trend(NOT_KNOWN, None, None, math.nan, math.nan, aicc, few)
    if few:
        verdict = _without_turn(series, competing, p_trend, significance)
        return Trend(verdict, None, None, p_trend, math.nan, aicc, few)

    p_turn = 1.0
    turning = _best_that_turns(series, competing, aicc)
    if turning is not None:
        p_turn = _p_of_no_turn(series, monotone, turning, replicates, stream)
        best_monotone = min(aicc[shape.name] for shape in monotone)
        if aicc[turning.name] < best_monotone and p_turn <= significance:
            sign, point, interval, why = _turning_point(series, turning, replicates, level, stream)
            verdict = "U-shaped" if sign > 0 else "inverted U"
            withheld = {"turning point": why} if why else {}
            return Trend(verdict, None if why else point, interval, p_trend, p_turn, aicc, withheld)
    verdict = _without_turn(series, competing, p_trend, significance)
    return Trend(verdict, None, None, p_trend, p_turn, aicc)


def _without_turn(series: _Series, competing: list[Shape], p_trend: float, significance: float) -> str:
    """Say which way rows go that are not seen to turn."""
    if p_trend > significance:
        return "flat"
    return "rises" if _slope(series, competing) > 0 else "falls"


def _too_few(x: Array, significance: float) -> dict[str, str]:
    """Return what so many rows cannot tell, however they lie, with the reason."""
    rows = len(x)
    values = len(np.unique(x))
    found = {}
    orders = math.factorial(min(rows, 20)) // 2  # a trend and its mirror image
    if 1 / orders > significance:
        found["trend"] = f"{rows} rows lie in order by chance in 1 of {orders} cases"
    if values < FEWEST_FOR_TURN:
        found["turn"] = f"{values} values of x; expected at least {FEWEST_FOR_TURN}"
    return found


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
) -> tuple[int, float, Interval | None, str]:
    """Return +1 for a minimum or -1 for a maximum, x of it, and its interval from residuals drawn around the curve.

    Last, why it is not known: curves through other residuals that do not turn within the rows would turn anywhere.
    """
    _, member = turning.fit(series.y[None])
    t, sign = turning.turning_point(series.y, int(member[0]))
    curve = turning.curve(series.y, int(member[0]))
    copies = curve + _resample(series.y - curve, turning.parameters, replicates, stream)
    _, members = turning.fit(copies)
    turns = [t]
    for copy, at in zip(copies, members, strict=True):
        turns.append(turning.turning_point(copy, int(at))[0])
    point, *others = series.x_of(np.array(turns))
    missing = float(np.isnan(others).mean())
    if missing > (1 - level) / 2:
        return sign, float(point), None, f"{missing:.0%} of the refits do not turn within the rows"
    return sign, float(point), Interval.of(np.array(others), level), ""


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
        "design": {"line": trend.line, "withheld": dict(trend.withheld)},
        "x": columns.sources["X"],
        "y": columns.sources["loss"],
        "rows_used": len(columns),
        **dataclasses.asdict(trend),
    }
    del data["withheld"]
    return finite_or_null(data)
