"""Multiply by matrices that lie split over devices, with the least that the devices have to send.

Fully sharded (ZeRO-3, Rajbhandari et al. 2020): matrices lie split over fsdp, expert and sequence. Whoever multiplies one
gathers it first, in the type in which it is multiplied, and the sum of its gradient over the batch leaves each device with
its own shard: per step and device twice a matrix and once its gradient, times (n - 1) / n for n devices.

XLA gathers well, from a constraint. The scattered sum it turns into a sum that every device gets whole, twice the bytes:
so the product that makes the gradient is done per device here, and summed along one ring of devices after the other
(models/mesh/collectives.py). On one device everything here is the plain operation.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.mesh.collectives import reduce_scatter
from models.mesh.current import active_axes, constrain, current_mesh, restrict
from models.mesh.mesh import STORAGE_AXES
from models.mesh.rules import spec
from models.mesh.tokens import flatten_tokens, unflatten_tokens


def fully_sharded() -> bool:
    """Whether matrices are split to be stored, where this is traced, and not already in the hands of the caller."""
    return bool(active_axes(("embed",)))


def gathered(weight: Array, *axes: str) -> Array:
    """State a matrix as a product wants it: whole along fsdp, expert and sequence, still split along other mesh axes.

    To be called on what is multiplied, after its cast or rounding: that is what travels. Along one ring after the other:
    of a gather over a cube of chips libtpu makes a sum of zeros and shards, twice the bytes.
    """
    active = active_axes(axes)
    rings = [name for name in STORAGE_AXES if name in active]
    for first in reversed(range(len(rings))):
        weight = constrain(weight, *axes, without=rings[first:])
    return weight


def sharded_matmul(
    x: Float[Array, "*batch I"], weight: Float[Array, "I O"], axes: Sequence[str], dtype: Any = None
) -> Float[Array, "*batch O"]:
    """Multiply the last axis of x by W, which may lie split over devices; `axes` are the logical ones of W.

    `dtype`: of the result, if not that of x: its sums are not rounded to the type of x then. What is sent, and what the
    backward pass multiplies, has the type of x all the same.
    """
    dtype = dtype or x.dtype
    if fully_sharded():
        return _gathered_matmul(x, weight, tuple(axes), dtype)
    if dtype == x.dtype:
        return _matmul_of_tokens(x, weight)
    return _summed_in(x, weight, dtype)


def _matmul_of_tokens(x: Array, weight: Array, dtype: Any = None) -> Array:
    # Rows of flattened tokens: two-dimensional matmuls use all cores of a CPU, batched ones only one.
    product = jnp.matmul(flatten_tokens(x), weight, preferred_element_type=dtype)
    return unflatten_tokens(product, x.shape[:-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _summed_in(x: Array, weight: Array, dtype: Any) -> Array:
    return _matmul_of_tokens(x, weight, dtype)


def _summed_in_forward(x: Array, weight: Array, dtype: Any) -> tuple[Array, tuple[Array, Array]]:
    return _summed_in(x, weight, dtype), (x, weight)


def _summed_in_backward(dtype: Any, saved: tuple[Array, Array], d_out: Array) -> tuple[Array, Array]:
    """Return the gradients of both factors, as of a product in the type of `x`."""
    del dtype
    x, weight = saved
    _, gradient = jax.vjp(_matmul_of_tokens, x, weight)
    return gradient(d_out.astype(x.dtype))


_summed_in.defvjp(_summed_in_forward, _summed_in_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _gathered_matmul(x: Array, weight: Array, axes: tuple[str, ...], dtype: Any) -> Array:
    return _matmul_of_tokens(x, gathered(weight, *axes), dtype)


def _gathered_matmul_forward(
    x: Array, weight: Array, axes: tuple[str, ...], dtype: Any
) -> tuple[Array, tuple[Array, Array]]:
    return _gathered_matmul(x, weight, axes, dtype), (x, weight)


def _gathered_matmul_backward(
    axes: tuple[str, ...], dtype: Any, saved: tuple[Array, Array], d_out: Array
) -> tuple[Array, Array]:
    """Return the gradients of both factors; the weight's is left scattered as it is stored."""
    del dtype
    x, weight = saved
    d_out = d_out.astype(x.dtype)

    def product(x_NI: Array, d_NO: Array) -> Array:
        return x_NI.T @ d_NO

    d_weight = weight_gradient(product, x, d_out, axes)
    d_x = _matmul_of_tokens(d_out, gathered(weight, *axes).T)
    return d_x, d_weight.astype(weight.dtype)


_gathered_matmul.defvjp(_gathered_matmul_forward, _gathered_matmul_backward)


def weight_gradient(
    product: Callable[[Array, Array], Array],
    x: Float[Array, "*batch I"],
    d_out: Float[Array, "..."],
    axes: Sequence[str],
) -> Float[Array, "I *O"]:
    """Sum `product(rows of x [N, I], rows of d_out [N, *O])` over the batch, laid out as the matrix of `axes` is.

    The batch is B L, or the rows that `flatten_tokens` makes of it. What travels has the type of `x`. No axes: XLA's own
    sum.
    """
    batch = x.shape[:-1]
    inputs = x.shape[-1]
    outputs = d_out.shape[x.ndim - 1 :]

    def partial(x: Array, d_out: Array) -> Array:
        x_NI = x.reshape(-1, x.shape[-1])
        d_NO = d_out.reshape(-1, *outputs)
        return product(x_NI, d_NO)

    if not axes or not fully_sharded():
        return partial(x, d_out)

    def local(x: Array, d_out: Array) -> Array:
        return reduce_scatter(partial(x, d_out).astype(x.dtype), axes)

    batch_axes = ("batch", "position") if x.ndim == 3 else ("tokens",)
    mesh = current_mesh()
    manual = active_axes(batch_axes)
    along = spec(batch_axes, batch, mesh)
    out = restrict(spec(axes, (inputs, *outputs), mesh), manual)
    mapped = jax.shard_map(local, in_specs=(along, along), out_specs=out, axis_names=set(manual), check_vma=False)
    return mapped(x, d_out)
