"""Predict what a learning-rate schedule does: the loss curve that a schedule gives, and the peak rate that batch and tokens ask for.

A curve needs two numbers for each step, the areas S1 and S2; `areas` computes them for any schedule. Fit curves of one
schedule, then predict those of another that nobody has run. Which schedule a run uses is experiments/training/schedule.py's.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import Coefficient, FormulaLaw, Number, exponent, free, power, prefactor, rounded_minimum
from analysis.solve.objective import Objective
from experiments.cli import InputError

DECAYS = (0.99, 0.999)  # what Tissue et al. use for one step's memory of an earlier fall of the rate

CORNER = 50.0  # sharpness of the cap on the rate


def areas(rate: Any, decay: float = 0.999) -> tuple[np.ndarray, np.ndarray]:
    """Return (S1, S2) after each step, from the learning rate of each step: arrays [steps].

    S1(s) = sum_{i<=s} rate_i; S2(s) = sum_{i<=s} m_i with m_i = decay m_{i-1} + rate_{i-1} - rate_i: each fall of the
    rate goes on to lower the loss, less and less. The rise of a warm-up at the start is not annealing and counts zero;
    a later rise counts as negative annealing. Raises InputError for rates that are no schedule.
    """
    from scipy.signal import lfilter

    rate = np.asarray(rate, dtype=np.float64)
    is_line = rate.ndim == 1 and len(rate) > 0
    if not is_line or not np.isfinite(rate).all() or (rate < 0).any() or not rate.any():
        raise InputError("rate: not a schedule; expected one finite learning rate for each step, none below 0")
    if not 0 <= decay < 1:
        raise InputError(f"decay: {decay} is not from 0 to below 1")
    fall = -np.diff(rate, prepend=rate[0])
    falls = np.flatnonzero(fall > 0)
    warmup = falls[0] if len(falls) else len(rate)
    fall[:warmup] = 0.0
    memory = lfilter([1.0], [1.0, -decay], fall)  # m_i = decay m_{i-1} + fall_i
    return np.cumsum(rate), np.cumsum(memory)


@dataclasses.dataclass(frozen=True)
class Curve:
    """Hold the losses of one run. rate [steps]: learning rate of every step; step [points], from 1: where loss [points] is."""

    rate: np.ndarray
    step: np.ndarray
    loss: np.ndarray

    @classmethod
    def logged(cls, step: Any, rate: Any, loss: Any) -> "Curve":
        """Build a curve from a log with gaps: the rate is taken to be straight between the logged steps, and constant before them."""
        step = np.asarray(step, dtype=np.float64)
        rate = np.asarray(rate, dtype=np.float64)
        loss = np.asarray(loss, dtype=np.float64)
        is_complete = 0 < len(step) == len(rate) == len(loss)
        if not is_complete or (np.diff(step) <= 0).any() or step[0] < 1:
            raise InputError(
                "S: not the log of one run; expected steps from 1 that rise, with a rate and a loss each (the role `run` "
                "tells runs apart)"
            )
        every_step = np.arange(1, int(step[-1]) + 1)
        return cls(np.interp(every_step, step, rate), step.astype(int), loss)

    def warmup(self) -> int:
        """Return the steps at the start over which the rate rises."""
        rises = np.diff(self.rate) > 0
        return int(np.argmin(rises)) if not rises.all() else len(self.rate)

    def inputs(self, decay: float) -> dict[str, np.ndarray]:
        """Return S1 and S2 at the points. Raises InputError for points outside of the schedule."""
        at = np.asarray(self.step, dtype=int)
        if not len(at) or at.min() < 1 or at.max() > len(self.rate):
            raise InputError(f"step: outside of the schedule; expected steps from 1 to {len(self.rate)}")
        S1, S2 = areas(self.rate, decay)
        return {"S1": S1[at - 1], "S2": S2[at - 1]}


@dataclasses.dataclass(frozen=True)
class Annealing(FormulaLaw):
    """L = L0 + A S1^-alpha - C S2, nats per token, of one model on fresh data after any number of steps.

    S1 and S2 are the areas of its schedule (see `areas`). S1 sums the rates, S2 the falls of the rate, with a memory of
    about 1/(1 - decay) steps. Warm-up and unstable steps at the start are better left out of a fit.
    """

    L0: Number
    A: Number
    alpha: Number
    C: Number

    NAME: ClassVar[str] = "annealing"
    FORMULA: ClassVar[str] = "L = L0 + A/S1^alpha - C S2"
    SOURCE: ClassVar[str] = "Tissue et al. 2024 (arXiv 2408.11029)"
    ROLES: ClassVar[tuple[str, ...]] = ("S1", "S2", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "S1": Role("area under the learning-rate curve, rate x steps", ("S1", "lr_area")),
        "S2": Role("annealing area of the learning-rate curve", ("S2", "annealing_area"), positive=False),
    }
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "L0": prefactor(),
        "A": prefactor(),
        "alpha": exponent(0.1, 0.2, 0.35, 0.5, 0.8, 1.2, low=1e-3),
        "C": free(),
    }

    def predict(self, S1: Any, S2: Any) -> Any:
        """Predict the loss in nats per token."""
        return self.L0 + self.A * power(S1, -self.alpha) - self.C * S2

    def curve(self, rate: Any, decay: float, step: Any = None) -> np.ndarray:
        """Predict the loss after the given steps (all, where None) of a schedule that gives the rate of every step."""
        rate = np.asarray(rate, dtype=np.float64)
        step = np.arange(1, len(rate) + 1) if step is None else np.asarray(step, dtype=int)
        return self.predict(**Curve(rate, step, np.empty(0)).inputs(decay))


@dataclasses.dataclass(frozen=True)
class AnnealingCurve(Annealing):
    """Annealing from the log of a run, with the learning rate at every logged step (role lr, here the rate and no peak).

    The areas are computed from the whole log, under the decay that fits better (details["decay"] of the result); losses
    of the warm-up are not fitted. Logs should begin at the first step. The result is an Annealing.
    """

    NAME: ClassVar[str] = "annealing_curve"
    ROLES: ClassVar[tuple[str, ...]] = ("S", "lr", "loss")
    OPTIONAL: ClassVar[tuple[str, ...]] = ("run",)
    SIGNED: ClassVar[tuple[str, ...]] = ("lr",)  # a schedule may end at 0
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = Annealing.INPUTS


@dataclasses.dataclass(frozen=True)
class PowerScheduler(FormulaLaw):
    """eta = min(eta_max, B a D^b): the peak rate that is best with batch B, after D tokens; b is negative.

    The unit of a is a rate over that of the batch: tokens here, sequences in the source. Under maximal update
    parametrisation one set of constants holds at every width. The corner is rounded over 2% of the rate, because the
    optimum of a fit can lie on a corner, where no slope says so.
    """

    eta_max: Number
    a: Number
    b: Number

    NAME: ClassVar[str] = "power_scheduler"
    FORMULA: ClassVar[str] = "eta = min(eta_max, B a D^b)"
    SOURCE: ClassVar[str] = "Shen et al. 2024 (Power Scheduler; arXiv 2408.13359)"
    ROLES: ClassVar[tuple[str, ...]] = ("D", "batch", "lr")
    TARGET: ClassVar[str] = "lr"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "eta_max": prefactor(*(float(rate) for rate in np.geomspace(1e-4, 1.0, 9)), high=1e6),
        "a": prefactor(*(float(scale) for scale in 10.0 ** np.arange(-8, 5))),
        "b": free(-0.3, -0.5, -0.7, -1.0, low=-4.0, high=4.0),
    }

    def predict(self, D: Any, batch: Any) -> Any:
        """Predict the learning rate after D tokens at a batch in tokens."""
        return rounded_minimum(self.eta_max, batch * self.a * power(D, self.b), CORNER)
