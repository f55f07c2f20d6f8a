"""Fit the best size of a vocabulary by approaches 1 and 2 of Tao et al. 2024 (arXiv 2407.13623).

Approach 1 puts points between the runs, keeps the frontier of loss over FLOPs, and regresses its logarithms on ln C.
Approach 2 asks where FLOPs per character have their minimum over the vocabulary, without any loss, and takes the level
from the IsoFLOP curve of the smallest model.
"""

import dataclasses
import math

import numpy as np

from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.laws.vocabulary import (
    LARGEST_MEASURED,
    TOKENS_PER_CHARACTER,
    VocabularyFrontier,
    VocabularyPower,
    tokens_per_character,
    width_of,
)
from analysis.procedures.robust_line import line
from analysis.procedures.unsearched import certify, root_mean_square
from analysis.procedures.vocabulary_points import (
    FEWEST_FOR_CURVE,
    Points,
    between,
    concatenate,
    frontier,
    measured,
    models,
    quadratic_curve,
)
from analysis.solve.objective import Objective
from analysis.trust import bootstrap
from experiments.cli import InputError

FEWEST_ON_FRONTIER = 3
NARROW = 10  # a frontier that spans a smaller factor of FLOPs is warned of
LEVEL_OF_ONE_CURVE = "gamma follows from the tokenizers' rates alone; one IsoFLOP curve sets the level"


def fit_frontier(columns: Columns, law: type[VocabularyFrontier], spec: FitSpec, interpolate: bool = True) -> FitResult:
    """Fit approach 1. Raises InputError when the frontier has fewer than three points.

    The paper minimises Huber's loss from many starts and then picks the end of least squares among them, so that its
    exponent is not Huber's; least squares is what its number can be obtained with, and the default here.
    """
    objective = spec.for_law(law).objective or law.OBJECTIVE
    points = measured(columns)
    if interpolate:
        points = concatenate([points, between(columns)])
    found = frontier(points)
    if len(found.C) < FEWEST_ON_FRONTIER:
        raise InputError(f"GRID: the frontier of {len(columns)} rows has {len(found.C)} points, {law.NAME} needs 3")

    log_c = np.log(found.C)
    log_n_v = np.log(found.N_v)
    fitted = law(*_frontier_coefficients(found, objective))
    counts = bootstrap.row_counts(len(found.C), spec.bootstrap, spec.seed, fewest=2)
    draws = [_frontier_coefficients(_repeat(found, count), objective) for count in counts]
    residual = fitted.K_v + fitted.a * log_c - log_n_v
    free_exponents = {
        "N_nv": line(log_c, np.log(found.N_nv), objective)[1],
        "N_v": line(log_c, log_n_v, objective)[1],
        "H": line(log_c, np.log(found.H), objective)[1],
    }
    warnings = ["the frontier's points are not independent: the intervals are too narrow"]
    reach = found.C.max() / found.C.min()
    if reach < NARROW:
        warnings.append(f"the frontier spans a factor of {reach:.3g} of FLOPs only")
    return FitResult(
        law=fitted,
        spec=dataclasses.replace(spec, objective=objective),
        columns=columns,
        objective=float(objective.value(residual).sum()),
        residual=residual,
        certificate=certify(root_mean_square(residual), warnings),
        draws=np.array(draws).reshape(len(counts), len(law.names())),
        details={"frontier_points": len(found.C), "free_exponents": free_exponents},
    )


def _repeat(points: Points, counts: Array) -> Points:
    """Return the points of one bootstrap replicate; counts [points] says how often each is drawn."""
    return points.take(np.repeat(np.arange(len(counts)), counts.astype(int)))


def _frontier_coefficients(points: Points, objective: Objective) -> tuple[float, float, float, float]:
    """Regress a frontier: K_nv, K_v, a, K_H. The exponents of N_nv and H are 1/2, as in the paper."""
    log_c = np.log(points.C)
    K_nv, _ = line(log_c, np.log(points.N_nv), objective, 0.5)
    K_v, a = line(log_c, np.log(points.N_v), objective)
    K_H, _ = line(log_c, np.log(points.H), objective, 0.5)
    return float(K_nv), float(K_v), float(a), float(K_H)


def stationary_vocabulary(N_nv: float, width: float | None = None) -> float:
    """Return V of least FLOPs per character, (N_nv + V d) f(V), for a model of width d (the paper's for N_nv).

    Raises InputError when it lies beyond what f was measured for.
    """
    from scipy.optimize import brentq

    d = float(width_of(N_nv)) if width is None else width
    a, b, _ = TOKENS_PER_CHARACTER

    def slope(log_v: float) -> float:
        """The derivative of (N_nv + V d) f(V) by V, with f' = (2 a ln V + b) / V."""
        V = math.exp(log_v)
        rate = float(tokens_per_character(V))
        return d * rate + (N_nv + d * V) / V * (2 * a * log_v + b)

    low = math.log(2.0)
    high = math.log(LARGEST_MEASURED)
    if slope(low) * slope(high) > 0:
        raise InputError(
            f"N_nv: {N_nv:g} at width {d:g} has its least FLOPs per character above V = {LARGEST_MEASURED:,}"
        )
    root = brentq(slope, low, high, xtol=1e-14)
    assert isinstance(root, float), "without full_output brentq returns the root alone"
    return math.exp(root)


def _stationary_params(N_nv: float) -> float:
    """Return the vocabulary parameters of the stationary vocabulary, at the paper's width."""
    return stationary_vocabulary(N_nv) * float(width_of(N_nv))


def growth(sizes: Array, objective: Objective = Objective()) -> float:
    """Return gamma of N_v ~ N_nv^gamma along the stationary vocabularies of `sizes`, through the first of them."""
    params = np.array([_stationary_params(size) for size in sizes])
    x = np.log(sizes[1:] / sizes[0])
    y = np.log(params[1:] / params[0])
    if objective.loss == "least_squares":
        return float(x @ y / (x @ x))
    from scipy.optimize import minimize_scalar

    def misfit(gamma: float) -> float:
        return objective.value(gamma * x - y).sum()

    # The objective is convex in gamma, and its minimum lies between the extreme ratios.
    ratios = y / x
    found = minimize_scalar(
        misfit,
        bounds=(ratios.min() - 1e-9, ratios.max() + 1e-9),
        method="bounded",
        options={"xatol": 1e-13, "maxiter": 1000},
    )
    return float(found.x)


def anchor(columns: Columns, flops: float | None = None) -> tuple[float, float, float]:
    """Find the best vocabulary of the smallest model at `flops`, its losses interpolated quadratically over C.

    Returns N_nv, N_v and the FLOPs: by default the most that all of its vocabularies reached; the paper's 2.7e17 lies
    above what some reached. Raises InputError where no vocabulary has rows enough for a curve.
    """
    rows = next(models(columns))
    V = columns["V"][rows]
    C = columns["C"][rows]
    if flops is None:
        flops = float(min(C[vocabulary == V].max() for vocabulary in np.unique(V)))
    least = math.inf
    best_params = math.nan
    for vocabulary in np.unique(V):
        own = rows[vocabulary == V]
        if len(np.unique(columns["C"][own])) < FEWEST_FOR_CURVE:
            continue
        loss = float(quadratic_curve(columns["C"][own], columns["loss"][own], flops))
        if loss < least:
            least = loss
            best_params = float(columns["N_v"][own[0]])
    if not math.isfinite(least):
        raise InputError(
            "GRID: no vocabulary of the smallest model has 3 rows; vocabulary_power needs loss curves over C"
        )
    return float(columns["N_nv"][rows[0]]), best_params, flops


def fit_power(columns: Columns, law: type[VocabularyPower], spec: FitSpec) -> FitResult:
    """Fit approach 2: gamma from the grid's sizes, the level from its smallest model. There is nothing to resample."""
    objective = spec.for_law(law).objective or law.OBJECTIVE
    sizes = np.unique(columns["N_nv"])
    if len(sizes) < 2:
        raise InputError(f"GRID: {len(sizes)} size of N_nv; {law.NAME} needs 2 or more")
    N_0, N_v0, flops = anchor(columns)
    fitted = law(N_0, N_v0, growth(sizes, objective))
    from_stationary = np.array(
        [math.log(fitted.target_at({"N_nv": size})) - math.log(_stationary_params(size)) for size in sizes]
    )
    residual = from_stationary - from_stationary[0]
    return FitResult(
        law=fitted,
        spec=dataclasses.replace(spec, objective=objective),
        columns=columns,
        objective=float(objective.value(residual).sum()),
        residual=residual,
        certificate=certify(root_mean_square(residual), [LEVEL_OF_ONE_CURVE]),
        draws=np.empty((0, len(law.names()))),
        details={"anchor_flops": flops},
    )
