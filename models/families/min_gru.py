"""Recurrent baseline: minGRU (Feng et al. 2024, arXiv 2410.01201), a gated recurrence that trains in parallel.

h_t = (1 - z_t) h_{t-1} + z_t c_t with z = sigmoid(x Wz), c = x Wc: neither looks at h, so that the whole sequence is
one linear recurrence. Each layer: x + MinGru(Norm(x)), then x + Mlp(Norm(x)). No positions, no attention.
"""

import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.accounting import Accounting
from models.blocks import decoder, layers, stack
from models.blocks.context import Context, ContextOptions, Place, drop
from models.blocks.layers import Linear, Mlp, Norm
from models.blocks.options import Options
from models.blocks.past import leading
from models.blocks.recurrence import LastState, linear_recurrence
from models.contract import Output, Role
from models.mesh.current import constrain
from models.numerics.parametrization import PARAMETRIZATIONS
from models.option import AT_LEAST_ONE, inherit, missing, option

Stream = Float[Array, "B L D"]  # the residual stream, or what is added to it


@dataclasses.dataclass(frozen=True)
class Config(ContextOptions):
    """Options of the minGRU family besides those of blocks/context.py."""

    state: int | None = option(
        None, valid=AT_LEAST_ONE, growth="size", help="recurrent state of a layer; none: as wide as the model"
    )
    ff: int | None = option(
        None,
        valid=AT_LEAST_ONE,
        growth="size",
        help="feed-forward size; none: 8/3 width rounded up to a multiple of 16",
    )

    parametrization: str = inherit(Options, "parametrization", choices=PARAMETRIZATIONS)
    quant_kv: str | None = missing(Options, "quant_kv", "there are no keys and values")

    def derived(self, seq_len: int) -> dict[str, Any]:
        """Return by name the options that follow from others, as they are or as their rules give them."""
        del seq_len
        state = self.state or self.width
        ff = self.ff or layers.round_up(8 * self.width / 3, 16)
        return {"state": state, "ff": ff}


class MinGru(nnx.Module):
    """The recurrence between its matrices."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config, std: Any, out_std: Any):
        assert cfg.state is not None
        enter = {"embed": cfg.width, "ff": cfg.state}
        leave = {"ff": cfg.state, "embed": cfg.width}
        self.gate = Linear(rngs, Role.READS, enter, std, quant=cfg.quant)
        self.candidate = Linear(rngs, Role.READS, enter, std, quant=cfg.quant)
        self.out = Linear(rngs, Role.WRITES, leave, out_std, quant=cfg.quant)
        self.size = cfg.state
        self.past: LastState | None = nnx.data(None)

    def remember(self, batch: int, length: int) -> None:
        """Give the layer an empty past: models/blocks/past.py."""
        del length
        self.past = LastState(leading(self.out.kernel, batch), self.size)

    def __call__(self, x_BLD: Stream, context: Context = Context()) -> Stream:
        # The recurrence multiplies many gates: it is float32 whatever the compute type.
        z_BLR = self.gate(x_BLD).astype(jnp.float32)
        z_BLR = jax.nn.sigmoid(z_BLR)
        z_BLR = constrain(z_BLR, "batch", "position", "ff")
        c_BLR = self.candidate(x_BLD).astype(jnp.float32)
        c_BLR = constrain(c_BLR, "batch", "position", "ff")
        decay_BLR = context.forget(1 - z_BLR)
        new_BLR = z_BLR * c_BLR
        h_BLR = linear_recurrence(decay_BLR, new_BLR, past=self.past)
        return self.out(h_BLR.astype(x_BLD.dtype))


class Block(nnx.Module):
    """One layer: recurrence and feed-forward, each behind a norm and around a residual."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config):
        assert cfg.ff is not None
        std, out_std = cfg.init_stds(cfg.init_std)
        self.scale = cfg.residual_scale  # of what is added to the stream
        self.dropout = cfg.dropout
        self.mixer_norm = Norm(rngs, {"norm": cfg.width}, cfg.norm, cfg.norm_eps)
        self.mixer = MinGru(rngs, cfg, std, out_std)
        self.mlp_norm = Norm(rngs, {"norm": cfg.width}, cfg.norm, cfg.norm_eps)
        self.mlp = Mlp(rngs, cfg.width, cfg.ff, "swiglu", False, std, out_std, cfg.quant)

    def __call__(self, x_BLD: Stream, context: Context = Context()) -> Stream:
        normalised_BLD = self.mixer_norm(x_BLD)
        mixed_BLD = self.mixer(normalised_BLD, context)
        mixed_BLD = drop(mixed_BLD, self.dropout, context, Place.MIXER)
        x_BLD = x_BLD + mixed_BLD * self.scale
        normalised_BLD = self.mlp_norm(x_BLD)
        fed_BLD = self.mlp(normalised_BLD)
        fed_BLD = drop(fed_BLD, self.dropout, context, Place.FEED_FORWARD)
        x_BLD = x_BLD + fed_BLD * self.scale
        return constrain(x_BLD, "batch", "position", "width")


class Model(decoder.Decoder):
    """Token ids [B, L] to logits [B, L, V]."""

    def __init__(self, cfg: Config, rngs: nnx.Rngs):
        super().__init__(cfg, rngs, lambda rngs: Block(rngs, cfg))

    def layers(self, x_BLD: Stream, context: Context = Context()) -> tuple[Stream, Output]:
        """Run all layers."""
        cfg = self.cfg
        x_BLD = stack.apply_stack(
            self.blocks,
            x_BLD,
            unroll=cfg.unroll,
            remat=cfg.remat,
            context=context,
        )
        return x_BLD, Output(None)


def account(cfg: Config, seq_len: int) -> Accounting:
    """Count a resolved config. Groups: embed, head, mixer, mlp, norm. A token costs the same at every length."""
    del seq_len
    assert cfg.state is not None and cfg.ff is not None
    mixer = cfg.depth * 3 * cfg.width * cfg.state
    mlp = cfg.depth * 3 * cfg.width * cfg.ff
    params, matmul = decoder.outside(cfg)
    params["mixer"] = mixer
    params["mlp"] = mlp
    params["norm"] += cfg.depth * 2 * cfg.width
    matmul["mixer"] = 2.0 * mixer
    matmul["mlp"] = 2.0 * mlp
    # 1 - z, z c, and a multiplication and an addition a step.
    recurrence = {"recurrence": 4.0 * cfg.depth * cfg.state}
    return Accounting(params, params, matmul, recurrence, recurrence, {})
