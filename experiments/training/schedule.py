"""Compute the learning rate as a function of tokens."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.run.schema import Run


def _cooldown(shape: str, u: Float[Array, ""], final: Any) -> Float[Array, ""]:
    """Factor of a cooldown after a share `u` of it: 1 at u=0, `final` at u=1 (Hagele et al. 2024)."""
    if shape == "exponential":
        return jnp.asarray(final) ** u
    fall = {
        "sqrt": 1 - jnp.sqrt(u),
        "linear": 1 - u,
        "cosine": 0.5 * (1 + jnp.cos(math.pi * u)),
        "square": 1 - u * u,
        "mirror_cosine": 2 * (1 - u) - 0.5 * (1 + jnp.cos(math.pi * u)),
    }[shape]
    return final + (1 - final) * fall


def schedule(run: Run, tokens: Float[Array, ""]) -> Float[Array, ""]:
    """Learning rate after `tokens` training tokens, as a factor of opt.lr.

    Warm-up is linear from schedule.warmup_start; cosine then falls to schedule.final at the run's end; cosine_halved
    is half of that in the second half of the run (MatMul-free LM, Zhu et al. 2024); wsd holds 1 and cools down over
    the last schedule.decay_tokens (MiniCPM, Hu et al. 2024; 1-sqrt: Hagele et al. 2024).
    """
    s, total = run.schedule, run.tokens
    tokens = jnp.asarray(tokens, jnp.float32)
    if s.name in ("cosine", "cosine_halved"):
        u = (tokens - s.warmup_tokens) / jnp.maximum(total - s.warmup_tokens, 1)
        body = _cooldown("cosine", jnp.clip(u, 0, 1), s.final)
        if s.name == "cosine_halved":
            body = body * jnp.where(2 * tokens > total, 0.5, 1.0)
    elif s.name == "wsd":
        u = (tokens - (total - s.decay_tokens)) / jnp.maximum(s.decay_tokens, 1)
        body = jnp.where(u < 0, 1.0, _cooldown(s.decay_shape, jnp.clip(u, 0, 1), s.final))
    else:
        body = jnp.ones_like(tokens)
    warmup = s.warmup_start + (1 - s.warmup_start) * tokens / jnp.maximum(s.warmup_tokens, 1)
    return jnp.where(tokens < s.warmup_tokens, warmup, body)
