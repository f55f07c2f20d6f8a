"""Count parameters and FLOPs under every published convention."""

import dataclasses
from typing import Any

# Groups of parameters that belong to the vocabulary; all others are the body's.
VOCABULARY_GROUPS = ("embed", "position", "head")
# Groups of the body with a column of their own, in families that have them (Ghorbani et al. 2021 count so).
COLUMN_GROUPS = ("encoder", "decoder")

FORWARD_AND_BACKWARD = 3  # of the forward pass: backward takes twice as much


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
    active: the same for the parameters that one token passes through, on average where tokens differ in it.
    matmul: forward FLOPs per token of weight matrices by term (multiply-add = 2; an embedding lookup is not one).
    attention: forward FLOPs per token that do not involve weights, as if every position attended to all `seq_len` (or
        to as many as a window or chunk has).
    causal: the same at the average number of positions that a causal token really attends to. What a document mask hides
        besides depends on the text and is counted in both: FLOPs are those of one document a sequence.
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
    """Return training FLOPs per token of a decoder under the formulas of two papers (SPECS 0.2).

    chinchilla: Hoffmann et al. 2022, appendix F: counts the embedding as a matmul, the softmax, and ignores grouped
    key-value heads; `heads_width`, `heads` and `ff` may be means over layers. deepseek: DeepSeek LLM 2024,
    M = 72 L d^2 + 12 L d T: no vocabulary.
    """
    # FLOPs of a whole sequence in one layer, in the order and under the names of appendix F.
    query_key_value = 2 * 3 * seq_len * width * heads_width
    key_query_logits = 2 * seq_len * seq_len * heads_width
    softmax = 3 * heads * seq_len * seq_len
    softmax_query_reduction = 2 * seq_len * seq_len * heads_width
    attention_output = 2 * seq_len * heads_width * width
    feed_forward = 2 * seq_len * ff_matrices * width * ff
    layer = query_key_value + key_query_logits + softmax
    layer += softmax_query_reduction + attention_output + feed_forward

    embedding_and_logits = 2 * 2 * seq_len * vocab * width
    chinchilla = FORWARD_AND_BACKWARD * (embedding_and_logits + depth * layer) / seq_len
    deepseek = 72.0 * depth * width**2 + 12.0 * depth * width * seq_len
    return {"chinchilla": chinchilla, "deepseek": deepseek}


def ledger(account: Accounting, tokens: int) -> dict[str, Any]:
    """Return grid columns: parameters N and training FLOPs C under every published convention, for so many tokens.

    Backward is twice forward. `flops_total` uses full attention, as most published numbers do; `flops_causal` is
    what causal attention needs. `params_no_embed` has neither embeddings nor head (Kaplan et al. 2020).
    """
    total = sum(account.params.values())
    active = sum(account.active.values())
    vocabulary = sum(account.params.get(group, 0) for group in VOCABULARY_GROUPS)
    matmul = FORWARD_AND_BACKWARD * sum(account.matmul.values())
    head = FORWARD_AND_BACKWARD * account.matmul.get("head", 0.0)
    full_attention = FORWARD_AND_BACKWARD * sum(account.attention.values())
    causal_attention = FORWARD_AND_BACKWARD * sum(account.causal.values())

    flops_per_token = {
        "flops_total": matmul + full_attention,
        "flops_causal": matmul + causal_attention,
        "flops_matmul": matmul,
        "flops_no_head": matmul + full_attention - head,
        "flops_6nd": 6 * active,
        "flops_kaplan": 6 * (active - vocabulary),
    }
    for name, flops in account.conventions.items():
        flops_per_token[f"flops_{name}"] = flops
    columns = {
        "params_total": total,
        "params_no_embed": total - vocabulary,
        "params_embed": account.params.get("embed", 0) + account.params.get("position", 0),
        "params_head": account.params.get("head", 0),
        "params_active": active,
        "flops_per_token": matmul + full_attention,
    }
    for group in COLUMN_GROUPS:
        if group in account.params:
            columns[f"params_{group}"] = account.params[group]
    for name, flops in flops_per_token.items():
        columns[name] = flops * tokens
    return columns
