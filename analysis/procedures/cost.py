"""Say what runs cost where no column does: C = 6 N D (Kaplan et al. 2020)."""

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Array


def training_flops(columns: Columns) -> Array | None:
    """Return the training FLOPs [rows]: the role C, else 6 N D, else None."""
    if "C" in columns:
        return columns["C"]
    if "N" in columns and "D" in columns:
        return FLOPS_PER_PARAM_TOKEN * columns["N"] * columns["D"]
    return None


def log_tokens(columns: Columns) -> Array:
    """Return ln D [rows]: of the role D, else what C and N leave."""
    if "D" in columns:
        return np.log(columns["D"])
    return np.log(columns["C"]) - np.log(FLOPS_PER_PARAM_TOKEN) - np.log(columns["N"])
