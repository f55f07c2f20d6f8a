"""TokenFormer (Wang et al. 2024, arXiv 2410.23168): every projection is attention from tokens to parameter tokens.

    Pattention(x) = S V,  S = GeLU(tau A / ||A||_2),  A = x K^T,  with n rows (parameter tokens) in K and V

A model grows by rows of K and V, nothing else changes its shape. Rows with a key of zero leave the function exactly
as it was, provided that tau stays: it is an option of the config here, sqrt(n) only where nothing is said. (The
published code takes the square root of the new n, which changes the function: leave tau unset to do the same.)
"""

import dataclasses
import math
from typing import ClassVar

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.accounting import Accounting
from models.blocks import decoder, layers
from models.blocks.attention import Options, attention
from models.blocks.layers import param
from models.contract import Role
from models.errors import InputError
from models.mesh.current import constrain
from models.mesh.exchange import exchange
from models.mesh.gather import gathered
from models.mesh.tokens import flatten_tokens, unflatten_tokens
from models.numerics.formats import straight_through
from models.numerics.matmul import quantized_matmul
from models.numerics.precision import Recipe

_EPS = 1e-8  # under the root of a row's norm, so that a row of zeros has a gradient


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Options of the TokenFormer family besides those of attention.Options."""

    norm: str = "layer"  # inside the blocks without parameters
    tied: bool = True
    heads: int = 4
    attention_tokens: int | None = None  # rows of each of query, key, value and output: width
    ff_tokens: int | None = None  # rows of the feed-forward: 4 attention_tokens
    attention_tau: float | None = None  # sqrt(attention_tokens); a grown model keeps its source's
    ff_tau: float | None = None  # sqrt(ff_tokens)
    score: str = "l2_gelu"  # l2_gelu as above | gelu_l2: tau GeLU(A) / ||GeLU(A)|| | softmax: tau^2 softmax(A)
    rope_theta: float = 1e4
    rope_share: float = 0.25  # share of a head's dimensions that carry the position

    choices: ClassVar = Options.choices | {"score": ("l2_gelu", "gelu_l2", "softmax")}
    counts: ClassVar = (*Options.counts, "heads", "attention_tokens", "ff_tokens")

    def resolve(self, vocab: int, seq_len: int) -> "Config":
        """The same options with every derived one filled in."""
        attention = self.attention_tokens or self.width
        ff = self.ff_tokens or 4 * attention
        return dataclasses.replace(
            super().resolve(vocab, seq_len),
            attention_tokens=attention,
            ff_tokens=ff,
            attention_tau=self.attention_tau or math.sqrt(attention),
            ff_tau=self.ff_tau or math.sqrt(ff),
        )

    def check(self, seq_len: int) -> None:
        """Raises InputError, naming the fields, for sizes and choices that cannot be built."""
        super().check(seq_len)
        if self.width % self.heads:
            raise InputError(f"model.width={self.width} is not divisible by model.heads={self.heads}")
        if not 0 <= self.rope_share <= 1:
            raise InputError(f"model.rope_share={self.rope_share} must be in [0, 1]")
        for name in ("attention_tau", "ff_tau"):
            if (tau := getattr(self, name)) is not None and not tau > 0:
                raise InputError(f"model.{name}={tau} must be positive")


def scores(
    x: Float[Array, "N I"], key: Float[Array, "P I"], tau: float, kind: str, quant: Recipe | None = None
) -> Float[Array, "N P"]:
    """How much each row takes from each of P parameter tokens; in float32. `kind`: see Config.score."""
    if quant is not None:
        a_NP = quantized_matmul(x, key.T, quant)
    else:
        whole = gathered(key.astype(x.dtype), *AXES)
        a_NP = jnp.einsum("NI,PI->NP", x, whole, preferred_element_type=jnp.float32)
    if kind == "softmax":
        return tau**2 * jax.nn.softmax(a_NP, axis=-1)

    def unit(a: Array) -> Array:
        return a * jax.lax.rsqrt(jnp.sum(a * a, axis=-1, keepdims=True) + _EPS)

    if kind == "gelu_l2":
        return tau * unit(jax.nn.gelu(a_NP, approximate=False))
    return jax.nn.gelu(tau * unit(a_NP), approximate=False)


AXES = ("ff", "embed")  # of keys and values


class Pattention(nnx.Module):
    """Attention from tokens to `tokens` parameter tokens, in place of a linear layer."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config, role: Role, tokens: int, tau: float):
        """`role`: that of a linear layer in its place."""
        self.tau, self.score, self.quant = tau, cfg.score, cfg.quant
        axes = dict(zip(AXES, (tokens, cfg.width), strict=True))
        self.key = param(rngs, Role.TOKEN_KEYS, axes, cfg.init_std)
        # The published code's: 2 / (L sqrt(d)), as a multiple of the scale that its keys have.
        self.value = param(rngs, role, axes, cfg.init_std / 0.02 * 2 / (cfg.depth * math.sqrt(cfg.width)))

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        weights = scores(flatten_tokens(x_BLD), self.key[...], self.tau, self.score, self.quant).astype(x_BLD.dtype)
        if self.quant is not None:
            return unflatten_tokens(
                quantized_matmul(weights, self.value[...], self.quant).astype(x_BLD.dtype), x_BLD.shape[:-1]
            )
        return unflatten_tokens(weights @ gathered(self.value[...].astype(x_BLD.dtype), *AXES), x_BLD.shape[:-1])


class Block(nnx.Module):
    """One layer: attention and feed-forward made of Pattention, each behind a norm and around a residual."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config):
        self.cfg = decoder.untraced(cfg)
        tokens, tau = cfg.attention_tokens, cfg.attention_tau
        self.query = Pattention(rngs, cfg, Role.QUERY, tokens, tau)
        self.key = Pattention(rngs, cfg, Role.KEY, tokens, tau)
        self.value = Pattention(rngs, cfg, Role.VALUE, tokens, tau)
        self.out = Pattention(rngs, cfg, Role.WRITES, tokens, tau)
        self.ff = Pattention(rngs, cfg, Role.WRITES, cfg.ff_tokens, cfg.ff_tau)

    def attention(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Causal attention whose four projections are Pattention."""
        cfg, (B, L, D) = self.cfg, x_BLD.shape
        size = D // cfg.heads
        q, k, v = (p(x_BLD).reshape(B, L, cfg.heads, size) for p in (self.query, self.key, self.value))
        turned = 2 * int(size * cfg.rope_share / 2)
        q, k = (layers.rotary(x, cfg.rope_theta, turned) for x in (q, k))
        q, k, v = (exchange(x, "heads", "head_size") for x in (q, k, v))
        k, v = (straight_through(x, cfg.kv_format, -1) for x in (k, v))
        o = exchange(attention(q, k, v, size**-0.5, kernel=cfg.attention_kernel), "heads", "head_size", back=True)
        return self.out(o.reshape(B, L, D))

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        norm, eps = self.cfg.norm, self.cfg.norm_eps
        x_BLD = x_BLD + self.attention(layers.normalise(x_BLD, norm, eps))
        x_BLD = x_BLD + self.ff(layers.normalise(x_BLD, norm, eps))
        return constrain(x_BLD, "batch", "position", "width")


class Model(decoder.Decoder):
    """Token ids [B, L] to logits [B, L, V]."""

    def __init__(self, cfg: Config, rngs: nnx.Rngs):
        super().__init__(cfg, rngs, lambda rngs: Block(rngs, cfg), bias=cfg.norm == "layer")


def account(cfg: Config, seq_len: int) -> Accounting:
    """Counts of a resolved config. Groups: embed, head, attention, ff, norm. A token meets every parameter token."""
    D, Y, n, m = cfg.width, cfg.depth, cfg.attention_tokens, cfg.ff_tokens
    params, matmul = decoder.outside(cfg, bias=cfg.norm == "layer")
    params |= {"attention": Y * 8 * n * D, "ff": Y * 2 * m * D}
    matmul |= {"attention": 16.0 * Y * n * D, "ff": 4.0 * Y * m * D}
    full, causal = {"attention": 4.0 * Y * D * seq_len}, {"attention": 2.0 * Y * D * (seq_len + 1)}
    return Accounting(params, params, matmul, full, causal, {})
