"""Next-token cross-entropy in nats, auxiliary terms, bits per byte."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from experiments.schema import Loss


def cross_entropy(
    logits_BLV: Float[Array, "B L V"], targets_BL: Integer[Array, "B L"]
) -> tuple[Float[Array, "B L"], Float[Array, "B L"]]:
    """Nats of each target token, and logsumexp of its logits; in float32."""
    logits_BLV = logits_BLV.astype(jnp.float32)
    log_z_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    # A masked sum, not a gather: it fuses, its gradient is no scatter, and it may be split over the vocabulary.
    hit_BLV = targets_BL[..., None] == jnp.arange(logits_BLV.shape[-1])
    picked_BL = jnp.sum(jnp.where(hit_BLV, logits_BLV, 0.0), axis=-1)
    return log_z_BL - picked_BL, log_z_BL


def objective(
    logits_BLV: Float[Array, "B L V"],
    targets_BL: Integer[Array, "B L"],
    loss: Loss,
    aux: dict[str, Array] | None = None,
    weights: Any = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """What training minimises, and its parts. `weights` has the coefficient of each term of `aux` under its name.

    z-loss: coefficient times mean logsumexp^2 (PaLM, Chowdhery et al. 2022).
    """
    nats_BL, log_z_BL = cross_entropy(logits_BLV, targets_BL)
    nats, z_loss, aux = jnp.mean(nats_BL), jnp.mean(log_z_BL**2), aux or {}
    total = nats + loss.z_loss * z_loss + sum(getattr(weights, name) * value for name, value in aux.items())
    return total, {"loss": nats, "z_loss": z_loss} | aux


def bits_per_byte(loss_nats: float, tokens: int, text_bytes: int) -> float:
    """Mean nats per token as bits per byte of the same held-out text.

    Raises ValueError if `text_bytes` is not positive.
    """
    if text_bytes <= 0:
        raise ValueError(f"text_bytes={text_bytes} must be positive")
    return loss_nats * tokens / (math.log(2) * text_bytes)
