"""A lean decoder step as one would write it by hand, for comparison: einsums, scanned layers, whole attention, AdamW.

It has no option, no mesh and no accounting: what our train step is measured beside (experiments/benchmark.py).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.1


def hand_written(shape: dict[str, int], ff: int, vocab: int) -> tuple[Callable[..., Any], Any]:
    """Return a jitted train step (state, tokens) -> (state, loss), and its first state."""
    K = shape["width"] // shape["heads"]
    L = shape["seq_len"]
    params = _init(shape, ff, vocab)
    cos, sin = _rotary(L, K)
    mask = jnp.tril(jnp.ones((L, L), bool))

    def rotate(x: Any) -> Any:
        a, b = jnp.split(x, 2, -1)
        turned = (a * cos - b * sin, b * cos + a * sin)
        return jnp.concatenate(turned, -1)

    def attention(x: Any, p: Any) -> Any:
        q = jnp.einsum("bld,dhk->blhk", x, p["q"])
        k = jnp.einsum("bld,dhk->blhk", x, p["k"])
        v = jnp.einsum("bld,dhk->blhk", x, p["v"])
        scores = jnp.einsum("blhk,bmhk->bhlm", rotate(q), rotate(k)) * K**-0.5
        visible = jnp.where(mask, scores, -jnp.inf)
        weights = jax.nn.softmax(visible)
        return jnp.einsum("bhlm,bmhk,hkd->bld", weights, v, p["o"])

    def feed_forward(x: Any, p: Any) -> Any:
        gate = jnp.einsum("bld,df->blf", x, p["gate"])
        up = jnp.einsum("bld,df->blf", x, p["up"])
        hidden = jax.nn.silu(gate) * up
        return jnp.einsum("blf,fd->bld", hidden, p["down"])

    def layer(x: Any, p: Any) -> Any:
        x = x + attention(_norm(x, p["n1"]), p)
        x = x + feed_forward(_norm(x, p["n2"]), p)
        return x, None

    def loss(params: Any, tokens: Any) -> Any:
        inputs = tokens[:, :-1]
        targets = tokens[:, 1:]
        x = params["embed"][inputs]
        x, _ = jax.lax.scan(layer, x, params["layers"])
        x = _norm(x, params["norm"])
        logits = jnp.einsum("bld,dv->blv", x, params["head"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    adamw = optax.adamw(LEARNING_RATE, b2=0.95, weight_decay=WEIGHT_DECAY)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), adamw)

    def step(state: Any, tokens: Any) -> Any:
        params, opt = state
        value, grads = jax.value_and_grad(loss)(params, tokens)
        updates, opt = optimizer.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), value

    return jax.jit(step, donate_argnums=0), (params, optimizer.init(params))


def _norm(x: Any, scale: Any) -> Any:
    square = jnp.mean(x * x, -1, keepdims=True)
    return x * jax.lax.rsqrt(square + 1e-5) * scale


def _rotary(seq_len: int, K: int) -> tuple[Any, Any]:
    """Return cosines and sines of the rotary angles [L, 1, K / 2]."""
    frequency = 1e4 ** (-np.arange(0, K, 2) / K)
    angle = np.outer(np.arange(seq_len), frequency).astype(np.float32)
    angle = angle[:, None]
    return jnp.cos(angle), jnp.sin(angle)


def _init(shape: dict[str, int], ff: int, vocab: int) -> dict[str, Any]:
    """Draw the parameters; those of all layers are stacked along their first axis."""
    D = shape["width"]
    Y = shape["depth"]
    H = shape["heads"]
    K = D // H
    draw = np.random.default_rng(0)

    def normal(*size: int) -> Any:
        return jnp.asarray(draw.normal(0, 0.02, size), jnp.float32)

    layers = {
        "q": normal(Y, D, H, K),
        "k": normal(Y, D, H, K),
        "v": normal(Y, D, H, K),
        "o": normal(Y, H, K, D),
        "gate": normal(Y, D, ff),
        "up": normal(Y, D, ff),
        "down": normal(Y, ff, D),
        "n1": jnp.ones((Y, D)),
        "n2": jnp.ones((Y, D)),
    }
    return {"embed": normal(vocab, D), "head": normal(D, vocab), "norm": jnp.ones(D), "layers": layers}
