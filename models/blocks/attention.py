"""Causal softmax attention: as matmuls that XLA compiles, and as one fused kernel of the accelerator.

The XLA form writes scores to memory; on a TPU, float32 scores are most of what attention moves. A fused kernel keeps
them on the chip: splash attention on a TPU, cuDNN's on a GPU, both of jax. A kernel cannot be split by XLA, so every
device calls it on its own sequences and heads (`shards.on_shards`). What goes into queries, keys and values, and
the exchange of split positions for split heads, is the families'. Letters of the axes: models/contract.py.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from models.blocks.attention_tpu import LANES, splash_attention
from models.blocks.context import Context, ContextOptions, Place, drop
from models.errors import InputError
from models.mesh.current import backend
from models.mesh.shards import on_shards
from models.option import BELOW_ONE, option, when

KERNELS = ("auto", "xla", "fused")
NOT_FUSED = when("attention_kernel", "auto", "xla")  # kernels keep no weights that could be dropped


@dataclasses.dataclass(frozen=True)
class AttentionOptions(ContextOptions):
    """Options of families whose tokens attend to each other, besides those of blocks/context.py."""

    attention_kernel: str = option(
        "auto", numerics=False, choices=KERNELS, help="fused: one kernel of the accelerator; auto: where that can be"
    )
    attention_dropout: float = option(
        0.0,
        valid=BELOW_ONE,
        when=NOT_FUSED,
        growth="free",
        help="share of the weights of softmax attention that is dropped in training",
    )


def attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BMGK: Float[Array, "B M G K"],
    v_BMGK: Float[Array, "B M G K"],
    scale: float,
    block: int | None = None,
    window: int | None = None,
    kernel: str = "auto",
    context: Context = Context(),
    dropout: float = 0.0,
) -> Float[Array, "B L H K"]:
    """Compute causal softmax attention; query head h reads key-value head h // (H/G).

    `window` lets each position see only so many: itself and those right before it. `kernel`: one of KERNELS, or
    "interpret", which runs the TPU's kernel on any backend, slowly. `block`: see `blockwise`. With documents in the
    `context` positions see those of their own only; with keys in it `dropout` is the share of the weights that is
    dropped. Raises InputError where "fused" cannot be.
    """
    length = q_BLHK.shape[1]
    size = q_BLHK.shape[3]
    window = min(window or length, length)
    if kernel in ("auto", "fused"):
        reason = unfused(backend(), length, size, q_BLHK.dtype, context, dropout)
        if kernel == "fused" and reason:
            raise InputError(f"model.attention_kernel='fused' cannot be: {reason}; expected 'auto' or 'xla'")
        kernel = "xla" if reason else backend()
    if kernel == "xla":
        return blockwise(q_BLHK, k_BMGK, v_BMGK, scale, block, window, context, dropout)
    if kernel == "gpu":
        local = functools.partial(_cudnn, scale=scale, window=window)
    else:
        local = functools.partial(splash_attention, scale=scale, window=window, interpret=kernel == "interpret")
    queries = ("batch", "attended", "heads_apart", "head_size")
    keys = ("batch", "attended", "kv_heads_apart", "head_size")
    if context.documents_BL is None:
        return on_shards(local, (queries, keys, keys), queries, q_BLHK, k_BMGK, v_BMGK)
    axes = (queries, keys, keys, ("batch", "attended"))
    return on_shards(local, axes, queries, q_BLHK, k_BMGK, v_BMGK, context.documents_BL)


def unfused(
    platform: str, length: int, size: int, dtype: Any, context: Context = Context(), dropout: float = 0.0
) -> str | None:
    """Say why a platform ("tpu", "gpu", …) has no fused attention for these sizes of a head and type; None if it has."""
    if dropout and context.keys is not None:
        return f"model.attention_dropout={dropout} drops weights, which a kernel does not keep"
    if platform == "tpu":
        if length % LANES:
            return f"on a TPU seq_len={length} has to be a multiple of {LANES}"
        return None if size % 8 == 0 else f"on a TPU model.head_size={size} has to be a multiple of 8"
    if platform == "gpu":
        if context.documents_BL is not None:
            return "on a GPU model.document_mask has to be False"
        if dtype not in (jnp.bfloat16, jnp.float16):
            return f"on a GPU model.dtype={str(jnp.dtype(dtype))!r} has to be 'bfloat16'"
        allowed = size % 8 == 0 and size <= 128  # from Hopper on, up to 256: not relied upon
        return None if allowed else f"on a GPU model.head_size={size} has to be a multiple of 8 and at most 128"
    return f"there is no kernel for {platform}"


# --- as XLA compiles it


def blockwise(
    q_BLHK: Float[Array, "B L H K"],
    k_BMGK: Float[Array, "B M G K"],
    v_BMGK: Float[Array, "B M G K"],
    scale: float,
    block: int | None,
    window: int,
    context: Context = Context(),
    dropout: float = 0.0,
) -> Float[Array, "B L H K"]:
    """Compute `attention` as matmuls.

    Queries go in blocks of `block` positions, each against the keys from the first that it may see up to its own end,
    so that of what is masked only a margin is ever computed. None picks a quarter of the sequence or the window, if that
    is less; at least 64 positions and at most 32 blocks.
    """
    length = q_BLHK.shape[1]
    block = block or max(64, -(-length // 32), min(-(-length // 4), window))
    q_BGRLK = _by_kv_head(q_BLHK * scale, k_BMGK.shape[2])
    k_BGMK = k_BMGK.transpose(0, 2, 1, 3)
    v_BGMK = v_BMGK.transpose(0, 2, 1, 3)
    blocks = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        first = max(0, start - window + 1)
        back = jnp.arange(start, stop)[:, None] - jnp.arange(first, stop)
        visible = (back >= 0) & (back < window) if window < length else back >= 0
        seen = slice(first, stop)
        if context.documents_BL is not None:
            of_queries = context.documents_BL[:, start:stop, None]
            of_keys = context.documents_BL[:, None, seen]
            same_BLM = of_queries == of_keys
            visible = (visible & same_BLM)[:, None, None]
        dropped = functools.partial(drop, rate=dropout, context=context, place=Place.WEIGHTS + len(blocks))
        queries = q_BGRLK[:, :, :, start:stop]
        blocks.append(_block(queries, k_BGMK[:, :, seen], v_BGMK[:, :, seen], visible, dropped))
    o_BGRLK = jnp.concatenate(blocks, axis=3)
    return _joined(o_BGRLK)


def attend_within(
    q_BLHK: Float[Array, "B L H K"],
    k_BMGK: Float[Array, "B M G K"],
    v_BMGK: Float[Array, "B M G K"],
    scale: float,
    visible_BLM: Bool[Array, "B L M"],
    context: Context = Context(),
    dropout: float = 0.0,
    place: int = Place.WEIGHTS,
) -> Float[Array, "B L H K"]:
    """Compute softmax attention to the keys that each query may see, in any order; every query sees at least one.

    With keys in the `context` `dropout` is the share of the weights that is dropped; other places draw by themselves.
    """
    q_BGRLK = _by_kv_head(q_BLHK * scale, k_BMGK.shape[2])
    k_BGMK = k_BMGK.transpose(0, 2, 1, 3)
    v_BGMK = v_BMGK.transpose(0, 2, 1, 3)
    visible_B11LM = visible_BLM[:, None, None]
    dropped = functools.partial(drop, rate=dropout, context=context, place=place)
    return _joined(_block(q_BGRLK, k_BGMK, v_BGMK, visible_B11LM, dropped))


def _by_kv_head(q_BLHK: Array, groups: int) -> Float[Array, "B G R L K"]:
    """Put the query heads of each key-value head together."""
    batch, length, heads, size = q_BLHK.shape
    q_BLGRK = q_BLHK.reshape(batch, length, groups, heads // groups, size)
    return q_BLGRK.transpose(0, 2, 3, 1, 4)


def _joined(o_BGRLK: Array) -> Float[Array, "B L H K"]:
    """Undo `_by_kv_head`."""
    batch, groups, each, length, size = o_BGRLK.shape
    o_BLGRK = o_BGRLK.transpose(0, 3, 1, 2, 4)
    return o_BLGRK.reshape(batch, length, groups * each, size)


def _block(
    q_BGRLK: Float[Array, "B G R L K"],
    k_BGMK: Float[Array, "B G M K"],
    v_BGMK: Float[Array, "B G M K"],
    visible: Bool[Array, "L M"] | Bool[Array, "B 1 1 L M"],
    dropped: Callable[[Array], Array] | None = None,
) -> Float[Array, "B G R L K"]:
    """Attention of a block of queries to the keys that it may see; `dropped` goes over its weights."""
    batch, groups, R, length, size = q_BGRLK.shape
    keys = k_BGMK.shape[2]
    # Q: the query heads of a key-value head, one after the other, so that each has one matmul.
    q_BGQK = q_BGRLK.reshape(batch, groups, -1, size)
    scores = jnp.einsum("BGQK,BGMK->BGQM", q_BGQK, k_BGMK, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, groups, R, length, keys)
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1).astype(v_BGMK.dtype)
    if dropped is not None:
        weights = dropped(weights)
    weights = weights.reshape(batch, groups, -1, keys)
    out = jnp.einsum("BGQM,BGMK->BGQK", weights, v_BGMK)
    return out.reshape(batch, groups, R, length, size)


# --- on a GPU


def _cudnn(q_BLHK: Array, k_BLGK: Array, v_BLGK: Array, scale: float, window: int) -> Array:
    """Call cuDNN's kernel; it takes `window` as the positions to the left of each, without itself."""
    local = (window - 1, 0) if window < q_BLHK.shape[1] else None
    return jax.nn.dot_product_attention(
        q_BLHK, k_BLGK, v_BLGK, scale=scale, is_causal=True, local_window_size=local, implementation="cudnn"
    )
