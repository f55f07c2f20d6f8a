"""Whether the runs were tuned: loss against learning rate in a bracket, and over learning rate and batch. Fits no law."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.grid.roles import ROLES
from analysis.grid.table import Columns, Grid
from analysis.writing.numbers import human

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 6  # runs of one size before a map over learning rate and batch says anything


@dataclasses.dataclass(frozen=True)
class Rates:
    """Loss against learning rate at one size, sorted by rate; the fitted best rate and the rate of the law's rows."""

    label: str
    rate: np.ndarray
    loss: np.ndarray  # means over the rows of one rate
    rows: np.ndarray  # a row of the grid for each rate, the first of several
    best: float | None  # minimum of a parabola in ln rate through the lowest point and its neighbours
    best_loss: float | None
    used: float | None  # rate of the rows in the fit at this size
    excess: float | None  # relative loss that the used rate gives away


@dataclasses.dataclass(frozen=True)
class Cell:
    """Runs of one size and length at several learning rates and batches (tokens a step); arrays are [runs]."""

    N: float
    D: float
    lr: np.ndarray
    batch: np.ndarray
    loss: np.ndarray
    rows: np.ndarray

    @property
    def label(self) -> str:
        return f"{human(self.N)} parameters, {human(self.D)} tokens"

    @property
    def excess(self) -> np.ndarray:
        """Loss of each run over the least one, minus 1."""
        return self.loss / self.loss.min() - 1


def learning_rates(grid: Grid, columns: Columns) -> list[Rates]:
    """Loss against learning rate for the rows with group == 'lr_bracket', by size; empty without such rows."""
    frame = grid.frame
    if "group" not in frame.columns or "lr" not in frame.columns or columns.sources["loss"] not in frame.columns:
        return []
    bracket = frame[frame["group"].astype(str) == "lr_bracket"]
    if "status" in frame.columns:
        bracket = bracket[bracket["status"].astype(str) == "complete"]
    rates = []
    keys = [name for name in (columns.sources["N"], columns.sources["D"]) if name in frame.columns]
    for size, rows in bracket.groupby(keys) if keys else []:
        used = frame.iloc[columns.row]
        same = used[
            np.all([np.isclose(used[key], value) for key, value in zip(keys, np.atleast_1d(size), strict=True)], axis=0)
        ]
        rule = float(same["lr"].iloc[0]) if len(same) else None
        together = [rows, same] if len(same) else [rows]
        rate = _numbers(together, "lr")
        loss = _numbers(together, columns.sources["loss"])
        at = np.concatenate([part.index.to_numpy() for part in together])
        good = np.isfinite(rate) & np.isfinite(loss) & (rate > 0) & (loss > 0)
        if len(np.unique(rate[good])) >= 2:
            label = f"{human(float(np.atleast_1d(size)[0]))} parameters"
            rates.append(_rates(label, rate[good], loss[good], at[good], rule))
    return rates


def _numbers(parts: "list[pd.DataFrame]", name: str) -> np.ndarray:
    import pandas as pd

    return np.concatenate([pd.to_numeric(part[name], errors="coerce").to_numpy(float) for part in parts])


def _rates(label: str, rate: np.ndarray, loss: np.ndarray, rows: np.ndarray, used: float | None) -> Rates:
    rate, first, inverse = np.unique(rate, return_index=True, return_inverse=True)
    loss = np.bincount(inverse, weights=loss) / np.bincount(inverse)
    at = int(np.argmin(loss))
    best = best_loss = excess = None
    if 0 < at < len(rate) - 1:
        near = slice(at - 1, at + 2)
        curve = np.polyfit(np.log(rate[near]), np.log(loss[near]), 2)
        middle = -curve[1] / (2 * curve[0])
        best, best_loss = float(np.exp(middle)), float(np.exp(np.polyval(curve, middle)))
        if used is not None:
            excess = float(loss[np.argmin(np.abs(np.log(rate / used)))] / best_loss - 1)
    return Rates(label, rate, loss, rows[first], best, best_loss, used, excess)


def rate_and_batch(grid: Grid, columns: Columns) -> list[Cell]:
    """Sizes and lengths at which the rows used have several learning rates and several batches; fullest cells first."""
    lr, batch = (_role(grid, columns, role) for role in ("lr", "batch"))
    if lr is None or batch is None or not {"N", "D"} <= set(columns.values):
        return []
    _, cell = np.unique(np.round(np.log([columns["N"], columns["D"]]), 2), axis=1, return_inverse=True)
    usable = np.isfinite(lr) & np.isfinite(batch) & (lr > 0) & (batch > 0)
    found = []
    for one in np.unique(cell):
        at = np.flatnonzero((cell == one) & usable)
        if len(at) >= FEWEST and min(len(np.unique(lr[at])), len(np.unique(batch[at]))) > 1:
            size: dict[str, Any] = {role: float(np.exp(np.log(columns[role][at]).mean())) for role in "ND"}
            found.append(Cell(**size, lr=lr[at], batch=batch[at], loss=columns["loss"][at], rows=columns.row[at]))
    return sorted(found, key=lambda cell: -len(cell.rows))


def _role(grid: Grid, columns: Columns, role: str) -> np.ndarray | None:
    """Values of a role on the rows used, whether or not the law asked for it."""
    if role in columns:
        return columns[role]
    name = next((name for name in ROLES[role].columns if name in grid.frame.columns), None)
    return None if name is None or name in grid.repeated else grid.numbers(name, role)[columns.row]
