"""Place the norm of a residual connection: before a sublayer, after it, or both."""

import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from models.blocks.context import Context, Place, drop
from models.blocks.layers import Norm
from models.blocks.options import untraced
from models.mesh.current import constrain

PLACEMENTS = ("pre", "post", "sandwich", "deepnorm", "mix", "lns")


class Residual(Norm):
    """The norm of a residual connection, with the place that it has there: `enter` and `leave` stand around a sublayer S.

    pre: x + S(N(x)) | post: N(x + S(x)) | sandwich: x + N'(S(N(x))) | deepnorm: N((2L)^1/4 x + S(x)) (DeepNet, Wang et
    al. 2022; LayerNorm-Scaling's code has the constant of 32 layers, 2.828427, at every depth) | mix: post in the first
    floor(mix_share L) layers, then pre (Mix-LN, Li et al. 2024) | lns: pre, with what comes out of the norm divided by
    sqrt(l) in layer l = 1..L (LayerNorm Scaling, Sun et al. 2025, equation 12).
    """

    def __init__(self, rngs: nnx.Rngs, cfg: Any):
        super().__init__(rngs, {"norm": cfg.width}, cfg.norm, cfg.norm_eps, cfg.bias)
        self.cfg = untraced(cfg)
        sandwich = cfg.norm_placement == "sandwich"
        self.after = Norm(rngs, {"norm": cfg.width}, cfg.norm, cfg.norm_eps, cfg.bias) if sandwich else None

    def _is_post(self, layer: Integer[Array, ""]) -> Bool[Array, ""]:
        """Tell whether this layer is one of the first, which are post-norm in `mix`."""
        first = math.floor(self.cfg.mix_share * self.cfg.depth + 1e-9)  # a share of 0.3 of 10 layers is 3, not 2
        return layer <= first

    def enter(self, x_BLD: Float[Array, "B L D"], layer: Integer[Array, ""]) -> Float[Array, "B L D"]:
        """Return what the sublayer of layer `layer` (from 1) reads."""
        place = self.cfg.norm_placement
        if place in ("post", "deepnorm"):
            return x_BLD
        y_BLD = self(x_BLD)
        if place == "lns":
            scale = jax.lax.rsqrt(layer.astype(jnp.float32))
            return (y_BLD * scale).astype(y_BLD.dtype)
        if place == "mix":
            return jnp.where(self._is_post(layer), x_BLD, y_BLD)
        return y_BLD

    def leave(
        self,
        x_BLD: Float[Array, "B L D"],
        y_BLD: Float[Array, "B L D"],
        layer: Integer[Array, ""],
        context: Context = Context(),
        sublayer: int = Place.MIXER,
    ) -> Float[Array, "B L D"]:
        """Return the stream after the sublayer, from the stream `x_BLD` before it and its output `y_BLD`.

        Some of what is added is dropped, where the `context` has keys for it (Vaswani et al. 2017, section 5.4).
        """
        place = self.cfg.norm_placement
        if self.after is not None:
            y_BLD = self.after(y_BLD)
        y_BLD = drop(y_BLD, self.cfg.dropout, context, sublayer)
        if place == "deepnorm":
            x_BLD = x_BLD * (2 * self.cfg.depth) ** 0.25
        x_BLD = x_BLD + y_BLD * self.cfg.residual_scale
        if place in ("post", "deepnorm"):
            x_BLD = self(x_BLD)
        elif place == "mix":
            x_BLD = jnp.where(self._is_post(layer), self(x_BLD), x_BLD)
        return constrain(x_BLD, "batch", "position", "width")
