"""Next-token cross-entropy in nats, auxiliary terms, bits per byte."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from experiments.run.schema import Loss
from models.contract import Head
from models.mesh import current, shards

LOGITS = 1 << 25  # that exist at a time on a device where loss.chunk leaves it open: 134 MB


def cross_entropy(
    logits_BLV: Float[Array, "*batch V"], targets_BL: Integer[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
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
    nats, z_loss = jnp.mean(nats_BL), jnp.mean(log_z_BL**2)
    return _with_terms(nats + loss.z_loss * z_loss, nats, z_loss, aux or {}, weights)


def _with_terms(
    total: Array, nats: Array, z_loss: Array, aux: dict[str, Array], weights: Any
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
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
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """`objective` of the head's logits, which exist for loss.chunk tokens at a time where there are more.

    Their gradient is made in the same pass and not in a second one: no logit is computed twice. Only the total has a
    gradient then, not its parts by themselves.
    """
    size = _chunk(head, x_BLD, loss)
    if size is None:
        return objective(head.logits(head.params, x_BLD), targets_BL, loss, aux, weights)

    @jax.custom_vjp
    def total(params: Any, x_BLD: Array, z_loss: Array) -> tuple[Array, Array, Array]:
        return forward(params, x_BLD, z_loss)[0]

    def forward(params: Any, x_BLD: Array, z_loss: Array) -> tuple[tuple[Array, Array, Array], Any]:
        def sums(params: Any, x_ND: Array, targets_N: Array, z_loss: Array) -> tuple[Array, Array, Any, Array]:
            nats_N, log_z_N, gradients = _scan(head, params, x_ND, targets_N, size, z_loss)
            return nats_N.sum(), jnp.square(log_z_N).sum(), *gradients

        nats, squares, *gradients = shards.over_batch(sums, params, head.axes, x_BLD, targets_BL, z_loss)
        nats, squares = nats / targets_BL.size, squares / targets_BL.size
        return (nats + z_loss * squares, nats, squares), gradients

    def backward(gradients: Any, cotangents: Any) -> tuple[Any, Array, Array]:
        scale = cotangents[0] / targets_BL.size
        of_params, of_x = jax.tree.map(lambda g: (g * scale).astype(g.dtype), gradients)
        return of_params, of_x, jnp.zeros_like(scale)

    total.defvjp(forward, backward)
    return _with_terms(*total(head.params, x_BLD, jnp.asarray(loss.z_loss, jnp.float32)), aux or {}, weights)


def nats(
    head: Head, x_BLD: Float[Array, "B L D"], targets_BL: Integer[Array, "B L"], loss: Loss
) -> Float[Array, "B L"]:
    """Of each target token, for evaluation: chunked as in `read_out`, and without a gradient."""
    size = _chunk(head, x_BLD, loss)
    if size is None:
        return cross_entropy(head.logits(head.params, x_BLD), targets_BL)[0]

    def rows(x_ND: Array, targets_N: Array, params: Any) -> Array:
        return _scan(head, params, x_ND.reshape(-1, x_ND.shape[-1]), targets_N.reshape(-1), size)[0].reshape(
            targets_N.shape
        )

    return shards.per_shard(rows, (x_BLD, targets_BL), head.params, head.axes, ("batch", "position"))


def _chunk(head: Head, x_BLD: Array, loss: Loss) -> int | None:
    """Tokens whose logits exist at a time on a device; None: all of them do."""
    rows = math.prod(current.local_shape(x_BLD.shape[:2], ("batch", "position")))
    vocab = jax.eval_shape(head.logits, head.params, x_BLD).shape[-1]
    most = loss.chunk or max(1, LOGITS // vocab)
    return most if most < rows else None


def _scan(
    head: Head, params: Any, x_ND: Array, targets_N: Array, most: int, z_loss: Array | None = None
) -> tuple[Array, Array, tuple[Any, Any]]:
    """Nats and logsumexp of each row, `most` rows at a time; with `z_loss`, the gradients of the sum of nats + z_loss
    logsumexp^2 to params (float32) and x as well, else None for both."""
    count = -(-len(x_ND) // most)
    size = -(-len(x_ND) // count)
    pad = count * size - len(x_ND)
    x_CSD = jnp.pad(x_ND, ((0, pad), (0, 0))).reshape(count, size, -1)
    targets_CS = jnp.pad(targets_N, (0, pad), constant_values=-1).reshape(count, size)  # -1: no row

    def chunk(sums: Any, rows: tuple[Array, Array]) -> tuple[Any, tuple[Array, Array, Array | None]]:
        x_SD, targets_S = rows
        if z_loss is None:
            return sums, (*cross_entropy(head.logits(params, x_SD), targets_S), None)
        logits_SV, pull = jax.vjp(head.logits, params, x_SD)
        nats_S, log_z_S = cross_entropy(logits_SV, targets_S)
        p_SV = jnp.exp(logits_SV - log_z_S[:, None])
        hit_SV = targets_S[:, None] == jnp.arange(logits_SV.shape[-1])
        d_SV = p_SV * (1 + 2 * z_loss * log_z_S[:, None]) - hit_SV
        d_params, d_x = pull(jnp.where(targets_S[:, None] < 0, 0.0, d_SV))
        return jax.tree.map(jnp.add, sums, d_params), (nats_S, log_z_S, d_x)

    zeros = None if z_loss is None else jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    sums, (nats_CS, log_z_CS, d_x) = jax.lax.scan(chunk, zeros, (x_CSD, targets_CS))
    flat = lambda a: a.reshape(-1, *a.shape[2:])[: len(x_ND)]  # noqa: E731
    return flat(nats_CS), flat(log_z_CS), (sums, None if d_x is None else flat(d_x))


def bits_per_byte(loss_nats: float, tokens: int, text_bytes: int) -> float:
    """Mean nats per token as bits per byte of the same held-out text.

    Raises ValueError if `text_bytes` is not positive.
    """
    if text_bytes <= 0:
        raise ValueError(f"text_bytes={text_bytes} must be positive")
    return loss_nats * tokens / (math.log(2) * text_bytes)
