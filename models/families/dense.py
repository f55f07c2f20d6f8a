"""Dense decoder: Llama-style by default (Touvron et al. 2023), GPT-2-style by options (Radford et al. 2019).

One block: h = x + Attention(Norm(x)); y = h + Mlp(Norm(h)), or with its norms elsewhere (`Residual`). Equations and
counts are stated with `account`. This file leaves the loss, the optimizer and the mesh to others.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer
import numpy as np

from models.accounting import Accounting, transformer_conventions
from models.blocks import decoder, layers, stack
from models.blocks.attention import NOT_FUSED, AttentionOptions
from models.blocks.context import Context, Place
from models.blocks.layers import Mlp, param
from models.blocks.linear_attention import FEATURES
from models.blocks.linear_attention import flops as linear_flops
from models.blocks.past import Reached
from models.blocks.residual import PLACEMENTS, Residual
from models.blocks.transformer import Attention, check_heads, init_scales
from models.contract import Output, Role
from models.errors import InputError
from models.mesh.exchange import look_up
from models.numerics.parametrization import PARAMETRIZATIONS, TRANSFERS
from models.option import AT_LEAST_ONE, FRACTION, POSITIVE, Valid, inherit, option, when

SOFTMAX = when("attention", "softmax")
LINEAR = when("attention", "linear")
LAYERWISE = when("layerwise", True)
ROPE = when("position", "rope")
ENDS = Valid(
    "two positive numbers: of the first and the last layer",
    lambda ends: len(ends) == 2 and all(POSITIVE.holds(end) for end in ends),
)


@dataclasses.dataclass(frozen=True)
class Config(AttentionOptions):
    """Options of the dense family besides those of blocks/options.py. None means: derived by the rule in the help."""

    heads: int = option(4, valid=AT_LEAST_ONE, growth="size", help="query heads; with layerwise, at a share of 1")
    kv_heads: int | None = option(
        None, valid=AT_LEAST_ONE, growth="size", help="key-value heads; none: as many as heads"
    )
    head_size: int | None = option(None, valid=AT_LEAST_ONE, help="dimensions of a head; none: width / heads")
    ff: int | None = option(
        None,
        valid=AT_LEAST_ONE,
        when=when("layerwise", False),
        growth="size",
        help="feed-forward size; none: 8/3 width rounded up to a multiple of 16 where gated, else 4 width",
    )
    activation: str = option("swiglu", choices=tuple(layers.ACTIVATIONS), help="of the feed-forward; swiglu is gated")
    qk_norm: bool = option(False, help="normalise queries and keys")
    qk_norm_over: str = option(
        "head",
        choices=("head", "all"),
        when=when("qk_norm", True),
        help="head: each head by itself (Qwen3); all: those of a position together (OLMoE)",
    )
    bias: bool = option(False, help="matrices and norms have biases")
    attention: str = option(
        "softmax", choices=("softmax", "linear"), help="linear: with exponential decay (TransNormerLLM)"
    )
    window: int | None = option(
        None,
        valid=AT_LEAST_ONE,
        when=SOFTMAX,
        growth="free",
        help="positions that one attends to, itself and those before; none: all",
    )
    chunk: int | None = option(
        None,
        valid=AT_LEAST_ONE,
        when=LINEAR,
        growth="free",
        help="positions of one chunk; none: 64, or head_size if that is more",
    )
    features: str = option("silu", choices=tuple(FEATURES), when=LINEAR, help="what queries and keys go through")
    position: str = option("rope", choices=("rope", "learned", "none"), help="how a position enters")
    rope_theta: float = option(1e4, valid=POSITIVE, when=ROPE, growth="free", help="base of the frequencies")
    rope_scale: float = option(
        1.0, valid=POSITIVE, when=ROPE, growth="free", help="positions are divided by it (Chen et al. 2023)"
    )
    positions: int | None = option(
        None,
        valid=AT_LEAST_ONE,
        when=when("position", "learned"),
        help="rows of the learned position table; none: as many as seq_len",
    )
    norm_placement: str = option("pre", choices=PLACEMENTS, help="where a sublayer's norm stands: blocks/residual.py")
    mix_share: float = option(
        0.25, valid=FRACTION, when=when("norm_placement", "mix"), help="share of the layers that are post-norm"
    )
    base_head_size: int = option(
        1,
        valid=AT_LEAST_ONE,
        when=TRANSFERS,
        help="scores are q k sqrt(base_head_size) / head_size; 1 as published",
    )
    layerwise: bool = option(False, help="layers of unequal size (OpenELM): see layer_sizes")
    layerwise_heads: tuple[float, ...] = option(
        (0.5, 1.0), valid=ENDS, when=LAYERWISE, help="share of the heads in the first and in the last layer"
    )
    layerwise_ff: tuple[float, ...] = option(
        (0.5, 4.0), valid=ENDS, when=LAYERWISE, help="feed-forward size over width in the first and in the last layer"
    )
    layerwise_divisor: int = option(256, valid=AT_LEAST_ONE, when=LAYERWISE, help="divides feed-forward sizes")
    init: str = option(
        "gpt2",
        choices=("gpt2", "fan_in"),
        growth="free",
        help="gpt2: init_std; fan_in: init_std / 0.02 / sqrt(width), the width for all matrices; outputs / sqrt(2 depth)",
    )

    attention_kernel: str = inherit(AttentionOptions, "attention_kernel", when=SOFTMAX)
    attention_dropout: float = inherit(AttentionOptions, "attention_dropout", when=(SOFTMAX, NOT_FUSED))
    remat: str = inherit(AttentionOptions, "remat", choices=stack.REMAT)
    parametrization: str = inherit(AttentionOptions, "parametrization", choices=PARAMETRIZATIONS)

    def derived(self, seq_len: int) -> dict[str, Any]:
        """Return by name the options that follow from others, as they are or as their rules give them."""
        size = self.head_size or self.width // max(1, self.heads)
        chunk = self.chunk or max(64, size)
        return {
            "kv_heads": self.kv_heads or self.heads,
            "head_size": size,
            "ff": None if self.layerwise else self.ff or self.derived_ff,
            "chunk": chunk if self.attention == "linear" else None,
            "positions": (self.positions or seq_len) if self.position == "learned" else None,
        }

    @property
    def derived_ff(self) -> int:
        """Feed-forward size where none is given: about as many parameters with a gate as without."""
        return layers.usual_ff(self.width, self.gated)

    @property
    def gated(self) -> bool:
        """Whether a feed-forward has a third matrix, whose output multiplies."""
        return self.activation == "swiglu"

    def check(self, seq_len: int) -> None:
        """Raise InputError, naming the fields, for what cannot be built and for options that would do nothing."""
        super().check(seq_len)
        check_heads(self)
        if self.position == "learned" and (self.positions or seq_len) < seq_len:
            raise InputError(f"model.positions={self.positions} is less than seq_len={seq_len}")
        known = ("pre", "sandwich")
        if self.parametrization == "completep" and self.norm_placement not in known:
            raise InputError(
                f"model.norm_placement={self.norm_placement!r} has no rule for model.parametrization='completep'; "
                f"expected one of {', '.join(known)}"
            )

    def longest(self, seq_len: int | None) -> int | None:
        """As in all families; and a table of positions ends."""
        return self.positions if self.position == "learned" else super().longest(seq_len)

    def check_decoding(self, length: int) -> None:
        """As in all families; and a table of positions ends."""
        super().check_decoding(length)
        if self.position == "learned" and length > (self.positions or 0):
            raise InputError(f"model.positions={self.positions} are fewer than {length}; expected a shorter text")

    @property
    def score_scale(self) -> float:
        """Scale of the products of queries and keys: of size sqrt(head_size) before training, head_size once they align."""
        assert self.head_size is not None
        return self.base_head_size**0.5 / self.head_size if self.transfers else self.head_size**-0.5


def layer_sizes(cfg: Config) -> list[Config]:
    """Return a resolved config for each layer: the same, or of its own heads, kv_heads and ff (OpenELM, Mehta et al. 2024).

    Shares run evenly from the first layer's to the last's, in hundredths. Sizes are the nearest multiples of head_size
    times heads per key-value head, and of layerwise_divisor; one more where that falls below 0.9 of the size.
    """
    if not cfg.layerwise:
        return [cfg] * cfg.depth
    assert cfg.kv_heads is not None and cfg.head_size is not None
    group = cfg.heads // cfg.kv_heads
    of_heads = _evenly(cfg.layerwise_heads, cfg.depth)
    of_ff = _evenly(cfg.layerwise_ff, cfg.depth)
    sizes = []
    for share, times in zip(of_heads, of_ff, strict=True):
        group_width = group * cfg.head_size
        kv_heads = _nearest_multiple(share * cfg.heads * cfg.head_size, group_width) // group_width
        ff = _nearest_multiple(times * cfg.width, cfg.layerwise_divisor)
        sizes.append(dataclasses.replace(cfg, heads=kv_heads * group, kv_heads=kv_heads, ff=ff))
    return sizes


def _evenly(ends: Sequence[float], depth: int) -> Float[np.ndarray, "Y"]:
    first, last = ends
    return np.linspace(first, last, depth).round(2)


def _nearest_multiple(value: float, of: int) -> int:
    multiple = max(of, int(value + of / 2) // of * of)
    return multiple + of if multiple < 0.9 * value else multiple


class Block(nnx.Module):
    """One layer: attention and feed-forward, each in a residual connection. Layers count from 1."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config):
        assert cfg.ff is not None
        std = init_scales(cfg)
        self.attention_norm = Residual(rngs, cfg)
        self.attention = Attention(rngs, cfg)
        self.mlp_norm = Residual(rngs, cfg)
        self.mlp = Mlp(rngs, cfg.width, cfg.ff, cfg.activation, cfg.bias, std.value, std.out, cfg.quant)

    def __call__(
        self, x_BLD: Float[Array, "B L D"], layer: Integer[Array, ""], context: Context = Context()
    ) -> Float[Array, "B L D"]:
        y_BLD = self.attention(self.attention_norm.enter(x_BLD, layer), layer, context)
        x_BLD = self.attention_norm.leave(x_BLD, y_BLD, layer, context)
        y_BLD = self.mlp(self.mlp_norm.enter(x_BLD, layer))
        return self.mlp_norm.leave(x_BLD, y_BLD, layer, context, Place.FEED_FORWARD)


def layer_runs(cfg: Config, block: Callable[..., nnx.Module]) -> list[stack.Run]:
    """Return the runs of neighbouring layers of equal size."""
    runs = []
    for same, equal_layers in itertools.groupby(layer_sizes(cfg)):
        count = len(list(equal_layers))
        runs.append(stack.Run(functools.partial(block, cfg=same), count))
    return runs


class Model(decoder.Decoder):
    """Token ids [B, L] to logits [B, L, V]. `cfg` must be resolved; its `init_std` may be a traced number."""

    def __init__(self, cfg: Config, rngs: nnx.Rngs, block: Callable[..., nnx.Module] = Block, depth: int | None = None):
        """Make `depth` layers, where a family keeps others besides them; else cfg.depth."""
        if depth is None:
            runs = layer_runs(cfg, block)
        else:
            runs = [stack.Run(functools.partial(block, cfg=cfg), depth)]
        super().__init__(cfg, rngs, runs, cfg.bias)
        table = {"rows": cfg.positions, "columns": cfg.width}
        self.position = param(rngs, Role.EMBED, table, cfg.init_std) if cfg.position == "learned" else None
        self.past: Reached | None = nnx.data(None)

    def remember(self, batch: int, length: int) -> None:
        """Count positions for their table: models/blocks/past.py."""
        del length
        if self.position is not None:
            self.past = Reached((batch,))

    def look_up(self, tokens_BL: Integer[Array, "B L"], context: Context) -> Float[Array, "B L D"]:
        """Return token embeddings, with learned positions where the config has them."""
        x_BLD = super().look_up(tokens_BL, context)
        if self.position is None:
            return x_BLD
        table_LD = self.position[...].astype(x_BLD.dtype)
        length = tokens_BL.shape[1]
        if context.positions_BL is not None:
            return x_BLD + look_up(table_LD, context.positions_BL)
        if self.past is None:
            return x_BLD + table_LD[:length]
        position_BL = self.past.next(length)
        self.past.move(length)
        return x_BLD + table_LD[position_BL]

    def layers(
        self, x_BLD: Float[Array, "B L D"], context: Context = Context()
    ) -> tuple[Float[Array, "B L D"], Output]:
        """Run all layers, each told its number from 1."""
        cfg = self.cfg
        layer_Y = jnp.arange(1, cfg.depth + 1)
        x_BLD = stack.apply_stack(self.blocks, x_BLD, layer_Y, unroll=cfg.unroll, remat=cfg.remat, context=context)
        return x_BLD, Output(None)


class LayerCounts(NamedTuple):
    """What one layer has and costs."""

    params: dict[str, int]  # by group
    matrices: dict[str, int]  # entries of matrices, by term
    attention: tuple[float, float]  # FLOPs of attention per token: full, causal


def layer_counts(cfg: Config, seq_len: int) -> LayerCounts:
    """Count one layer of a resolved config."""
    assert cfg.kv_heads is not None and cfg.head_size is not None
    D = cfg.width
    H = cfg.heads
    G = cfg.kv_heads
    K = cfg.head_size
    F = cfg.ff or cfg.derived_ff
    linear = cfg.attention == "linear"
    enter_ff = 2 if cfg.gated else 1
    projected = K * (H + 2 * G)  # queries, keys and values
    if linear:
        projected += K * H  # gates
    matrices = {
        "attention": D * projected + H * K * D,
        "mlp": (enter_ff + 1) * D * F,
    }

    params = dict(matrices)
    if cfg.bias:
        params["attention"] += projected + D
        params["mlp"] += enter_ff * F + D
    norms = 4 if cfg.norm_placement == "sandwich" else 2
    params_of_norm = 2 * D if cfg.bias else D
    params["norm"] = norms * params_of_norm
    if cfg.qk_norm:
        params["norm"] += K * (H + G) if cfg.qk_norm_over == "all" else K * 2

    if linear:
        assert cfg.chunk is not None
        return LayerCounts(params, matrices, linear_flops(H, K, cfg.chunk, seq_len))
    # Causal: a position sees those before it, up to the window; the mean over positions is (2 L - seen + 1) seen / (2 L).
    seen = min(cfg.window or seq_len, seq_len)
    full = 4.0 * H * K * seen
    causal = 2.0 * H * K * (2 * seq_len - seen + 1) * seen / seq_len
    return LayerCounts(params, matrices, (full, causal))


def account(cfg: Config, seq_len: int) -> Accounting:
    """Count a resolved config. Groups: embed, position, head, attention, mlp, norm.

    What a document mask hides is counted: see models/accounting.py.
    """
    sizes = layer_sizes(cfg)
    params, matmul = decoder.outside(cfg, cfg.bias)
    params |= {"position": (cfg.positions or 0) * cfg.width, "attention": 0, "mlp": 0}
    matmul |= {"attention": 0.0, "mlp": 0.0}
    full = 0.0
    causal = 0.0
    for layer in sizes:
        counted = layer_counts(layer, seq_len)
        for group, number in counted.params.items():
            params[group] += number
        for term, entries in counted.matrices.items():
            matmul[term] += 2.0 * entries
        full += counted.attention[0]
        causal += counted.attention[1]

    heads = sum(layer.heads for layer in sizes) / cfg.depth
    ff = sum(layer.ff or 0 for layer in sizes) / cfg.depth
    conventions = transformer_conventions(
        width=cfg.width,
        depth=cfg.depth,
        heads_width=heads * (cfg.head_size or 0),
        heads=heads,
        ff=ff,
        ff_matrices=3 if cfg.gated else 2,
        vocab=cfg.vocab or 0,
        seq_len=seq_len,
    )
    return Accounting(
        params=params,
        active=params,
        matmul=matmul,
        attention={"attention": full},
        causal={"attention": causal},
        conventions=conventions,
    )
