"""Make updates of matrices orthogonal, each matrix of a stack by itself, on a mesh each on one device.

The iteration of Newton and Schulz is optax's. Here is what the axes of a parameter mean to it, and where its stacks lie.
"""

from collections.abc import Set
import math
from typing import Any

import jax
from jaxtyping import Array
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from experiments.training.transformations import (
    STACKED,
    Parameter,
    Parameters,
    by_path,
    holds_matrices,
    matrix_axes,
)
from models.contract import Role
from models.mesh.shards import per_matrix
from models.numerics.parametrization import OUTSIDE_LAYERS

# Of an orthogonal matrix the root mean square is 1 / sqrt(max(fan in, fan out)); of AdamW's updates it is about this.
UPDATE_RMS = 0.2


def hidden_matrices(parameters: Parameters) -> Set[str]:
    """Return the paths of matrices inside layers. A router's is none: like the head, it makes a fixed number of scores."""
    return {path for path, parameter in parameters.items() if _is_hidden(parameter)}


def _is_hidden(parameter: Parameter) -> bool:
    role = parameter.info.role
    return holds_matrices(parameter.axes) and role not in OUTSIDE_LAYERS and role != Role.ROUTER


def orthogonalize(iterations: int, parameters: Parameters) -> optax.GradientTransformation:
    """Return the transformation of every update U = P S Q^T into about 0.2 sqrt(max(fan in, fan out)) P Q^T.

    All updates have to be hidden matrices (`hidden_matrices`).
    """

    def one(path: str, update: Array) -> Array:
        axes = parameters[path].axes
        first, last = matrix_axes(axes)
        numbers = {path: MuonDimensionNumbers(first, last)}
        # Without momentum of its own optax's Muon is the orthogonalisation alone; what it would keep is dropped.
        muon = scale_by_muon(ns_steps=iterations, beta=0.0, nesterov=False, weight_dimension_numbers=numbers)

        def whole(matrices: Array) -> Array:
            orthogonal, _ = muon.update({path: matrices}, muon.init({path: matrices}))
            return jax.tree.leaves(orthogonal)[0]

        longest = max(update.shape[first], update.shape[last])
        return UPDATE_RMS * math.sqrt(longest) * per_matrix(whole, axes, STACKED, (update,))

    def transform(updates: Any, params: Any = None) -> Any:
        return by_path(one, updates)

    return optax.stateless(transform)
