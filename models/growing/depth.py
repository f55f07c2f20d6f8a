"""Deepen one parameter: put its layers where they stand in the larger model, and start the new ones."""

import numpy as np

from models.contract import Role
from models.growing.maps import Map
from models.growing.plan import GrowingParameter

_CLOSED = -20.0  # below the others before a softmax: a share of e^-20


def deepen(
    one: GrowingParameter, depth: Map, value: np.ndarray, fresh: np.ndarray, *, operator: str, moments: bool
) -> np.ndarray:
    """Repeat layers as `depth` says; new ones are copies under "direct", else the `fresh` ones that add nothing yet.

    "random" keeps the fresh values, which a mask hides at first; "zero" sets to zero what writes to the residual stream.
    Adam's `moments` of new layers stay as `fresh` has them.
    """
    out = value[depth.index]
    if operator == "direct":
        return out
    new = depth.new
    out[new] = fresh[new]
    if moments:
        return out
    if one.target.role == Role.FLOOR:
        # Floors add up over layers by a softmax; a new one shall add nothing.
        out[new] = out[~new].min(axis=0) + _CLOSED
    elif operator == "zero" and one.target.writes:
        out[new] = 0
    return out
