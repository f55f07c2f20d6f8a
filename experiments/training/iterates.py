"""Mean of iterates inside an optimizer: schedule-free training (Defazio et al. 2024, arXiv 2405.15682, algorithm 1)."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array
import optax

from experiments.training.transformations import Parameters

ITERATE = "z"  # the field of the state below that holds the iterate


class AveragedState(NamedTuple):
    """The iterate z, the sum of the weights of those before, the largest learning rate, and the state of its steps."""

    weight_sum: Any
    max_lr: Any
    steps: Any
    z: Any


def between(mean: Mapping[str, Array], iterate: Mapping[str, Array], share: Any) -> dict[str, Array]:
    """Return where gradients are taken: `share` of the way from the iterate to the mean."""
    return {path: share * x + (1 - share) * iterate[path] for path, x in mean.items()}


def average_iterates(
    steps: optax.GradientTransformation, share: Any, parameters: Parameters
) -> optax.GradientTransformationExtraArgs:
    """Return the transformation whose parameters are the mean of what `steps` make of an iterate.

    share: gradients are taken so far from the iterate towards the mean.

    A step at learning rate r weighs r_max^2 in the mean, where r_max is the largest so far. Its updates are for a learning
    rate of 1 as all are, and so it has to be told the step's, as `lr`.
    """

    def init(params: Any) -> AveragedState:
        nothing = jnp.zeros((), jnp.float32)
        return AveragedState(nothing, nothing, steps.init(params), jax.tree.map(jnp.copy, params))

    def update(
        updates: Any, state: Any, params: Any = None, *, lr: Any = 1.0, **extra: Any
    ) -> tuple[Any, AveragedState]:
        del extra
        directions, after = steps.update(updates, state.steps, between(params, state.z, share))
        max_lr = jnp.maximum(state.max_lr, lr)
        weight = max_lr**2
        weight_sum = state.weight_sum + weight
        has_weight = weight_sum > 0  # a warm-up may begin at a learning rate of zero
        newest = jnp.where(has_weight, weight / jnp.where(has_weight, weight_sum, 1.0), 0.0)
        out = {}
        iterate = {}
        for path, direction in cast(dict[str, Array], directions).items():
            rate = lr * parameters[path].factors.lr
            iterate[path] = state.z[path] - rate * direction
            change = newest * (params[path] - iterate[path])
            out[path] = jnp.where(rate > 0, change / jnp.where(rate > 0, rate, 1.0), 0.0)
        return out, AveragedState(weight_sum, max_lr, after, iterate)

    return optax.GradientTransformationExtraArgs(init, update)
