"""Choose experts for tokens, move their rows there and back, and measure the balance.

Pure functions on scores and rows; models/families/moe.py holds the parameters. N rows, A = N C assignments of a row to one of
its C choices, E experts, S slots per expert, Z blocks of rows of one expert. Numbers of rows are static: what differs
from batch to batch is only where they lie.
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from models.mesh.current import backend
from models.numerics.formats import Format, straight_through

SCORES = ("softmax", "softmax_after", "sigmoid")
PRIORITIES = ("token", "slot")
KERNELS = ("auto", "blocks", "ragged")
TILES = (512, 256, 128)  # rows that a TPU's kernel takes at a time
BLOCKS_PER_EXPERT = 4  # of a balanced load: more leave fewer rows empty, and make smaller products


class Load(NamedTuple):
    """What one layer's routing did to a batch. `chosen` counts are of choices, before any is dropped."""

    chosen_E: Integer[Array, "E"]  # assignments to each expert
    probability_E: Float[Array, "E"]  # mean over tokens
    sequence_balance: Float[Array, ""]
    router_z: Float[Array, ""]
    entropy: Float[Array, ""]  # nats, mean over tokens
    dropped: Float[Array, ""]  # share of assignments; where experts choose: of tokens that none took


def probabilities(z: Float[Array, "*n E"], score: str) -> Float[Array, "*n E"]:
    """Return scores of all experts as a distribution: softmax, or sigmoids over their sum (DeepSeek-V3)."""
    if score == "sigmoid":
        s = jax.nn.sigmoid(z)
        return s / s.sum(axis=-1, keepdims=True)
    return jax.nn.softmax(z, axis=-1)


def choose(
    z: Float[Array, "*n E"],
    top_k: int,
    score: str,
    renormalise: bool,
    scale: float = 1.0,
    bias_E: Float[Array, "E"] | None = None,
    groups: tuple[int, int] = (1, 1),
) -> tuple[Integer[Array, "*n C"], Float[Array, "*n C"], Bool[Array, "*n E"]]:
    """Choose the `top_k` experts of each token, best first: their numbers, their weights, and the choice as a mask.

    softmax: weights are probabilities over all experts; softmax_after: over the chosen logits alone (Mixtral);
    sigmoid (DeepSeek-V3). `renormalise` divides by the sum over the chosen, `scale` multiplies in the end. `bias_E` and
    `groups` (how many, how many are kept; by the sum of a group's two best) decide who is chosen, never the weight.
    """
    value = _VALUES[score](z)
    ranked = jax.lax.stop_gradient(value if bias_E is None else value + bias_E)
    count, kept = groups
    if kept < count:
        ranked = _within_groups(ranked, count, kept)
    _, expert = jax.lax.top_k(ranked, top_k)
    # Masked sums, not gathers: their gradient is no scatter.
    experts = z.shape[-1]
    hot = jax.nn.one_hot(expert, experts, dtype=bool)
    weight = jnp.where(hot, value[..., None, :], 0.0).sum(axis=-1)
    if score == "softmax_after":
        weight = jax.nn.softmax(weight, axis=-1)
    elif renormalise:
        weight = weight / (weight.sum(axis=-1, keepdims=True) + 1e-20)
    return expert, weight * scale, hot.any(axis=-2)


_VALUES: dict[str, Callable[[Array], Array]] = {
    "softmax": jax.nn.softmax,
    "softmax_after": lambda z: z,
    "sigmoid": jax.nn.sigmoid,
}


def _within_groups(ranked: Float[Array, "*n E"], count: int, kept: int) -> Float[Array, "*n E"]:
    """Leave only the `kept` best of `count` groups of experts to be chosen from, by the sum of a group's two best."""
    grouped = ranked.reshape(*ranked.shape[:-1], count, -1)
    two_best, _ = jax.lax.top_k(grouped, min(2, grouped.shape[-1]))
    _, best_groups = jax.lax.top_k(two_best.sum(axis=-1), kept)
    inside = jax.nn.one_hot(best_groups, count, dtype=bool).any(axis=-2)
    return jnp.where(inside[..., None], grouped, -jnp.inf).reshape(ranked.shape)


# --- balance


def measure(
    chosen_BLE: Bool[Array, "B L E"],
    z_BLE: Float[Array, "B L E"],
    score: str,
    top_k: int,
    dropped: Float[Array, ""],
) -> Load:
    """Measure the load of one layer.

    The sequence balance is the load balance of each sequence by itself (DeepSeek-V3), averaged.
    """
    p_BLE = probabilities(z_BLE, score)
    experts = z_BLE.shape[-1]
    chosen_BE = chosen_BLE.mean(axis=1, dtype=jnp.float32)
    share_BE = chosen_BE * (experts / top_k)
    p_BE = p_BLE.mean(axis=1)
    balance_B = jnp.sum(share_BE * p_BE, axis=-1)
    log_z_BL = jax.nn.logsumexp(z_BLE, axis=-1)
    entropy_BL = jnp.sum(jax.scipy.special.entr(p_BLE), axis=-1)
    return Load(
        chosen_E=chosen_BLE.sum(axis=(0, 1), dtype=jnp.int32),
        probability_E=p_BLE.mean(axis=(0, 1)),
        sequence_balance=jnp.mean(balance_B),
        router_z=jnp.mean(log_z_BL**2),
        entropy=jnp.mean(entropy_BL),
        dropped=dropped,
    )


def shares(chosen: Integer[Array, "*y E"]) -> Float[Array, "*y E"]:
    """Return choices of each expert over their mean: all 1 at perfect balance."""
    return chosen / chosen.mean(axis=-1, keepdims=True)


def load_balance(load: Load) -> Float[Array, "*y"]:
    """Return sum_e share_e P_e: 1 at perfect balance for every number of choices (Switch, Fedus et al. 2021, eq. 4)."""
    return jnp.sum(shares(load.chosen_E) * load.probability_E, axis=-1)


def balance_terms(load: Load) -> dict[str, Array]:
    """Return the terms that training adds to its loss, of each layer; `load` is stacked over layers."""
    return {
        "load_balance": load_balance(load),
        "sequence_balance": load.sequence_balance,
        "router_z": load.router_z,
    }


def published_scale(form: str, top_k: int) -> float:
    """Return a published load-balance loss as a multiple of ours; a coefficient is to be multiplied by it when copied.

    switch: E sum f P with f the share of assignments. hugging_face (Mixtral, OLMoE, RMoE) and maxtext: f counts
    assignments over tokens, so that perfect balance gives top_k.
    """
    return {"switch": 1.0, "hugging_face": float(top_k), "maxtext": float(top_k)}[form]


def balanced_bias(bias: Float[Array, "*y E"], chosen: Integer[Array, "*y E"], rate: float) -> Float[Array, "*y E"]:
    """Return the selection bias after a step of loss-free balancing (Wang et al. 2024): b + rate sign(mean load - load)."""
    return bias + rate * jnp.sign(chosen.mean(axis=-1, keepdims=True) - chosen)


# --- rows to experts and back


class Matrices(NamedTuple):
    """The experts' feed-forward weights; `gate` is None without a gate."""

    gate_EDF: Float[Array, "E D F"] | None
    up_EDF: Float[Array, "E D F"]
    down_EFD: Float[Array, "E F D"]


def feed_forward(
    product: Callable[[Array, Array], Array], x: Array, weights: Matrices, act: Any, form: Format | None = None
) -> Array:
    """Compute act(x gate) * (x up) down, or act(x up) down without a gate.

    `product(x, w)` multiplies each row, rounded to `form`, with its own expert's matrix.
    """

    def named_product(x: Array, w: Array) -> Array:
        return checkpoint_name(product(x, w), "product")  # which remat "dots" keeps

    x = straight_through(x, form, -1)
    h = named_product(x, weights.up_EDF)
    if weights.gate_EDF is not None:
        h = act(named_product(x, weights.gate_EDF)) * h
    else:
        h = act(h)
    return named_product(straight_through(h, form, -1), weights.down_EFD)


def places(expert_A: Integer[Array, "A"], experts: int) -> tuple[Integer[Array, "A"], Integer[Array, "E"]]:
    """Count the assignments before each one that are to the same expert, and those of each expert: a stable sort."""
    # Not by comparing each assignment with each expert: with many of them that would be the largest array of a layer.
    order_A = jnp.argsort(expert_A, stable=True)
    rank_A = jnp.zeros_like(order_A).at[order_A].set(jnp.arange(expert_A.size), unique_indices=True)
    end_E = jnp.searchsorted(expert_A[order_A], jnp.arange(experts), side="right").astype(jnp.int32)
    chosen_E = jnp.diff(end_E, prepend=0)
    start_E = end_E - chosen_E
    return rank_A - start_E[expert_A], chosen_E


def take(x_ND: Float[Array, "N D"], row_NC: Integer[Array, "N C"], rows: int) -> Float[Array, "R D"]:
    """Fill `rows` rows: row r holds the token n that has it among `row_NC`, or zeros. Rows out of range hold nothing."""
    N, C = row_NC.shape
    token_A = jnp.arange(N * C) // C
    token_R = jnp.full(rows, N).at[row_NC.reshape(-1)].set(token_A, mode="drop")
    return x_ND.at[token_R].get(mode="fill", fill_value=0)


def give_back(
    y_RD: Float[Array, "R D"], row_NC: Integer[Array, "N C"], weight_NC: Float[Array, "N C"]
) -> Float[Array, "N D"]:
    """Return each token's weighted sum of its rows, in float32; a row out of range counts as zeros."""
    y_NCD = y_RD.at[row_NC].get(mode="fill", fill_value=0).astype(jnp.float32)
    return jnp.sum(weight_NC[..., None] * y_NCD, axis=1).astype(y_RD.dtype)


def is_ragged(kernel: str) -> bool:
    """Tell whether `kernel` (see `dropless`) is ragged on this backend."""
    return kernel == "ragged" or (kernel == "auto" and backend() == "tpu")


def block_rows(assignments: int, experts: int, kernel: str) -> tuple[int, int]:
    """Return (blocks, rows of one) that hold any `assignments`, however they fall.

    Each expert wastes less than one block.
    """
    if is_ragged(kernel):
        return assignments, 1
    size = math.ceil(assignments / (BLOCKS_PER_EXPERT * experts))
    return assignments // size + experts, size


def dropless(
    x_ND: Float[Array, "N D"],
    expert_NC: Integer[Array, "N C"],
    weight_NC: Float[Array, "N C"],
    weights: Matrices,
    act: Any,
    kernel: str,
    form: Format | None = None,
) -> Float[Array, "N D"]:
    """Serve every assignment (MegaBlocks, Gale et al. 2022). `kernel` says how rows meet their expert's matrix.

    ragged: rows sorted by expert and `grouped`, for which a TPU has a kernel; elsewhere it expands to E products over all
    rows. blocks: each expert's rows fill whole blocks, which `block_product` multiplies. auto: what the backend is good at.
    """
    E = weights.up_EDF.shape[0]
    blocks, size = block_rows(expert_NC.size, E, kernel)
    place_A, chosen_E = places(expert_NC.reshape(-1), E)
    # Each expert's rows start with a block of their own, behind the blocks of the experts before it.
    blocks_E = -(-chosen_E // size)
    end_E = jnp.cumsum(blocks_E)
    start_E = (end_E - blocks_E) * size
    row_NC = start_E[expert_NC] + place_A.reshape(expert_NC.shape)
    x_RD = take(x_ND, row_NC, blocks * size)
    if is_ragged(kernel):
        y_RD = feed_forward(lambda x, w: grouped(x, w, chosen_E), x_RD, weights, act, form)
        return give_back(y_RD, row_NC, weight_NC)
    ended_ZE = jnp.arange(blocks)[:, None] >= end_E
    owner_Z = jnp.minimum(jnp.sum(ended_ZE, axis=1), E - 1)  # blocks behind the last one hold zeros
    x_ZSD = x_RD.reshape(blocks, size, -1)
    y_ZSD = feed_forward(lambda x, w: block_product(x, w, owner_Z), x_ZSD, weights, act, form)
    return give_back(y_ZSD.reshape(blocks * size, -1), row_NC, weight_NC)


@jax.custom_vjp
def block_product(
    x_ZSI: Float[Array, "Z S I"], w_EIO: Float[Array, "E I O"], owner_Z: Integer[Array, "Z"]
) -> Float[Array, "Z S O"]:
    """Multiply each block of rows with its owner's matrix, one block after the other: no matrix is copied for later.

    The backward pass adds each block's part of a matrix's gradient where the sum is, in float32. Derived by jax, there
    would be a gradient for every block, several times the experts' matrices, and then a scatter over all of them.
    """

    def multiply(block: tuple[Array, Array]) -> Array:
        x_SI, owner = block
        return x_SI @ _matrix_of(w_EIO, owner)

    return jax.lax.map(multiply, (x_ZSI, owner_Z))


def _matrix_of(w_EIO: Array, owner: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(w_EIO, owner, keepdims=False)


def _block_product_forward(x_ZSI: Array, w_EIO: Array, owner_Z: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return block_product(x_ZSI, w_EIO, owner_Z), (x_ZSI, w_EIO, owner_Z)


def _block_product_backward(saved: tuple[Array, Array, Array], d_ZSO: Array) -> tuple[Array, Array, None]:
    x_ZSI, w_EIO, owner_Z = saved

    def add(d_w_EIO: Array, block: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        x_SI, d_SO, owner = block
        part_IO = jnp.matmul(x_SI.T, d_SO, preferred_element_type=jnp.float32)
        d_x_SI = d_SO @ _matrix_of(w_EIO, owner).T
        return d_w_EIO.at[owner].add(part_IO), d_x_SI

    nothing_EIO = jnp.zeros(w_EIO.shape, jnp.float32)
    d_w_EIO, d_x_ZSI = jax.lax.scan(add, nothing_EIO, (x_ZSI, d_ZSO, owner_Z))
    return d_x_ZSI, d_w_EIO.astype(w_EIO.dtype), None


block_product.defvjp(_block_product_forward, _block_product_backward)


def grouped(
    x_RI: Float[Array, "R I"], w_EIO: Float[Array, "E I O"], size_E: Integer[Array, "E"], interpret: bool = False
) -> Float[Array, "R O"]:
    """Multiply each row with its expert's matrix, where the first `size_E[0]` rows are of the first expert, and so on.

    On a TPU with the kernels of MegaBlocks as jax has them: of jax.lax.ragged_dot XLA (0.10) expands the gradient of the
    matrices to E products over all rows. Kernels cannot be split by XLA: where it has an axis to split, ragged_dot it is.
    `interpret`: the kernels step by step on any backend, to check them.
    """
    if (backend() != "tpu" or _xla_may_split()) and not interpret:
        return jax.lax.ragged_dot(x_RI, w_EIO, size_E)
    from jax.experimental.pallas.ops.tpu.megablox import ops

    rows = len(x_RI)
    padded = jnp.pad(x_RI, ((0, -rows % TILES[-1]), (0, 0)))
    tile = next(size for size in TILES if len(padded) % size == 0)
    # Of a tile of rows by 1,024 by 1,024 both factors, twice, and a float32 sum take 10 MB of 16 beside the units.
    return ops.gmm(padded, w_EIO, size_E, x_RI.dtype, (tile, 1024, 1024), None, None, False, interpret)[:rows]


def _xla_may_split() -> bool:
    """Whether the mesh has an axis along which XLA could split an array here."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return False
    return any(mesh.shape[name] > 1 for name in mesh.axis_names if name not in mesh.manual_axes)


def slots(length: int, top_k: int, experts: int, factor: float) -> int:
    """Count rows that an expert takes of one sequence: `factor` times an even share (as MaxText rounds), at most all."""
    even = math.ceil(length * top_k / experts)
    wanted = int(max(even * factor, factor))
    return min(length, max(1, wanted))


def seats(expert_LC: Integer[Array, "L C"], experts: int, count: int, priority: str) -> Integer[Array, "L C"]:
    """Return the row (expert times `count` plus slot) of each assignment of a sequence; E times `count` if dropped.

    Experts are filled in the order of tokens (priority "token", MaxText: causal), or with all first choices before any
    second ("slot", GShard and Switch: a later token's first choice can drop an earlier token's second).
    """
    L, C = expert_LC.shape
    if priority == "slot":
        place_A, _ = places(expert_LC.T.reshape(-1), experts)
        place_LC = place_A.reshape(C, L).T
    else:
        place_A, _ = places(expert_LC.reshape(-1), experts)
        place_LC = place_A.reshape(L, C)
    return jnp.where(place_LC < count, expert_LC * count + place_LC, experts * count)


def choice_slots(tokens: int, top_k: int, experts: int) -> int:
    """Count tokens that each expert chooses, so that a token has `top_k` experts on average; at least 1, at most all."""
    return min(tokens, max(1, tokens * top_k // experts))


def expert_choice(p_NE: Float[Array, "N E"], count: int) -> tuple[Float[Array, "E S"], Integer[Array, "E S"]]:
    """Choose each expert's `count` best tokens, with their probabilities (Zhou et al. 2022). Later tokens decide on earlier."""
    gate_ES, token_ES = jax.lax.top_k(p_NE.T, count)
    return gate_ES, token_ES
