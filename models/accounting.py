"""Count parameters and FLOPs under every published convention."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """What moves where a mesh splits experts and rows travel to them: nothing by default.

    params: parameters of all experts, each of which stays on its chip. rows: rows per token that are sent to an expert.
    """

    params: int = 0
    rows: float = 0.0


@dataclasses.dataclass(frozen=True)
class Accounting:
    """Exact counts of one model at one sequence length.

    params: parameters by group; the groups `embed`, `position` and `head` are the vocabulary's, all others the body's.
    active: the same for the parameters that one token passes through.
    matmul: forward FLOPs per token of weight matrices by term (multiply-add = 2; an embedding lookup is not one).
    attention: forward FLOPs per token that do not involve weights, as if every position attended to all `seq_len` (or
        to as many as a window or chunk has).
    causal: the same at the average number of positions that a causal token really attends to.
    conventions: training FLOPs per token under published counts that follow a formula of their own.
    dispatch: what a mesh that splits experts sends to them.
    """

    params: dict[str, int]
    active: dict[str, int]
    matmul: dict[str, float]
    attention: dict[str, float]
    causal: dict[str, float]
    conventions: dict[str, float]
    dispatch: Dispatch = Dispatch()


VOCABULARY_GROUPS = ("embed", "position", "head")


def transformer_conventions(
    *,
    width: int,
    depth: int,
    heads_width: int | float,
    heads: int | float,
    ff: int | float,
    ff_matrices: int,
    vocab: int,
    seq_len: int,
) -> dict[str, float]:
    """Training FLOPs per token of a decoder under the formulas of two papers (SPECS 0.2).

    chinchilla: Hoffmann et al. 2022, appendix F: counts the embedding as a matmul, the softmax, and ignores
    grouped key-value heads; `heads_width`, `heads` and `ff` may be means over layers. deepseek: DeepSeek LLM 2024, M = 72 L d^2 + 12 L d T: no vocabulary.
    """
    t, attention = seq_len, heads_width
    layer = 2 * 3 * t * width * attention + 2 * t * t * attention + 3 * heads * t * t
    layer += 2 * t * t * attention + 2 * t * attention * width + 2 * t * ff_matrices * width * ff
    chinchilla = 3 * (2 * 2 * t * vocab * width + depth * layer) / t
    return {"chinchilla": chinchilla, "deepseek": 72.0 * depth * width**2 + 12.0 * depth * width * t}


def ledger(account: Accounting, tokens: int) -> dict[str, Any]:
    """Grid columns: parameters N and training FLOPs C under every published convention, for a run of `tokens` tokens.

    Backward is twice forward. `flops_total` uses full attention, as most published numbers do; `flops_causal` is
    what causal attention needs. `params_no_embed` has neither embeddings nor head (Kaplan et al. 2020).
    """
    total, active = sum(account.params.values()), sum(account.active.values())
    vocabulary = sum(account.params.get(group, 0) for group in VOCABULARY_GROUPS)
    matmul = 3 * sum(account.matmul.values())
    head = 3 * account.matmul.get("head", 0.0)
    full, causal = 3 * sum(account.attention.values()), 3 * sum(account.causal.values())
    per_token = {
        "flops_total": matmul + full,
        "flops_causal": matmul + causal,
        "flops_matmul": matmul,
        "flops_no_head": matmul + full - head,
        "flops_6nd": 6 * active,
        "flops_kaplan": 6 * (active - vocabulary),
    } | {f"flops_{name}": value for name, value in account.conventions.items()}
    return {
        "params_total": total,
        "params_no_embed": total - vocabulary,
        "params_embed": account.params.get("embed", 0) + account.params.get("position", 0),
        "params_head": account.params.get("head", 0),
        "params_active": active,
        "flops_per_token": matmul + full,
    } | {name: value * tokens for name, value in per_token.items()}
