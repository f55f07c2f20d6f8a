"""Linear attention with exponential decay (TransNormerLLM, Qin et al. 2023; Lightning Attention-2, Qin et al. 2024).

o_t = scale sum_{s<=t} d^(t-s) (q_t . k_s) v_s with one d a head, which is the recurrence S_t = d S_{t-1} + k_t^T v_t,
o_t = scale q_t S_t. In chunks: inside one, masked products as in attention; between them, the state. A longer chunk
costs more products, a shorter one more states. What decays, feature maps and norms go around it is the family's.
"""

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

# Of queries and keys. silu: TransNormerLLM; elu: 1 + elu(x), positive (Katharopoulos et al. 2020).
FEATURES: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "elu": lambda x: 1 + jax.nn.elu(x),
    "identity": lambda x: x,
}


def log_decay(heads: int, layer: Integer[Array, ""], depth: int) -> Float[Array, "H"]:
    """log d of each head in layer 1..depth: -(8 h / H)(1 - (layer - 1) / depth), h = 0..H-1 (flash-linear-attention).

    Head 0 never forgets; deep layers forget less.
    """
    return -8 / heads * jnp.arange(heads, dtype=jnp.float32) * (1 - (layer - 1) / depth)


def linear_attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BLGK: Float[Array, "B L G K"],
    v_BLGK: Float[Array, "B L G K"],
    log_decay_H: Float[Array, "H"],
    scale: float,
    chunk: int,
) -> Float[Array, "B L H K"]:
    """The sum above; query head h reads key-value head h // (H/G). Decays and states are float32.

    `chunk` is the number of positions of one chunk; the last is padded. All powers of a decay are at most 1.
    """
    (B, L, H, K), G = q_BLHK.shape, k_BLGK.shape[2]
    C, dtype = min(chunk, L), q_BLHK.dtype
    pad = ((0, 0), (0, -L % C), (0, 0), (0, 0))
    # Z chunks of C positions; R query heads per key-value head.
    q_BGRZCK = jnp.pad(q_BLHK * scale, pad).reshape(B, -1, C, G, H // G, K).transpose(0, 3, 4, 1, 2, 5)
    k_BGZCK, v_BGZCK = (jnp.pad(x, pad).reshape(B, -1, C, G, K).transpose(0, 3, 1, 2, 4) for x in (k_BLGK, v_BLGK))
    log_GR, at_C = log_decay_H.reshape(G, H // G), jnp.arange(C)
    gap_CC = at_C[:, None] - at_C
    decay_GRCC = jnp.where(gap_CC >= 0, jnp.exp(log_GR[..., None, None] * jnp.maximum(gap_CC, 0)), 0)
    scores = jnp.einsum("BGRZCK,BGZMK->BGRZCM", q_BGRZCK, k_BGZCK, preferred_element_type=jnp.float32)
    scores = (scores * decay_GRCC[:, :, None]).astype(dtype)
    o_BGRZCK = jnp.einsum("BGRZCM,BGZMK->BGRZCK", scores, v_BGZCK)
    if C < L:  # what later chunks see of earlier ones; nobody reads the state after the last
        left_GRCK = jnp.exp(log_GR[..., None, None] * (C - 1 - at_C)[:, None])
        added = (k_BGZCK[:, :, None, :-1] * left_GRCK[:, :, None]).astype(dtype)
        added = jnp.einsum("BGRZCK,BGZCV->ZBGRKV", added, v_BGZCK[:, :, :-1], preferred_element_type=jnp.float32)
        whole_GRKK = jnp.exp(log_GR[..., None, None] * C)
        _, states = jax.lax.scan(lambda s, new: (whole_GRKK * s + new,) * 2, jnp.zeros_like(added[0]), added)
        seen = jnp.einsum("BGRZCK,ZBGRKV->BGRZCV", q_BGRZCK[:, :, :, 1:], states.astype(dtype))
        since_GRCK = jnp.exp(log_GR[..., None, None] * (at_C + 1)[:, None])
        o_BGRZCK = o_BGRZCK.at[:, :, :, 1:].add((seen * since_GRCK[:, :, None]).astype(dtype))
    return o_BGRZCK.transpose(0, 3, 4, 1, 2, 5).reshape(B, -1, H, K)[:, :L]


def flops(heads: int, size: int, chunk: int, seq_len: int) -> tuple[float, float]:
    """Forward FLOPs per token of the matmuls: all of them, and with only the visible half inside a chunk."""
    chunk = min(chunk, seq_len)
    chunks = math.ceil(seq_len / chunk)
    inside, between = 4.0 * heads * size * chunk, 4.0 * heads * size**2 * chunk * (chunks - 1) / seq_len
    return inside * chunks * chunk / seq_len + between, inside * (chunk + 1) / (2 * chunk) + between
