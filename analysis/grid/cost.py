"""Say what runs cost in training FLOPs: as a column counts them, else C = 6 N D (Kaplan et al. 2020).

Every command asks here, so that all of them mean the same C on one grid.
"""

from collections.abc import Mapping

import numpy as np

from analysis.grid.table import Columns

FLOPS_PER_PARAM_TOKEN = 6.0  # C = 6 N D: multiply and add, forward and twice that backward (Kaplan et al. 2020)
VARIES = 1.02  # C/(N D) over the rows, largest over smallest: below, it is one number
EXACT = 1e-9  # relative: a factor that differs from 6 by rounding is 6


def training_flops(columns: Columns) -> np.ndarray | None:
    """Return the training FLOPs [rows]: the role C, else 6 N D, else None."""
    if "C" in columns:
        return columns["C"]
    if "N" in columns and "D" in columns:
        return FLOPS_PER_PARAM_TOKEN * columns["N"] * columns["D"]
    return None


def log_tokens(columns: Columns) -> np.ndarray:
    """Return ln D [rows]: of the role D, else what C and N leave."""
    if "D" in columns:
        return np.log(columns["D"])
    return np.log(columns["C"]) - np.log(FLOPS_PER_PARAM_TOKEN) - np.log(columns["N"])


def log_factor(C: np.ndarray, N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Return ln C/(N D) [rows]."""
    return np.log(C) - np.log(N) - np.log(D)


def mean_factor(logs: np.ndarray) -> float:
    """Return the geometric mean of C/(N D) from its logarithms [rows]; 6 to the digit where only rounding lies between."""
    factor = float(np.exp(logs.mean()))
    if abs(factor / FLOPS_PER_PARAM_TOKEN - 1) < EXACT:
        return FLOPS_PER_PARAM_TOKEN
    return factor


def flops_factor(columns: Columns) -> tuple[float, str]:
    """Return C/(N D), the geometric mean over the rows, and a note when it varies; 6 when a role is missing."""
    if not all(role in columns for role in ("N", "D", "C")):
        return FLOPS_PER_PARAM_TOKEN, ""
    logs = log_factor(columns["C"], columns["N"], columns["D"])
    factor = mean_factor(logs)
    low = float(np.exp(logs.min()))
    high = float(np.exp(logs.max()))
    if high <= VARIES * low:
        return factor, ""
    note = f"C = {factor:.3g} N D on average, {low:.3g} to {high:.3g} over the rows; optima at given C use the average"
    return factor, note


def in_words(sources: Mapping[str, str], factor: float) -> str:
    """Say which count of FLOPs C is: the column or formula that gave it (of `sources`, by role), and its C/(N D).

    Empty for a law that has no N and D, where C means what its column means.
    """
    if not {"N", "D"} <= sources.keys():
        return ""
    source = sources.get("C", "")
    product = f"{factor:.4g} N D"
    if not source or source.replace(" ", "") == "6*N*D":
        return f"C = {product}: no column gives FLOPs"
    return f"C = {source}, {product} on these rows"
