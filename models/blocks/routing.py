"""Choose experts for tokens, and measure the balance.

Pure functions on scores; models/families/moe.py holds the parameters. N tokens, C choices of each, E experts, S slots per
expert; dispatch.py moves the rows.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

SCORES = ("softmax", "softmax_after", "sigmoid")


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


def expert_choice(p_NE: Float[Array, "N E"], count: int) -> tuple[Float[Array, "E S"], Integer[Array, "E S"]]:
    """Choose each expert's `count` best tokens, with their probabilities (Zhou et al. 2022). Later tokens decide on earlier."""
    gate_ES, token_ES = jax.lax.top_k(p_NE.T, count)
    return gate_ES, token_ES


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
