"""Means of a run's parameters over its steps, which are evaluated beside the parameters themselves.

"ema": an exponential mean (Polyak averaging; Morales-Brouwer et al. 2023, arXiv 2411.18704), as if it had always been
there: the weights of the steps so far add up to one. "tail": the plain mean of the last share of the run, or of some of its
steps, such as those of the last checkpoints (LAWA, Kaddour 2022, arXiv 2209.14981). Before that share it follows the
parameters. Nothing trains on a mean, and a child starts from its parent's parameters.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from experiments.run.schema import Run

Averages = dict[str, dict[str, Array]]  # by name, then by the parameter's path


def names(run: Run) -> tuple[str, ...]:
    """Return the names of the means that a run keeps."""
    kept = []
    if run.averaging.ema:
        kept.append("ema")
    if run.averaging.tail:
        kept.append("tail")
    return tuple(kept)


def of_all(run: Run, of_params: Any) -> Any:
    """Return for each mean what is there for the parameters: arrays, shapes or axes. None where no mean is kept."""
    found = dict.fromkeys(names(run), of_params)
    return found or None


def updated(values: Run, averages: Averages | None, params: Mapping[str, Array], step: Array) -> Averages | None:
    """Return the means after step number `step` (the first is 1), which has led to `params`."""
    if averages is None:
        return None
    new = {}
    for name, mean in averages.items():
        share = _SHARES[name](values, step)
        new[name] = _moved(mean, params, share)
    return new


def _moved(mean: Mapping[str, Array], params: Mapping[str, Array], share: Array) -> dict[str, Array]:
    """Return a mean after it has gone a share of the way to the parameters."""
    moved = {}
    for path, before in mean.items():
        rest = 1 - share
        moved[path] = share * params[path] + rest * before  # exact for a share of 0 or 1
    return moved


def _ema_share(values: Run, step: Array) -> Array:
    """Return the share of the newest parameters in the exponential mean."""
    decay = values.averaging.ema_decay
    number = step.astype(jnp.float32)
    weight_so_far = 1 - decay**number
    return (1 - decay) / weight_so_far


def _tail_share(values: Run, step: Array) -> Array:
    """Return the share of the newest parameters in the mean over the end of the run: none, where they do not count.

    Counted are the last step, and those that lie a whole number of intervals before it.
    """
    options = values.averaging
    tokens = jnp.asarray(values.tokens, jnp.float32)
    steps = jnp.round(tokens / values.batch_tokens)
    every = _steps(options.tail_every_tokens, values.batch_tokens)
    wanted = jnp.ceil(options.tail_share * steps / every)
    counted = jnp.maximum(wanted, 1)
    left = steps - step.astype(jnp.float32)
    begin = (counted - 1) * every  # steps before the last one
    so_far = counted - left / every
    of_counted = 1 / jnp.maximum(so_far, 1)
    is_counted = left % every == 0
    share = jnp.where(is_counted, of_counted, 0.0)
    return jnp.where(left >= begin, 1.0, share)


def _steps(tokens: Any, batch_tokens: int) -> Array:
    """Return the steps between two that are counted; every one, where the option is not set (in programs: infinite)."""
    if tokens is None:
        return jnp.ones((), jnp.float32)
    wanted = jnp.asarray(tokens, jnp.float32) / batch_tokens
    steps = jnp.maximum(1, jnp.round(wanted))
    return jnp.where(jnp.isinf(steps), 1.0, steps)


_SHARES = {"ema": _ema_share, "tail": _tail_share}
