"""Give the figures the rows behind a fit, with what each run cost."""

import dataclasses

from analysis.fitting.result import FitResult, judged_verdict
from analysis.grid.table import Columns
from analysis.questions.held_out import largest_budget

OPTIMUM = {"exponent_N", "exponent_D"}  # of the best size and tokens, in powers of compute


def with_compute(result: FitResult) -> Columns:
    """Return the rows of a fit with the role C: its own column, or C/(N D) of the fit times N D where there is none."""
    columns = result.columns
    if "C" in columns or "N" not in columns or "D" not in columns:
        return columns
    compute = result.flops_per_param_token * columns["N"] * columns["D"]
    return dataclasses.replace(columns, values=columns.values | {"C": compute})


def largest_compute(result: FitResult) -> float:
    """Return the FLOPs of the largest budget among the rows of a fit."""
    _, largest = largest_budget(with_compute(result))
    return largest


def tells_optimum(result: FitResult) -> bool:
    """Say whether the rows of a fit tell how its best size grows with compute; where not, no optimum is drawn."""
    verdict = judged_verdict(result)
    return not verdict.nothing and not OPTIMUM & set(verdict.withheld)
