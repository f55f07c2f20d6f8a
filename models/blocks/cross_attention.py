"""Attention of an encoder, whose positions all see each other, and of a decoder to what an encoder has made.

A source ends with the first of its separators; what stands behind it fills a row and is seen by nothing. The options are
those of models/families/encoder_decoder.py. Letters of the axes: models/contract.py; S are positions of the source.
"""

from typing import Any

from flax import nnx
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from models.blocks.attention import attend_within
from models.blocks.context import Context, Place
from models.blocks.layers import Linear, Norm
from models.blocks.options import untraced
from models.blocks.transformer import Attention, init_scales
from models.contract import Role
from models.mesh.exchange import exchange
from models.numerics.formats import straight_through


def is_source(tokens_BS: Integer[Array, "B S"], separator: int | None) -> Bool[Array, "B S"]:
    """Tell which tokens of a row's source are its own, and not behind a separator that another one follows.

    Without a `separator` all are.
    """
    if separator is None:
        return jnp.ones(tokens_BS.shape, bool)
    is_end_BS = tokens_BS == separator
    follows_end_BS = jnp.pad(is_end_BS[:, :-1], ((0, 0), (1, 0)))
    return ~(is_end_BS & follows_end_BS)


class WholeAttention(Attention):
    """Multi-head attention in which every position sees all others of its document, later ones too."""

    def remember(self, batch: int, length: int) -> None:
        """Keep nothing: a source is read at once."""

    def _read(
        self,
        q_BLHK: Float[Array, "B L H K"],
        k_BLGK: Float[Array, "B L G K"],
        v_BLGK: Float[Array, "B L G K"],
        layer: Integer[Array, ""],
        context: Context,
    ) -> Float[Array, "B L H K"]:
        del layer
        documents_BL = context.documents_BL
        assert documents_BL is not None, "a source has a document, and what fills it up is another"
        same_BLM = documents_BL[:, :, None] == documents_BL[:, None, :]
        return attend_within(
            q_BLHK, k_BLGK, v_BLGK, self.cfg.score_scale, same_BLM, context, self.cfg.attention_dropout
        )


class CausalAttention(Attention):
    """The attention of a decoder whose model reads a row anew for each position: models/families/encoder_decoder.py."""

    def remember(self, batch: int, length: int) -> None:
        """Keep nothing."""


class CrossAttention(nnx.Module):
    """Multi-head attention from positions of a target to those of its source; without positions in it (T5)."""

    def __init__(self, rngs: nnx.Rngs, cfg: Any):
        self.cfg = untraced(cfg)
        std = init_scales(cfg)
        stream = {"embed": cfg.width}
        heads = {"heads": cfg.heads * cfg.head_size}
        kv_heads = {"kv_heads": cfg.kv_heads * cfg.head_size}
        self.query = Linear(rngs, Role.QUERY, stream | heads, std.hidden, cfg.bias, cfg.quant)
        self.key = Linear(rngs, Role.KEY, stream | kv_heads, std.hidden, cfg.bias, cfg.quant)
        self.value = Linear(rngs, Role.VALUE, stream | kv_heads, std.value, cfg.bias, cfg.quant)
        self.out = Linear(rngs, Role.WRITES, heads | stream, std.out, cfg.bias, cfg.quant)
        size = {"head_size": cfg.head_size}
        self.query_norm = Norm(rngs, size, "rms", cfg.norm_eps) if cfg.qk_norm else None
        self.key_norm = Norm(rngs, size, "rms", cfg.norm_eps) if cfg.qk_norm else None

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        memory_BSD: Float[Array, "B S D"],
        is_source_BS: Bool[Array, "B S"],
        context: Context = Context(),
    ) -> Float[Array, "B L D"]:
        """Return what is added to the target's stream. `memory_BSD`: what the encoder gives."""
        cfg = self.cfg
        B, L, _ = x_BLD.shape
        S = memory_BSD.shape[1]
        q_BLHK = self.query(x_BLD).reshape(B, L, cfg.heads, cfg.head_size)
        k_BSGK = self.key(memory_BSD).reshape(B, S, cfg.kv_heads, cfg.head_size)
        v_BSGK = self.value(memory_BSD).reshape(B, S, cfg.kv_heads, cfg.head_size)
        if self.query_norm is not None and self.key_norm is not None:
            q_BLHK = self.query_norm(q_BLHK)
            k_BSGK = self.key_norm(k_BSGK)

        q_BLHK = exchange(q_BLHK, "heads", "head_size")
        k_BSGK = exchange(k_BSGK, "kv_heads", "head_size")
        v_BSGK = exchange(v_BSGK, "kv_heads", "head_size")
        k_BSGK = straight_through(k_BSGK, cfg.kv_format, -1)
        v_BSGK = straight_through(v_BSGK, cfg.kv_format, -1)
        visible_BLS = jnp.broadcast_to(is_source_BS[:, None, :], (B, L, S))
        o_BLHK = attend_within(
            q_BLHK,
            k_BSGK,
            v_BSGK,
            cfg.score_scale,
            visible_BLS,
            context,
            cfg.attention_dropout,
            Place.CROSS_WEIGHTS,
        )
        o_BLHK = exchange(o_BLHK, "heads", "head_size", back=True)
        o_BLHK = checkpoint_name(o_BLHK, "attention")  # which remat "attention" keeps
        return self.out(o_BLHK.reshape(B, L, cfg.heads * cfg.head_size))
