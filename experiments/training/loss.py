"""Next-token cross-entropy in nats, auxiliary terms, bits per byte.

Where the logits of all tokens would not fit, those of a chunk of tokens exist at a time.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from experiments.run.schema import Loss
from models.contract import Head
from models.mesh import current, shards

LOGITS = 1 << 25  # that exist at a time on a device where loss.chunk leaves it open: 134 MB
NO_TOKEN = -1  # target of a row that does not count, or only fills a chunk

Terms = dict[str, Float[Array, ""]]


def _is_target(targets: Array, logits: Array) -> Array:
    """Return, over the vocabulary, whether an entry is the target."""
    return targets[..., None] == jnp.arange(logits.shape[-1])


def cross_entropy(
    logits_BLV: Float[Array, "*batch V"], targets_BL: Integer[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Return the nats of each target token, and logsumexp of its logits; in float32."""
    logits_BLV = logits_BLV.astype(jnp.float32)
    log_z_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    # A masked sum, not a gather: it fuses, its gradient is no scatter, and it may be split over the vocabulary.
    picked_BLV = jnp.where(_is_target(targets_BL, logits_BLV), logits_BLV, 0.0)
    return log_z_BL - jnp.sum(picked_BLV, axis=-1), log_z_BL


def objective(
    logits_BLV: Float[Array, "B L V"],
    targets_BL: Integer[Array, "B L"],
    loss: Loss,
    aux: dict[str, Array] | None = None,
    weights: Any = None,
    counted: Any = None,
) -> tuple[Float[Array, ""], Terms]:
    """Return what training minimises, and its terms.

    `weights` has the coefficient of each term of `aux` under its name. z-loss: coefficient times mean logsumexp^2 (PaLM,
    Chowdhery et al. 2022). `counted`: how many targets a mean is over, where some are NO_TOKEN; None: all of them.
    """
    nats_BL, log_z_BL = cross_entropy(logits_BLV, targets_BL)
    if counted is None:
        nats = jnp.mean(nats_BL)
        z_loss = jnp.mean(log_z_BL**2)
    else:
        nats = _where_token(nats_BL, targets_BL).sum() / counted
        z_loss = _where_token(log_z_BL**2, targets_BL).sum() / counted
    return _with_aux(nats + loss.z_loss * z_loss, nats, z_loss, aux or {}, weights)


def _where_token(values: Array, targets: Array) -> Array:
    """Return the values of targets that count, 0 for the others."""
    return jnp.where(targets == NO_TOKEN, 0.0, values)


def _with_aux(
    total: Array, nats: Array, z_loss: Array, aux: dict[str, Array], weights: Any
) -> tuple[Float[Array, ""], Terms]:
    """Add the weighted auxiliary terms to the total, and return it with all terms by name."""
    total = total + sum(getattr(weights, name) * value for name, value in aux.items())
    return total, {"loss": nats, "z_loss": z_loss} | aux


# --- without all logits at once


def read_out(
    head: Head,
    x_BLD: Float[Array, "B L D"],
    targets_BL: Integer[Array, "B L"],
    loss: Loss,
    aux: dict[str, Array] | None = None,
    weights: Any = None,
    counted: Any = None,
) -> tuple[Float[Array, ""], Terms]:
    """Return `objective` of the head's logits, which exist for loss.chunk tokens at a time where there are more.

    Their gradient is made in the same pass and not in a second one: no logit is computed twice. Only the total has a
    gradient then, not its terms by themselves.
    """
    chunk = _chunk(head, x_BLD, loss)
    if chunk is None:
        logits_BLV = head.logits(head.params, x_BLD)
        return objective(logits_BLV, targets_BL, loss, aux, weights, counted)
    z_loss_weight = jnp.asarray(loss.z_loss, jnp.float32)
    total, nats, z_loss = _chunked_objective(head, x_BLD, targets_BL, chunk, z_loss_weight, counted)
    return _with_aux(total, nats, z_loss, aux or {}, weights)


def _chunked_objective(
    head: Head, x_BLD: Array, targets_BL: Array, chunk: int, z_loss_weight: Array, counted: Any = None
) -> tuple[Array, Array, Array]:
    """Return nats + weighted z-loss, nats and z-loss: means over tokens. Only the first has a gradient.

    The forward pass already makes the gradients of sums over tokens, chunk by chunk; the backward pass scales them.
    """
    tokens = targets_BL.size if counted is None else counted

    @jax.custom_vjp
    def means(params: Any, x_BLD: Array, z_loss_weight: Array) -> tuple[Array, Array, Array]:
        values, _ = forward(params, x_BLD, z_loss_weight)
        return values

    def forward(params: Any, x_BLD: Array, z_loss_weight: Array) -> tuple[tuple[Array, Array, Array], Any]:
        def sums(params: Any, x_ND: Array, targets_N: Array, z_loss_weight: Array) -> tuple[Array, Array, Any, Array]:
            rows = _scan(head, params, x_ND, targets_N, chunk, z_loss_weight)
            nats_N = rows.nats_N
            squares_N = jnp.square(rows.log_z_N)
            if counted is not None:
                nats_N = _where_token(nats_N, targets_N)
                squares_N = _where_token(squares_N, targets_N)
            return nats_N.sum(), squares_N.sum(), rows.d_params, rows.d_x_ND

        nats, squares, *gradients = shards.over_batch(sums, params, head.axes, x_BLD, targets_BL, z_loss_weight)
        nats = nats / tokens
        z_loss = squares / tokens
        return (nats + z_loss_weight * z_loss, nats, z_loss), gradients

    def backward(gradients: Any, cotangents: Any) -> tuple[Any, Array, Array]:
        scale = cotangents[0] / tokens
        of_params, of_x = jax.tree.map(lambda g: (g * scale).astype(g.dtype), gradients)
        return of_params, of_x, jnp.zeros_like(scale)

    means.defvjp(forward, backward)
    return means(head.params, x_BLD, z_loss_weight)


def nats(
    head: Head, x_BLD: Float[Array, "B L D"], targets_BL: Integer[Array, "B L"], loss: Loss
) -> Float[Array, "B L"]:
    """Return the nats of each target token, for evaluation: chunked as in `read_out`, and without a gradient."""
    chunk = _chunk(head, x_BLD, loss)
    if chunk is None:
        nats_BL, _ = cross_entropy(head.logits(head.params, x_BLD), targets_BL)
        return nats_BL

    def of_shard(x_BLD: Array, targets_BL: Array, params: Any) -> Array:
        x_ND = x_BLD.reshape(-1, x_BLD.shape[-1])
        rows = _scan(head, params, x_ND, targets_BL.reshape(-1), chunk)
        return rows.nats_N.reshape(targets_BL.shape)

    return shards.per_shard(of_shard, (x_BLD, targets_BL), head.params, head.axes, ("batch", "position"))


def _chunk(head: Head, x_BLD: Array, loss: Loss) -> int | None:
    """Return the tokens whose logits exist at a time on a device; None: all of them do."""
    tokens = math.prod(current.local_shape(x_BLD.shape[:2], ("batch", "position")))
    vocab = jax.eval_shape(head.logits, head.params, x_BLD).shape[-1]
    most = loss.chunk or max(1, LOGITS // vocab)
    return most if most < tokens else None


class _Rows(NamedTuple):
    """What a scan over chunks gives: by row, and gradients of the sum of nats + z_loss logsumexp^2 where asked for."""

    nats_N: Array
    log_z_N: Array
    d_params: Any = None  # in float32
    d_x_ND: Any = None


def _scan(
    head: Head, params: Any, x_ND: Array, targets_N: Array, most: int, z_loss_weight: Array | None = None
) -> _Rows:
    """Compute nats and logsumexp of each row, `most` rows at a time; with `z_loss_weight`, gradients as well."""
    rows = len(x_ND)
    count = -(-rows // most)
    size = -(-rows // count)
    padding = count * size - rows
    x_CSD = jnp.pad(x_ND, ((0, padding), (0, 0))).reshape(count, size, -1)
    targets_CS = jnp.pad(targets_N, (0, padding), constant_values=NO_TOKEN).reshape(count, size)

    def without_gradient(carry: None, chunk: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        x_SD, targets_S = chunk
        return carry, cross_entropy(head.logits(params, x_SD), targets_S)

    def with_gradient(d_params: Any, chunk: tuple[Array, Array]) -> tuple[Any, tuple[Array, Array, Array]]:
        x_SD, targets_S = chunk
        logits_SV, pull_back = jax.vjp(head.logits, params, x_SD)
        nats_S, log_z_S = cross_entropy(logits_SV, targets_S)
        d_logits_SV = _logits_gradient(logits_SV, log_z_S, targets_S, z_loss_weight)
        more, d_x_SD = pull_back(d_logits_SV)
        return jax.tree.map(jnp.add, d_params, more), (nats_S, log_z_S, d_x_SD)

    def by_row(of_chunks: Array) -> Array:
        return of_chunks.reshape(-1, *of_chunks.shape[2:])[:rows]

    if z_loss_weight is None:
        _, (nats_CS, log_z_CS) = jax.lax.scan(without_gradient, None, (x_CSD, targets_CS))
        return _Rows(by_row(nats_CS), by_row(log_z_CS))
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    d_params, (nats_CS, log_z_CS, d_x_CSD) = jax.lax.scan(with_gradient, zeros, (x_CSD, targets_CS))
    return _Rows(by_row(nats_CS), by_row(log_z_CS), d_params, by_row(d_x_CSD))


def _logits_gradient(logits_SV: Array, log_z_S: Array, targets_S: Array, z_loss_weight: Any) -> Array:
    """Return the gradient of nats + z_loss logsumexp^2 to the logits, by hand; zero for rows without a token.

    d nats = p - 1[target] and d logsumexp = p, with p the softmax.
    """
    p_SV = jnp.exp(logits_SV - log_z_S[:, None])
    hit_SV = _is_target(targets_S, logits_SV)
    d_SV = p_SV * (1 + 2 * z_loss_weight * log_z_S[:, None]) - hit_SV
    return jnp.where(targets_S[:, None] < 0, 0.0, d_SV)


def bits_per_byte(loss_nats: float, tokens: int, text_bytes: int) -> float:
    """Convert mean nats per token to bits per byte of the same held-out text.

    Raises ValueError if `text_bytes` is not positive.
    """
    if text_bytes <= 0:
        raise ValueError(f"text_bytes={text_bytes} must be positive")
    return loss_nats * tokens / (math.log(2) * text_bytes)
