"""Dense decoder: Llama-style by default (Touvron et al. 2023), GPT-2-style by options (Radford et al. 2019).

One block: h = x + Attention(Norm(x)); y = h + Mlp(Norm(h)), or with its norms elsewhere (`Residual`). SPECS: equations
and counts are stated with `account`. This file leaves the loss, the optimizer and the mesh to others.
"""

import dataclasses
import functools
import itertools
from typing import Any, ClassVar, NamedTuple

from flax import nnx
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer
import numpy as np

from models.accounting import Accounting, transformer_conventions
from models.blocks import decoder, layers, stack
from models.blocks.attention import Options, attention
from models.blocks.layers import Linear, Mlp, Norm, param
from models.blocks.linear_attention import FEATURES, linear_attention, log_decay
from models.blocks.linear_attention import flops as linear_flops
from models.blocks.residual import Residual
from models.contract import Output, Role
from models.errors import InputError
from models.mesh.exchange import exchange
from models.numerics.formats import straight_through
from models.numerics.parametrization import PARAMETRIZATIONS


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Options of the dense family besides those of attention.Options. None means: derived by the rule in the comment."""

    heads: int = 4
    kv_heads: int | None = None  # as many as heads
    head_size: int | None = None  # width / heads
    ff: int | None = None  # gated: 8/3 width rounded up to a multiple of 16; else 4 width
    activation: str = "swiglu"
    qk_norm: bool = False
    qk_norm_over: str = "head"  # head: each by itself (Qwen3) | all: those of a position together (OLMoE)
    bias: bool = False
    attention: str = "softmax"  # softmax | linear: with exponential decay, see Attention
    window: int | None = None  # softmax: positions that one attends to, itself and those before it; all of them
    chunk: int | None = None  # linear: positions of one chunk; 64, or head_size if that is more
    features: str = "silu"  # linear: of queries and keys
    position: str = "rope"  # rope | learned | none
    rope_theta: float = 1e4
    positions: int | None = None  # rows of the learned position table: as many as seq_len
    norm_placement: str = "pre"  # pre | post | sandwich | deepnorm | mix | lns: see Residual
    mix_share: float = 0.25  # of the layers that are post-norm in "mix"
    base_head_size: int = 1  # mup, completep: q k sqrt(base_head_size) / head_size; 1 as published
    layerwise: bool = False  # layers of unequal size (OpenELM): see layer_sizes; `heads` are those at a share of 1
    layerwise_heads: tuple[float, ...] = (0.5, 1.0)  # share of the heads in the first and in the last layer
    layerwise_ff: tuple[float, ...] = (0.5, 4.0)  # feed-forward size over width in the first and in the last layer
    layerwise_divisor: int = 256  # of feed-forward sizes
    init: str = "gpt2"  # gpt2: std, residual outputs std / sqrt(2 depth); fan_in: the same times (width x std^2)^-1/2

    choices: ClassVar = Options.choices | {
        "activation": tuple(layers.ACTIVATIONS),
        "attention": ("softmax", "linear"),
        "remat": stack.REMAT,
        "features": tuple(FEATURES),
        "position": ("rope", "learned", "none"),
        "qk_norm_over": ("head", "all"),
        "norm_placement": ("pre", "post", "sandwich", "deepnorm", "mix", "lns"),
        "init": ("gpt2", "fan_in"),
        "parametrization": PARAMETRIZATIONS,
    }
    counts: ClassVar = (
        *(*Options.counts, "heads", "kv_heads", "head_size", "base_head_size", "ff", "positions"),
        *("window", "chunk", "layerwise_divisor"),
    )

    def resolve(self, vocab: int, seq_len: int) -> "Config":
        """The same options with every derived one filled in."""
        gated, size = self.activation == "swiglu", self.head_size or self.width // max(1, self.heads)
        ff = self.ff or (layers.round_up(8 * self.width / 3, 16) if gated else 4 * self.width)
        return dataclasses.replace(
            super().resolve(vocab, seq_len),
            kv_heads=self.kv_heads or self.heads,
            head_size=size,
            ff=None if self.layerwise else ff,
            chunk=(self.chunk or max(64, size)) if self.attention == "linear" else None,
            positions=(self.positions or seq_len) if self.position == "learned" else None,
        )

    def check(self, seq_len: int) -> None:
        """Raises InputError, naming the fields, for sizes and choices that cannot be built."""
        super().check(seq_len)
        if self.head_size is None and self.width % self.heads:
            raise InputError(f"model.width={self.width} is not divisible by model.heads={self.heads}")
        if self.heads % (self.kv_heads or self.heads):
            raise InputError(f"model.heads={self.heads} is not divisible by model.kv_heads={self.kv_heads}")
        size = self.head_size or self.width // self.heads
        if self.position == "rope" and size % 2:
            raise InputError(f"model.head_size={size} (width / heads) must be even for model.position='rope'")
        if self.position == "learned" and (self.positions or seq_len) < seq_len:
            raise InputError(f"model.positions={self.positions} is less than seq_len={seq_len}")
        if self.window is not None and self.attention == "linear":
            raise InputError(f"model.window={self.window} has no meaning for model.attention='linear'; expected None")
        if self.attention_kernel == "fused" and self.attention == "linear":
            raise InputError(
                "model.attention_kernel='fused' has no meaning for model.attention='linear'; expected auto"
            )
        if self.layerwise:
            self._check_layerwise()
        if not 0 <= self.mix_share <= 1:
            raise InputError(f"model.mix_share={self.mix_share} must be between 0 and 1")
        if self.parametrization == "completep" and self.norm_placement not in (known := ("pre", "sandwich")):
            raise InputError(
                f"model.norm_placement={self.norm_placement!r} has no rule for model.parametrization='completep'; "
                f"expected one of {', '.join(known)}"
            )

    def _check_layerwise(self) -> None:
        if self.ff is not None:
            raise InputError(f"model.ff={self.ff} has no meaning for model.layerwise=True; expected None")
        for name in ("layerwise_heads", "layerwise_ff"):
            ends = getattr(self, name)
            if len(ends) != 2 or not all(0 < end < float("inf") for end in ends):
                raise InputError(f"model.{name}={ends} must be two positive numbers: of the first and the last layer")

    @property
    def score_scale(self) -> float:
        """Of the products of queries and keys: of size sqrt(head_size) before training, but head_size once they align."""
        return self.base_head_size**0.5 / self.head_size if self.transfers else self.head_size**-0.5


def layer_sizes(cfg: Config) -> list[Config]:
    """A resolved config for each layer: the same, or of its own heads, kv_heads and ff (OpenELM, Mehta et al. 2024).

    Shares run evenly from the first layer's to the last's, in hundredths. Sizes are the nearest multiples of head_size
    times heads per key-value head, and of layerwise_divisor; one more where that falls below 0.9 of the size.
    """
    if not cfg.layerwise:
        return [cfg] * cfg.depth

    def nearest_multiple(value: float, of: int) -> int:
        multiple = max(of, int(value + of / 2) // of * of)
        return multiple + of if multiple < 0.9 * value else multiple

    group = cfg.heads // cfg.kv_heads
    shares = (np.linspace(*ends, cfg.depth).round(2) for ends in (cfg.layerwise_heads, cfg.layerwise_ff))
    out = []
    for share, times in zip(*shares, strict=True):
        kv_heads = nearest_multiple(share * cfg.heads * cfg.head_size, group * cfg.head_size) // (group * cfg.head_size)
        ff = nearest_multiple(times * cfg.width, cfg.layerwise_divisor)
        out.append(dataclasses.replace(cfg, heads=kv_heads * group, kv_heads=kv_heads, ff=ff))
    return out


class Attention(nnx.Module):
    """Causal multi-head attention with grouped key-value heads and optional query-key norm (Qwen3).

    linear: TransNormerLLM's (Qin et al. 2023, as published in code): features of queries and keys before the rotation,
    decay in place of the softmax (models/blocks/linear_attention.py), all heads of a position normalised together without a
    weight, and multiplied with a projection of the input. Its decays here are those of flash-linear-attention.
    """

    def __init__(self, rngs: nnx.Rngs, cfg: Config):
        D, H, G, K, std = cfg.width, cfg.heads, cfg.kv_heads, cfg.head_size, init_scales(cfg)
        self.cfg = decoder.untraced(cfg)
        self.query = Linear(rngs, Role.QUERY, {"embed": D, "heads": H * K}, std.hidden, cfg.bias, cfg.quant)
        self.key = Linear(rngs, Role.KEY, {"embed": D, "kv_heads": G * K}, std.hidden, cfg.bias, cfg.quant)
        self.value = Linear(rngs, Role.VALUE, {"embed": D, "kv_heads": G * K}, std.value, cfg.bias, cfg.quant)
        self.out = Linear(rngs, Role.WRITES, {"heads": H * K, "embed": D}, std.out, cfg.bias, cfg.quant)
        linear = cfg.attention == "linear"
        gate = {"embed": D, "heads": H * K}
        self.gate = Linear(rngs, Role.READS, gate, std.value, cfg.bias, cfg.quant) if linear else None
        whole = cfg.qk_norm_over == "all"
        axes = ({"heads": H * K}, {"kv_heads": G * K}) if whole else ({"head_size": K}, {"head_size": K})
        self.query_norm = Norm(rngs, axes[0], "rms", cfg.norm_eps) if cfg.qk_norm else None
        self.key_norm = Norm(rngs, axes[1], "rms", cfg.norm_eps) if cfg.qk_norm else None

    def __call__(self, x_BLD: Float[Array, "B L D"], layer: Integer[Array, ""]) -> Float[Array, "B L D"]:
        """`layer` counts from 1; only decays depend on it."""
        cfg, (B, L, _) = self.cfg, x_BLD.shape
        q, k = self.query(x_BLD), self.key(x_BLD)
        if cfg.qk_norm and cfg.qk_norm_over == "all":
            q, k = self.query_norm(q), self.key_norm(k)
        q_BLHK = q.reshape(B, L, cfg.heads, cfg.head_size)
        k_BLGK = k.reshape(B, L, cfg.kv_heads, cfg.head_size)
        v_BLGK = self.value(x_BLD).reshape(B, L, cfg.kv_heads, cfg.head_size)
        if cfg.qk_norm and cfg.qk_norm_over == "head":
            q_BLHK, k_BLGK = self.query_norm(q_BLHK), self.key_norm(k_BLGK)
        if self.gate is not None:
            q_BLHK, k_BLGK = FEATURES[cfg.features](q_BLHK), FEATURES[cfg.features](k_BLGK)
        if cfg.position == "rope":
            q_BLHK, k_BLGK = layers.rotary(q_BLHK, cfg.rope_theta), layers.rotary(k_BLGK, cfg.rope_theta)
        q_BLHK = exchange(q_BLHK, "heads", "head_size")
        k_BLGK, v_BLGK = (exchange(x, "kv_heads", "head_size") for x in (k_BLGK, v_BLGK))
        k_BLGK, v_BLGK = (straight_through(x, cfg.kv_format, -1) for x in (k_BLGK, v_BLGK))
        if self.gate is None:
            o_BLHK = attention(q_BLHK, k_BLGK, v_BLGK, cfg.score_scale, window=cfg.window, kernel=cfg.attention_kernel)
            o_BLHK = checkpoint_name(exchange(o_BLHK, "heads", "head_size", back=True), "attention")
            return self.out(o_BLHK.reshape(B, L, cfg.heads * cfg.head_size))
        decay_H = log_decay(cfg.heads, layer, cfg.depth)
        o_BLHK = linear_attention(q_BLHK, k_BLGK, v_BLGK, decay_H, cfg.score_scale, cfg.chunk)
        o_BLHK = checkpoint_name(exchange(o_BLHK, "heads", "head_size", back=True), "attention")
        o = layers.normalise(o_BLHK.reshape(B, L, cfg.heads * cfg.head_size), "rms", cfg.norm_eps)
        return self.out(o * self.gate(x_BLD))


class Block(nnx.Module):
    """One layer: attention and feed-forward, each in a residual connection. Layers count from 1."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config):
        std = init_scales(cfg)
        self.attention_norm = Residual(rngs, cfg)
        self.attention = Attention(rngs, cfg)
        self.mlp_norm = Residual(rngs, cfg)
        self.mlp = Mlp(rngs, cfg.width, cfg.ff, cfg.activation, cfg.bias, std.value, std.out, cfg.quant)

    def __call__(self, x_BLD: Float[Array, "B L D"], layer: Integer[Array, ""]) -> Float[Array, "B L D"]:
        y_BLD = self.attention(self.attention_norm.enter(x_BLD, layer), layer)
        x_BLD = self.attention_norm.leave(x_BLD, y_BLD, layer)
        y_BLD = self.mlp(self.mlp_norm.enter(x_BLD, layer))
        return self.mlp_norm.leave(x_BLD, y_BLD, layer)


class Scales(NamedTuple):
    """Standard deviations of initial weights: queries, keys and routers; values and into feed-forwards; residual outputs."""

    hidden: Any
    value: Any
    out: Any


def init_scales(cfg: Config) -> Scales:
    """Outputs have std / sqrt(2 L) (GPT-2); with deepnorm they, values and feed-forwards have std (8L)^-1/4 (DeepNet)."""
    std = cfg.init_std if cfg.init == "gpt2" else cfg.init_std / 0.02 * (cfg.width / cfg.width_ratio) ** -0.5
    std, out = cfg.init_stds(std)
    if cfg.norm_placement == "deepnorm":
        return Scales(std, std * (8 * cfg.depth) ** -0.25, std * (8 * cfg.depth) ** -0.25)
    return Scales(std, std, out)


class Model(decoder.Decoder):
    """Token ids [B, L] to logits [B, L, V]. `cfg` must be resolved; its `init_std` may be a traced number."""

    def __init__(self, cfg: Config, rngs: nnx.Rngs, block: Any = Block, depth: int | None = None):
        """`depth` layers, where a family keeps others besides them."""
        sizes = layer_sizes(cfg) if depth is None else [cfg] * depth
        runs = [(functools.partial(block, cfg=same), len(list(run))) for same, run in itertools.groupby(sizes)]
        super().__init__(cfg, rngs, runs, cfg.bias)
        table = {"rows": cfg.positions, "columns": cfg.width}
        self.position = param(rngs, Role.EMBED, table, cfg.init_std) if cfg.position == "learned" else None

    def look_up(self, tokens_BL: Integer[Array, "B L"]) -> Float[Array, "B L D"]:
        """Token embeddings, with learned positions where the config has them."""
        x_BLD = super().look_up(tokens_BL)
        if self.position is None:
            return x_BLD
        return x_BLD + self.position[...].astype(x_BLD.dtype)[: tokens_BL.shape[1]]

    def layers(self, x_BLD: Float[Array, "B L D"]) -> tuple[Float[Array, "B L D"], Output]:
        """All layers, each told its number from 1."""
        cfg, layer_Y = self.cfg, jnp.arange(1, self.cfg.depth + 1)
        return stack.apply_stack(self.blocks, x_BLD, layer_Y, unroll=cfg.unroll, remat=cfg.remat), Output(None)


def layer_counts(cfg: Config, seq_len: int) -> tuple[dict[str, int], dict[str, int], tuple[float, float]]:
    """Of one layer: parameters by group, matrix entries by term, FLOPs of attention (full, causal) per token."""
    D, H, G, K, F = cfg.width, cfg.heads, cfg.kv_heads, cfg.head_size, cfg.ff
    linear, wide = cfg.attention == "linear", 3 if cfg.activation == "swiglu" else 2
    projected = K * (2 * H + 2 * G if linear else H + 2 * G)  # queries, keys, values, gates
    matrices = {"attention": D * projected + H * K * D, "mlp": wide * D * F}
    biases = {"attention": projected + D, "mlp": (wide - 1) * F + D}
    qk = K * (H + G if cfg.qk_norm_over == "all" else 2) if cfg.qk_norm else 0
    norm = (4 if cfg.norm_placement == "sandwich" else 2) * D * (2 if cfg.bias else 1) + qk
    params = {group: n + (biases[group] if cfg.bias else 0) for group, n in matrices.items()} | {"norm": norm}
    if linear:
        return params, matrices, linear_flops(H, K, cfg.chunk, seq_len)
    seen = min(cfg.window or seq_len, seq_len)
    return params, matrices, (4.0 * H * K * seen, 2.0 * H * K * (2 * seq_len - seen + 1) * seen / seq_len)


def account(cfg: Config, seq_len: int) -> Accounting:
    """Counts of a resolved config. Groups: embed, position, head, attention, mlp, norm."""
    sizes = layer_sizes(cfg)
    params, matmul = decoder.outside(cfg, cfg.bias)
    params |= {"position": (cfg.positions or 0) * cfg.width, "attention": 0, "mlp": 0}
    matmul |= {"attention": 0.0, "mlp": 0.0}
    full = causal = 0.0
    for layer in sizes:
        added, matrices, attention = layer_counts(layer, seq_len)
        params |= {group: params[group] + n for group, n in added.items()}
        matmul |= {term: matmul[term] + 2.0 * n for term, n in matrices.items()}
        full, causal = full + attention[0], causal + attention[1]

    def mean(name: str) -> float:
        return sum(getattr(layer, name) for layer in sizes) / cfg.depth

    return Accounting(
        params=params,
        active=params,
        matmul=matmul,
        attention={"attention": full},
        causal={"attention": causal},
        conventions=transformer_conventions(
            width=cfg.width, depth=cfg.depth, heads_width=mean("heads") * cfg.head_size, heads=mean("heads"),
            ff=mean("ff"), ff_matrices=3 if cfg.activation == "swiglu" else 2, vocab=cfg.vocab, seq_len=seq_len,
        ),
    )  # fmt: skip
