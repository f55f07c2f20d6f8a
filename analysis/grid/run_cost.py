"""Take the training FLOPs of runs from the grid's own column, so that every question has one cost of a run."""

import numpy as np

from analysis.grid import cost
from analysis.grid.resolve import RoleFinder


def find_cost(finder: RoleFinder, values: dict[str, np.ndarray]) -> list[str]:
    """Take C from its usual column where N and D are used; notes.

    A run without its C stays: its cost is the others' C/(N D) times its own N D.
    """
    has_sizes = {"N", "D"} <= values.keys()
    if "C" in values or not has_sizes:
        return []
    found = finder.find("C")
    if found is None:
        return []
    source = finder.sources["C"]
    with np.errstate(all="ignore"):
        logs = cost.log_factor(found, values["N"], values["D"])
    is_known = np.isfinite(logs)
    if not is_known.any():
        del finder.sources["C"]
        return [f"C ({source}) has no positive number beside N and D; C = 6 N D is used"]
    factor = cost.mean_factor(logs[is_known])
    usual = factor * values["N"] * values["D"]
    values["C"] = np.where(is_known, found, usual)
    is_filled = ~is_known & (usual > 0)
    missing = int(is_filled.sum())
    if not missing:
        return []
    return [f"{missing} rows have no C ({source}); theirs is {factor:.4g} N D, as in the other rows"]
