"""Rules from size to shape, batch, tokens and learning rate, each with its source.

A rule is a named function of a run (frozen as far as it is known) and of its point's tags. `axes.derive` applies
it and writes its name beside the value, so that the grid says where each number came from.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any
import warnings

from experiments.record import ledger
from experiments.schema import Run


@dataclasses.dataclass(frozen=True)
class Rule:
    """A function of (run, tags) with a name for the grid and the place where it was published or measured."""

    name: str
    source: str
    function: Callable[[Run, Mapping[str, Any]], Any]

    def __call__(self, run: Run, tags: Mapping[str, Any]) -> Any:
        return self.function(run, tags)


class RoundingWarning(UserWarning):
    """Rounding to what can be run moved a value by more than a tenth."""


def rule(source: str, name: str | None = None) -> Callable[[Callable[[Run, Mapping[str, Any]], Any]], Rule]:
    """Make a Rule of a function. `source`: paper and equation, or what it was measured on."""
    return lambda function: Rule(name or function.__name__, source, function)


def rounded(what: str, wanted: float, multiple: int) -> int:
    """The nearest positive multiple. Warns when that moves the value by more than 10%."""
    got = max(1, round(wanted / multiple)) * multiple
    if abs(got / wanted - 1) > 0.1:
        warnings.warn(f"{what}: {wanted:.4g} was rounded to {got} (a multiple of {multiple})", RoundingWarning, 2)
    return got


@functools.lru_cache(maxsize=4096)
def _per_token(family: str, model: Any, seq_len: int) -> dict[str, float]:
    return ledger(dataclasses.replace(Run(family, model), tokens=1, batch_tokens=1, seq_len=seq_len))


def counts(run: Run) -> dict[str, float]:
    """The ledger's columns for one training token of this model."""
    return _per_token(run.family, run.model, run.seq_len)


# --- shape


def aspect(width: int, ratio: int, head_size: int) -> dict[str, Any]:
    """Config keys of a transformer of this width: depth = width / ratio, heads of `head_size`, both rounded.

    Kaplan et al. 2020 (figure 5): loss hardly depends on width / depth between about 30 and 200 for a given size.
    """
    return {
        "model.width": width,
        "model.depth": rounded(f"depth at width {width}", width / ratio, 1),
        "model.heads": rounded(f"heads at width {width}", width / head_size, 1),
    }


# --- tokens


@rule("IsoFLOP: D = C / (training FLOPs per token by the ledger's `flops_total`); the tag budget_flops is C")
def tokens_of_budget(run: Run, tags: Mapping[str, Any]) -> int:
    """Tokens that spend the budget, in whole steps."""
    if "budget_flops" not in tags:
        raise KeyError("the tag budget_flops is not set; expected it from tags_over('budget_flops', …)")
    return rounded("tokens", tags["budget_flops"] / counts(run)["flops_total"], run.batch_tokens)


def tokens_per_parameter(ratio: float) -> Rule:
    """D = ratio x params_total. 20 is the rule of thumb for compute-optimal (Hoffmann et al. 2022, table 3)."""
    return Rule(
        f"tokens_per_parameter({ratio:g})",
        "Hoffmann et al. 2022, table 3: about 20",
        lambda run, tags: rounded("tokens", ratio * counts(run)["params_total"], run.batch_tokens),
    )


# --- learning rate


@rule("Step Law, Li et al. 2025 (arXiv 2503.04715): 1.79 N^-0.713 D^0.307, N without vocabulary; final rate 1e-5")
def step_law_lr(run: Run, tags: Mapping[str, Any]) -> float:
    """Peak learning rate. Fitted for 60M to 1B parameters: far below, it asks for too much."""
    return 1.79 * counts(run)["params_no_embed"] ** -0.713 * run.tokens**0.307


@rule("DeepSeek LLM 2024 (arXiv 2401.02954, eq. 1): 0.3118 C^-0.1250, C by their FLOPs (72 L d^2 + 12 L d T) D")
def deepseek_lr(run: Run, tags: Mapping[str, Any]) -> float:
    """Peak learning rate."""
    return 0.3118 * (counts(run)["flops_deepseek"] * run.tokens) ** -0.125


@rule(
    "measured here: 2 layers, width 8 to 48, batches of 4 x 64 bytes of Python, 2e10 to 1e11 FLOPs: 0.1 to 0.2 / width"
)
def inverse_width_lr(run: Run, tags: Mapping[str, Any]) -> float:
    """Peak learning rate 0.14 / width: the form that muP gives hidden matrices under Adam (Yang et al. 2022).

    For byte models of 5 thousand to 300 thousand parameters, where the published rules ask for several times too much.
    """
    return 0.14 / run.model.width


# --- growth


def stacking_tokens(params: float, tokens: float) -> float:
    """Tokens d of the small model before it is stacked into one of `params` parameters that trains on `tokens`.

    log10 d = 0.88 log10 N + 163.27 / log10 C - 5.74 with C = 6 N D (Du et al. 2024, arXiv 2405.15319, eq. 2); fitted at
    410M to 3B parameters and a growth factor of 4: far below about 1e19 FLOPs it asks for more than all tokens.
    """
    return 10 ** (0.88 * math.log10(params) + 163.27 / math.log10(6 * params * tokens) - 5.74)


@rule("G_stack, Du et al. 2024 (arXiv 2405.15319, eq. 2); the tags target_params and target_tokens are N and D")
def stack_timing(run: Run, tags: Mapping[str, Any]) -> int:
    """Tokens of a parent before it is stacked, in whole steps."""
    for name in ("target_params", "target_tokens"):
        if name not in tags:
            raise KeyError(f"the tag {name} is not set; expected it from tag(grid, {name}=...)")
    return rounded("tokens", stacking_tokens(tags["target_params"], tags["target_tokens"]), run.batch_tokens)


# --- batch


def _batch(what: str, wanted: float, run: Run) -> int:
    return rounded(what, wanted, run.seq_len)


@rule("Step Law, Li et al. 2025 (arXiv 2503.04715): batch in tokens 0.58 D^0.571")
def step_law_batch(run: Run, tags: Mapping[str, Any]) -> int:
    """Tokens a step, in whole sequences."""
    return _batch("batch_tokens", 0.58 * run.tokens**0.571, run)


@rule("DeepSeek LLM 2024 (arXiv 2401.02954, eq. 1): batch in tokens 0.2920 C^0.3271")
def deepseek_batch(run: Run, tags: Mapping[str, Any]) -> int:
    """Tokens a step, in whole sequences."""
    return _batch("batch_tokens", 0.2920 * (counts(run)["flops_deepseek"] * run.tokens) ** 0.3271, run)


# --- schedule


def share_of_tokens(share: float) -> Rule:
    """That share of a run's tokens: for warm-up (a tenth or less) and for cooldowns (a fifth: Hagele et al. 2024)."""
    return Rule(
        f"share_of_tokens({share:g})",
        "Hagele et al. 2024 (arXiv 2405.18392): cooldown over about 20% of the run",
        lambda run, tags: round(share * run.tokens),
    )
