"""Divide gradients by the root of their mean square, of which of a matrix only the means of rows and columns are kept.

optax's transformation of this name takes the two longest axes of an array, which in a stack may be the layers'; here each
matrix of a stack is one by itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array
import optax

from experiments.training.transformations import (
    Parameter,
    Parameters,
    by_path,
    holds_matrices,
    matrix_axes,
    own_axes,
)


class FactoredState(NamedTuple):
    """Means of squares, by path: of a matrix those of its rows and of its columns, of all else those of its entries."""

    count: Any
    v_row: Any
    v_col: Any
    v: Any


def row_axes(parameter: Parameter) -> tuple[str, ...]:
    """Return the logical axes of the means of a matrix's rows: those of the parameter without its last own axis."""
    _, last = matrix_axes(parameter.axes)
    return _without(parameter.axes, last)


def column_axes(parameter: Parameter) -> tuple[str, ...]:
    """Return the logical axes of the means of a matrix's columns."""
    first, _ = matrix_axes(parameter.axes)
    return _without(parameter.axes, first)


def _without(axes: tuple[str, ...], left_out: int) -> tuple[str, ...]:
    """Return logical axes without one. A vocabulary is not split here: it is short, and need not divide."""
    kept = axes[:left_out] + axes[left_out + 1 :]
    return tuple("rows" if name == "vocab" else name for name in kept)


def scale_by_factored_rms(
    decay_power: Any, eps: Any, clip_rms: Any, parameters: Parameters
) -> optax.GradientTransformation:
    """Return the division, followed by clipping of each matrix's or vector's root mean square at `clip_rms`.

    The mean of squares moves by t^-decay_power towards the squares of step t (Shazeer & Stern 2018, section 7.2).
    """
    factored = {path for path, parameter in parameters.items() if holds_matrices(parameter.axes)}

    def init(params: Any) -> FactoredState:
        def means(path: str, param: Array, axis: int) -> Any:
            if path not in factored:
                return optax.MaskedNode()
            return jnp.zeros_like(param).sum(matrix_axes(parameters[path].axes)[axis])

        def squares(path: str, param: Array) -> Any:
            return optax.MaskedNode() if path in factored else jnp.zeros_like(param)

        return FactoredState(
            count=jnp.zeros((), jnp.int32),
            v_row=by_path(lambda path, param: means(path, param, 1), params),
            v_col=by_path(lambda path, param: means(path, param, 0), params),
            v=by_path(squares, params),
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, FactoredState]:
        count = jnp.asarray(optax.safe_increment(state.count))
        kept = 1 - count.astype(jnp.float32) ** -decay_power
        out = {}
        rows = dict(state.v_row)
        columns = dict(state.v_col)
        entries = dict(state.v)
        for path, gradient in updates.items():
            square = gradient**2 + eps
            if path in factored:
                first, last = matrix_axes(parameters[path].axes)
                rows[path] = kept * rows[path] + (1 - kept) * square.mean(last)
                columns[path] = kept * columns[path] + (1 - kept) * square.mean(first)
                mean_square = _product(rows[path], columns[path], first, last)
                own = (first, last)
            else:
                entries[path] = kept * entries[path] + (1 - kept) * square
                mean_square = entries[path]
                own = own_axes(parameters[path].axes)
            step = gradient * jax.lax.rsqrt(mean_square)
            out[path] = step / jnp.maximum(1.0, _rms(step, own) / clip_rms)
        return out, FactoredState(count, rows, columns, entries)

    return optax.GradientTransformation(init, update)


def _product(rows: Array, columns: Array, first: int, last: int) -> Array:
    """Return the matrices whose means of rows and of columns are these: their outer product over the mean of all."""
    tall = jnp.expand_dims(rows, last)
    wide = jnp.expand_dims(columns, first)
    return tall * wide / tall.mean(first, keepdims=True)


def _rms(x: Array, axes: tuple[int, ...]) -> Array:
    """Return the root mean square of each matrix or vector of a stack."""
    return jnp.sqrt(jnp.mean(x**2, axes, keepdims=True))
