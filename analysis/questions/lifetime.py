"""Find the size that is cheapest over its life: what training costs, and what serving costs afterwards.

Sardana et al. 2024 (arXiv 2401.00448, section 2) choose N and D to minimise 6 N D + 2 N T at a given loss, for T tokens
that are served: a forward pass costs a third of a training step's FLOPs. The same sizes have the least loss at a given
budget for both. A law is asked as before: `serving` gives it an optimum over its life in place of that of training.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Inputs, Law
from analysis.questions import predict as predicting
from analysis.questions.predict import Fitted, Prediction
from analysis.solve import best_size
from experiments.cli import InputError
from experiments.key_values import read_pairs

SERVED_SHARE = 1 / 3  # forward pass of forward and backward
BUDGET = ("C",)
LOSS_ASKED = ("loss",)


class OverItsLife:
    """Give a law the optimum over its life: C pays for training and for SERVE_TOKENS served tokens.

    `at` is a budget C, or a loss that is to be reached at the least cost.
    """

    SERVE_TOKENS: ClassVar[float]
    TRAINED: ClassVar[type[Law]]  # the law itself
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (BUDGET, LOSS_ASKED)

    def optimum(self: Any, C: Any, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> tuple[Any, Any]:
        """Return the best (parameters, training tokens) for a budget C, in which N is at most that of training alone."""
        alone = self.TRAINED.optimum(self, C, flops_per_param_token)
        if not self.SERVE_TOKENS:
            return alone
        served = SERVED_SHARE * flops_per_param_token * self.SERVE_TOKENS
        return best_size.within_budget(self.loss, alone[0], C, flops_per_param_token, served)

    def loss(self: Any, N: Any, D: Any) -> Any:
        """Return what the law says of a run."""
        return self.TRAINED.target_at(self, {"N": N, "D": D})

    def target_at(self: Any, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """Predict the loss at the best size for a budget; the loss itself where that is what is asked."""
        if "loss" in at:
            of_each = np.zeros_like(getattr(self, self.names()[0]))  # one a replicate
            return at["loss"] + of_each
        if not self.SERVE_TOKENS:
            return self.TRAINED.target_at(self, at, flops_per_param_token)
        return self.loss(*self.optimum(at["C"], flops_per_param_token))

    def derived(self: Any, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """Return the best size and tokens, and what training and serving cost."""
        budget = at["C"] if "C" in at else self._budget_for(at["loss"], flops_per_param_token)
        N, D = self.optimum(budget, flops_per_param_token)
        with np.errstate(all="ignore"):  # where the law has no optimum
            training = flops_per_param_token * N * D
            serving = SERVED_SHARE * flops_per_param_token * N * self.SERVE_TOKENS
            ratio = D / N
        return {
            "N": N,
            "D": D,
            "tokens_per_param": ratio,
            "training_flops": training,
            "serving_flops": serving,
            "total_flops": training + serving,
        }

    def _budget_for(self: Any, asked: float, flops_per_param_token: float) -> Any:
        """Return the least budget that reaches a loss. The same refits are asked for several numbers: solved once."""
        coefficients = [np.asarray(getattr(self, name), dtype=np.float64) for name in self.names()]
        key = tuple(value.tobytes() for value in coefficients)
        return _budget(type(self), key, float(asked), flops_per_param_token)


@functools.lru_cache(maxsize=8)
def _budget(law: Any, coefficients: tuple[bytes, ...], asked: float, flops_per_param_token: float) -> Any:
    """Return the least budget of a stack of laws, given by the bytes of its coefficients."""
    values = [np.frombuffer(part) for part in coefficients]
    one = law(*values)
    found = best_size.budget_for(lambda C: one.optimum(C, flops_per_param_token), one.loss, asked)
    return found if found.size > 1 else found[0]


def serving(fitted: Fitted, tokens: float) -> Fitted:
    """Return the fit with the optimum over its life, for that many served tokens.

    Raises InputError for a law that has no optimum of parameters and tokens.
    """
    if not 0 <= tokens < np.inf:
        raise InputError(f"--serve_tokens: {tokens} is not a number of tokens; expected 0 or more")
    law = type(fitted.law)
    has_runs = any(set(names) == {"N", "D"} for names in law.INPUTS)
    has_budgets = any(set(names) == {"C"} for names in law.INPUTS)
    if law.TARGET != "loss" or not has_runs or not has_budgets:
        raise InputError(
            f"--serve_tokens: {law.NAME} has no loss of N and D with an optimum; expected for example chinchilla"
        )
    body = {"SERVE_TOKENS": tokens, "TRAINED": law, "INPUTS": OverItsLife.INPUTS}
    of_life: Any = type(law.__name__, (OverItsLife, law), body)
    values = [getattr(fitted.law, name) for name in law.names()]
    return dataclasses.replace(fitted, law=of_life(*values))


def parse_at(text: str, law: Law) -> dict[str, float]:
    """Read `C=1e24` or `loss=2.1`. Raises InputError for anything else."""
    given = read_pairs(text, "--at", "INPUT=NUMBER", "C=1e24")
    if tuple(given) not in (BUDGET, LOSS_ASKED):
        raise InputError(f"--at: {text!r} is not what --serve_tokens takes; expected C=.. or loss=..")
    return predicting.parse_at(text, law)


def predict(served: Fitted, at: dict[str, float]) -> Prediction:
    """Predict over the life of a model, for what `serving` returns. Raises InputError for a loss that is out of reach."""
    found = predicting.predict(served, at)
    reach = found.extrapolation
    law: Any = served.law
    if "loss" in at:
        is_withheld = "N" in found.why
        if not is_withheld and not np.isfinite(found.optimum["N"]):
            raise InputError(
                f"--at: loss={at['loss']:g} is not reached by {law.NAME} at any budget; expected a higher loss"
            )
        found = _given(found, served.law.TARGET)
        found = dataclasses.replace(found, loss=at["loss"], interval=None, new_run=None)
    else:
        found = _given(found, "total_flops")
        found = dataclasses.replace(found, optimum=found.optimum | {"total_flops": at["C"]})
    training = found.optimum["training_flops"]
    if "loss" in at or law.SERVE_TOKENS:
        reach = predicting.extrapolation(served, {"C": training}) if np.isfinite(training) else None
    return dataclasses.replace(found, extrapolation=reach)


def _given(found: Prediction, name: str) -> Prediction:
    """Return a prediction in which one number is what was asked for: it has no interval, and needs no reason for that."""
    why = {one: reason for one, reason in found.why.items() if one != name}
    intervals = {one: None if one == name else interval for one, interval in found.optimum_intervals.items()}
    return dataclasses.replace(found, why=why, optimum_intervals=intervals)
