"""A batch that goes through the model in equal parts, one after the other, with the result of the whole.

All parts have as many tokens, so that the mean over the batch of whatever is a mean over tokens is the mean of the parts'
means: loss, z-loss, balance terms, gradients. Sums are in float32. What a model counts over a batch and uses otherwise
(Output.counts: how many tokens each expert has) is counted first, in a forward pass of its own over all parts; families
without such counts pay nothing for it. Options with which parts cannot give the numbers of the whole are refused by
`check_parts` of the family's Config.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer

from models.mesh.current import constrain


def split(tokens_BT: Integer[Array, "B T"], parts: int) -> Integer[Array, "P b T"]:
    """Part p has the sequences p, p + parts, …: where rows of the batch are split over devices, each device's share of
    every part is its own, and nothing moves.
    """
    batch, length = tokens_BT.shape
    tokens_PBT = tokens_BT.reshape(batch // parts, parts, length).swapaxes(0, 1)
    return constrain(tokens_PBT, "parts", "batch", "attended")


def each(function: Callable[[Array], Array], tokens_BT: Integer[Array, "B T"], parts: int) -> Array:
    """`function` of the sequences, [b, T] -> [b, ...], part by part: [B, ...]."""
    if parts == 1:
        return function(tokens_BT)
    out = jax.lax.map(function, split(tokens_BT, parts))
    return out.swapaxes(0, 1).reshape(tokens_BT.shape[0], *out.shape[2:])


def counts(function: Callable[[Array], Any], tokens_PBT: Integer[Array, "P b T"]) -> Any:
    """Sums over the parts of a tree of counts; `function` gives those of one part."""
    shapes = jax.eval_shape(function, tokens_PBT[0])
    if not jax.tree.leaves(shapes):
        return shapes
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    add = lambda total, tokens: (jax.tree.map(jnp.add, total, function(tokens)), None)  # noqa: E731
    return jax.lax.scan(add, zeros, tokens_PBT)[0]


def mean_gradient(
    gradient: Callable[[Array], tuple[dict[str, Array], Any]],
    tokens_PBT: Integer[Array, "P b T"],
    axes: dict[str, tuple[str, ...]],
) -> tuple[dict[str, Array], Any]:
    """Means over the parts of gradients by path, and of a tree of numbers besides them.

    `axes`: logical axes of the parameters. Sums are split over devices as they are, so that each device adds up what
    its share of the optimizer's state needs.
    """
    parts = tokens_PBT.shape[0]

    def add(total: Any, tokens: Array) -> tuple[Any, None]:
        grads, rest = gradient(tokens)
        grads = {path: constrain(grad.astype(jnp.float32), *axes[path]) for path, grad in grads.items()}
        return jax.tree.map(jnp.add, total, (grads, rest)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), jax.eval_shape(gradient, tokens_PBT[0]))
    zeros = ({path: constrain(zero, *axes[path]) for path, zero in zeros[0].items()}, zeros[1])
    return jax.tree.map(lambda x: x / parts, jax.lax.scan(add, zeros, tokens_PBT)[0])
