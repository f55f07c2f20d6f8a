"""Look at a grid as a careful colleague would: labels that say nothing, second columns for a role, rows of one run."""

from collections.abc import Iterator

import numpy as np

from analysis.grid.cells import Tuned
from analysis.grid.resolve import RoleFinder
from analysis.grid.roles import ROLES, usual_names
from analysis.grid.table import Grid

SAME = 1e-9  # relative: two columns hold one number
WITHIN_BUDGET = 1.5  # factor of C over the rows of one FLOP budget
MOST_NAMED = 3  # candidates in a note
LIKE_RUNS = {
    "name",
    "id",
    "run id",
    "run name",
    "runid",
    "runname",
    "wandb_id",
    "wandb_name",
    "experiment",
    "experiment_name",
    "experiment_id",
    "exp",
    "exp_name",
    "trial",
    "trial_id",
    "job",
    "job_id",
    "model",
    "model_name",
    "model_id",
}  # in small letters: what people call their runs


def look(finder: RoleFinder, values: dict[str, np.ndarray], keep: np.ndarray, tuned: Tuned | None) -> list[str]:
    """Return all notes on the roles that were found, and drop labels that say nothing."""
    return [
        *of_tuning(values, tuned),
        *drop_empty_labels(finder, values, keep),
        *other_candidates(finder, values),
        *likely_runs(finder, values, keep),
    ]


def drop_empty_labels(finder: RoleFinder, values: dict[str, np.ndarray], keep: np.ndarray) -> list[str]:
    """Drop labels that the user did not name and that mark nothing on the rows that are kept; notes.

    A run or a budget that holds all rows says nothing; `group` has many meanings, of which one FLOP budget is one.
    """
    notes = []
    for role, kind in (("run", "run"), ("group", "FLOP budget")):
        if role in finder.given or role not in values or not keep.any():
            continue
        source = finder.sources[role]
        labels = values[role][keep].astype(str)
        why = ""
        if len(np.unique(labels)) < 2:
            why = "one value in all rows"
        elif role == "group" and source == "group" and not _are_budgets(labels, values, keep):
            why = "values that are no FLOP budgets"
        if not why:
            continue
        del values[role]
        del finder.sources[role]
        if source != "group":  # our own grids have a column `group` that means something else
            notes.append(f"column {source} has {why} and does not say which rows are one {kind}")
    return notes


def _are_budgets(labels: np.ndarray, values: dict[str, np.ndarray], keep: np.ndarray) -> bool:
    """Say whether C is nearly one number among the rows of each label."""
    if "C" not in values:
        return False
    log_c = np.log(values["C"][keep])
    widest = max(float(np.ptp(log_c[labels == one])) for one in np.unique(labels))
    return widest <= np.log(WITHIN_BUDGET)


def of_tuning(values: dict[str, np.ndarray], tuned: Tuned | None) -> list[str]:
    """Offer the best run of each cell where a law is fitted to all runs of a sweep."""
    if tuned is None:
        return []
    names = ",".join(tuned.values)
    sizes = ", ".join(role for role in ("N", "D", "C", "X") if role in values)
    rows = len(tuned.cell)
    note = (
        f"{names} {'varies' if len(tuned.values) == 1 else 'vary'} inside cells of equal {sizes} ({rows} rows in {tuned.cells} cells): --best_of={names} fits the best "
        "run of each, which is what a law of the loss speaks of"
    )
    return [note]


def other_candidates(finder: RoleFinder, values: dict[str, np.ndarray]) -> list[str]:
    """Name the columns that could also have been a role, and that hold other numbers than the one that was taken."""
    notes = []
    for role in values:
        if role in finder.given or ROLES[role].many:
            continue
        source = finder.sources[role]
        if source not in finder.grid:
            continue
        names = filter(None, [finder.grid.find(name) for name in usual_names(role)])
        others = [name for name in dict.fromkeys(names) if _differs(finder, name, source)]
        if others:
            named = ", ".join(others[:MOST_NAMED])
            notes.append(f"{role} is {source}; also there: {named} (--columns={role}={others[0]} takes that)")
    return notes


def _differs(finder: RoleFinder, name: str, source: str) -> bool:
    """Say whether a column is there, is no other role's, and holds something else than `source`."""
    grid = finder.grid
    if name == source or name in finder.sources.values() or name in grid.repeated:
        return False
    mine = grid.numbers(source, source)
    other = grid.numbers(name, name)
    if np.isfinite(mine).any() and np.isfinite(other).any():
        return not np.allclose(mine, other, rtol=SAME, atol=0.0, equal_nan=True)
    return bool((grid.words(source) != grid.words(name)).any())


def likely_runs(finder: RoleFinder, values: dict[str, np.ndarray], keep: np.ndarray) -> list[str]:
    """Ask whether a column names runs of several rows, where no column is taken for the run."""
    if "run" in values or not keep.any():
        return []
    for name in _unused_labels(finder):
        labels = finder.grid.words(name)[keep]
        different, rows = np.unique(labels, return_counts=True)
        has_several = 2 <= len(different) <= len(labels) / 2
        if not has_several:
            continue
        if name.lower() in LIKE_RUNS or _is_checkpoints(labels, values, keep):
            many = int(np.median(rows))
            note = (
                f"column {name} has {len(different)} values on {many} rows each: if rows of one value are one run, "
                f"--columns=run={name} resamples and holds out whole runs; else intervals may be too narrow"
            )
            return [note]
    return []


def _unused_labels(finder: RoleFinder) -> Iterator[str]:
    """Return the columns that no role uses and that hold text or whole numbers."""
    grid: Grid = finder.grid
    used = set(finder.sources.values())
    for name in grid.names:
        if name in used or name in grid.repeated:
            continue
        kind = grid.column(name, name).dtype.kind
        if kind in "OUSTiu" or name.lower() in LIKE_RUNS:
            yield name


def _is_checkpoints(labels: np.ndarray, values: dict[str, np.ndarray], keep: np.ndarray) -> bool:
    """Say whether rows of one label are one model that trains on: N is one number and D grows from row to row.

    Labels that are another name of N (10M, 20M) are not asked about: they are sizes.
    """
    if not {"N", "D"} <= values.keys():
        return False
    N = values["N"][keep]
    D = values["D"][keep]
    if len(np.unique(labels)) <= len(np.unique(N)):
        return False
    for one in np.unique(labels):
        rows = labels == one
        grows = bool((np.diff(D[rows]) > 0).all())
        if np.ptp(N[rows]) > SAME * N[rows].max() or not grows:
            return False
    return True
