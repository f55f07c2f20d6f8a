"""Encoder and decoder (Vaswani et al. 2017; Raffel et al. 2020): a row is a source, and a target that goes on from it.

The first `source` tokens of a row are the source: all of them see each other. The others are the target's: each sees those
before it and, by cross-attention, the whole source. The first of them is given (a separator in rows of pairs, see
data.pairs) and each predicts the next. A source ends with its first separator, a target with the first behind the given
one: what fills the row up is neither seen nor predicted. Logits of the source's positions are zero and count in no loss.

Encoder: x + Attention(Norm(x)), x + Mlp(Norm(x)). Decoder: x + Attention(Norm(x)), x + Cross(Norm(x), memory),
x + Mlp(Norm(x)). Both read one embedding, and each ends with a norm. Positions are rotary, and begin anew in the target.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any, ClassVar, TypeVar

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer
import numpy as np

from models.accounting import Accounting
from models.blocks import context as contexts
from models.blocks import decoder, layers, stack
from models.blocks.attention import AttentionOptions
from models.blocks.context import Context, ContextOptions, Place
from models.blocks.cross_attention import CausalAttention, CrossAttention, WholeAttention, is_source
from models.blocks.layers import Mlp, Norm
from models.blocks.past import Written
from models.blocks.residual import Residual
from models.blocks.transformer import check_heads, init_scales
from models.contract import Output
from models.errors import InputError
from models.mesh.current import constrain
from models.mesh.gather import fully_sharded
from models.option import AT_LEAST_ONE, POSITIVE, inherit, missing, option, when

Stream = Float[Array, "B L D"]  # the residual stream, or what is added to it
Resolved = TypeVar("Resolved", bound="Config")


@dataclasses.dataclass(frozen=True)
class Config(AttentionOptions):
    """Options of the family besides those of blocks/options.py. None means: derived by the rule in the help."""

    depth: int = inherit(AttentionOptions, "depth", help="layers of the decoder")
    encoder_depth: int | None = option(
        None, valid=AT_LEAST_ONE, growth="size", help="layers of the encoder; none: as many as the decoder has"
    )
    source: int | None = option(
        None, valid=AT_LEAST_ONE, help="tokens of a sequence that are its source; none: the first half of seq_len"
    )
    heads: int = option(4, valid=AT_LEAST_ONE, growth="size", help="query heads of each attention")
    kv_heads: int | None = option(
        None, valid=AT_LEAST_ONE, growth="size", help="key-value heads; none: as many as heads"
    )
    head_size: int | None = option(None, valid=AT_LEAST_ONE, help="dimensions of a head; none: width / heads")
    ff: int | None = option(
        None,
        valid=AT_LEAST_ONE,
        growth="size",
        help="feed-forward size; none: 8/3 width rounded up to a multiple of 16 where gated, else 4 width",
    )
    activation: str = option("swiglu", choices=tuple(layers.ACTIVATIONS), help="of the feed-forward; swiglu is gated")
    qk_norm: bool = option(False, help="normalise queries and keys, each head by itself")
    bias: bool = option(False, help="matrices and norms have biases")
    position: str = option("rope", choices=("rope", "none"), help="how a position enters encoder and decoder")
    rope_theta: float = option(1e4, valid=POSITIVE, when=when("position", "rope"), help="base of the frequencies")
    norm_placement: str = option(
        "pre", choices=("pre", "post", "sandwich"), help="where a sublayer's norm stands: blocks/residual.py"
    )
    separator: int | None = inherit(
        ContextOptions, "separator", when=(), help="id that ends source and target; none: the tokenizer's"
    )

    attention_kernel: str = missing(AttentionOptions, "attention_kernel", "no kernel shows a source to itself")
    attention_dropout: float = inherit(AttentionOptions, "attention_dropout", when=())
    document_mask: bool = missing(ContextOptions, "document_mask", "source and target are one document")
    remat: str = inherit(AttentionOptions, "remat", choices=stack.REMAT)

    # What a decoder-only transformer has besides: models/blocks/transformer.py.
    attention: ClassVar[str] = "softmax"
    window: ClassVar[int | None] = None
    qk_norm_over: ClassVar[str] = "head"
    init: ClassVar[str] = "gpt2"
    rope_scale: ClassVar[float] = 1.0

    @property
    def reads_separator(self) -> bool:
        """As in all families; sources and targets end with it."""
        return self.separator is None

    @property
    def predicts_everywhere(self) -> bool:
        """As in all families; targets alone are predicted, up to their ends."""
        return False

    @property
    def first_prediction(self) -> int:
        """As in all families; those before it are the source."""
        assert self.source is not None
        return self.source

    @property
    def gated(self) -> bool:
        """Whether a feed-forward has a third matrix, whose output multiplies."""
        return self.activation == "swiglu"

    @property
    def score_scale(self) -> float:
        """Scale of the products of queries and keys."""
        assert self.head_size is not None
        return self.head_size**-0.5

    def derived(self, seq_len: int) -> dict[str, Any]:
        """Return by name the options that follow from others, as they are or as their rules give them."""
        ff = layers.usual_ff(self.width, self.gated)
        return {
            "encoder_depth": self.encoder_depth or self.depth,
            "source": self.source or seq_len // 2,
            "kv_heads": self.kv_heads or self.heads,
            "head_size": self.head_size or self.width // max(1, self.heads),
            "ff": self.ff or ff,
        }

    def resolve(self: Resolved, vocab: int, seq_len: int, separator: int | None = None) -> Resolved:
        """As in all families; `separator` is the tokenizer's."""
        resolved = super().resolve(vocab, seq_len)
        if self.separator is not None:
            return resolved
        return dataclasses.replace(resolved, separator=separator)

    def check(self, seq_len: int) -> None:
        """Raise InputError, naming the fields, for what cannot be built and for options that would do nothing."""
        super().check(seq_len)
        check_heads(self)
        source = self.source or seq_len // 2
        if not 1 <= source < seq_len:
            raise InputError(
                f"model.source={source} leaves no target in seq_len={seq_len}; expected from 1 to {seq_len - 1}"
            )

    def check_decoding(self, length: int) -> None:
        """As in all families; a row is a source and a target."""
        super().check_decoding(length)
        if length <= self.first_prediction:
            raise InputError(
                f"model.source={self.source}: a sequence of {length} has no target; expected more positions"
            )

    def is_counted(self, inputs_BL: Any) -> Any:
        """As in all families: those of a target up to the one that predicts its end, whatever its given token is."""
        position_L = np.arange(inputs_BL.shape[1])
        is_target_L = position_L >= self.first_prediction
        if self.separator is None:
            return is_target_L & (inputs_BL == inputs_BL)
        is_end_BL = (inputs_BL == self.separator) & (position_L > self.first_prediction)
        return is_target_L & (is_end_BL.cumsum(axis=1) == 0)

    def prompt(self, ids: Sequence[int], separator: int) -> list[int]:
        """As in all families: a source, filled up, and the token that a target begins with."""
        source = self.first_prediction
        if len(ids) >= source:
            raise InputError(
                f"model.source={source}: the prompt has {len(ids)} tokens; expected fewer, for a separator ends it"
            )
        return [*ids, *[separator] * (source - len(ids)), separator]


class EncoderBlock(nnx.Module):
    """One layer of the encoder. Layers count from 1."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config):
        assert cfg.ff is not None
        std = init_scales(cfg)
        self.attention_norm = Residual(rngs, cfg)
        self.attention = WholeAttention(rngs, cfg)
        self.mlp_norm = Residual(rngs, cfg)
        self.mlp = Mlp(rngs, cfg.width, cfg.ff, cfg.activation, cfg.bias, std.value, std.out, cfg.quant)

    def __call__(self, x_BLD: Stream, layer: Integer[Array, ""], context: Context) -> Stream:
        y_BLD = self.attention(self.attention_norm.enter(x_BLD, layer), layer, context)
        x_BLD = self.attention_norm.leave(x_BLD, y_BLD, layer, context)
        y_BLD = self.mlp(self.mlp_norm.enter(x_BLD, layer))
        return self.mlp_norm.leave(x_BLD, y_BLD, layer, context, Place.FEED_FORWARD)


class DecoderBlock(nnx.Module):
    """One layer of the decoder. Layers count from 1."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config):
        assert cfg.ff is not None
        std = init_scales(cfg)
        self.attention_norm = Residual(rngs, cfg)
        self.attention = CausalAttention(rngs, cfg)
        self.cross_norm = Residual(rngs, cfg)
        self.cross = CrossAttention(rngs, cfg)
        self.mlp_norm = Residual(rngs, cfg)
        self.mlp = Mlp(rngs, cfg.width, cfg.ff, cfg.activation, cfg.bias, std.value, std.out, cfg.quant)

    def __call__(
        self,
        x_BLD: Stream,
        layer: Integer[Array, ""],
        memory_BSD: Float[Array, "B S D"],
        is_source_BS: Bool[Array, "B S"],
        context: Context,
    ) -> Stream:
        y_BLD = self.attention(self.attention_norm.enter(x_BLD, layer), layer, context)
        x_BLD = self.attention_norm.leave(x_BLD, y_BLD, layer, context)
        y_BLD = self.cross(self.cross_norm.enter(x_BLD, layer), memory_BSD, is_source_BS, context)
        x_BLD = self.cross_norm.leave(x_BLD, y_BLD, layer, context, Place.CROSS)
        y_BLD = self.mlp(self.mlp_norm.enter(x_BLD, layer))
        return self.mlp_norm.leave(x_BLD, y_BLD, layer, context, Place.FEED_FORWARD)


class Model(decoder.Decoder):
    """Token ids [B, L] to logits [B, L, V]. `cfg` must be resolved; its `init_std` may be a traced number."""

    def __init__(self, cfg: Config, rngs: nnx.Rngs):
        assert cfg.encoder_depth is not None
        super().__init__(cfg, rngs, functools.partial(DecoderBlock, cfg=cfg), cfg.bias)
        in_encoder = dataclasses.replace(cfg, depth=cfg.encoder_depth)
        self.encoder = stack.stack(functools.partial(EncoderBlock, cfg=in_encoder), rngs, cfg.encoder_depth)
        self.encoder_norm = Norm(rngs, {"norm": cfg.width}, cfg.norm, cfg.norm_eps, cfg.bias)
        self.past: Written | None = nnx.data(None)

    def remember(self, batch: int, length: int) -> None:
        """Keep the tokens: a sequence is read anew for each position (models/blocks/past.py)."""
        self.past = Written((batch,), length)

    def hidden(
        self, tokens_BL: Integer[Array, "B L"], *counts: Integer[Array, "..."], keys_B: Array | None = None
    ) -> tuple[Stream, Output]:
        """Return what enters the head, zero at the source's positions, and the rest of the output."""
        del counts  # there are none
        cfg = self.cfg
        source = cfg.first_prediction
        tokens_BL = constrain(tokens_BL, "batch", "attended")
        source_BS = tokens_BL[:, :source]
        context = contexts.make(cfg, tokens_BL, keys_B)
        is_source_BS = constrain(is_source(source_BS, cfg.separator), "batch", "attended")
        memory_BSD = self._encode(source_BS, is_source_BS, keys_B)

        x_BLD = self._embedded(tokens_BL[:, source:], contexts.of_embedding(context, keys_B))

        def call(layer: DecoderBlock, x_BLD: Array, number: Array, *of_layer: Array) -> tuple[Array, None]:
            return layer(x_BLD, number, memory_BSD, is_source_BS, context.in_layer(*of_layer)), None

        x_BLD, _ = stack.fold_stack(
            call,
            self.blocks,
            x_BLD,
            jnp.arange(1, cfg.depth + 1),
            *context.by_layer,
            unroll=_unroll(cfg),
            remat=cfg.remat,
        )
        x_BLD = self.norm(x_BLD)
        x_BLD = constrain(x_BLD, "batch", "position", "width")
        nothing_BSD = jnp.zeros_like(memory_BSD)
        whole_BLD = jnp.concatenate([nothing_BSD, x_BLD], axis=1)
        return constrain(whole_BLD, "batch", "position", "width"), Output(None)

    def _encode(
        self, tokens_BS: Integer[Array, "B S"], is_source_BS: Bool[Array, "B S"], keys_B: Array | None
    ) -> Float[Array, "B S D"]:
        """Return what the encoder makes of a source. What fills it up is a document of its own, which no target sees."""
        cfg = self.cfg
        if keys_B is not None:  # others than those of the decoder
            keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, cfg.depth + 1)
        in_encoder = dataclasses.replace(cfg, depth=cfg.encoder_depth)
        context = contexts.make(in_encoder, tokens_BS, keys_B)
        context = context._replace(documents_BL=is_source_BS.astype(jnp.int32))
        x_BSD = self._embedded(tokens_BS, contexts.of_embedding(context, keys_B))
        x_BSD = stack.apply_stack(
            self.encoder,
            x_BSD,
            jnp.arange(1, in_encoder.depth + 1),
            unroll=_unroll(cfg),
            remat=cfg.remat,
            context=context,
        )
        return constrain(self.encoder_norm(x_BSD), "batch", "position", "width")

    def _embedded(self, tokens_BL: Integer[Array, "B L"], context: Context) -> Stream:
        """Return what enters a first layer."""
        x_BLD = self._enter(tokens_BL, context)
        return contexts.drop(x_BLD, self.cfg.dropout, context, Place.EMBED)

    def __call__(self, tokens_BL: Integer[Array, "B L"], *counts: Integer[Array, "..."]) -> Output:
        past = self.past
        if past is None:
            return self._logits(tokens_BL)
        number = tokens_BL.shape[1]
        position_BL = past.reached.next(number)
        output = self._logits(past.extend(tokens_BL))
        logits_BMV = output.logits_BLV
        assert logits_BMV is not None
        position_BL1 = position_BL[..., None]
        logits_BLV = jnp.take_along_axis(logits_BMV, position_BL1, axis=1)
        return output._replace(logits_BLV=logits_BLV)

    def _logits(self, tokens_BL: Integer[Array, "B L"]) -> Output:
        """Return logits of all positions of whole sequences."""
        x_BLD, output = self.hidden(tokens_BL)
        source = self.cfg.first_prediction
        head = self.readout()
        logits_BLV = head.logits(head.params, x_BLD[:, source:])
        logits_BLV = logits_BLV[..., : self.cfg.vocab]
        in_front = (source, 0)
        logits_BLV = jnp.pad(logits_BLV, ((0, 0), in_front, (0, 0)))
        return output._replace(logits_BLV=logits_BLV)


def _unroll(cfg: Config) -> bool | None:
    """Return whether layers are unrolled; None: as the backend likes.

    XLA (0.10) gives up on a CPU's unrolled layers where matrices are split: those of two stacks share a sum.
    """
    return False if cfg.unroll is None and fully_sharded() else cfg.unroll


def _in_layer(cfg: Config) -> tuple[int, int, int]:
    """Count the entries of matrices of an attention's queries and output, of its keys and values, and of a feed-forward."""
    assert cfg.kv_heads is not None and cfg.head_size is not None and cfg.ff is not None
    D = cfg.width
    query_and_out = 2 * D * cfg.heads * cfg.head_size
    key_and_value = 2 * D * cfg.kv_heads * cfg.head_size
    return query_and_out, key_and_value, (3 if cfg.gated else 2) * D * cfg.ff


def _vectors(cfg: Config, attentions: int) -> int:
    """Count what is no matrix of one layer with so many attentions: its norms and biases."""
    assert cfg.kv_heads is not None and cfg.head_size is not None and cfg.ff is not None
    D = cfg.width
    K = cfg.head_size
    norms = (attentions + 1) * (2 if cfg.norm_placement == "sandwich" else 1)
    counted = norms * D * (2 if cfg.bias else 1)
    if cfg.qk_norm:
        counted += attentions * 2 * K
    if cfg.bias:
        counted += attentions * (K * (cfg.heads + 2 * cfg.kv_heads) + D)
        counted += (2 if cfg.gated else 1) * cfg.ff + D
    return counted


def account(cfg: Config, seq_len: int) -> Accounting:
    """Count a resolved config. Groups: embed, head, encoder and decoder, each with its last norm.

    The decoder has the cross-attention. FLOPs and active parameters are means over the positions of a row: those of the
    source pass through the encoder and give keys and values to the decoder, the others pass through the rest and the head.
    """
    assert cfg.source is not None and cfg.encoder_depth is not None and cfg.head_size is not None
    outside, head = decoder.outside(cfg, cfg.bias)
    query_and_out, key_and_value, mlp = _in_layer(cfg)
    last_norm = outside.pop("norm")
    encoder = cfg.encoder_depth * (query_and_out + key_and_value + mlp)
    on_source = cfg.depth * key_and_value  # matrices of the decoder that a source passes through
    on_target = cfg.depth * (2 * query_and_out + key_and_value + mlp)
    encoder_vectors = cfg.encoder_depth * _vectors(cfg, 1) + last_norm
    decoder_vectors = cfg.depth * _vectors(cfg, 2) + last_norm
    params = {
        **outside,
        "encoder": encoder + encoder_vectors,
        "decoder": on_source + on_target + decoder_vectors,
    }

    source = cfg.source / seq_len  # of the positions
    target = 1 - source
    active = {
        "embed": outside["embed"],
        "head": round(outside["head"] * target),
        "encoder": round(params["encoder"] * source),
        "decoder": round(on_source * source + (on_target + decoder_vectors) * target),
    }
    matmul = {
        "head": head["head"] * target,
        "encoder": 2.0 * encoder * source,
        "decoder": 2.0 * (on_source * source + on_target * target),
    }
    S = cfg.source
    T = seq_len - S
    of_pair = 4.0 * cfg.heads * cfg.head_size / seq_len  # of a query and a key that meet in a layer
    whole = {"encoder": of_pair * cfg.encoder_depth * S * S, "cross": of_pair * cfg.depth * S * T}
    full = whole | {"decoder": of_pair * cfg.depth * T * T}
    causal = whole | {"decoder": of_pair * cfg.depth * T * (T + 1) / 2}
    return Accounting(params, active, matmul, full, causal, {})
