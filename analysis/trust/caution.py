"""Warn of rows that are too few, repeat each other, span too little, or lie far from the law."""

import math

import numpy as np

from analysis.grid.table import Columns
from analysis.trust.residuals import ROBUST, Residuals

FEW_ROWS = 5  # per coefficient; below, bootstrap intervals are known to cover too little
RARE = 0.01  # p-value of what a reader is warned of
FEW_AGREE = 0.05  # share of the starts
FAR = 8  # robust standard deviations


def warnings(columns: Columns, coefficients: int, agreeing: float, residuals: Residuals) -> tuple[str, ...]:
    """Say what a reader should know before using the numbers of a fit."""
    found = []
    rows = residuals.rows
    if rows == coefficients:
        found.append(
            f"{rows} rows for {coefficients} coefficients: the law goes through every row and nothing checks it"
        )
    elif rows < FEW_ROWS * coefficients:
        found.append(f"{rows} rows for {coefficients} coefficients: few rows to check the form of the law")
    if agreeing < FEW_AGREE:
        found.append(f"only {agreeing:.1%} of the starts ended at the best optimum")
    repeated = repeated_rows(columns)
    if repeated:
        verb = "row repeats" if repeated == 1 else "rows repeat"
        found.append(f"{repeated} {verb} another row exactly; repeated rows count twice and narrow the intervals")
    far = far_rows(residuals.standardised)
    if far:
        verb = "lies" if far == 1 else "lie"
        found.append(f"{far} of {rows} rows {verb} more than 8 robust standard deviations from the law")
    for role, what in (("N", "parameters"), ("D", "tokens")):
        if role not in columns:
            continue
        span = math.log10(columns[role].max() / columns[role].min())
        if span < 1:
            found.append(f"{what} span a factor of {10**span:.3g} only; the exponent rests on less than a decade")
    return tuple(found)


def repeated_rows(columns: Columns) -> int:
    """Count the rows that repeat another one in every number."""
    numbers = []
    for role, value in columns.values.items():
        if role != "weight" and value.dtype.kind == "f":
            numbers.append(value)
    different = np.unique(np.column_stack(numbers), axis=0)
    return len(columns) - len(different)


def far_rows(log_residual: np.ndarray) -> int:
    """Count the rows that lie very far from the law, next to the median one; none where all lie on it."""
    middle = np.median(log_residual)
    spread = ROBUST * np.median(np.abs(log_residual - middle))
    if spread <= 1e-9:
        return 0
    return int((np.abs(log_residual) > FAR * spread).sum())
