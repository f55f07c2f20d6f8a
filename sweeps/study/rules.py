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

from experiments.run.schema import Run
from experiments.store.record import ledger


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


def shape_of_size(params: float, ratio: int, head_size: int) -> dict[str, Any]:
    """Config keys of a transformer of about `params` parameters without embeddings and width / depth about `ratio`.

    From N = 12 L d^2 (Kaplan et al. 2020, section 2.1): d = (ratio N / 12)^(1/3), rounded to whole heads; then L = N /
    (12 d^2), so that what rounding the width has moved, the depth puts right again.
    """
    width = rounded(f"width of {params:.3g} parameters", (ratio * params / 12) ** (1 / 3), head_size)
    depth = rounded(f"depth of {params:.3g} parameters at width {width}", params / (12 * width**2), 1)
    return {"model.width": width, "model.depth": depth, "model.heads": width // head_size}


# --- vocabulary


@rule("Tao et al. 2024 (arXiv 2407.13623), approach 2: N_v = 3,145,728 (N_nv / 33e6)^0.8354, vocabulary N_v / width")
def tao_tokenizer(run: Run, tags: Mapping[str, Any]) -> str:
    """A byte-pair tokenizer trained on the corpus, of the compute-optimal size for the model without its tables."""
    table = 3_145_728 * (counts(run)["params_no_embed"] / 33e6) ** 0.8354
    return f"bpe:{max(257, rounded('vocabulary', table / run.model.width, 8))}"


# --- tokens


def _budget(tags: Mapping[str, Any]) -> float:
    if "budget_flops" not in tags:
        raise KeyError("the tag budget_flops is not set; expected it from tags_over('budget_flops', …)")
    return tags["budget_flops"]


def _spending(run: Run, tags: Mapping[str, Any]) -> float:
    """Tokens that spend the budget, before they are rounded."""
    return _budget(tags) / counts(run)["flops_total"]


@rule("DeepSeek LLM 2024 (arXiv 2401.02954, eq. 4): D = 5.8316 C^0.4757; the tag budget_flops is C")
def deepseek_tokens(run: Run, tags: Mapping[str, Any]) -> int:
    """Compute-optimal tokens of a budget, in whole steps."""
    return rounded("tokens", 5.8316 * _budget(tags) ** 0.4757, run.batch_tokens)


@rule("IsoFLOP: D = C / (training FLOPs per token by the ledger's `flops_total`); the tag budget_flops is C")
def tokens_of_budget(run: Run, tags: Mapping[str, Any]) -> int:
    """Tokens that spend the budget, in whole steps."""
    return rounded("tokens", _spending(run, tags), run.batch_tokens)


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


@rule("Zhu et al. 2024 (arXiv 2406.02528): 4e-3 at 370M, 2.5e-3 at 1.3B, 1.5e-3 at 2.7B parameters; line in log-log")
def matmul_free_lr(run: Run, tags: Mapping[str, Any]) -> float:
    """Peak learning rate 4e-3 (N / 370e6)^-0.45: within 10% of the three. Far below 370M it asks for too much."""
    return 4e-3 * (counts(run)["params_total"] / 370e6) ** -0.45


# Best of 1/2, 1, 2, 4, 8 times inverse_width_lr: 2 layers, widths 16 and 32, 8 x 64 bytes of Python, 2e10 FLOPs. At these
# the loss is within 0.07 nats of the best of both widths; matmul_free loses 0.23 at width 32 with a factor of 1.
SMALL_FACTORS = {"matmul_free": 4.0, "min_gru": 2.0, "moe": 2.0, "tokenformer": 2.0}


@rule(
    "measured here at 2e10 FLOPs: inverse_width_lr; 4 times as much for matmul_free, twice for other families than dense"
)
def small_lr(run: Run, tags: Mapping[str, Any]) -> float:
    """Peak learning rate of a small byte model of any family."""
    return SMALL_FACTORS.get(run.family, 1.0) * inverse_width_lr(run, tags)


@rule("Hagele et al. 2024 (arXiv 2405.18392, code): half of the best cosine rate, here of small_lr")
def constant_lr(run: Run, tags: Mapping[str, Any]) -> float:
    """Rate of a trunk that is kept constant until its cooldown."""
    return 0.5 * small_lr(run, tags)


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


@rule("Step Law, Li et al. 2025: 0.58 D^0.571 with D = C / (FLOPs per token); the tag budget_flops is C")
def step_law_budget_batch(run: Run, tags: Mapping[str, Any]) -> int:
    """Tokens a step of a run that spends a budget, in multiples of 16 sequences: a number that meshes divide."""
    return rounded("batch_tokens", 0.58 * _spending(run, tags) ** 0.571, 16 * run.seq_len)


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
