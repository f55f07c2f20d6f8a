"""Ask whether a law has the right form: trends of its residuals, scatter between seeds, and Akaike's criterion."""

import math

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw
from analysis.trust.information import aicc_penalty

ROUNDING = 3e-7  # spread of ln residuals below which they are the rounding of losses, which float32 writes to 6e-8
FEWEST_VALUES = 4  # of a quantity along which a trend is sought
FEWEST_REPEATS = 2  # rows beside the first of their inputs


def residual_trends(columns: Columns, residual: np.ndarray) -> dict[str, dict[str, float]]:
    """Correlate the residuals (Spearman) with ln N, ln D and ln C: what the form does not follow.

    rho is that with the quantity, bend that with its distance from the middle; p belongs to the clearer of the two.
    """
    found = {}
    if is_rounding(residual):
        return found
    for role in ("N", "D", "C"):
        if role in columns and len(np.unique(columns[role])) >= FEWEST_VALUES:
            trend = _trend(np.log(columns[role]), residual)
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
    rho, p_rho = np.array(spearmanr(place, residual), dtype=np.float64)
    bend, p_bend = np.array(spearmanr(distance, residual), dtype=np.float64)
    p = min(1.0, 2 * min(float(p_rho), float(p_bend)))  # the clearer of two tests (Bonferroni)
    return {"rho": float(rho), "bend": float(bend), "p": p}


def seed_noise(law: FormulaLaw, columns: Columns, residual: np.ndarray) -> dict[str, float] | None:
    """Measure the scatter of rows with the same inputs (other seeds), and test whether the law misses by more.

    p: of the F test for lack of fit, residuals of the law against those of the repeats' own means. None without repeats.
    """
    inputs = [columns[role] for role in law.inputs() if role in columns]
    if not inputs or any(value.dtype.kind != "f" or value.ndim > 1 for value in inputs):
        return None
    _, label, count = np.unique(np.stack(inputs), axis=1, return_inverse=True, return_counts=True)
    label = label.ravel()
    repeats = len(label) - len(count)
    if repeats < FEWEST_REPEATS:
        return None
    from scipy.stats import f

    mean = np.bincount(label, residual) / count
    pure = float(((residual - mean[label]) ** 2).sum())
    missed = float((residual**2).sum()) - pure
    freedom = len(count) - len(law.names())
    found = {"standard_deviation": math.sqrt(pure / repeats), "repeats": float(repeats)}
    if freedom > 0 and pure > 0 and not is_rounding(residual):
        ratio = missed / freedom / (pure / repeats)
        found["p"] = float(f.sf(ratio, freedom, repeats))
    return found


def aicc(residual: np.ndarray, coefficients: int, loss: str) -> float | None:
    """Compute Akaike's criterion for small samples, of log residuals (plain ones where the target may be negative).

    Least squares mean normal scatter; robust losses the double exponential one, which is what they turn into when their
    delta is small (Besiroglu et al. 2024). Comparable between laws that are fitted to the same rows with one loss.
    None with too few rows, or when the law goes through all of them.
    """
    rows = len(residual)
    k = coefficients + 1  # the scatter is estimated, too
    size = np.abs(residual)
    if rows <= k + 1 or size.max() < 1e-12:
        return None
    if loss == "least_squares":
        deviance = rows * (math.log(2 * math.pi * float(np.mean(size**2))) + 1)
    else:
        deviance = 2 * rows * (math.log(2 * float(np.mean(size))) + 1)
    return deviance + aicc_penalty(rows, k)
