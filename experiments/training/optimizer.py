"""The learning rate as a function of tokens, and the optax chain.

Both take a `Run` whose runtime options may be traced numbers: one compiled program serves every learning rate,
schedule length and decay. (optax's own schedules branch on their arguments in Python, so they cannot.)
"""

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import optax

from experiments.run.schema import Run
from experiments.training.offload import in_turn
from models.mesh.rules import is_axes
from models.numerics.parametrization import Factors, is_matrix


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


def decay_mask(axes: Any) -> Any:
    """Weight decay touches what has two or more axes besides the stack of layers: no norm, no bias."""
    return jax.tree.map(is_matrix, axes, is_leaf=is_axes)


def transform(run: Run, axes: dict[str, Any], offload: str = "none") -> optax.GradientTransformation:
    """Clipping, Adam moments and decoupled weight decay. The learning rate is applied by the train step.

    `axes` has the logical axis names of the parameters by path. Where the model's parametrization asks for it, each
    parameter has its own multiple of the learning rate, of weight_decay and of eps (models/numerics/parametrization.py).
    `offload` "optimizer": the moments come from the host's memory and go back there (experiments/training/offload.py).
    """
    opt, factors = run.opt, {path: run.model.factors(path, names) for path, names in axes.items()}
    clip = optax.clip_by_global_norm(opt.clip_norm) if opt.clip_norm is not None else optax.identity()
    adam = optax.scale_by_adam(b1=opt.beta1, b2=opt.beta2, eps=opt.eps)
    mask = decay_mask(axes)
    decay = lambda tree: optax.add_decayed_weights(opt.weight_decay, {path: mask[path] for path in tree})  # noqa: E731
    chain = optax.chain(clip, adam, decay(axes))

    def times(tree: dict[str, Any], factor: Callable[[Factors], float]) -> dict[str, Any]:
        numbers = {path: factor(factors[path]) for path in tree}
        return {path: leaf if numbers[path] == 1 else leaf * numbers[path] for path, leaf in tree.items()}

    def change(grads: Any, state: Any, params: Any) -> tuple[Any, Any, Any]:
        # Adam takes one eps. Its result does not change when gradients and eps shrink together, so that gradients over c
        # do what c eps would do: one Adam, whose state has one shape. Clipping looks at the gradients as they are.
        updates, moments = adam.update(times(grads, lambda f: 1 / f.eps), state[1], params)
        updates, decayed = decay(updates).update(updates, state[2], times(params, lambda f: f.weight_decay))
        return times(updates, lambda f: f.lr), moments, decayed

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        grads, clipped = clip.update(grads, state[0], params)
        if offload == "none":
            updates, moments, decayed = change(grads, state, params)
            return updates, (clipped, moments, decayed)
        adams, count = state[1], None

        def one(path: str, moments: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            nonlocal count
            mu, nu = ({path: moment} for moment in moments)
            alone = (clipped, adams._replace(mu=mu, nu=nu), state[2])
            updates, after, _ = change({path: grads[path]}, alone, {path: params[path]})
            count = after.count
            return updates[path], (after.mu[path], after.nu[path])

        updates, kept = in_turn(one, params, {path: (adams.mu[path], adams.nu[path]) for path in grads})
        mu, nu = ({path: pair[i] for path, pair in kept.items()} for i in (0, 1))
        return updates, (clipped, adams._replace(count=count, mu=mu, nu=nu), state[2])

    return optax.GradientTransformation(chain.init, update)
