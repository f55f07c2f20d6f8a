"""Pose the fit of the exponential mixing law, whose two terms are linear in (ln c, ln k, t)."""

import dataclasses

import numpy as np

from analysis.grid.table import Columns
from analysis.solve import sums
from experiments.cli import InputError

WIDEST = 1e3  # of t: a part that moves the loss by e^1000 would be a mistake in the shares
MOST_FLOORS = 32  # starts


@dataclasses.dataclass(frozen=True)
class ExponentialProblem(sums.SumProblem):
    """Hold ln L = logsumexp(ln c, ln k + sum_j t_j (r_j - mean r_j)), t = 0 for the most frequent part, `reference`."""

    reference: int = 0
    mean: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))  # [parts]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest parameters [p]; t may have either sign."""
        low, high = super().bounds()
        low[2:] = -WIDEST
        high[2:] = WIDEST
        return low, high

    def coefficients(self, theta: np.ndarray) -> np.ndarray:
        """Return (c, k, t) [b, 2 + parts]; the average mixture has sum_j t_j r_j = 0, and so have parts without rows."""
        low, _ = self.bounds()
        log_terms = theta[:, :2]
        terms = np.where(log_terms <= low[:2], 0.0, np.exp(log_terms))
        t = np.insert(theta[:, 2:], self.reference, 0.0, axis=1)
        average = t @ self.mean[:, None]
        t = np.where(self.mean > 0, t - average, 0.0)
        return np.hstack([terms, t])

    def starts(self, weight: np.ndarray, keep: int) -> np.ndarray:
        """Return starts [keep, p]: at a floor c, ln(L - c) is linear in the shares, so floors are tried.

        They go from 0 to just below all rows; the rest is least squares, weighted as relative residuals are.
        """
        loss = np.exp(self.target)
        design = np.column_stack([np.ones(len(loss)), self.slopes[1]])
        points = []
        for below in np.geomspace(1e-3, 1.0, min(keep, MOST_FLOORS)):
            floor = (1 - below) * loss.min()
            reducible = loss - floor
            trust = np.sqrt(weight) * reducible / loss
            weighted = design * trust[:, None]
            answer, *_ = np.linalg.lstsq(weighted, np.log(reducible) * trust, rcond=1e-10)
            log_floor = np.log(max(floor, 1e-300))
            points.append(np.r_[log_floor, answer])
        return np.clip(points, *self.bounds())


def exponential(columns: Columns, raw: bool, above: np.ndarray | float | None = None) -> ExponentialProblem:
    """Pose the fit of `mixing` to `share` and `loss`. Raises InputError where shares do not add up to 1."""
    share = columns["share"]
    total = share.sum(axis=1)
    if np.abs(total - 1).max() > 1e-6:
        raise InputError(f"share: rows add up to {total.min():.6g} .. {total.max():.6g}; expected 1 in each row")
    # Shares add up to 1, so that one part's t is free to choose: that of the part with most data is 0 while fitting.
    mean = share.mean(axis=0)
    reference = int(np.argmax(mean))
    slopes = np.zeros((2, len(share), share.shape[1] - 1))
    slopes[1] = np.delete(share, reference, axis=1)
    names = ["c", "k"]
    for at, part in enumerate(columns.parts["share"]):
        if at != reference:
            names.append(f"t_{part}")
    plain = sums.SumProblem.create(slopes, columns["loss"], raw, None, above, tuple(names))
    return ExponentialProblem(
        slopes=plain.slopes,
        centre=plain.centre,
        target=plain.target,
        raw=raw,
        above=above,
        names=plain.names,
        reference=reference,
        mean=mean,
    )
