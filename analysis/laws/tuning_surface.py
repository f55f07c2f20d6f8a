"""Predict the loss of any run of a sweep: from its learning rate and batch as well as parameters and tokens."""

import dataclasses
import itertools
from typing import Any, ClassVar

import numpy as np

from analysis.laws.base import Array, Coefficient, FormulaLaw, Inputs, Number, exponent, free, power, prefactor

EXPONENTS = (0.1, 0.2, 0.35, 0.5)  # of N and D: starts
BOWLS = (0.001, 0.005)  # curvature of relative loss in ln lr and ln batch: starts
NEAR = 0.003  # relative excess loss of runs that say where the best learning rate and batch are: starts


@dataclasses.dataclass(frozen=True)
class TuningSurface(FormulaLaw):
    """L = (E + A/N^alpha + B/D^beta) (1 + h (ln(lr/lr*))^2 + g (ln(batch/b*))^2), lr* = c N^p D^q, b* = k D^r.

    Chinchilla's law at the best learning rate and batch, which follow the Step Law (Li et al. 2025, equation 1), and a
    bowl around them, of one shape everywhere, in relative loss. The bowl is second order and ours: it holds near the
    optimum, so leave out rates that nearly diverge (--where). Nats per token; batch in tokens.
    """

    E: Number
    A: Number
    B: Number
    alpha: Number
    beta: Number
    h: Number
    g: Number
    c: Number
    p: Number
    q: Number
    k: Number
    r: Number

    NAME: ClassVar[str] = "tuning_surface"
    FORMULA: ClassVar[str] = (
        "L = (E + A/N^alpha + B/D^beta) (1 + h ln(lr/lr*)^2 + g ln(batch/b*)^2), lr* = c N^p D^q, b* = k D^r"
    )
    SOURCE: ClassVar[str] = (
        "the optimum of Li et al. 2025 (Step Law; arXiv 2503.04715) in the law of Hoffmann et al. 2022; the bowl is ours"
    )
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "lr", "batch", "loss")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        **dict.fromkeys(("E", "A", "B"), prefactor()),
        "alpha": exponent(0.15, 0.35),
        "beta": exponent(0.15, 0.35),
        **dict.fromkeys(("h", "g"), prefactor(0.002, high=10.0)),
        "c": prefactor(1.0, high=1e30),
        "p": free(-0.7, low=-3.0, high=3.0),
        "q": free(0.3, low=-3.0, high=3.0),
        "k": prefactor(1.0, high=1e30),
        "r": free(0.6, low=-3.0, high=3.0),
    }

    @classmethod
    def starting_points(cls, inputs: Inputs, target: Array) -> Array:
        """Return points whose best learning rate and batch are regressions over the best runs [points, 12]."""
        best = _near_best(inputs["N"], inputs["D"], target)
        log_N = np.log(inputs["N"][best])
        log_D = np.log(inputs["D"][best])
        ones = np.ones_like(log_N)
        of_rate = _regress([ones, log_N, log_D], np.log(inputs["lr"][best]))
        of_batch = _regress([ones, log_D], np.log(inputs["batch"][best]))
        scale_of_rate, *powers_of_rate = of_rate
        scale_of_batch, power_of_batch = of_batch
        tuned = [np.exp(scale_of_rate), *powers_of_rate, np.exp(scale_of_batch), power_of_batch]
        points = []
        for alpha, beta, bowl in itertools.product(EXPONENTS, EXPONENTS, BOWLS):
            points.append([np.nan, np.nan, np.nan, alpha, beta, bowl, bowl, *tuned])
        return np.array(points)

    def predict(self, N: Any, D: Any, lr: Any, batch: Any) -> Any:
        """Predict the loss in nats per token of a run with that peak learning rate and tokens a step."""
        best_lr, best_batch = self.best(N, D)
        off_rate = np.log(lr) - np.log(best_lr)
        off_batch = np.log(batch) - np.log(best_batch)
        tuned = self.E + self.A * power(N, -self.alpha) + self.B * power(D, -self.beta)
        return tuned * (1 + self.h * off_rate**2 + self.g * off_batch**2)

    def best(self, N: Any, D: Any) -> tuple[Any, Any]:
        """Return the best peak learning rate and tokens a step."""
        return self.c * power(N, self.p) * power(D, self.q), self.k * power(D, self.r)

    def derived(self, at: Inputs, flops_per_param_token: float = 6.0) -> dict[str, Any]:
        """Return the best learning rate and batch, and the loss there."""
        lr, batch = self.best(at["N"], at["D"])
        return {"best_lr": lr, "best_batch": batch, "best_loss": self.predict(at["N"], at["D"], lr, batch)}


def _near_best(N: Array, D: Array, loss: Array) -> Array:
    """Return the rows whose loss is nearly the least of their cell of N and D, by number."""
    _, cell = np.unique(np.column_stack([N, D]), axis=0, return_inverse=True)
    cell = cell.ravel()
    least = np.full(cell.max() + 1, np.inf)
    np.minimum.at(least, cell, loss)
    return np.flatnonzero(loss <= least[cell] * (1 + NEAR))


def _regress(columns: list[Array], target: Array) -> Array:
    """Return the least-squares weights of columns."""
    answer, *_ = np.linalg.lstsq(np.column_stack(columns), target, rcond=None)
    return answer
