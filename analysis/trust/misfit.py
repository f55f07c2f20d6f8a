"""Ask whether a law has the right form: trends of its residuals, scatter between seeds, and Akaike's criterion."""

import math

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw
from analysis.trust.information import aicc_penalty
from analysis.trust.residuals import Residuals

ROUNDING = 3e-7  # spread of ln residuals below which they are the rounding of losses, which float32 writes to 6e-8
FEWEST_VALUES = 4  # of a quantity along which a trend is sought
FEWEST_REPEATS = 2  # rows beside the first of their inputs


def residual_trends(columns: Columns, residuals: Residuals) -> dict[str, dict[str, float]]:
    """Correlate the residuals (Spearman) with ln N, ln D and ln C: what the form does not follow.

    rho is that with the quantity, bend that with its distance from the middle; p belongs to the clearer of the two.
    """
    found = {}
    residual = residuals.counted
    if not len(residual) or is_rounding(residual):
        return found
    for role in ("N", "D", "C"):
        if role not in columns:
            continue
        value = columns[role][residuals.counting]
        different = np.unique(value)
        if len(different) < FEWEST_VALUES:
            continue
        trend = _trend(np.log(value), residual)
        if np.isfinite(trend["p"]):
            found[role] = trend
    return found


def is_rounding(residual: np.ndarray) -> bool:
    """Say whether a law goes through all rows but for their rounding: what is left says nothing of its form."""
    return bool(np.ptp(residual) <= ROUNDING)


def _trend(place: np.ndarray, residual: np.ndarray) -> dict[str, float]:
    """Correlate residuals with a quantity and with its distance from the middle; p is NaN where there is none."""
    from scipy.stats import spearmanr

    distance = np.abs(place - np.median(place))
    if np.ptp(distance) == 0:
        return {"p": math.nan}
    rho, p_rho = np.array(spearmanr(place, residual), dtype=np.float64).tolist()
    bend, p_bend = np.array(spearmanr(distance, residual), dtype=np.float64).tolist()
    clearer = min(p_rho, p_bend)
    p = min(1.0, 2 * clearer)  # one of two tests was chosen (Bonferroni)
    return {"rho": rho, "bend": bend, "p": p}


def seed_noise(law: FormulaLaw, columns: Columns, residuals: Residuals) -> dict[str, float] | None:
    """Measure the scatter of rows with the same inputs (other seeds), and test whether the law misses by more.

    p: of the F test for lack of fit, residuals of the law against those of the repeats' own means. None without repeats,
    and where the repeats were tuned apart: learning rates are no seeds.
    """
    if columns.tuned:
        return None
    inputs = [columns[role][residuals.counting] for role in law.inputs() if role in columns]
    residual = residuals.counted
    if not inputs or not all(_is_one_number(value) for value in inputs):
        return None
    points = np.stack(inputs)
    _, label, count = np.unique(points, axis=1, return_inverse=True, return_counts=True)
    label = label.ravel()
    repeats = len(label) - len(count)
    if repeats < FEWEST_REPEATS:
        return None
    from scipy.stats import f

    weight = residuals.weight
    summed = np.bincount(label, weight * residual)
    mean = summed / np.bincount(label, weight)
    scatter = residual - mean[label]
    pure = float((weight * scatter**2).sum())
    whole = float((weight * residual**2).sum())
    missed = whole - pure
    variance = pure / repeats
    found = {"standard_deviation": math.sqrt(variance), "repeats": float(repeats)}
    freedom = len(count) - len(law.names())
    if freedom > 0 and pure > 0 and not is_rounding(residual):
        ratio = missed / freedom / variance
        found["p"] = float(f.sf(ratio, freedom, repeats))
    return found


def _is_one_number(value: np.ndarray) -> bool:
    """Say whether a column has one number a row, so that two rows can be told to have the same."""
    return value.dtype.kind == "f" and value.ndim == 1


def aicc(residuals: Residuals, coefficients: int, loss: str) -> float | None:
    """Compute Akaike's criterion for small samples, of log residuals (plain ones where the target may be negative).

    Least squares mean normal scatter; robust losses the double exponential one, which is what they turn into when their
    delta is small (Besiroglu et al. 2024), and coefficients then cost what useless ones gain (`price`). Weights are those
    of inverse variances; rows of one run count together as one. Comparable between laws that are fitted to the same rows
    with one loss. None with too few rows, or when the law goes through all of them.
    """
    independent = residuals.units
    k = coefficients + 1  # the scatter is estimated, too
    if independent <= k + 1:
        return None
    size = np.abs(residuals.counted)
    if size.max() < 1e-12:
        return None
    weight = residuals.weight
    log_weight = float(np.mean(np.log(weight)))
    penalty = aicc_penalty(independent, k)
    if loss == "least_squares":
        variance = float(np.mean(weight * size**2))
        deviance_of_row = math.log(2 * math.pi * variance) + 1 - log_weight
        return independent * deviance_of_row + penalty
    width = float(np.mean(weight * size))
    deviance_of_row = 2 * (math.log(2 * width) + 1 - log_weight)
    return independent * deviance_of_row + price(size, weight) * penalty


def price(size: np.ndarray, weight: np.ndarray) -> float:
    """Return how much a useless coefficient gains in the deviance of absolute residuals [rows], next to a normal one's.

    It is 1/(2 f(0) E|r|) for residuals of density f (Ronchetti 1985): 1 for double exponential noise, pi/2 for normal
    noise. In between it is read off the ratio of mean absolute to root mean square residual.
    """
    mean_absolute = np.mean(weight * size)
    mean_square = np.mean(weight * size**2)
    ratio = float(mean_absolute / np.sqrt(mean_square))
    of_exponential = 1 / math.sqrt(2)
    of_normal = math.sqrt(2 / math.pi)
    way = (ratio - of_exponential) / (of_normal - of_exponential)
    way = min(max(way, 0.0), 1.0)
    price_of_normal = math.pi / 2
    return 1 + way * (price_of_normal - 1)
