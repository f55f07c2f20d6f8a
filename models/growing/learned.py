"""Make a larger model's parameters a combination of all old ones that is trained first (LiGO, Wang et al. 2023).

The combination is a dictionary of matrices: one for each axis that widens, which several parameters share, and one of
layers for each parameter that deepens. Training it is left to the caller.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from models.contract import Role
from models.growing.options import Growth
from models.growing.plan import HEAD_AXES, GrowingParameter

# Matrices of attention by the role of the parameter whose heads they widen. READS: the gate of linear attention.
_OF_HEADS = {Role.QUERY: "query", Role.KEY: "key", Role.VALUE: "value", Role.READS: "gate", Role.WRITES: "out"}
_OF_HEAD_NORMS = {"heads": "query_norm", "kv_heads": "key_norm"}


def first_combination(
    parameters: Mapping[str, GrowingParameter], how: Growth, seed: int, grouped: bool
) -> dict[str, Float[np.ndarray, "..."]]:
    """Return where the combination starts: identities again and again in depth, an identity above noise in width.

    `grouped`: query heads share key-value heads.
    """
    matrices: dict[str, np.ndarray] = {}
    draw = np.random.default_rng([seed, 2])
    for path in sorted(parameters):
        one = parameters[path]
        if how.depth == "learn" and one.depth is not None:
            identity = np.eye(one.depth.source, dtype=np.float32)
            matrices[depth_key(path)] = identity[one.depth.index]
        for axis, width in one.wider_axes if how.width == "learn" else ():
            key = width_key(one, axis, grouped)
            if key in matrices:
                continue  # another parameter shares it
            old = one.source.shape[axis]
            new = len(width.index)
            noise = draw.normal(0, new**-0.5, (new - old, old))
            matrices[key] = np.concatenate([np.eye(old), noise]).astype(np.float32)
    return matrices


def expand(
    parameters: Mapping[str, GrowingParameter],
    learned: Mapping[str, Any],
    values: Mapping[str, Any],
    how: Growth,
    grouped: bool,
) -> dict[str, Float[Array, "..."]]:
    """Return the larger model's parameters as the combination `learned` has them; differentiable."""
    out = {}
    for path, value in values.items():
        one = parameters[path]
        for axis, _ in one.wider_axes if how.width == "learn" else ():
            matrix = learned[width_key(one, axis, grouped)]
            value = jnp.moveaxis(jnp.tensordot(value, matrix, (axis, 1)), -1, axis)
        if one.depth is not None:
            mix = learned.get(depth_key(path))
            value = value[one.depth.index] if mix is None else jnp.tensordot(mix, value, 1)
        out[path] = jnp.asarray(value)
    return out


def depth_key(path: str) -> str:
    """Name the matrix of a parameter's layers."""
    return f"depth:{path}"


def width_key(one: GrowingParameter, axis: int, grouped: bool) -> str:
    """Name the matrix that widens an axis. Query, key and value have one each; a layer's output reads the value's.

    With `grouped` heads values have fewer of them than what reads them: then the output has a matrix of its own.
    """
    name = one.target.axes[axis]
    role = one.target.role
    if name not in HEAD_AXES:
        channels = "ff" if name == "ff" else "embed"
        return f"width:{channels}:{one.source.shape[axis]}"
    if one.target.is_norm_scale:
        return f"width:{_OF_HEAD_NORMS[name]}"
    if role == Role.WRITES and not grouped:
        role = Role.VALUE
    return f"width:{_OF_HEADS[role]}"
