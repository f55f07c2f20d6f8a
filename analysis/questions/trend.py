"""Which way a quantity goes with scale, and whether it turns: falling, rising, U-shaped, or flat; and tests of nested laws.

    python -m analysis.trend GRID --columns=X=params_total,loss=accuracy

Inverse scaling (McKenzie et al. 2023, arXiv 2306.09479) is a loss that rises with scale, U-shaped scaling (Wei et al. 2022,
arXiv 2211.02011) one that turns. Both are claims about few noisy rows: a turn is stated only where a curve that turns has
the lower AICc and no monotone curve at all would often look as bent.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.trust.interval import Interval
from experiments.cli import InputError

RATES = np.array([sign * size for size in np.geomspace(0.25, 12.0, 24) for sign in (-1, 1)])  # over the range of ln x
FEWEST = 4
NOISE_FLOOR = 1e-12  # of the spread of y: less is rounding


@dataclasses.dataclass(frozen=True)
class Shape:
    """A family of curves y = sum of columns: `bases` [members, rows, columns] are orthonormal, `spans` as written.

    Time runs over t, ln x moved and scaled to -1..1. `rates` [members] are the exponents, nan where there are none.
    """

    name: str
    spans: np.ndarray
    bases: np.ndarray
    rates: np.ndarray
    parameters: int
    turns: bool

    def fit(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residual sum of squares and the member that has it, for y [copies, rows]: [copies] each."""
        explained = ((y @ self.bases) ** 2).sum(axis=2)  # [members, copies]
        member = np.argmax(explained, axis=0)
        best = explained[member, np.arange(len(y))]
        return np.maximum((y**2).sum(axis=1) - best, 0.0), member

    def coefficients(self, y: np.ndarray, member: int) -> np.ndarray:
        return np.linalg.lstsq(self.spans[member], y, rcond=None)[0]

    def curve(self, y: np.ndarray, member: int) -> np.ndarray:
        """The fitted values [rows] of one y [rows]."""
        basis = self.bases[member]
        return basis @ (basis.T @ y)

    def turning_point(self, y: np.ndarray, member: int) -> tuple[float, int]:
        """t of the extremum and +1 for a minimum, -1 for a maximum; (nan, 0) where the curve has none in -1..1."""
        _, tilt, bend = self.coefficients(y, member)
        rate = self.rates[member]
        if math.isnan(rate):  # 1, t, t^2
            t, sign = (-tilt / (2 * bend), np.sign(bend)) if bend else (math.nan, 0)
        else:  # 1, t, e^(rate t - |rate|)
            slope = -tilt / (bend * rate) if bend else math.nan
            t, sign = ((math.log(slope) + abs(rate)) / rate, np.sign(bend)) if slope > 0 else (math.nan, 0)
        return (float(t), int(sign)) if -1 < t < 1 else (math.nan, 0)


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


def find_trend(
    x: Any, y: Any, *, significance: float = 0.05, replicates: int = 999, level: float = 0.9, seed: int = 0
) -> Trend:
    """The trend of y [rows] over x [rows] > 0, from curves in ln x fitted by least squares.

    Flat, linear, monotone power (c + k x^p), quadratic, and bent (c + a ln x + k x^p, which turns where the two parts
    pull apart) compete by AICc. p_trend permutes the rows. p_turn draws rows around the best monotone sequence, of any
    form (isotonic regression), with its residuals; so a curve that only levels off does not pass for one that turns, and
    rows without a single reversal never do. The turning point's interval draws residuals around the turning curve.
    AICc lets five rows never show a turn, and six only one far above the noise.
    Raises InputError for fewer than 4 rows or 3 different x, or values that are not finite.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or not (np.isfinite(x) & np.isfinite(y)).all() or (x <= 0).any():
        raise InputError("x, y: not a series; expected as many finite y as positive x")
    if len(x) < FEWEST or len(np.unique(x)) < 3:
        raise InputError(f"x: {len(x)} rows at {len(np.unique(x))} values; expected 4 rows at 3 values or more")
    log_x = np.log(x)
    middle, half = (log_x.max() + log_x.min()) / 2, (log_x.max() - log_x.min()) / 2
    mean, y = float(y.mean()), y - y.mean()
    scale = float(np.abs(y).max())
    stream = np.random.default_rng(seed)
    if scale <= NOISE_FLOOR * abs(mean):
        return Trend("flat", None, None, 1.0, 1.0, {"flat": 0.0})
    y = y / scale
    shapes = _shapes((log_x - middle) / half)
    fits = {shape.name: shape.fit(y[None]) for shape in shapes}
    scores = {shape.name: _aicc(len(y), float(fits[shape.name][0][0]), shape.parameters + 1) for shape in shapes}
    monotone = [shape for shape in shapes if not shape.turns]
    turning = [s for s in shapes if s.turns and s.turning_point(y, int(fits[s.name][1][0]))[1]]

    permuted = np.stack([stream.permutation(y) for _ in range(replicates)])
    p_trend = _p_value(_gain(y[None], monotone[:1], monotone[1:])[0], _gain(permuted, monotone[:1], monotone[1:]))
    p_turn = 1.0
    if turning:
        shape = min(turning, key=lambda one: scores[one.name])
        null = _monotone(log_x, y)
        around = null + _resample(y - null, len(np.unique(null)), replicates, stream)
        p_turn = _p_value(_gain(y[None], monotone, [shape])[0], _gain(around, monotone, [shape]))
        if scores[shape.name] < min(scores[one.name] for one in monotone) and p_turn <= significance:
            member = int(fits[shape.name][1][0])
            t, sign = shape.turning_point(y, member)
            curve = shape.curve(y, member)
            copies = curve + _resample(y - curve, shape.parameters, replicates, stream)
            turns = [
                shape.turning_point(copy, int(at))[0] for copy, at in zip(copies, shape.fit(copies)[1], strict=True)
            ]
            point, *others = np.exp(middle + half * np.array([t, *turns]))
            interval, verdict = Interval.of(np.array(others), level), "U-shaped" if sign > 0 else "inverted U"
            return Trend(verdict, float(point), interval, p_trend, p_turn, scores)
    if p_trend > significance:
        return Trend("flat", None, None, p_trend, p_turn, scores)
    line = next(shape for shape in shapes if shape.name == "linear")
    rises = line.coefficients(y, 0)[1] > 0
    return Trend("rises" if rises else "falls", None, None, p_trend, p_turn, scores)


def _shapes(t: np.ndarray) -> list[Shape]:
    """The competing families over t [rows]; those with as many columns as there are different t are left out."""
    one = np.ones_like(t)
    bent = np.exp(np.abs(RATES)[:, None] * (np.sign(RATES)[:, None] * t - 1))  # at most 1
    families = [
        ("flat", np.stack([one], axis=1)[None], None, 1, False),
        ("linear", np.stack([one, t], axis=1)[None], None, 2, False),
        ("power", np.stack([np.stack([one, b], axis=1) for b in bent]), RATES, 3, False),
        ("quadratic", np.stack([one, t, t * t], axis=1)[None], None, 3, True),
        ("bent", np.stack([np.stack([one, t, b], axis=1) for b in bent]), RATES, 4, True),
    ]
    values = len(np.unique(t))
    return [
        Shape(
            name, spans, np.linalg.qr(spans)[0], np.full(len(spans), np.nan) if rates is None else rates, count, turns
        )
        for name, spans, rates, count, turns in families
        if count < values
    ]


def _resample(residual: np.ndarray, parameters: int, copies: int, stream: np.random.Generator) -> np.ndarray:
    """Residuals drawn with replacement [copies, rows], scaled up by what the fitted parameters took of them."""
    rows = len(residual)
    scale = math.sqrt(rows / max(rows - parameters, 1))
    return scale * residual[stream.integers(0, rows, (copies, rows))]


def _aicc(rows: int, squares: float, parameters: int) -> float:
    """Akaike's criterion with the correction for few rows; infinite for too few. The noise is one of the parameters."""
    if rows - parameters - 1 <= 0:
        return math.inf
    noise = max(squares / rows, NOISE_FLOOR**2)
    return rows * math.log(noise) + 2 * parameters + 2 * parameters * (parameters + 1) / (rows - parameters - 1)


def _gain(y: np.ndarray, without: list[Shape], added: list[Shape]) -> np.ndarray:
    """ln of the share by which the best of `added` lowers the squares that the best of `without` leaves: [copies]."""
    floor = y.shape[1] * NOISE_FLOOR**2
    before = np.min([shape.fit(y)[0] for shape in without], axis=0)
    after = np.min([shape.fit(y)[0] for shape in added], axis=0)
    return np.log((before + floor) / (after + floor))


def _p_value(observed: float, draws: np.ndarray) -> float:
    """Share of the draws, the observation among them, that are at least as extreme."""
    return float((1 + (draws >= observed - 1e-12).sum()) / (1 + len(draws)))


def _monotone(log_x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The monotone sequence closest to y [rows], rising or falling; rows of equal x have one value."""
    from scipy.optimize import isotonic_regression

    _, member, counts = np.unique(log_x, return_inverse=True, return_counts=True)
    means = np.bincount(member, weights=y) / counts
    either = [isotonic_regression(means, weights=counts, increasing=up).x for up in (True, False)]
    nearest = min(either, key=lambda fitted: float((counts * (means - fitted) ** 2).sum()))
    return nearest[member]


@dataclasses.dataclass(frozen=True)
class NestedTest:
    """Whether rows refuse fixed values of coefficients: F of the squares that freeing them saves, and its p-value."""

    fixed: dict[str, float]
    free: dict[str, float]  # the same coefficients where they are fitted
    statistic: float
    p_value: float


def nested_test(columns: Columns, law: Any, **fixed: float) -> NestedTest:
    """Test coefficients of a law, for example nested_test(columns, Superposition, gamma=1.0).

    Both fits are least squares in the law's own residuals; the noise of the rows is taken to be normal and alike. Raises
    InputError where no rows are left to judge the noise by.
    """
    from scipy.stats import f as f_distribution

    from analysis.questions.fit import fit

    if not fixed:
        raise InputError("fixed: no coefficient given; expected for example gamma=1.0")
    objective = dataclasses.replace(law.OBJECTIVE, loss="least_squares")
    spec = FitSpec(objective=objective, bootstrap=0, thorough=False)
    free_fit, fixed_fit = fit(columns, law, spec), fit(columns, law, dataclasses.replace(spec, fixed=fixed))
    freedom = len(columns) - len(law.names())
    if freedom < 1:
        raise InputError(
            f"GRID: {len(columns)} rows for {len(law.names())} coefficients; expected at least one more row"
        )
    saved = max(fixed_fit.objective - free_fit.objective, 0.0)
    noise = max(free_fit.objective / freedom, np.finfo(float).tiny)
    statistic = saved / len(fixed) / noise
    return NestedTest(
        dict(fixed),
        {name: float(getattr(free_fit.law, name)) for name in fixed},
        float(statistic),
        float(f_distribution.sf(statistic, len(fixed), freedom)),
    )
