"""Hide what is new behind a mask that rises from 0 to 1 while the larger model trains (MSG, Yao et al. 2024)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from models.contract import ParamInfo
from models.growing.layout import Layout
from models.growing.options import Growth
from models.growing.plan import GrowingParameter
from models.growing.width import along, new_outputs


def mask_shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a program's masks: those of the parameters, with size 1 along the input and over experts."""
    return {path: _mask_shape(parameter) for path, parameter in layout.parameters.items()}


def _mask_shape(parameter: ParamInfo) -> tuple[int, ...]:
    """Return the shape of a parameter's mask: alike for all its inputs and all experts."""
    shape = list(parameter.shape)
    for axis, name in enumerate(parameter.axes):
        if name == "experts" or axis == parameter.input_axis:
            shape[axis] = 1
    return tuple(shape)


def new_entries(one: GrowingParameter, how: Growth) -> Float[np.ndarray, "..."]:
    """Return 1 for what a mask multiplies, else 0, with size 1 along axes that it does not depend on.

    Masked are, where they start at random, a matrix's new output channels, and what a new layer writes: so the new parts
    add nothing at first.
    """
    mask = np.zeros(_mask_shape(one.target), np.float32)
    if one.target.is_norm_scale:
        return mask
    if how.width == "random":
        mask += new_outputs(one)
    if how.depth == "random" and one.depth is not None and one.target.writes:
        mask = np.maximum(mask, along(one.depth.new, 0, mask.ndim))
    return mask


def masked(
    params: dict[str, Float[Array, "..."]], added: Mapping[str, Float[Array, "..."]], tokens: Any, ramp_tokens: Any
) -> dict[str, Float[Array, "..."]]:
    """Multiply what is new by min(1, tokens / ramp_tokens); parameters are as they are where there is no ramp."""
    risen = jnp.minimum(1.0, tokens / jnp.maximum(ramp_tokens, 1))
    share = jnp.where(ramp_tokens > 0, risen, 1.0)

    def one(parameter: Array, new: Array) -> Array:
        return parameter * (1 - new * (1 - share))

    return jax.tree.map(one, params, dict(added))
