"""Compute the learning rate as a function of tokens.

Takes a `Run` whose runtime options may be traced numbers: one compiled program serves every schedule length. optax's own
schedules branch on their arguments in Python, so they cannot.
"""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.run.schema import Run

Scalar = Float[Array, ""]


def _remaining(shape: str, u: Scalar) -> Scalar:
    """Return what of a cooldown is left after a share `u` of its tokens: 1 at u=0, 0 at u=1 (Hagele et al. 2024)."""
    if shape == "sqrt":
        return 1 - jnp.sqrt(u)
    if shape == "linear":
        return 1 - u
    if shape == "cosine":
        return 0.5 * (1 + jnp.cos(math.pi * u))
    if shape == "square":
        return 1 - u * u
    if shape == "mirror_cosine":
        return 2 * (1 - u) - 0.5 * (1 + jnp.cos(math.pi * u))
    raise KeyError(shape)


def _cooldown(shape: str, u: Scalar, final: Any) -> Scalar:
    """Return the factor of a cooldown after a share `u` of it: 1 at u=0, `final` at u=1."""
    if shape == "exponential":
        return jnp.asarray(final) ** u
    return final + (1 - final) * _remaining(shape, u)


def _body(run: Run, tokens: Scalar) -> Scalar:
    """Return the factor behind the warm-up."""
    options = run.schedule
    total = run.tokens
    if options.name == "constant":
        return jnp.ones_like(tokens)
    if options.name == "wsd":
        length = options.decay_tokens
        begin = total - length
        u = (tokens - begin) / jnp.maximum(length, 1)
        cooled = _cooldown(options.decay_shape, jnp.clip(u, 0, 1), options.final)
        return jnp.where(u < 0, 1.0, cooled)

    begin = options.warmup_tokens
    length = total - begin
    u = (tokens - begin) / jnp.maximum(length, 1)
    factor = _cooldown("cosine", jnp.clip(u, 0, 1), options.final)
    if options.name == "cosine":
        return factor
    is_second_half = 2 * tokens > total
    return factor * jnp.where(is_second_half, 0.5, 1.0)


def schedule(run: Run, tokens: Scalar) -> Scalar:
    """Return the learning rate after `tokens` training tokens, as a factor of opt.lr.

    Warm-up is linear from schedule.warmup_start; cosine then falls to schedule.final at the run's end; cosine_halved
    is half of that in the second half of the run (MatMul-free LM, Zhu et al. 2024); wsd holds 1 and cools down over
    the last schedule.decay_tokens (MiniCPM, Hu et al. 2024; 1-sqrt: Hagele et al. 2024).
    """
    options = run.schedule
    tokens = jnp.asarray(tokens, jnp.float32)
    start = options.warmup_start
    length = jnp.maximum(options.warmup_tokens, 1)
    warmup = start + (1 - start) * tokens / length
    return jnp.where(tokens < options.warmup_tokens, warmup, _body(run, tokens))
