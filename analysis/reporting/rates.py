"""Find out whether the runs were tuned: loss against learning rate in a bracket, and over learning rate and batch.

Fits no law.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.grid.roles import ROLES
from analysis.grid.table import Columns, Grid
from analysis.procedures.parabola import vertex
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
        """The size and length in words."""
        return f"{human(self.N)} parameters, {human(self.D)} tokens"

    @property
    def excess(self) -> np.ndarray:
        """Loss of each run over the least one, minus 1."""
        return self.loss / self.loss.min() - 1


def learning_rates(grid: Grid, columns: Columns) -> list[Rates]:
    """Return loss against learning rate for the rows with group == 'lr_bracket', by size; empty without such rows."""
    frame = grid.frame
    loss_column = columns.sources["loss"]
    if not {"group", "lr", loss_column} <= set(frame.columns):
        return []
    in_bracket = frame["group"].astype(str) == "lr_bracket"
    if "status" in frame.columns:
        in_bracket &= frame["status"].astype(str) == "complete"
    bracket = frame[in_bracket]
    keys = [columns.sources[role] for role in ("N", "D")]
    keys = [name for name in keys if name in frame.columns]
    if not keys:
        return []
    in_fit = frame.iloc[columns.row]
    found = []
    sizes: Any = bracket.groupby(keys)
    for key, rows in sizes:
        size = np.atleast_1d(key)
        label = f"{human(float(size[0]))} parameters"
        same = _of_size(in_fit, keys, size)
        one = _rates_of_size(label, rows, same, loss_column)
        if one is not None:
            found.append(one)
    return found


def _of_size(frame: "pd.DataFrame", keys: list[str], size: np.ndarray) -> "pd.DataFrame":
    """Return the rows whose keys are those of a size, but for rounding."""
    same = np.ones(len(frame), dtype=bool)
    for key, value in zip(keys, size, strict=True):
        same &= np.isclose(frame[key], value)
    return frame.loc[same]


def _rates_of_size(label: str, bracket: "pd.DataFrame", same: "pd.DataFrame", loss_column: str) -> Rates | None:
    """Return the bracket at one size, together with the rows in the fit of that size; None for a single rate."""
    used = None
    together = [bracket]
    if len(same):
        used = float(same["lr"].iloc[0])
        together.append(same)
    rate = _numbers(together, "lr")
    loss = _numbers(together, loss_column)
    indices = [part.index.to_numpy() for part in together]
    rows = np.concatenate(indices)
    known = np.isfinite(rate) & np.isfinite(loss)
    good = known & (rate > 0) & (loss > 0)
    different = np.unique(rate[good])
    if len(different) < 2:
        return None
    return _summarise(label, rate[good], loss[good], rows[good], used)


def _numbers(frames: "list[pd.DataFrame]", name: str) -> np.ndarray:
    """Return a column of several tables as one array; NaN for what is no number."""
    import pandas as pd

    arrays = []
    for frame in frames:
        values: Any = pd.to_numeric(frame[name], errors="coerce")
        arrays.append(values.to_numpy(float))
    return np.concatenate(arrays)


def _summarise(label: str, rate: np.ndarray, loss: np.ndarray, rows: np.ndarray, used: float | None) -> Rates:
    """Average the losses of each rate, and find the best rate where it lies inside the bracket."""
    rate, first, inverse = np.unique(rate, return_index=True, return_inverse=True)
    total = np.bincount(inverse, weights=loss)
    loss = total / np.bincount(inverse)
    lowest = int(np.argmin(loss))
    best = None
    best_loss = None
    excess = None
    if 0 < lowest < len(rate) - 1:
        near = slice(lowest - 1, lowest + 2)
        best, best_loss = parabola_minimum(rate[near], loss[near])
        if used is not None:
            distance = np.abs(np.log(rate / used))
            nearest = np.argmin(distance)
            excess = float(loss[nearest] / best_loss - 1)
    return Rates(label, rate, loss, rows[first], best, best_loss, used, excess)


def parabola_minimum(rate: np.ndarray, loss: np.ndarray) -> tuple[float, float]:
    """Return the rate and the loss at the minimum of the parabola in logarithms through three points."""
    curve = np.polyfit(np.log(rate), np.log(loss), 2)
    bend, slope, _ = curve
    middle = vertex(bend, slope)
    lowest = np.polyval(curve, middle)
    return float(np.exp(middle)), float(np.exp(lowest))


def rate_and_batch(grid: Grid, columns: Columns) -> list[Cell]:
    """Return sizes and lengths at which the rows used have several rates and several batches; fullest cells first."""
    lr = _role(grid, columns, "lr")
    batch = _role(grid, columns, "batch")
    if lr is None or batch is None or not {"N", "D"} <= set(columns.values):
        return []
    N = columns["N"]
    D = columns["D"]
    # Sizes that differ by less than a hundredth in their logarithm are one size.
    places = np.round(np.log([N, D]), 2)
    _, cell = np.unique(places, axis=1, return_inverse=True)
    known = np.isfinite(lr) & np.isfinite(batch)
    usable = known & (lr > 0) & (batch > 0)
    found = []
    for one in np.unique(cell):
        at = np.flatnonzero((cell == one) & usable)
        rates = np.unique(lr[at])
        batches = np.unique(batch[at])
        if len(at) < FEWEST or min(len(rates), len(batches)) < 2:
            continue
        loss = columns["loss"][at]
        rows = columns.row[at]
        runs = Cell(
            N=_geometric_mean(N[at]),
            D=_geometric_mean(D[at]),
            lr=lr[at],
            batch=batch[at],
            loss=loss,
            rows=rows,
        )
        found.append(runs)
    return sorted(found, key=lambda cell: -len(cell.rows))


def _geometric_mean(values: np.ndarray) -> float:
    """Return the mean in logarithms."""
    mean = np.log(values).mean()
    return float(np.exp(mean))


def _role(grid: Grid, columns: Columns, role: str) -> np.ndarray | None:
    """Return the values of a role on the rows used, whether or not the law asked for it; None where no column has it."""
    if role in columns:
        return columns[role]
    for name in ROLES[role].columns:
        if name in grid.frame.columns:
            return None if name in grid.repeated else grid.numbers(name, role)[columns.row]
    return None
