"""Gradient accumulation: a batch goes through the model in equal parts, one after the other, with the result of the whole.

All microbatches have as many tokens, so that the mean over the batch of whatever is a mean over tokens is the mean of the
microbatches' means: loss, z-loss, balance terms, gradients. Sums are in float32. What a model counts over a batch and uses
otherwise (Output.counts: how many tokens each expert has) is counted first, in a forward pass of its own over all
microbatches; families without such counts pay nothing for it. Options with which microbatches cannot give the numbers of
the whole are refused by `check_parts` of the family's Config.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer

from models.mesh.current import constrain

Sequences = Integer[Array, "B T"]
Microbatches = Integer[Array, "P b T"]
Part = tuple[Any, Any]  # of a batch: the tokens of its sequences, and their keys or None
Gradients = dict[str, Array]


def split_batch(tokens_BT: Sequences, count: int) -> Microbatches:
    """Split a batch into `count` microbatches. Number p has the sequences p, p + count, …

    Where rows of the batch are split over devices, each device's share of every microbatch is its own, and nothing moves.
    """
    batch, length = tokens_BT.shape
    grouped = tokens_BT.reshape(batch // count, count, length)
    return constrain(grouped.swapaxes(0, 1), "parts", "batch", "attended")


def split_all(tokens_BT: Sequences, keys_B: Array | None, count: int) -> tuple[Microbatches, Array | None]:
    """Split a batch and the keys of its sequences alike."""
    tokens_PBT = split_batch(tokens_BT, count)
    if keys_B is None:
        return tokens_PBT, None
    keys_PB = keys_B.reshape(-1, count).swapaxes(0, 1)
    return tokens_PBT, keys_PB


def map_microbatches(function: Callable[[Array], Array], tokens_BT: Sequences, count: int) -> Array:
    """Return `function` of the sequences, [b, T] -> [b, ...], one microbatch after the other: [B, ...]."""
    if count == 1:
        return function(tokens_BT)
    out = jax.lax.map(function, split_batch(tokens_BT, count))
    in_order = out.swapaxes(0, 1)
    return in_order.reshape(tokens_BT.shape[0], *out.shape[2:])


def sum_counts(count_one: Callable[[Part], Any], parts: tuple[Microbatches, Array | None]) -> Any:
    """Sum over the microbatches a tree of counts, which `count_one` gives of one of them."""
    count_one = jax.jit(count_one, inline=True)  # traced once: for shapes, and for the loop
    shapes = jax.eval_shape(count_one, _first(parts))
    if not jax.tree.leaves(shapes):
        return shapes

    def add(total: Any, part: Part) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, count_one(part)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, parts)
    return total


def _first(parts: Any) -> Any:
    """Return the first of several parts."""
    return jax.tree.map(lambda x: x[0], parts)


def mean_gradient(
    gradient: Callable[[Part], tuple[Gradients, Any]],
    parts: tuple[Microbatches, Array | None],
    axes: Mapping[str, tuple[str, ...]],
    count: int,
    measure: Callable[[Gradients], Any] = dict,
) -> tuple[Gradients, Any, Any]:
    """Return the means over the microbatches of gradients by path, of a tree of numbers besides them, and of a measure.

    `measure`: a tree of numbers, of one microbatch's gradients. `axes`: logical axes of the parameters. Sums are split over devices as they are, so that each device adds up what
    its share of the optimizer's state needs.
    """

    def measured(part: Part) -> tuple[Gradients, Any, Any]:
        gradients, numbers = gradient(part)
        in_float32 = {path: value.astype(jnp.float32) for path, value in gradients.items()}
        return in_float32, numbers, measure(in_float32)

    measured = jax.jit(measured, inline=True)  # traced once: for shapes, and for the loop

    def laid_out(gradients: Gradients) -> Gradients:
        return {path: constrain(value, *axes[path]) for path, value in gradients.items()}

    def add(total: Any, part: Part) -> tuple[Any, None]:
        gradients, *numbers = measured(part)
        return jax.tree.map(jnp.add, total, (laid_out(gradients), *numbers)), None

    shapes = jax.eval_shape(measured, _first(parts))
    zero_gradients, *zero_numbers = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes)
    zeros = (laid_out(zero_gradients), *zero_numbers)
    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda x: x / count, total)
