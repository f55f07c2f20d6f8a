"""Move the matrices of a grown model's layers a little, so that copies can become different."""

from typing import Any

from jaxtyping import Float
import numpy as np

from models.growing.options import Growth
from models.growing.plan import GrowingParameter


def add_noise(one: GrowingParameter, value: np.ndarray, cfg: Any, how: Growth, seed: int) -> Float[np.ndarray, "..."]:
    """Make a layer's matrix W (1 - noise) W + noise e; other parameters stay.

    e is drawn as prts draws it: with variance 2 / (5 d), and 1 / (d l^2) for what writes to the residual stream; d is
    the width and l the depth of the config `cfg`.
    """
    share = how.noise
    target = one.target
    is_layers_matrix = target.in_layers and target.input_axis is not None
    if not share or not is_layers_matrix:
        return value
    if target.writes:
        std = 1 / (cfg.width**0.5 * cfg.depth)
    else:
        std = (0.4 / cfg.width) ** 0.5
    draw = np.random.default_rng([seed, *one.path.encode()])
    e = draw.standard_normal(value.shape)
    noisy = (1 - share) * value + share * std * e
    return noisy.astype(value.dtype)
