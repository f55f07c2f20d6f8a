"""Pose the fit of the exponential mixing law, whose two terms are linear in (ln c, ln k, t)."""

import dataclasses

import numpy as np

from analysis.grid.table import Columns
from analysis.solve import sums
from experiments.cli import InputError

WIDEST = 1e3  # of t: a part that moves the loss by e^1000 would be a mistake in the shares


@dataclasses.dataclass(frozen=True)
class ExponentialProblem(sums.Problem):
    """ln L = logsumexp(ln c, ln k + sum_j t_j (r_j - mean r_j)), t = 0 for the part `reference`, the most frequent."""

    names: tuple[str, ...] = ()
    reference: int = 0
    mean: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))  # [parts]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = super().bounds()
        low[2:], high[2:] = -WIDEST, WIDEST
        return low, high

    def coefficients(self, theta: np.ndarray) -> np.ndarray:
        """(c, k, t) [b, 2 + parts]; the average mixture has sum_j t_j r_j = 0, and so have parts that no row holds."""
        low = self.bounds()[0][:2]
        t = np.insert(theta[:, 2:], self.reference, 0.0, axis=1)
        t = np.where(self.mean > 0, t - t @ self.mean[:, None], 0.0)
        return np.hstack([np.where(theta[:, :2] <= low, 0.0, np.exp(theta[:, :2])), t])

    def starts(self, weight: np.ndarray, keep: int) -> np.ndarray:
        """For a floor c, ln(L - c) is linear in the shares: least squares at floors from 0 to just below all rows."""
        loss = np.exp(self.target)
        design = np.column_stack([np.ones(len(loss)), self.slopes[1]])
        points = []
        for below in np.geomspace(1e-3, 1.0, min(keep, 32)):
            floor = (1 - below) * loss.min()
            trust = np.sqrt(weight) * (loss - floor) / loss
            answer = np.linalg.lstsq(design * trust[:, None], np.log(loss - floor) * trust, rcond=1e-10)[0]
            points.append(np.r_[np.log(max(floor, 1e-300)), answer])
        return np.clip(points, *self.bounds())


def exponential(columns: Columns, raw: bool, above: np.ndarray | float | None = None) -> ExponentialProblem:
    """The problem of fitting `mixing` to `share` and `loss`. Raises InputError where shares do not add up to 1."""
    share = columns["share"]
    total = share.sum(axis=1)
    if np.abs(total - 1).max() > 1e-6:
        raise InputError(f"share: rows add up to {total.min():.6g} .. {total.max():.6g}; expected 1 in each row")
    reference = int(np.argmax(share.mean(axis=0)))
    slopes = np.zeros((2, len(share), share.shape[1] - 1))
    slopes[1] = np.delete(share, reference, axis=1)
    parts = [f"t_{part}" for at, part in enumerate(columns.parts["share"]) if at != reference]
    plain = ExponentialProblem.create(slopes, columns["loss"], raw, None, above)
    return dataclasses.replace(plain, names=("c", "k", *parts), reference=reference, mean=share.mean(axis=0))
