"""TokenFormer (Wang et al. 2024, arXiv 2410.23168): every projection is attention from tokens to parameter tokens.

    Pattention(x) = S V,  S = GeLU(tau A / ||A||_2),  A = x K^T,  with n rows (parameter tokens) in K and V

A model grows by rows of K and V, nothing else changes its shape. Rows with a key of zero leave the function exactly
as it was, provided that tau stays: it is an option of the config here, sqrt(n) only where nothing is said. (The
published code takes the square root of the new n, which changes the function: leave tau unset to do the same.)
"""

import dataclasses
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.accounting import Accounting
from models.blocks import decoder, layers, stack
from models.blocks.attention import AttentionOptions, attention
from models.blocks.context import Context, Place, drop
from models.blocks.layers import param
from models.blocks.options import untraced
from models.blocks.past import KeyValues, leading, next_positions
from models.contract import Output, Role
from models.errors import InputError
from models.mesh.current import constrain
from models.mesh.exchange import exchange
from models.mesh.gather import gathered
from models.mesh.tokens import flatten_tokens, unflatten_tokens
from models.numerics.formats import straight_through
from models.numerics.matmul import quantized_matmul
from models.numerics.precision import Recipe
from models.option import AT_LEAST_ONE, FRACTION, POSITIVE, inherit, option, when

_EPS = 1e-8  # under the root of a row's norm, so that a row of zeros has a gradient
ROPE = when("rope_share", above=0.0)
AXES: tuple[str, ...] = ("ff", "embed")  # logical axes of keys and values


Stream = Float[Array, "B L D"]  # the residual stream, or what is added to it
Affinities = Float[Array, "N P"]  # of rows to parameter tokens


@dataclasses.dataclass(frozen=True)
class Config(AttentionOptions):
    """Options of the TokenFormer family besides those of blocks/options.py."""

    heads: int = option(4, valid=AT_LEAST_ONE, help="heads of attention")
    attention_tokens: int | None = option(
        None, valid=AT_LEAST_ONE, growth="size", help="rows of each of query, key, value and output; none: width"
    )
    ff_tokens: int | None = option(
        None, valid=AT_LEAST_ONE, growth="size", help="rows of the feed-forward; none: 4 attention_tokens"
    )
    attention_tau: float | None = option(
        None, valid=POSITIVE, growth="free", help="none: sqrt(attention_tokens); a grown model keeps its source's"
    )
    ff_tau: float | None = option(None, valid=POSITIVE, growth="free", help="none: sqrt(ff_tokens)")
    score: str = option(
        "l2_gelu",
        choices=("l2_gelu", "gelu_l2", "softmax"),
        help="l2_gelu: as published; gelu_l2: tau GeLU(A) / ||GeLU(A)||; softmax: tau^2 softmax(A)",
    )
    rope_theta: float = option(1e4, valid=POSITIVE, when=ROPE, growth="free", help="base of the frequencies")
    rope_scale: float = option(
        1.0, valid=POSITIVE, when=ROPE, growth="free", help="positions are divided by it (Chen et al. 2023)"
    )
    rope_share: float = option(0.25, valid=FRACTION, help="share of a head's dimensions that carry the position")

    width: int = inherit(AttentionOptions, "width", growth="fixed")  # it grows by parameter tokens
    norm: str = inherit(AttentionOptions, "norm", default="layer", help="inside the blocks without parameters")
    tied: bool = inherit(AttentionOptions, "tied", default=True)

    def derived(self, seq_len: int) -> dict[str, Any]:
        """Return by name the options that follow from others, as they are or as their rules give them."""
        del seq_len
        attention = self.attention_tokens or self.width
        ff = self.ff_tokens or 4 * attention
        return {
            "attention_tokens": attention,
            "ff_tokens": ff,
            "attention_tau": self.attention_tau or math.sqrt(attention),
            "ff_tau": self.ff_tau or math.sqrt(ff),
        }

    def check(self, seq_len: int) -> None:
        """Raise InputError, naming the fields, for what cannot be built and for options that would do nothing."""
        super().check(seq_len)
        if self.width % self.heads:
            raise InputError(f"model.width={self.width} is not divisible by model.heads={self.heads}")


def scores(
    x: Float[Array, "N I"], key: Float[Array, "P I"], tau: float, kind: str, quant: Recipe | None = None
) -> Affinities:
    """Return how much each row takes from each of P parameter tokens, in float32. `kind`: see Config.score."""
    if quant is not None:
        product = quantized_matmul(x, key.T, quant)
        a_NP = jnp.asarray(product)
    else:
        whole = gathered(key.astype(x.dtype), *AXES)
        a_NP = jnp.einsum("NI,PI->NP", x, whole, preferred_element_type=jnp.float32)
    if kind == "softmax":
        return tau**2 * jax.nn.softmax(a_NP, axis=-1)
    if kind == "gelu_l2":
        activated_NP = jax.nn.gelu(a_NP, approximate=False)
        return tau * _of_unit_length(activated_NP)
    scaled_NP = tau * _of_unit_length(a_NP)
    return jax.nn.gelu(scaled_NP, approximate=False)


def _of_unit_length(a_NP: Affinities) -> Affinities:
    """Divide each row by its length."""
    square_N1 = jnp.sum(a_NP * a_NP, axis=-1, keepdims=True)
    return a_NP * jax.lax.rsqrt(square_N1 + _EPS)


class Pattention(nnx.Module):
    """Attention from tokens to `tokens` parameter tokens, in place of a linear layer."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config, role: Role, tokens: int | None, tau: float | None):
        """Make keys and values. `role`: that of a linear layer in its place. `tokens` and `tau` are resolved."""
        assert tokens is not None and tau is not None
        self.tau = tau
        self.score = cfg.score
        self.quant = cfg.quant
        axes = dict(zip(AXES, (tokens, cfg.width), strict=True))
        # The published code's: 2 / (L sqrt(d)), as a multiple of the scale that its keys have.
        value_std = cfg.init_std / 0.02 * 2 / (cfg.depth * math.sqrt(cfg.width))
        self.key = param(rngs, Role.TOKEN_KEYS, axes, cfg.init_std)
        self.value = param(rngs, role, axes, value_std)

    def __call__(self, x_BLD: Stream) -> Stream:
        dtype = x_BLD.dtype
        key = self.key[...]
        value = self.value[...]
        x_ND = flatten_tokens(x_BLD)
        weights_NP = scores(x_ND, key, self.tau, self.score, self.quant)
        weights_NP = weights_NP.astype(dtype)
        if self.quant is not None:
            product = quantized_matmul(weights_NP, value, self.quant)
            y_ND = jnp.asarray(product).astype(dtype)
        else:
            whole = gathered(value.astype(dtype), *AXES)
            y_ND = weights_NP @ whole
        return unflatten_tokens(y_ND, x_BLD.shape[:-1])


class Block(nnx.Module):
    """One layer: attention and feed-forward made of Pattention, each behind a norm and around a residual."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config):
        self.cfg = untraced(cfg)
        tokens = cfg.attention_tokens
        tau = cfg.attention_tau
        self.query = Pattention(rngs, cfg, Role.QUERY, tokens, tau)
        self.key = Pattention(rngs, cfg, Role.KEY, tokens, tau)
        self.value = Pattention(rngs, cfg, Role.VALUE, tokens, tau)
        self.out = Pattention(rngs, cfg, Role.WRITES, tokens, tau)
        self.ff = Pattention(rngs, cfg, Role.WRITES, cfg.ff_tokens, cfg.ff_tau)
        self.past: KeyValues | None = nnx.data(None)

    def remember(self, batch: int, length: int) -> None:
        """Give the layer an empty past: models/blocks/past.py."""
        cfg = self.cfg
        axes = {"kv_heads": cfg.heads, "head_size": cfg.width // cfg.heads}
        self.past = KeyValues(leading(self.out.key, batch), length, axes, cfg.dtype)

    def attention(self, x_BLD: Stream, context: Context) -> Stream:
        """Causal attention whose four projections are Pattention."""
        cfg = self.cfg
        B, L, D = x_BLD.shape
        size = D // cfg.heads
        # Dimensions turn in pairs: an even number of them carries the position.
        turned = 2 * int(size * cfg.rope_share / 2)

        by_head = (B, L, cfg.heads, size)
        q_BLHK = self.query(x_BLD).reshape(by_head)
        k_BLHK = self.key(x_BLD).reshape(by_head)
        v_BLHK = self.value(x_BLD).reshape(by_head)
        position_BL = next_positions(self.past, L, context.positions_BL)
        q_BLHK = layers.rotary(q_BLHK, cfg.rope_theta, turned, position_BL, cfg.rope_scale)
        k_BLHK = layers.rotary(k_BLHK, cfg.rope_theta, turned, position_BL, cfg.rope_scale)

        # Where positions are split over devices, attention needs all of them: devices change to a part of the heads.
        q_BLHK = exchange(q_BLHK, "heads", "head_size")
        k_BLHK = exchange(k_BLHK, "heads", "head_size")
        v_BLHK = exchange(v_BLHK, "heads", "head_size")
        k_BLHK = straight_through(k_BLHK, cfg.kv_format, -1)
        v_BLHK = straight_through(v_BLHK, cfg.kv_format, -1)
        if self.past is None:
            o_BLHK = attention(
                q_BLHK,
                k_BLHK,
                v_BLHK,
                size**-0.5,
                kernel=cfg.attention_kernel,
                context=context,
                dropout=cfg.attention_dropout,
            )
        else:
            o_BLHK = self.past.attend(q_BLHK, k_BLHK, v_BLHK, size**-0.5, None)
        o_BLHK = exchange(o_BLHK, "heads", "head_size", back=True)
        return self.out(o_BLHK.reshape(B, L, D))

    def __call__(self, x_BLD: Stream, context: Context = Context()) -> Stream:
        cfg = self.cfg
        normalised_BLD = layers.normalise(x_BLD, cfg.norm, cfg.norm_eps)
        mixed_BLD = self.attention(normalised_BLD, context)
        x_BLD = x_BLD + drop(mixed_BLD, cfg.dropout, context, Place.MIXER)
        normalised_BLD = layers.normalise(x_BLD, cfg.norm, cfg.norm_eps)
        fed_BLD = self.ff(normalised_BLD)
        x_BLD = x_BLD + drop(fed_BLD, cfg.dropout, context, Place.FEED_FORWARD)
        return constrain(x_BLD, "batch", "position", "width")


class Model(decoder.Decoder):
    """Token ids [B, L] to logits [B, L, V]."""

    def __init__(self, cfg: Config, rngs: nnx.Rngs):
        super().__init__(cfg, rngs, lambda rngs: Block(rngs, cfg), bias=cfg.norm == "layer")

    def layers(self, x_BLD: Stream, context: Context = Context()) -> tuple[Stream, Output]:
        """Run all layers."""
        cfg = self.cfg
        x_BLD = stack.apply_stack(self.blocks, x_BLD, unroll=cfg.unroll, remat=cfg.remat, context=context)
        return x_BLD, Output(None)


def account(cfg: Config, seq_len: int) -> Accounting:
    """Count a resolved config. Groups: embed, head, attention, ff, norm. A token meets every parameter token."""
    assert cfg.attention_tokens is not None and cfg.ff_tokens is not None
    # Keys and values of four projections in attention, and of one feed-forward.
    attention_params = cfg.depth * 8 * cfg.attention_tokens * cfg.width
    ff_params = cfg.depth * 2 * cfg.ff_tokens * cfg.width
    params, matmul = decoder.outside(cfg, bias=cfg.norm == "layer")
    params |= {"attention": attention_params, "ff": ff_params}
    matmul |= {"attention": 2.0 * attention_params, "ff": 2.0 * ff_params}
    full = {"attention": 4.0 * cfg.depth * cfg.width * seq_len}
    causal = {"attention": 2.0 * cfg.depth * cfg.width * (seq_len + 1)}
    return Accounting(params, params, matmul, full, causal, {})
