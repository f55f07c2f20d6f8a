"""State rules from size to shape, batch, tokens and learning rate, each with its source.

A rule is a named function of a run (frozen as far as it is known) and of its point's tags. `grid.derive` applies
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
from models.errors import InputError

Tags = Mapping[str, Any]
RuleFunction = Callable[[Run, Tags], Any]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A function of (run, tags) with a name for the grid and the place where it was published or measured."""

    name: str
    source: str
    function: RuleFunction

    def __call__(self, run: Run, tags: Tags) -> Any:
        return self.function(run, tags)


# Published rules are of AdamW. Muon's updates have the size of its (Liu et al. 2025, arXiv 2502.16982).
ADAMW_RATES = {"adamw": 1.0, "muon": 1.0}
# Lion's updates have entries of 1 and want a third to a tenth of the rate (Chen et al. 2023, arXiv 2302.06675). SOAP (Vyas et
# al. 2024), Adafactor without a parameter's scale and schedule-free AdamW (Defazio et al. 2024) take steps of Adam's size.
# None is measured here, and SGD has no rule: a study brackets them, or sets opt.lr.
SMALL_RATES = ADAMW_RATES | {"lion": 0.2, "adafactor": 1.0, "soap": 1.0, "schedule_free": 1.0}


class RoundingWarning(UserWarning):
    """Rounding to what can be run moved a value by more than a tenth."""


def rule(source: str, name: str | None = None) -> Callable[[RuleFunction], Rule]:
    """Make a Rule of a function. `source`: paper and equation, or what it was measured on."""

    def named(function: RuleFunction) -> Rule:
        return Rule(name or function.__name__, source, function)

    return named


def learning_rate(source: str, factors: Mapping[str, float] = ADAMW_RATES) -> Callable[[RuleFunction], Rule]:
    """Make the Rule of a learning rate of AdamW. `factors`: of other optimizers' against it, by name; others are refused."""

    def named(function: RuleFunction) -> Rule:
        def for_optimizer(run: Run, tags: Tags) -> float:
            optimizer = run.opt.name
            if optimizer not in factors:
                raise InputError(
                    f"{function.__name__} gives no learning rate for opt.name={optimizer!r}; "
                    f"expected {', '.join(factors)}, or opt.lr by itself"
                )
            return factors[optimizer] * function(run, tags)

        return Rule(function.__name__, source, functools.wraps(function)(for_optimizer))

    return named


def rounded(what: str, wanted: float, multiple: int) -> int:
    """Return the nearest positive multiple. Warns when that moves the value by more than 10%."""
    nearest = max(1, round(wanted / multiple)) * multiple
    if abs(nearest / wanted - 1) > 0.1:
        warnings.warn(f"{what}: {wanted:.4g} was rounded to {nearest} (a multiple of {multiple})", RoundingWarning, 2)
    return nearest


def ledger_per_token(run: Run) -> dict[str, float]:
    """Return the ledger's columns for one training token of a run's model."""
    return _ledger_per_token(run.family, run.model, run.seq_len)


@functools.lru_cache(maxsize=4096)
def _ledger_per_token(family: str, model: Any, seq_len: int) -> dict[str, float]:
    # Whatever else a run has, its learning rate for example, does not change the counts: one entry serves them all.
    one_token = dataclasses.replace(Run(family, model), tokens=1, batch_tokens=1, seq_len=seq_len)
    return ledger(one_token)


# --- shape


def aspect(width: int, ratio: int, head_size: int) -> dict[str, Any]:
    """Return config keys of a transformer of this width: depth = width / ratio, heads of `head_size`, both rounded.

    Kaplan et al. 2020 (figure 5): loss hardly depends on width / depth between about 30 and 200 for a given size.
    """
    return {
        "model.width": width,
        "model.depth": rounded(f"depth at width {width}", width / ratio, 1),
        "model.heads": rounded(f"heads at width {width}", width / head_size, 1),
    }


def shape_of_size(params: float, ratio: int, head_size: int) -> dict[str, Any]:
    """Return config keys of a transformer of about `params` parameters without embeddings and width / depth about `ratio`.

    From N = 12 L d^2 (Kaplan et al. 2020, section 2.1): d = (ratio N / 12)^(1/3), rounded to whole heads; then L = N /
    (12 d^2), so that what rounding the width has moved, the depth puts right again.
    """
    width = rounded(f"width of {params:.3g} parameters", (ratio * params / 12) ** (1 / 3), head_size)
    depth = rounded(f"depth of {params:.3g} parameters at width {width}", params / (12 * width**2), 1)
    return {"model.width": width, "model.depth": depth, "model.heads": width // head_size}


# --- vocabulary


@rule("Tao et al. 2024 (arXiv 2407.13623), approach 2: N_v = 3,145,728 (N_nv / 33e6)^0.8354, vocabulary N_v / width")
def tao_tokenizer(run: Run, tags: Tags) -> str:
    """Return a byte-pair tokenizer trained on the corpus, of the compute-optimal size for the model without its tables."""
    besides = ledger_per_token(run)["params_no_embed"]
    table = 3_145_728 * (besides / 33e6) ** 0.8354
    tokens = rounded("vocabulary", table / run.model.width, 8)
    return f"bpe:{max(257, tokens)}"  # 256 bytes, and one pair at least


# --- tokens


def _budget(tags: Tags) -> float:
    """Return the FLOPs of a point's budget. Raises KeyError where it has none."""
    if "budget_flops" not in tags:
        raise KeyError("the tag budget_flops is not set; expected it from tags_over('budget_flops', …)")
    return tags["budget_flops"]


def _spending(run: Run, tags: Tags) -> float:
    """Return the tokens that spend the budget, before they are rounded."""
    return _budget(tags) / ledger_per_token(run)["flops_total"]


@rule("DeepSeek LLM 2024 (arXiv 2401.02954, eq. 4): D = 5.8316 C^0.4757; the tag budget_flops is C")
def deepseek_tokens(run: Run, tags: Tags) -> int:
    """Return the compute-optimal tokens of a budget, in whole steps."""
    return rounded("tokens", 5.8316 * _budget(tags) ** 0.4757, run.batch_tokens)


@rule("IsoFLOP: D = C / (training FLOPs per token by the ledger's `flops_total`); the tag budget_flops is C")
def tokens_of_budget(run: Run, tags: Tags) -> int:
    """Return the tokens that spend the budget, in whole steps."""
    return rounded("tokens", _spending(run, tags), run.batch_tokens)


def tokens_per_parameter(ratio: float) -> Rule:
    """Make the rule D = ratio x params_total. About 20 is compute-optimal (Hoffmann et al. 2022, table 3)."""

    @rule("Hoffmann et al. 2022, table 3: about 20", f"tokens_per_parameter({ratio:g})")
    def tokens(run: Run, tags: Tags) -> int:
        return rounded("tokens", ratio * ledger_per_token(run)["params_total"], run.batch_tokens)

    return tokens


# --- learning rate


@learning_rate(
    "Step Law, Li et al. 2025 (arXiv 2503.04715): 1.79 N^-0.713 D^0.307, N without vocabulary; final rate 1e-5"
)
def step_law_lr(run: Run, tags: Tags) -> float:
    """Return the peak learning rate. Fitted for 60M to 1B parameters: far below, it asks for too much."""
    return 1.79 * ledger_per_token(run)["params_no_embed"] ** -0.713 * run.tokens**0.307


@learning_rate(
    "DeepSeek LLM 2024 (arXiv 2401.02954, eq. 1): 0.3118 C^-0.1250, C by their FLOPs (72 L d^2 + 12 L d T) D"
)
def deepseek_lr(run: Run, tags: Tags) -> float:
    """Return the peak learning rate."""
    flops = ledger_per_token(run)["flops_deepseek"] * run.tokens
    return 0.3118 * flops**-0.125


@learning_rate(
    "measured here: 2 layers, width 8 to 48, batches of 4 x 64 bytes of Python, 2e10 to 1e11 FLOPs: 0.1 to 0.2 / width",
    SMALL_RATES,
)
def inverse_width_lr(run: Run, tags: Tags) -> float:
    """Return the peak learning rate 0.14 / width: the form that muP gives hidden matrices under Adam (Yang et al. 2022).

    For byte models of 5 thousand to 300 thousand parameters, where the published rules ask for several times too much.
    """
    return _inverse_width(run)


def _inverse_width(run: Run) -> float:
    return 0.14 / run.model.width


@learning_rate(
    "Zhu et al. 2024 (arXiv 2406.02528): 4e-3 at 370M, 2.5e-3 at 1.3B, 1.5e-3 at 2.7B parameters; line in log-log"
)
def matmul_free_lr(run: Run, tags: Tags) -> float:
    """Return the peak learning rate 4e-3 (N / 370e6)^-0.45: within 10% of the three. Far below 370M it asks for too much."""
    return 4e-3 * (ledger_per_token(run)["params_total"] / 370e6) ** -0.45


# Best of 1/2, 1, 2, 4, 8 times inverse_width_lr: 2 layers, widths 16 and 32, 8 x 64 bytes of Python, 2e10 FLOPs. At these
# the loss is within 0.07 nats of the best of both widths; matmul_free loses 0.23 at width 32 with a factor of 1.
SMALL_FACTORS = {"matmul_free": 4.0, "min_gru": 2.0, "moe": 2.0, "tokenformer": 2.0}


@learning_rate(
    "measured here at 2e10 FLOPs: inverse_width_lr; 4 times as much for matmul_free, twice for other families than dense",
    SMALL_RATES,
)
def small_lr(run: Run, tags: Tags) -> float:
    """Return the peak learning rate of a small byte model of any family."""
    return _small(run)


def _small(run: Run) -> float:
    return SMALL_FACTORS.get(run.family, 1.0) * _inverse_width(run)


MIDDLE_TOKENS = 131_072  # of a run, which SMALL_BATCH suits
SMALL_BATCH = 128  # tokens a step


@learning_rate(
    "small_lr at 128 tokens a step, rising with the root of the batch (Malladi et al. 2022, arXiv 2205.10287)",
    SMALL_RATES,
)
def small_batch_lr(run: Run, tags: Tags) -> float:
    """Return the peak learning rate of a small byte model of any family for the batch that it has."""
    return _small(run) * math.sqrt(run.batch_tokens / SMALL_BATCH)


@learning_rate(
    "Hagele et al. 2024 (arXiv 2405.18392, code): half of the best cosine rate, here of small_lr", SMALL_RATES
)
def constant_lr(run: Run, tags: Tags) -> float:
    """Return the learning rate of a trunk that is kept constant until its cooldown."""
    return 0.5 * _small(run)


# --- growth


def stacking_tokens(params: float, tokens: float) -> float:
    """Return the tokens d of the small model before it is stacked into one of `params` parameters that trains on `tokens`.

    log10 d = 0.88 log10 N + 163.27 / log10 C - 5.74 with C = 6 N D (Du et al. 2024, arXiv 2405.15319, eq. 2); fitted at
    410M to 3B parameters and a growth factor of 4: far below about 1e19 FLOPs it asks for more than all tokens.
    """
    log_flops = math.log10(6 * params * tokens)
    log_tokens = 0.88 * math.log10(params) + 163.27 / log_flops - 5.74
    return 10**log_tokens


@rule("G_stack, Du et al. 2024 (arXiv 2405.15319, eq. 2); the tags target_params and target_tokens are N and D")
def stack_timing(run: Run, tags: Tags) -> int:
    """Return the tokens of a parent before it is stacked, in whole steps."""
    for name in ("target_params", "target_tokens"):
        if name not in tags:
            raise KeyError(f"the tag {name} is not set; expected it from tag(grid, {name}=...)")
    wanted = stacking_tokens(tags["target_params"], tags["target_tokens"])
    return rounded("tokens", wanted, run.batch_tokens)


# --- batch


@rule("Step Law, Li et al. 2025 (arXiv 2503.04715): batch in tokens 0.58 D^0.571")
def step_law_batch(run: Run, tags: Tags) -> int:
    """Return the tokens of a step, in whole sequences."""
    return rounded("batch_tokens", 0.58 * run.tokens**0.571, run.seq_len)


@rule("Step Law, Li et al. 2025: 0.58 D^0.571 with D = C / (FLOPs per token); the tag budget_flops is C")
def step_law_budget_batch(run: Run, tags: Tags) -> int:
    """Return the tokens of a step of a run that spends a budget, in multiples of 16 sequences: a number that meshes divide."""
    return rounded("batch_tokens", 0.58 * _spending(run, tags) ** 0.571, 16 * run.seq_len)


@rule(
    "measured here: of 64 to 256 tokens a step, 64 and 128 are best for 65 thousand tokens at widths 8 to 64; the exponent "
    "0.5 is near the Step Law's 0.571"
)
def small_batch(run: Run, tags: Tags) -> int:
    """Return the tokens of a step of a small model, in whole sequences: 128 for 131 thousand tokens, with their root."""
    wanted = SMALL_BATCH * math.sqrt(run.tokens / MIDDLE_TOKENS)
    return max(1, round(wanted / run.seq_len)) * run.seq_len


@rule("DeepSeek LLM 2024 (arXiv 2401.02954, eq. 1): batch in tokens 0.2920 C^0.3271")
def deepseek_batch(run: Run, tags: Tags) -> int:
    """Return the tokens of a step, in whole sequences."""
    flops = ledger_per_token(run)["flops_deepseek"] * run.tokens
    return rounded("batch_tokens", 0.2920 * flops**0.3271, run.seq_len)


# --- schedule


def share_of_tokens(share: float) -> Rule:
    """Make the rule that takes a share of a run's tokens, for its warm-up or its cooldown.

    A tenth or less for warm-up; a fifth for cooldowns (Hagele et al. 2024).
    """

    @rule("Hagele et al. 2024 (arXiv 2405.18392): cooldown over about 20% of the run", f"share_of_tokens({share:g})")
    def tokens(run: Run, tags: Tags) -> int:
        return round(share * run.tokens)

    return tokens
