"""Compute the learning rate as a function of tokens.

Takes a `Run` whose runtime options may be traced numbers: one compiled program serves every schedule length. optax's own
schedules branch on their arguments in Python, so they cannot.
"""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.run.schema import COOLING, Run

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
    if options.name in COOLING:
        length = options.decay_tokens
        begin = total - length
        u = (tokens - begin) / jnp.maximum(length, 1)
        cooled = _cooldown(options.decay_shape, jnp.clip(u, 0, 1), options.final)
        cooled = jnp.where(u < 0, 1.0, cooled)
        if options.name == "wsd":
            return cooled
        # A run without a cooldown has its length 0, and its last step lies before `begin`.
        return cooled * _power(run, jnp.minimum(tokens, begin))

    begin = options.warmup_tokens
    length = total - begin
    u = (tokens - begin) / jnp.maximum(length, 1)
    factor = _cooldown("cosine", jnp.clip(u, 0, 1), options.final)
    if options.name == "cosine":
        return factor
    is_second_half = 2 * tokens > total
    return factor * jnp.where(is_second_half, 0.5, 1.0)


def _power(run: Run, tokens: Scalar) -> Scalar:
    """Return the factor min(1, a B n^b / opt.lr) after n `tokens`, at B sequences a step."""
    options = run.schedule
    rate = options.a * run.batch * tokens**options.b
    return jnp.minimum(1.0, rate / run.opt.lr)


def schedule(run: Run, tokens: Scalar) -> Scalar:
    """Return the learning rate after `tokens` training tokens, as a factor of opt.lr.

    Warm-up is linear from schedule.warmup_start; cosine then falls to schedule.final at the run's end; cosine_halved
    is half of that in the second half of the run (MatMul-free LM, Zhu et al. 2024); wsd holds 1 and cools down over
    the last schedule.decay_tokens (MiniCPM, Hu et al. 2024; 1-sqrt: Hagele et al. 2024); power falls with the tokens
    until it cools down, and warms up to what it is then (Shen et al. 2024, arXiv 2408.13359, eq. 4 and 5).
    """
    options = run.schedule
    tokens = jnp.asarray(tokens, jnp.float32)
    start = options.warmup_start
    length = jnp.maximum(options.warmup_tokens, 1)
    warmup = start + (1 - start) * tokens / length
    if options.name == "power":
        warmup *= _power(run, length)
    return jnp.where(tokens < options.warmup_tokens, warmup, _body(run, tokens))
