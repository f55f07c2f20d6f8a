"""Linear attention with exponential decay (TransNormerLLM, Qin et al. 2023; Lightning Attention-2, Qin et al. 2024).

o_t = scale sum_{s<=t} d^(t-s) (q_t . k_s) v_s with one d a head, which is the recurrence S_t = d S_{t-1} + k_t^T v_t,
o_t = scale q_t S_t. In chunks: inside one, masked products as in attention; between them, the state. A longer chunk
costs more products, a shorter one more states. What decays, feature maps and norms go around it is the family's.

Inside this file queries are [B, G, R, Z, C, K]: batch, key-value heads, query heads of each, chunks, positions of a
chunk, dimensions of a head; keys and values are the same without R. einsum's letters say so: M is a position that is
read, V a dimension of a value.
"""

from collections.abc import Callable
import math

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from models.blocks.past import Reached, empty

# Of queries and keys. silu: TransNormerLLM; elu: 1 + elu(x), positive (Katharopoulos et al. 2020).
FEATURES: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "elu": lambda x: 1 + jax.nn.elu(x),
    "identity": lambda x: x,
}

Queries = Float[Array, "B G R Z C K"]
KeysOrValues = Float[Array, "B G Z C K"]


def log_decay(heads: int, layer: Integer[Array, ""], depth: int) -> Float[Array, "H"]:
    """Return log d of each head in layer 1..depth: -(8 h / H)(1 - (layer - 1) / depth), h = 0..H-1.

    Head 0 never forgets; deep layers forget less. As flash-linear-attention has it.
    """
    head_H = jnp.arange(heads, dtype=jnp.float32)
    share_to_come = 1 - (layer - 1) / depth
    return -8 / heads * head_H * share_to_come


def linear_attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BLGK: Float[Array, "B L G K"],
    v_BLGK: Float[Array, "B L G K"],
    log_decay_H: Float[Array, "H"],
    scale: float,
    chunk: int,
    documents_BL: Integer[Array, "B L"] | None = None,
) -> Float[Array, "B L H K"]:
    """Compute the sum above; query head h reads key-value head h // (H/G). Decays and states are float32.

    `chunk` is the number of positions of one chunk; the last is padded. All powers of a decay are at most 1. With
    `documents_BL`, which never fall, the sum is over positions of the same document.
    """
    B, L, H, K = q_BLHK.shape
    G = k_BLGK.shape[2]
    R = H // G
    C = min(chunk, L)
    pad = ((0, 0), (0, -L % C), (0, 0), (0, 0))

    def in_chunks(of_kv_heads: Float[Array, "B L G K"]) -> KeysOrValues:
        padded = jnp.pad(of_kv_heads, pad)
        chunked = padded.reshape(B, -1, C, G, K)
        return chunked.transpose(0, 3, 1, 2, 4)

    # The last chunk is filled up with zeros behind the end, where no real position reads them.
    queries = jnp.pad(q_BLHK * scale, pad)
    queries = queries.reshape(B, -1, C, G, R, K)
    queries = queries.transpose(0, 3, 4, 1, 2, 5)
    keys = in_chunks(k_BLGK)
    values = in_chunks(v_BLGK)
    log_decay_GR = log_decay_H.reshape(G, R)

    documents_BZC = None
    if documents_BL is not None:
        padded_BL = jnp.pad(documents_BL, pad[:2], mode="edge")
        documents_BZC = padded_BL.reshape(B, -1, C)
    out = _inside_chunks(queries, keys, values, log_decay_GR, documents_BZC)
    if C < L:
        # The first chunk has none before it.
        read = _from_earlier_chunks(queries, keys, values, log_decay_GR, documents_BZC)
        out = out.at[:, :, :, 1:].add(read)
    out = out.transpose(0, 3, 4, 1, 2, 5)
    o_BLHK = out.reshape(B, -1, H, K)
    return o_BLHK[:, :L]


def _inside_chunks(
    queries: Queries,
    keys: KeysOrValues,
    values: KeysOrValues,
    log_decay_GR: Float[Array, "G R"],
    documents_BZC: Integer[Array, "B Z C"] | None,
) -> Queries:
    """What positions read of those in the same chunk, themselves included."""
    size = queries.shape[4]
    at_C = jnp.arange(size)
    gap_CC = at_C[:, None] - at_C
    # A power of a position that comes later could overflow, and its gradient would be no number even behind the mask.
    passed_CC = jnp.maximum(gap_CC, 0)
    log_decay_GR11 = log_decay_GR[..., None, None]
    decay_GRCC = jnp.exp(log_decay_GR11 * passed_CC)
    decay_GRCC = jnp.where(gap_CC >= 0, decay_GRCC, 0)
    scores = jnp.einsum("BGRZCK,BGZMK->BGRZCM", queries, keys, preferred_element_type=jnp.float32)
    decay_GR1CC = decay_GRCC[:, :, None]
    scores = scores * decay_GR1CC
    if documents_BZC is not None:
        same_BZCC = documents_BZC[..., :, None] == documents_BZC[..., None, :]
        scores = jnp.where(same_BZCC[:, None, None], scores, 0)
    scores = scores.astype(queries.dtype)
    return jnp.einsum("BGRZCM,BGZMK->BGRZCK", scores, values)


def _from_earlier_chunks(
    queries: Queries,
    keys: KeysOrValues,
    values: KeysOrValues,
    log_decay_GR: Float[Array, "G R"],
    documents_BZC: Integer[Array, "B Z C"] | None,
) -> Float[Array, "B G R Z2 C K"]:
    """What positions of all chunks but the first read of the chunks before their own, by way of the state."""
    dtype = queries.dtype
    size = queries.shape[4]
    at_C = jnp.arange(size)
    log_decay_GR11 = log_decay_GR[..., None, None]

    # What each chunk adds to the state until its own end. Nobody reads the state after the last chunk.
    until_end_C = size - 1 - at_C
    decay_GRC1 = jnp.exp(log_decay_GR11 * until_end_C[:, None])
    decay_GR1C1 = decay_GRC1[:, :, None]
    decayed_keys = keys[:, :, None, :-1] * decay_GR1C1
    if documents_BZC is not None:
        # A later chunk goes on in the last document of this one, and in no other.
        last_BZ1 = documents_BZC[:, :-1, -1:]
        in_last_BZC = documents_BZC[:, :-1] == last_BZ1
        decayed_keys = jnp.where(in_last_BZC[:, None, None, ..., None], decayed_keys, 0)
    decayed_keys = decayed_keys.astype(dtype)
    read_values = values[:, :, :-1]
    added = jnp.einsum(
        "BGRZCK,BGZCV->ZBGRKV",
        decayed_keys,
        read_values,
        preferred_element_type=jnp.float32,
    )

    # The state at the end of each chunk: the one before, decayed over a chunk, and what this one adds.
    over_chunk_GR11 = jnp.exp(log_decay_GR11 * size)

    def next_state(state: Array, of_chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        new, *goes_on = of_chunk
        kept = over_chunk_GR11 * state
        if goes_on:
            kept = jnp.where(goes_on[0][:, None, None, None, None], kept, 0)
        state = kept + new
        return state, state

    of_chunks: tuple[Array, ...] = (added,)
    if documents_BZC is not None:
        last_ZB = documents_BZC[:, :-1, -1].T
        # Whether the document in which a chunk ends is that of the end of the one before; the first has no state to keep.
        of_chunks += (last_ZB == jnp.concatenate([last_ZB[:1], last_ZB[:-1]]),)
    empty = jnp.zeros_like(added[0])
    _, states = jax.lax.scan(next_state, empty, of_chunks)
    states = states.astype(dtype)

    # What was read of the state as it was when the chunk began has decayed since.
    behind_first = queries[:, :, :, 1:]
    seen = jnp.einsum("BGRZCK,ZBGRKV->BGRZCV", behind_first, states)
    since_start_C = at_C + 1
    decay_GRC1 = jnp.exp(log_decay_GR11 * since_start_C[:, None])
    decay_GR1C1 = decay_GRC1[:, :, None]
    seen = seen * decay_GR1C1
    if documents_BZC is not None:
        still_BZC = documents_BZC[:, 1:] == documents_BZC[:, :-1, -1:]
        seen = jnp.where(still_BZC[:, None, None, ..., None], seen, 0)
    return seen.astype(dtype)


class LinearPast(nnx.Module):
    """The state S of the recurrence, [B, H, K, V] in float32, and how many positions it has seen.

    Heads that share keys and values have decays of their own, and so states of their own.
    """

    def __init__(self, lead: tuple[int, ...], heads: int, size: int):
        self.reached = Reached(lead)
        self.state = empty(lead, {"heads": heads, "head_size": size, "values": size})

    def read(self, q_BLHK: Float[Array, "B L H K"], log_decay_H: Float[Array, "H"]) -> Float[Array, "B L H K"]:
        """Return what scaled queries of the next positions read of the state, which has decayed until each of them."""
        since_L = 1 + jnp.arange(q_BLHK.shape[1])
        decay_LH = jnp.exp(since_L[:, None] * log_decay_H)
        read_BLHK = jnp.einsum("BLHK,BHKV->BLHV", q_BLHK.astype(jnp.float32), self.state[...])
        return (read_BLHK * decay_LH[..., None]).astype(q_BLHK.dtype)

    def extend(
        self, k_BLGK: Float[Array, "B L G K"], v_BLGK: Float[Array, "B L G K"], log_decay_H: Float[Array, "H"]
    ) -> None:
        """Move the state behind the next positions."""
        length = k_BLGK.shape[1]
        shared = log_decay_H.size // k_BLGK.shape[2]
        k_BLHK = jnp.repeat(k_BLGK.astype(jnp.float32), shared, axis=2)
        v_BLHK = jnp.repeat(v_BLGK.astype(jnp.float32), shared, axis=2)
        until_end_L = length - 1 - jnp.arange(length)
        decay_LH = jnp.exp(until_end_L[:, None] * log_decay_H)
        added = jnp.einsum("BLHK,BLHV->BHKV", k_BLHK * decay_LH[..., None], v_BLHK)
        over_all_H11 = jnp.exp(length * log_decay_H)[:, None, None]
        self.state[...] = over_all_H11 * self.state[...] + added
        self.reached.move(length)


def flops(heads: int, size: int, chunk: int, seq_len: int) -> tuple[float, float]:
    """Count forward FLOPs per token of the matmuls: all of them, and with only the visible half inside a chunk."""
    chunk = min(chunk, seq_len)
    chunks = math.ceil(seq_len / chunk)
    inside = 4.0 * heads * size * chunk
    between = 4.0 * heads * size**2 * chunk * (chunks - 1) / seq_len
    full = inside * chunks * chunk / seq_len + between
    causal = inside * (chunk + 1) / (2 * chunk) + between
    return full, causal
