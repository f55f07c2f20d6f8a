"""Count what a layer's mixture of experts has and multiplies (mixture.py), for the accounting of models/families/moe.py.

The options are those of that family, which arrive here as a resolved `cfg`.
"""

from typing import Any, NamedTuple

from models.accounting import transformer_conventions
from models.blocks import dispatch, expert_matrices


def expert_rows(cfg: Any, batch: int, seq_len: int) -> float:
    """Count rows that expert matrices multiply per token of a batch: top_k, and those that pad blocks or capacities."""
    tokens = batch * seq_len
    if cfg.mode == "capacity":
        slots = dispatch.slots(seq_len, cfg.top_k, cfg.experts, cfg.capacity_factor)
        return cfg.experts * slots / seq_len
    if cfg.mode == "expert_choice":
        slots = dispatch.choice_slots(tokens, cfg.top_k, cfg.experts)
        return cfg.experts * slots / tokens
    blocks, size = expert_matrices.block_rows(tokens * cfg.top_k, cfg.experts, cfg.kernel)
    return blocks * size / tokens


class MixtureCounts(NamedTuple):
    """What a layer's mixture has and multiplies."""

    expert: int  # parameters of one expert
    shared: int  # matrix entries of the shared experts
    shared_bias: int
    router: int  # matrix entries of the layer's own router
    cell: int  # and of the cell, which is stored once and multiplied in every layer
    cell_bias: int


def mixture_counts(cfg: Any) -> MixtureCounts:
    """Count one layer's mixture."""
    enter_ff = 2 if cfg.gated else 1
    expert = (enter_ff + 1) * cfg.width * cfg.expert_ff
    shared = expert * cfg.shared_experts
    shared_bias = 0
    if cfg.bias and shared:
        shared_bias = enter_ff * cfg.expert_ff * cfg.shared_experts + cfg.width

    router = cfg.width * cfg.experts
    cell = 0
    cell_bias = 0
    if cfg.router == "recurrent":
        state = cfg.router_width
        router = cfg.width * state + state * cfg.experts
        # Three gates, each with a matrix and a bias for the input and for the state.
        cell = 6 * state * state
        cell_bias = 6 * state
    return MixtureCounts(
        expert=expert,
        shared=shared,
        shared_bias=shared_bias,
        router=router,
        cell=cell,
        cell_bias=cell_bias,
    )


def chinchilla(cfg: Any, seq_len: int) -> float:
    """Return Chinchilla's FLOPs per token of the dense model that a token passes through, and of the gates.

    The gate as epfml/schedules-and-scaling counts it; DeepSeek's formula has no place for experts.
    """
    assert cfg.expert_ff is not None and cfg.head_size is not None and cfg.vocab is not None
    active_ff = cfg.dense_first * (cfg.ff or 0) + cfg.mixed * (cfg.top_k + cfg.shared_experts) * cfg.expert_ff
    published = transformer_conventions(
        width=cfg.width,
        depth=cfg.depth,
        heads_width=cfg.heads * cfg.head_size,
        heads=cfg.heads,
        ff=active_ff / cfg.depth,
        ff_matrices=3 if cfg.gated else 2,
        vocab=cfg.vocab,
        seq_len=seq_len,
    )
    return published["chinchilla"] + 3.0 * 3 * cfg.experts * cfg.mixed
