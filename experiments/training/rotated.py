"""Adam in axes in which the products of gradients are nearly diagonal (SOAP; Vyas et al. 2024, arXiv 2409.11321).

A matrix's gradient G [M, N] is looked at as Q^T G P, where Q are the eigenvectors of the mean of G G^T and P those of the
mean of G^T G. Both are corrected every few steps by one step of orthogonal iteration. Each matrix of a stack is one by
itself; on a mesh each device finds the axes of its share of them. Of a population packed by vmap the axes of all slots are
corrected when those of one are due: slots that began together are due together.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer
import optax

from experiments.training.transformations import STACKED, Parameter, Parameters, by_path, matrix_axes
from models.mesh.shards import per_matrix


class RotatedState(NamedTuple):
    """By path: the mean of gradients, the mean of squares in the rotated axes, means of products, and their axes."""

    count: Any
    mu: Any
    nu: Any
    left: Any
    right: Any
    left_basis: Any
    right_basis: Any


def left_axes(parameter: Parameter) -> tuple[str, ...]:
    """Return the logical axes of the products of a matrix's rows with each other."""
    return _square(parameter.axes, 0)


def right_axes(parameter: Parameter) -> tuple[str, ...]:
    """Return the logical axes of the products of a matrix's columns with each other."""
    return _square(parameter.axes, 1)


def _square(axes: tuple[str, ...], which: int) -> tuple[str, ...]:
    stack = tuple(name for name in axes if name in STACKED)
    own = axes[matrix_axes(axes)[which]]
    return (*stack, own, own)


def scale_by_rotated_adam(
    beta1: Any, beta2: Any, eps: Any, every_steps: int, parameters: Parameters
) -> optax.GradientTransformationExtraArgs:
    """Return the transformation of updates that are all matrices, or stacks of them.

    It may be told whether its result will be taken, as `is_taken`: axes are looked for only then.
    """
    options = (beta1, beta2, eps)

    def init(params: Any) -> RotatedState:
        def square(path: str, param: Array, which: int) -> Array:
            matrices = _matrices(param, parameters[path].axes)
            *stack, rows, columns = matrices.shape
            size = (rows, columns)[which]
            return jnp.zeros((*stack, size, size), param.dtype)

        zeros = jax.tree.map(jnp.zeros_like, params)
        left = by_path(lambda path, param: square(path, param, 0), params)
        right = by_path(lambda path, param: square(path, param, 1), params)
        count = jnp.zeros((), jnp.int32)
        return RotatedState(
            count=count,
            mu=zeros,
            nu=zeros,
            left=left,
            right=right,
            left_basis=left,
            right_basis=right,
        )

    def update(
        updates: Any, state: Any, params: Any = None, *, is_taken: Any = True, **extra: Any
    ) -> tuple[Any, RotatedState]:
        del params, extra
        count = jnp.asarray(optax.safe_increment(state.count))
        look = _look(count, every_steps, is_taken)
        kept = state[1:]
        after = RotatedState(count, *map(dict, kept))
        out = dict(updates)
        for path, update in updates.items():
            if isinstance(update, optax.MaskedNode):
                continue
            axes = parameters[path].axes
            before = _Matrix(*(part[path] for part in kept))
            step, moments = _adam(update, before, axes, count, options)
            out[path] = step
            turned = _turned(update, moments, parameters[path], look, beta2)
            for part, value in zip(after[1:], turned, strict=True):
                part[path] = value
        return out, after

    return optax.GradientTransformationExtraArgs(init, update)


class _Matrix(NamedTuple):
    """What is kept of one parameter."""

    mu: Array
    nu: Array
    left: Array
    right: Array
    left_basis: Array
    right_basis: Array


def _matrices(x: Array, axes: tuple[str, ...]) -> Array:
    """Return an array of a parameter's axes with the two of its matrices last."""
    return jnp.moveaxis(x, matrix_axes(axes), (-2, -1))


def _stored(x: Array, axes: tuple[str, ...]) -> Array:
    """Return matrices in a parameter's own order of axes."""
    return jnp.moveaxis(x, (-2, -1), matrix_axes(axes))


def _adam(
    gradient: Array, kept: _Matrix, axes: tuple[str, ...], count: Array, options: tuple[Any, Any, Any]
) -> tuple[Array, _Matrix]:
    """Return Adam's step in the rotated axes, turned back, and the moments. At the first step there are no axes yet."""
    beta1, beta2, eps = options
    mu = beta1 * kept.mu + (1 - beta1) * gradient
    rotated = _rotate(_matrices(gradient, axes), kept)
    square_now = _stored(rotated**2, axes)
    nu = beta2 * kept.nu + (1 - beta2) * square_now
    is_first = count == 1
    mu = jnp.where(is_first, kept.mu, mu)
    nu = jnp.where(is_first, kept.nu, nu)
    steps = jnp.maximum(count - 1, 1)
    number = steps.astype(jnp.float32)
    mean = _rotate(_matrices(mu, axes), kept)
    mean /= 1 - beta1**number
    square = _matrices(nu, axes)
    square /= 1 - beta2**number
    step = mean / (jnp.sqrt(square) + eps)
    back = jnp.swapaxes(kept.right_basis, -1, -2)
    turned_back = kept.left_basis @ step @ back
    return _stored(turned_back, axes), kept._replace(mu=mu, nu=nu)


def _rotate(matrices: Array, kept: _Matrix) -> Array:
    rows = jnp.swapaxes(kept.left_basis, -1, -2)
    return rows @ matrices @ kept.right_basis


def _turned(gradient: Array, kept: _Matrix, parameter: Parameter, look: Array, beta2: Any) -> _Matrix:
    """Add the gradient's products to their means, and every few steps correct the axes."""
    matrices = _matrices(gradient, parameter.axes)
    transposed = jnp.swapaxes(matrices, -1, -2)
    of_rows = matrices @ transposed
    of_columns = transposed @ matrices
    left = beta2 * kept.left + (1 - beta2) * of_rows
    right = beta2 * kept.right + (1 - beta2) * of_columns
    left_basis, left_order = _axes(left, kept.left_basis, left_axes(parameter), look)
    right_basis, right_order = _axes(right, kept.right_basis, right_axes(parameter), look)
    nu = _matrices(kept.nu, parameter.axes)
    nu = jnp.take_along_axis(nu, left_order[..., :, None], -2)
    nu = jnp.take_along_axis(nu, right_order[..., None, :], -1)
    ordered = _stored(nu, parameter.axes)
    return _Matrix(kept.mu, ordered, left, right, left_basis, right_basis)


# What a step does about axes, that which costs most first.
FIND = 0
CORRECT = 1
KEEP = 2


def _look(count: Array, every_steps: int, is_taken: Any) -> Array:
    """Return what the step of this number, from 1, does about axes; KEEP where its result is not taken."""
    is_due = (count - 1) % every_steps == 0
    unless_first = jnp.where(is_due, CORRECT, KEEP)
    look = jnp.where(count == 1, FIND, unless_first)
    return jnp.where(is_taken, look, KEEP)


def _axes(products: Array, basis: Array, axes: tuple[str, ...], look: Array) -> tuple[Array, Array]:
    """Return the axes of products, and the order in which those of before stand among them."""
    return per_matrix(_looked_for, axes, STACKED, (products, basis), look)


@jax.custom_batching.custom_vmap
def _looked_for(products: Array, basis: Array, look: Array) -> tuple[Array, Array]:
    return jax.lax.switch(look, (_first, _corrected, _kept), products, basis)


@_looked_for.def_vmap
def _looked_for_by_slots(
    slots: int, batched: list[bool], products: Array, basis: Array, look: Array
) -> tuple[tuple[Array, Array], tuple[bool, bool]]:
    """Do of all slots what one of them needs most: a switch by slot would do everything at every step, and select."""
    stacks = []
    for stack, is_batched in zip((products, basis, look), batched, strict=True):
        stacks.append(stack if is_batched else jnp.broadcast_to(stack, (slots, *stack.shape)))

    def at_most(*ways: Callable[..., Any]) -> Callable[..., Any]:
        """Do for each slot one of the last ways."""
        skipped = KEEP + 1 - len(ways)

        def one(products: Array, basis: Array, look: Array) -> tuple[Array, Array]:
            return jax.lax.switch(look - skipped, ways, products, basis)

        return jax.vmap(one)

    ways = (at_most(_first, _corrected, _kept), at_most(_corrected, _kept), at_most(_kept))
    most = jnp.min(stacks[-1])
    return jax.lax.switch(most, ways, *stacks), (True, True)


def _first(products: Float[Array, "*Y M M"], basis: Array) -> tuple[Array, Integer[Array, "*Y M"]]:
    """Return eigenvectors, that of the largest eigenvalue first."""
    _, vectors = jnp.linalg.eigh(products)
    _, order = _kept(products, basis)
    return vectors[..., ::-1], order


def _corrected(products: Float[Array, "*Y M M"], basis: Array) -> tuple[Array, Integer[Array, "*Y M"]]:
    """Return the axes after a step of orthogonal iteration, in the order of what they carry."""
    sizes = jnp.einsum("...ij,...ik,...kj->...j", basis, products, basis)
    order = jnp.argsort(-sizes, axis=-1)
    sorted_basis = jnp.take_along_axis(basis, order[..., None, :], -1)
    corrected, _ = jnp.linalg.qr(products @ sorted_basis)
    return corrected, order


def _kept(products: Float[Array, "*Y M M"], basis: Array) -> tuple[Array, Integer[Array, "*Y M"]]:
    """Return the axes as they were."""
    order = jnp.arange(products.shape[-1])
    return basis, jnp.broadcast_to(order, products.shape[:-1])
