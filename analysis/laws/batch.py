"""Batch size: how many tokens a step can use before more of them stop helping, and the loss at any batch size.

Three laws that build on each other: the trade-off of steps and tokens at one loss, the critical batch size as a function of
the loss, and the loss of a model of N parameters after S steps of B tokens. `contours` and `three_steps` are the
procedure of Su et al. 2024 that estimates the constants of all three from small models. Batches are in tokens.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Coefficient, FormulaLaw, exponent, power, prefactor
from analysis.solve.objective import Objective
from experiments.cli import InputError

if TYPE_CHECKING:
    from analysis.fitting.result import FitSpec
    from analysis.grid.table import Columns

KAPLAN = "Kaplan et al. 2020 (arXiv 2001.08361)"
MCCANDLISH = "McCandlish et al. 2018 (arXiv 1812.06162)"
NEWTON_STEPS = 60


def least_steps(S: Any, batch: Any, critical: Any) -> Any:
    """S_min: the steps that S steps of `batch` tokens are worth at a batch far above the critical one (Kaplan, 5.4)."""
    return S / (1 + critical / batch)


def least_tokens(tokens: Any, batch: Any, critical: Any) -> Any:
    """E_min: the tokens that would do at a batch far below the critical one."""
    return tokens / (1 + batch / critical)


def least_compute(C: Any, batch: Any, critical: Any) -> Any:
    """C_min: the FLOPs that would do at a batch far below the critical one (Kaplan, 5.5)."""
    return C / (1 + batch / critical)


@dataclasses.dataclass(frozen=True)
class CriticalBatch(FormulaLaw):
    """B_crit(L) = B_star / L^(1/alpha_B), tokens: it depends on the model's size only through the loss L it has reached."""

    B_star: Any
    alpha_B: Any

    NAME: ClassVar[str] = "critical_batch"
    FORMULA: ClassVar[str] = "B_crit = B_star / L^(1/alpha_B)"
    SOURCE: ClassVar[str] = f"{KAPLAN}, equation 5.3"
    ROLES: ClassVar[tuple[str, ...]] = ("loss", "critical_batch")
    TARGET: ClassVar[str] = "critical_batch"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "B_star": prefactor(),
        "alpha_B": exponent(0.05, 0.1, 0.2, 0.4, 0.8, low=0.01, high=10.0),
    }

    def predict(self, loss: Any) -> Any:
        """Critical batch size in tokens at a loss in nats per token."""
        return self.B_star * power(loss, -1 / self.alpha_B)


@dataclasses.dataclass(frozen=True)
class StepsExamples(FormulaLaw):
    """Steps S to one and the same loss at batch B: S = S_min + E_min/B, with E_min in tokens.

    In terms of the tokens E = S B that is (S/S_min - 1)(E/E_min - 1) = 1.
    """

    S_min: Any
    E_min: Any

    NAME: ClassVar[str] = "steps_examples"
    FORMULA: ClassVar[str] = (
        "S = S_min + E_min/B, that is (S/S_min - 1)(E/E_min - 1) = 1 for E = S B tokens at one loss"
    )
    SOURCE: ClassVar[str] = f"{MCCANDLISH}, equation 2.11; {KAPLAN}, equations 5.1 and 5.2"
    ROLES: ClassVar[tuple[str, ...]] = ("batch", "S")
    TARGET: ClassVar[str] = "S"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {"S_min": prefactor(), "E_min": prefactor()}

    def predict(self, batch: Any) -> Any:
        """Steps to that loss at a batch in tokens."""
        return self.S_min + self.E_min / batch

    def critical_batch(self) -> Any:
        """E_min/S_min: where a run takes twice the least steps and twice the least tokens."""
        return self.E_min / self.S_min

    def derived(self, at: Mapping[str, Any], flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """The critical batch size in tokens."""
        return {"critical_batch": self.critical_batch()}


def settle(size: Any, step: Any, critical: Any, alpha_S: Any, alpha_B: Any) -> Any:
    """The loss L that solves L = size + step (1 + critical L^(-1/alpha_B))^alpha_S, for positive arguments.

    Both sides in logarithms: x - ln(right side) rises with a slope of at least 1 and is concave, so that Newton's steps
    climb to its only root from below, from wherever they start. The root is found at the real parts; one step more at
    the complex ones, bent by the curvature there, carries first and second derivatives through.
    """
    parts = [np.asarray(part) for part in (size, step, critical, alpha_S, alpha_B)]

    def newton(x: Any, size: Any, step: Any, critical: Any, alpha_S: Any, alpha_B: Any) -> tuple[Any, ...]:
        """Newton's step, and what the curvature needs."""
        extra = critical * np.exp(-x / alpha_B)
        late = step * np.exp(alpha_S * np.log(1 + extra))
        total = size + late
        share, held = late / total, extra / (1 + extra)
        slope = 1 + alpha_S / alpha_B * share * held
        return (np.log(total) - x) / slope, slope, share, held

    with np.errstate(all="ignore"):
        real = [part.real for part in parts]
        x = np.log(real[0] + real[1]) + 0 * real[2]
        change, slope, share, held = newton(x, *real)
        for _ in range(NEWTON_STEPS):
            x = x + change
            if not (np.abs(change) > 1e-5).any():  # the last steps square what is missing
                break
            change, slope, share, held = newton(x, *real)
        alpha_S, alpha_B = real[3:]
        bend = -alpha_S / alpha_B**2 * share * held * ((1 - share) * alpha_S * held + 1 - held) / (2 * slope)
        change = newton(x, *parts)[0]
        return np.exp(x + change - bend * change**2)


@dataclasses.dataclass(frozen=True)
class BatchTrajectory(FormulaLaw):
    """Loss of N parameters after S steps of B tokens, nats per token, at any batch size.

    L = (N_c/N)^alpha_N + (S_c/S_min)^alpha_S with S_min = S/(1 + B_crit(L)/B) and B_crit(L) = B_star/L^(1/alpha_B).
    L stands on both sides. N without embeddings; the data are never repeated and the learning rate suits each batch.
    """

    N_c: Any
    alpha_N: Any
    S_c: Any
    alpha_S: Any
    B_star: Any
    alpha_B: Any

    NAME: ClassVar[str] = "batch_trajectory"
    FORMULA: ClassVar[str] = (
        "L = (N_c/N)^alpha_N + (S_c/S_min)^alpha_S, S_min = S/(1 + B_crit/B), B_crit = B_star/L^(1/alpha_B)"
    )
    SOURCE: ClassVar[str] = f"{KAPLAN}, equations 1.6 and 5.4; Su et al. 2024 (arXiv 2403.06563)"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "S", "batch", "loss")
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "N_c": prefactor(1e8, 1e10, 1e12, 1e14, 1e16),
        "alpha_N": exponent(0.05, 0.08, 0.15, 0.3, low=1e-3),
        "S_c": prefactor(1e2, 1e3, 1e4),
        "alpha_S": exponent(0.3, 0.6, 0.9, low=1e-3),
        "B_star": prefactor(1e5, 1e7, 1e9),
        "alpha_B": exponent(0.1, 0.2, 0.4, low=0.02, high=10.0),
    }

    def predict(self, N: Any, S: Any, batch: Any) -> Any:
        """Loss in nats per token for N parameters after S steps of `batch` tokens."""
        size, step = power(self.N_c / N, self.alpha_N), power(self.S_c / S, self.alpha_S)
        return settle(size, step, self.B_star / batch, self.alpha_S, self.alpha_B)

    def critical_batch(self, loss: Any) -> Any:
        """B_crit in tokens at a loss."""
        return CriticalBatch(self.B_star, self.alpha_B).predict(loss)

    def derived(self, at: Mapping[str, Any], flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """The critical batch at the loss reached, and what steps, tokens and FLOPs would do far above or below it."""
        critical = self.critical_batch(self.loss(at))
        tokens = at["S"] * at["batch"]
        return {
            "critical_batch": critical,
            "S_min": least_steps(at["S"], at["batch"], critical),
            "E_min": least_tokens(tokens, at["batch"], critical),
            "C_min": least_compute(flops_per_param_token * at["N"] * tokens, at["batch"], critical),
        }

    def steps(self, N: Any, batch: Any, loss: Any) -> Any:
        """Steps of `batch` tokens until N parameters reach a loss; nan below what N parameters can reach."""
        rest = loss - power(self.N_c / N, self.alpha_N)
        least = np.where(rest > 0, self.S_c * power(np.where(rest > 0, rest, 1.0), -1 / self.alpha_S), np.nan)
        return least * (1 + self.critical_batch(loss) / batch)


def contours(columns: "Columns", losses: Sequence[float]) -> "Columns":
    """Where each run first reaches each of the losses: rows with roles loss, batch, S, and the run they come from.

    `columns` holds checkpoints: roles run, S, batch, loss. ln S is interpolated straight in the loss between the
    checkpoints on either side, along the least loss so far. A run that starts below a loss, or never reaches it, gives
    no row for it. Raises InputError when no run crosses any of them.
    """
    from analysis.grid.table import Columns

    found: list[tuple[float, float, float, Any, int]] = []
    for run in dict.fromkeys(columns["run"]):
        rows = np.flatnonzero(columns["run"] == run)
        rows = rows[np.argsort(columns["S"][rows], kind="stable")]
        least = np.minimum.accumulate(columns["loss"][rows])
        for loss in losses:
            if not least[-1] <= loss < least[0]:
                continue
            after = int(np.argmax(least <= loss))
            share = (least[after - 1] - loss) / (least[after - 1] - least[after])
            before, behind = np.log(columns["S"][rows[after - 1]]), np.log(columns["S"][rows[after]])
            S = float(np.exp(before + share * (behind - before)))
            found.append((loss, float(columns["batch"][rows[after]]), S, run, int(columns.row[rows[after]])))
    if not found:
        raise InputError(
            f"losses: no run crosses any of {list(losses)}; expected losses within the range of the curves"
        )
    loss, batch, S, runs, row = zip(*found, strict=True)
    values = {"loss": np.array(loss), "batch": np.array(batch), "S": np.array(S), "run": np.array(runs)}
    return Columns(values, np.array(row), {role: role for role in values}, ())


def critical_batches(columns: "Columns", spec: "FitSpec | None" = None) -> "Columns":
    """(loss, critical_batch) from rows (loss, batch, S): one trade-off curve for each loss with two or more batches.

    Raises InputError where no loss has two.
    """
    from analysis.fitting.fit import fit
    from analysis.fitting.result import FitSpec
    from analysis.grid.table import Columns

    spec = dataclasses.replace(spec or FitSpec(), bootstrap=0, objective=None)
    found: list[tuple[float, float, int]] = []
    for loss in np.unique(columns["loss"]):
        part = columns.take(columns["loss"] == loss)
        if len(np.unique(part["batch"])) < 2:
            continue
        law = fit(part, StepsExamples, spec).law
        if 0 < law.critical_batch() < np.inf and law.S_min > 1e-9 and law.E_min > 1e-9:
            found.append((float(loss), float(law.critical_batch()), int(part.row[0])))
    if not found:
        raise InputError("GRID: no loss is reached at two batch sizes that differ in steps and in tokens; expected one")
    loss, critical, row = zip(*found, strict=True)
    values = {"loss": np.array(loss), "critical_batch": np.array(critical)}
    return Columns(values, np.array(row), {role: role for role in values}, ())


def three_steps(converged: "Columns", tradeoff: "Columns", curves: "Columns") -> BatchTrajectory:
    """The constants of BatchTrajectory in the three steps of Su et al. 2024, each from runs that suit it.

    1. N_c and alpha_N from the losses of `converged` small models (roles N, loss) on data without end.
    2. B_star and alpha_B from `tradeoff` (roles loss, batch, S): steps to equal losses at several batch sizes.
    3. S_c and alpha_S from loss `curves` (roles N, S, batch, loss), with the steps turned into S_min by step 2.
    A joint fit of BatchTrajectory uses every row for every constant; this shows which runs decide which.
    """
    from analysis.fitting.fit import fit
    from analysis.fitting.result import FitSpec
    from analysis.laws.kaplan import KaplanN

    quick = FitSpec(bootstrap=0)
    size = fit(converged, KaplanN, dataclasses.replace(quick, objective=Objective("least_squares", "log"))).law
    critical = fit(critical_batches(tradeoff), CriticalBatch, quick).law
    known = {"N_c": size.A_N ** (1 / size.alpha_N), "alpha_N": size.alpha_N} | critical.coefficients()
    return fit(curves, BatchTrajectory, dataclasses.replace(quick, fixed=known)).law
