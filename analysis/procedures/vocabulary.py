"""The procedures behind approaches 1 and 2 of Tao et al. 2024 (arXiv 2407.13623) for the size of a vocabulary.

Approach 1 puts points between the runs, keeps the frontier of loss over FLOPs, and regresses its logarithms on ln C.
Approach 2 asks where FLOPs per character have their minimum over the vocabulary, without any loss, and takes the level
from the IsoFLOP curve of the smallest model.
"""

from collections.abc import Iterator
import dataclasses
import math

import numpy as np

from analysis.fitting.result import FitError, FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.vocabulary import (
    LARGEST_MEASURED,
    TOKENS_PER_CHARACTER,
    VocabularyFrontier,
    VocabularyPower,
    tokens_per_character,
    width_of,
)
from analysis.solve.objective import Objective
from analysis.trust import bootstrap
from analysis.trust.certificate import Certificate
from experiments.cli import InputError

ALONG_SIZES, ALONG_VOCABULARIES = 50, 20  # interpolated points for each vocabulary, and for each model
STAGES = (1.0, 1e-1, 1e-2, 3e-3, 1e-3)


@dataclasses.dataclass(frozen=True)
class Points:
    """Runs and points between them: arrays [points]. N_v in parameters, H in characters, C in FLOPs."""

    N_nv: np.ndarray
    N_v: np.ndarray
    H: np.ndarray
    C: np.ndarray
    loss: np.ndarray

    def take(self, keep: np.ndarray) -> "Points":
        return Points(*(getattr(self, field.name)[keep] for field in dataclasses.fields(self)))

    def join(self, other: "Points") -> "Points":
        return Points(*(np.r_[getattr(self, f.name), getattr(other, f.name)] for f in dataclasses.fields(self)))


def measured(columns: Columns) -> Points:
    """The runs of a grid."""
    return Points(*(columns[role] for role in ("N_nv", "N_v", "H", "C", "loss")))


class Tokenizer:
    """Tokens per character of any vocabulary: a parabola in ln V through the grid's own C = 6 (N_nv + N_v) H f(V)."""

    def __init__(self, columns: Columns):
        rate = columns["C"] / (6 * (columns["N_nv"] + columns["N_v"]) * columns["H"])
        log_v = np.log(columns["V"])
        degree = min(2, len(np.unique(log_v)) - 1)
        self.centre = log_v.mean()
        self.coefficients = np.polyfit(log_v - self.centre, rate, degree)
        if np.abs(tokens_per_character(columns["V"]) / rate - 1).max() < 1e-6:  # their tokenizers: their constants
            self.centre, self.coefficients = 0.0, np.array(TOKENS_PER_CHARACTER)

    def rate(self, V: np.ndarray) -> np.ndarray:
        """Tokens per character."""
        return np.polyval(self.coefficients, np.log(np.minimum(V, LARGEST_MEASURED)) - self.centre)


def width_between(columns: Columns, N_nv: np.ndarray) -> np.ndarray:
    """Width at any N_nv: the paper's steps where the grid's models follow them, else a line between models in logarithms."""
    width = columns["N_v"] / columns["V"]
    if np.allclose(width_of(columns["N_nv"]), width, rtol=1e-9):
        return width_of(N_nv)
    order = np.argsort(columns["N_nv"])
    return np.exp(np.interp(np.log(N_nv), np.log(columns["N_nv"][order]), np.log(width[order])))


def between(columns: Columns) -> Points:
    """Points between the runs. Both kinds are the paper's.

    For every vocabulary: a cubic surface of loss over (N_nv, H), along 50 pairs from the smallest to the largest of both.
    For every model: a quadratic curve of its last losses over V, at 20 vocabularies and the model's most tokens.
    """
    from scipy.interpolate import griddata, interp1d
    from scipy.spatial import QhullError

    tokenizer, parts = Tokenizer(columns), []
    N_nv, H, V, loss = (columns[role] for role in ("N_nv", "H", "V", "loss"))

    def add(n: np.ndarray, h: np.ndarray, v: np.ndarray, value: np.ndarray) -> None:
        N_v = v * width_between(columns, n)
        found = Points(n, N_v, h, 6 * (n + N_v) * h * tokenizer.rate(v), value)
        parts.append(found.take(np.isfinite(value)))

    sizes, lengths = (np.geomspace(x.min(), x.max(), ALONG_SIZES) for x in (N_nv, H))
    for one in np.unique(V):
        rows = one == V
        try:
            value = griddata(np.stack([N_nv[rows], H[rows]], 1), loss[rows], np.stack([sizes, lengths], 1), "cubic")
        except (QhullError, ValueError):  # too few runs, or all on one line: no surface
            continue
        add(sizes, lengths, np.full(ALONG_SIZES, one), value)
    vocabularies = np.geomspace(V.min(), V.max(), ALONG_VOCABULARIES)
    for rows in models(columns):
        last = rows[[np.flatnonzero(V[rows] == one)[-1] for one in np.unique(V[rows])]]
        if len(last) < 3:
            continue
        value = interp1d(V[last], loss[last], kind="quadratic", fill_value="extrapolate")(vocabularies)
        tokens = (H[rows] * tokenizer.rate(V[rows])).max()
        size = np.full(ALONG_VOCABULARIES, N_nv[rows[0]])
        add(size, tokens / tokenizer.rate(vocabularies), vocabularies, value)
    points = Points(*([np.empty(0)] * 5))
    for part in parts:
        points = points.join(part)
    return points


def models(columns: Columns) -> Iterator[np.ndarray]:
    """Rows of every model, smallest first, by characters seen."""
    for size in np.unique(columns["N_nv"]):
        rows = np.flatnonzero(columns["N_nv"] == size)
        yield rows[np.argsort(columns["H"][rows], kind="stable")]


def frontier(points: Points) -> Points:
    """Those that have a lower loss than every point of no more FLOPs, by FLOPs."""
    points = points.take(np.argsort(points.C, kind="stable"))
    before = np.r_[np.inf, np.minimum.accumulate(points.loss)[:-1]]
    return points.take(points.loss < before)


def line(x: np.ndarray, y: np.ndarray, objective: Objective, slope: float | None = None) -> tuple[float, float]:
    """(intercept, slope) of y on x under the objective; a given slope is kept.

    Huber's loss is brought down to its delta in stages, each from the end of the one before.
    Raises FitError when scipy does not converge.
    """
    from scipy.optimize import least_squares

    middle = x.mean()
    design = np.stack([np.ones_like(x), x - middle], axis=1)[:, : 2 if slope is None else 1]
    goal = y if slope is None else y - slope * (x - middle)
    at = np.linalg.lstsq(design, goal, rcond=None)[0]
    if objective.loss != "least_squares":
        deltas = [1e-9] if objective.loss == "lad" else [objective.huber_delta]
        for delta in [*(stage for stage in STAGES if stage > deltas[0]), *deltas]:
            found = least_squares(
                lambda c: design @ c - goal,
                at,
                lambda c: design,
                loss="huber",
                f_scale=delta,
                xtol=1e-15,
                ftol=1e-15,
                gtol=1e-15,
                max_nfev=5000,
            )
            at = found.x
            if not found.success:
                raise FitError(f"a line under {objective.loss} did not converge ({found.message})")
    tilt = float(at[1]) if slope is None else slope
    return float(at[0]) - tilt * middle, tilt


def fit_frontier(columns: Columns, law: type[VocabularyFrontier], spec: FitSpec, interpolate: bool = True) -> FitResult:
    """Fit approach 1. Raises InputError when the frontier has fewer than three points.

    The paper minimises Huber's loss from many starts and then picks the end of least squares among them, so that its
    exponent is not Huber's; least squares is what its number can be obtained with, and the default here.
    """
    objective = spec.for_law(law).objective or law.OBJECTIVE
    points = measured(columns)
    found = frontier(points.join(between(columns)) if interpolate else points)
    if len(found.C) < 3:
        raise InputError(f"GRID: the frontier of {len(columns)} rows has {len(found.C)} points, {law.NAME} needs 3")
    logs = {name: np.log(getattr(found, name)) for name in ("C", "N_nv", "N_v", "H")}

    def coefficients(weight: np.ndarray) -> tuple[float, float, float, float]:
        rows = np.repeat(np.arange(len(weight)), weight.astype(int))
        x, y = logs["C"][rows], {name: logs[name][rows] for name in ("N_nv", "N_v", "H")}
        K_nv, _ = line(x, y["N_nv"], objective, 0.5)
        K_v, a = line(x, y["N_v"], objective)
        return K_nv, K_v, a, line(x, y["H"], objective, 0.5)[0]

    fitted = law(*map(float, coefficients(np.ones(len(found.C)))))
    counts = bootstrap.row_counts(len(found.C), spec.bootstrap, spec.seed, fewest=2)
    draws = np.array([coefficients(count) for count in counts]).reshape(len(counts), 4)
    residual = fitted.K_v + fitted.a * logs["C"] - logs["N_v"]
    free = {name: line(logs["C"], logs[name], objective)[1] for name in ("N_nv", "N_v", "H")}
    reach = found.C.max() / found.C.min()
    return FitResult(
        law=fitted,
        spec=dataclasses.replace(spec, objective=objective),
        columns=columns,
        objective=float(objective.value(residual).sum()),
        residual=residual,
        certificate=Certificate(
            converged=True,
            agreeing_starts=1.0,
            gradient=0.0,
            rms_log_residual=float(np.sqrt(np.mean(residual**2))),
            warnings=(
                "the frontier's points are not independent: the intervals are too narrow",
                *([f"the frontier spans a factor of {reach:.3g} of FLOPs only"] if reach < 10 else []),
            ),
        ),
        draws=draws,
        details={"frontier_points": len(found.C), "free_exponents": free},
    )


def stationary_vocabulary(N_nv: float, width: float | None = None) -> float:
    """V of least FLOPs per character, (N_nv + V d) f(V), for a model of width d (the paper's for N_nv).

    Raises InputError when it lies beyond what f was measured for.
    """
    from scipy.optimize import brentq

    d = float(width_of(N_nv)) if width is None else width
    a, b, _ = TOKENS_PER_CHARACTER

    def slope(log_v: float) -> float:
        V = math.exp(log_v)
        return d * float(tokens_per_character(V)) + (N_nv + d * V) / V * (2 * a * log_v + b)

    low, high = math.log(2.0), math.log(LARGEST_MEASURED)
    if slope(low) * slope(high) > 0:
        raise InputError(
            f"N_nv: {N_nv:g} at width {d:g} has its least FLOPs per character above V = {LARGEST_MEASURED:,}"
        )
    return math.exp(brentq(slope, low, high, xtol=1e-14))


def growth(sizes: np.ndarray, objective: Objective = Objective()) -> float:
    """gamma of N_v ~ N_nv^gamma along the stationary vocabularies of `sizes`, through the first of them."""
    params = np.array([stationary_vocabulary(size) * float(width_of(size)) for size in sizes])
    x, y = np.log(sizes[1:] / sizes[0]), np.log(params[1:] / params[0])
    if objective.loss == "least_squares":
        return float(x @ y / (x @ x))
    from scipy.optimize import minimize_scalar

    ratios = np.sort(y / x)  # the objective is convex in gamma, its minimum between the extreme ratios
    found = minimize_scalar(
        lambda gamma: objective.value(gamma * x - y).sum(),
        bounds=(ratios[0] - 1e-9, ratios[-1] + 1e-9),
        method="bounded",
        options={"xatol": 1e-13, "maxiter": 1000},
    )
    return float(found.x)


def anchor(columns: Columns, flops: float | None = None) -> tuple[float, float, float]:
    """(N_nv, N_v, FLOPs) of the smallest model's best vocabulary at `flops`, its losses interpolated quadratically over C.

    By default at the most FLOPs that all of its vocabularies reached; the paper's 2.7e17 lies above what some reached.
    """
    from scipy.interpolate import interp1d

    rows = next(models(columns))
    V, C = columns["V"][rows], columns["C"][rows]
    flops = min(C[one == V].max() for one in np.unique(V)) if flops is None else flops
    best = (math.inf, math.nan)
    for one in np.unique(V):
        at = rows[one == V]
        if len(at) < 3:
            continue
        curve = interp1d(columns["C"][at], columns["loss"][at], kind="quadratic", fill_value="extrapolate")
        best = min(best, (float(curve(flops)), float(columns["N_v"][at[0]])))
    if not math.isfinite(best[0]):
        raise InputError(
            "GRID: no vocabulary of the smallest model has 3 rows; vocabulary_power needs loss curves over C"
        )
    return float(columns["N_nv"][rows[0]]), best[1], float(flops)


def fit_power(columns: Columns, law: type[VocabularyPower], spec: FitSpec) -> FitResult:
    """Fit approach 2: gamma from the grid's sizes, the level from its smallest model. There is nothing to resample."""
    objective = spec.for_law(law).objective or law.OBJECTIVE
    sizes = np.unique(columns["N_nv"])
    if len(sizes) < 2:
        raise InputError(f"GRID: {len(sizes)} size of N_nv; {law.NAME} needs 2 or more")
    N_0, N_v0, flops = anchor(columns)
    fitted = law(N_0, N_v0, growth(sizes, objective))
    residual = np.array(
        [math.log(fitted.loss({"N_nv": n})) - math.log(stationary_vocabulary(n) * float(width_of(n))) for n in sizes]
    )
    residual = residual - residual[0]
    return FitResult(
        law=fitted,
        spec=dataclasses.replace(spec, objective=objective),
        columns=columns,
        objective=float(objective.value(residual).sum()),
        residual=residual,
        certificate=Certificate(
            converged=True,
            agreeing_starts=1.0,
            gradient=0.0,
            rms_log_residual=float(np.sqrt(np.mean(residual**2))),
            warnings=("gamma follows from the tokenizers' rates alone; one IsoFLOP curve sets the level",),
        ),
        draws=np.empty((0, len(law.names()))),
        details={"anchor_flops": flops},
    )
