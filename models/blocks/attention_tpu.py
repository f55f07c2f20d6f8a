"""Run softmax attention on TPUs with jax's splash kernel."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array
import numpy as np

LANES = 128  # of a TPU: the kernel's blocks are multiples of it
BLOCK = 512  # positions of a block of queries or keys in the forward kernel, at most
BACKWARD_BLOCK = 1024  # positions of a block of keys in the fused backward kernel, at most
MOST_PARTIALS = 8  # partial sums of the gradient of the queries, for which there is memory


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
    """Choose blocks for a sequence of `length` positions, a multiple of LANES."""

    def largest(most: int) -> int:
        return next(size for size in range(most, 0, -LANES) if length % size == 0)

    # A block of keys that reaches far beyond a window is mostly masked.
    near = max(LANES, min(BLOCK, window // LANES * LANES))
    fused = window == length and length <= MOST_PARTIALS * largest(BACKWARD_BLOCK)
    side = largest(BLOCK if window == length else near)
    return Blocks(side, side, side, largest(BACKWARD_BLOCK) if fused else side, fused)


def visited(length: int, window: int, q: int, kv: int) -> int:
    """Count pairs of a query and a key in the blocks (`q` x `kv`) that are not masked as a whole.

    So many products the kernel makes.
    """
    start = np.arange(0, length, q)
    first = np.maximum(start - window + 1, 0) // kv
    last = (start + q - 1) // kv
    return int((last - first + 1).sum()) * q * kv


def _kernel(length: int, heads: int, window: int, interpret: bool) -> Any:
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
    shape = (length, length)
    mask = masks.CausalMask(shape) if window == length else masks.LocalMask(shape, (window - 1, 0), 0)
    return splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="attention",  # remat "attention" keeps what the kernel's backward pass reads
        interpret=interpret,
    )


def _splash(q_BLHK: Array, k_BLGK: Array, v_BLGK: Array, scale: float, window: int, interpret: bool) -> Array:
    """Attend to one device's sequences and heads.

    The scope's name tells sweeps/cost/hlo.py what the kernels inside multiply, which no compiler counts.
    """
    length, heads = q_BLHK.shape[1:3]
    kernel = _kernel(length, heads, window, interpret)
    b = blocks(length, window)
    forward = visited(length, window, b.q, b.kv)
    backward = visited(length, window, b.q_back, b.kv_back)
    with jax.named_scope(f"attention_pairs_{forward}_{backward}_{'fused' if b.fused else 'apart'}"):
        q_BHLK = (q_BLHK * scale).swapaxes(1, 2)
        o_BHLK = jax.vmap(kernel)(q_BHLK, k_BLGK.swapaxes(1, 2), v_BLGK.swapaxes(1, 2))
    return o_BHLK.swapaxes(1, 2)
