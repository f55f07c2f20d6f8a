"""Say what a fit minimises: a sum over rows of a loss of residuals, with its slope.

Residuals are ln(predicted) - ln(observed) (`log`) or predicted - observed (`raw`). The objective is SUMMED over rows,
so that Huber's delta means what it means in Hoffmann et al. 2022; a mean would change nothing but the printed value.
"""

import dataclasses

import numpy as np

from experiments.cli import InputError, nearest

LOSSES = ("huber", "least_squares", "lad")
RESIDUALS = ("log", "raw")
LAD_STAGES = tuple(10.0**-power for power in range(3, 10))  # |r| as the limit of Huber losses
WIDE_STAGES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # on the way to a small delta


@dataclasses.dataclass(frozen=True)
class Objective:
    """Choose the loss and the residuals. `huber_delta` is in the units of the residual.

    above: how much a row counts whose loss lies above the law, next to one below it. Runs whose hyper-parameters were
    not tuned miss the law on that side only; less than 1 lets the law follow the lower edge of the rows.
    """

    loss: str = "huber"
    residual: str = "log"
    huber_delta: float = 1e-3
    above: float = 1.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(f"--loss: {self.loss!r} is not a loss; {nearest(self.loss, LOSSES, 'choice')}")
        if self.residual not in RESIDUALS:
            raise InputError(
                f"--residual: {self.residual!r} is not log or raw; {nearest(self.residual, RESIDUALS, 'choice')}"
            )
        if not (np.isfinite(self.huber_delta) and self.huber_delta > 0):
            raise InputError(f"--huber_delta: {self.huber_delta} is not a positive number")
        if not 0 < self.above <= 1:
            raise InputError(f"--above: {self.above} is not above 0 and at most 1")

    def shares(self, censored: np.ndarray | None) -> np.ndarray | float | None:
        """Return how much rows above the law count [rows], None where all count alike.

        The loss of a `censored` row (stopped early) only bounds that of the whole run from above: it may lie above the
        law at no cost.
        """
        if censored is None:
            return self.above if self.above < 1 else None
        is_censored = np.asarray(censored) > 0
        if not is_censored.any():
            return self.above if self.above < 1 else None
        return np.where(is_censored, 0.0, self.above)

    def value(self, r: np.ndarray) -> np.ndarray:
        """Return the loss of each residual. Huber: r^2/2 up to delta, then delta (|r| - delta/2). LAD: |r|."""
        if self.loss == "lad":
            return np.abs(r)
        if self.loss == "least_squares":
            return 0.5 * r**2
        return smooth(r, self.huber_delta)

    def stages(self, loss: float = 1.0) -> tuple[float, ...]:
        """Return the Huber deltas to minimise one after the other; the last is the objective itself, or LAD's limit.

        A small delta has many kinks, and a search through wider ones first does not get caught in them. `loss` is a
        typical observed loss, the scale of raw residuals.
        """
        scale = loss if self.residual == "raw" else 1.0
        if self.loss == "lad":
            return tuple(scale * delta for delta in LAD_STAGES)
        if self.loss == "least_squares":
            return (np.inf,)
        wider = [scale * delta for delta in WIDE_STAGES]
        on_the_way = [delta for delta in wider if delta > 10 * self.huber_delta]
        return (*on_the_way, self.huber_delta)


def smooth(r: np.ndarray, delta: float) -> np.ndarray:
    """Return Huber's loss; r^2/2 for an infinite delta."""
    if np.isinf(delta):
        return 0.5 * r**2
    size = np.abs(r)
    bounded = np.minimum(size, delta)
    return bounded * (size - 0.5 * bounded)


def slope(r: np.ndarray, delta: float) -> np.ndarray:
    """Return d smooth / dr."""
    return r if np.isinf(delta) else np.clip(r, -delta, delta)


def sided(weight: np.ndarray, r: np.ndarray, above: np.ndarray | float | None) -> np.ndarray:
    """Weigh rows with residuals r = predicted - observed, where rows above the law count `above` as much."""
    if above is None:
        return weight
    return np.where(r < 0, weight * above, weight)
