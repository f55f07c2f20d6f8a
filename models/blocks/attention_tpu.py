"""Run softmax attention on TPUs with jax's splash kernel."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jaxtyping import Array
import numpy as np

LANES = 128  # of a TPU: the kernel's blocks are multiples of it
BLOCK = 512  # the most positions of a block in the forward kernel
BACKWARD_BLOCK = 1024  # the most keys of a block in the fused backward kernel
MOST_PARTIALS = 8  # sums of the gradient of the queries that the fused backward kernel may write


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Positions of a block of queries and of keys in the forward kernel, and in the backward ones (`_back`).

    `fused`: one backward kernel for all three gradients, else one for keys and values and one for queries.

    512 x 512 float32 scores are a megabyte, of which the fast memory holds several, and 0.7 us of a v5e's matmuls,
    more than a grid step costs; of a causal square, larger blocks would multiply more than the visible half. The fused
    backward kernel multiplies 5 times where two kernels do 7, but writes the gradient of the queries once for each
    block of keys, to be summed: with 1,024 keys that is as much traffic as the separate kernel's reads of keys and
    values for each block of queries. It cannot leave out what a window hides, and its partial sums need memory: at
    most MOST_PARTIALS of them, for longer sequences two kernels.
    """

    q: int
    kv: int
    q_back: int
    kv_back: int
    fused: bool


def blocks(length: int, window: int) -> Blocks:
    """Choose the blocks for a sequence of `length` positions, a multiple of LANES."""
    # A block of keys that reaches far beyond a window is mostly masked.
    near = max(LANES, min(BLOCK, window // LANES * LANES))
    in_full = window == length
    backward_keys = _largest_block(length, BACKWARD_BLOCK)
    fused = in_full and length <= MOST_PARTIALS * backward_keys
    side = _largest_block(length, BLOCK if in_full else near)
    return Blocks(q=side, kv=side, q_back=side, kv_back=backward_keys if fused else side, fused=fused)


def _largest_block(length: int, most: int) -> int:
    """Return the largest multiple of LANES up to `most` that divides a sequence."""
    return next(size for size in range(most, 0, -LANES) if length % size == 0)


def visited(length: int, window: int, q: int, kv: int) -> int:
    """Count the pairs of a query and a key in blocks (`q` x `kv`) that are not masked as a whole: what a kernel multiplies."""
    start = np.arange(0, length, q)
    first_key = np.maximum(start - window + 1, 0)
    last_key = start + q - 1
    blocks_of_keys = last_key // kv - first_key // kv + 1
    return int(blocks_of_keys.sum()) * q * kv


def _kernel(length: int, heads: int, window: int, interpret: bool) -> Callable[..., Any]:
    """Make splash attention of `heads` heads [H, L, K]. Its masks become arrays of the trace that it is made in."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    b = blocks(length, window)
    sizes = splash.BlockSizes(
        block_q=b.q,
        block_kv=b.kv,
        block_kv_compute=b.kv,
        block_q_dkv=b.q_back,
        block_kv_dkv=b.kv_back,
        block_kv_dkv_compute=min(b.kv_back, b.kv),
        block_q_dq=None if b.fused else b.q_back,
        block_kv_dq=None if b.fused else b.kv_back,
        use_fused_bwd_kernel=b.fused,
    )
    square = (length, length)
    mask = masks.CausalMask(square) if window == length else masks.LocalMask(square, (window - 1, 0), 0)
    return splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="attention",  # remat "attention" keeps what the kernel's backward pass reads
        interpret=interpret,
    )


def splash_attention(
    q_BLHK: Array,
    k_BLGK: Array,
    v_BLGK: Array,
    documents_BL: Array | None = None,
    *,
    scale: float,
    window: int,
    interpret: bool,
) -> Array:
    """Attend within one device's sequences and heads, and within `documents_BL` where they are given.

    The scope tells sweeps/cost/hlo.py what the kernels multiply.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    length, heads = q_BLHK.shape[1:3]
    kernel = _kernel(length, heads, window, interpret)
    b = blocks(length, window)
    forward = visited(length, window, b.q, b.kv)
    backward = visited(length, window, b.q_back, b.kv_back)
    scope = f"attention_pairs_{forward}_{backward}_{'fused' if b.fused else 'apart'}"
    with jax.named_scope(scope):
        q_BHLK = (q_BLHK * scale).swapaxes(1, 2)
        k_BGLK = k_BLGK.swapaxes(1, 2)
        v_BGLK = v_BLGK.swapaxes(1, 2)
        if documents_BL is None:
            o_BHLK = jax.vmap(kernel)(q_BHLK, k_BGLK, v_BGLK)
        else:
            segments = splash.SegmentIds(documents_BL, documents_BL)
            o_BHLK = jax.vmap(kernel)(q_BHLK, k_BGLK, v_BGLK, segments)
    return o_BHLK.swapaxes(1, 2)
