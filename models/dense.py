"""Dense decoder: Llama-style by default (Touvron et al. 2023), GPT-2-style by options (Radford et al. 2019).

One pre-norm block: h = x + Attention(Norm(x)); y = h + Mlp(Norm(h)). SPECS: equations and counts are stated with
`account`. This file leaves the loss, the optimizer and the mesh to others.
"""

import dataclasses
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float, Integer

from experiments.cli import InputError
from models import decoder, layers
from models.contract import Accounting, transformer_conventions
from models.layers import Linear, Mlp, Norm, param
from models.partition import constrain


@dataclasses.dataclass(frozen=True)
class Config(decoder.Options):
    """Options of the dense family besides those of decoder.Options. None means: derived by the rule in the comment."""

    heads: int = 4
    kv_heads: int | None = None  # as many as heads
    head_size: int | None = None  # width / heads
    ff: int | None = None  # gated: 8/3 width rounded up to a multiple of 16; else 4 width
    activation: str = "swiglu"
    qk_norm: bool = False
    qk_norm_over: str = "head"  # head: each by itself (Qwen3) | all: those of a position together (OLMoE)
    bias: bool = False
    position: str = "rope"
    rope_theta: float = 1e4
    positions: int | None = None  # rows of the learned position table: as many as seq_len
    init: str = "gpt2"  # gpt2: std, residual outputs std / sqrt(2 depth); fan_in: the same times (width x std^2)^-1/2

    choices: ClassVar = decoder.Options.choices | {
        "activation": tuple(layers.ACTIVATIONS),
        "position": ("rope", "learned"),
        "qk_norm_over": ("head", "all"),
        "init": ("gpt2", "fan_in"),
    }
    counts: ClassVar = (*decoder.Options.counts, "heads", "kv_heads", "head_size", "ff", "positions")

    def resolve(self, vocab: int, seq_len: int) -> "Config":
        """The same options with every derived one filled in."""
        gated = self.activation == "swiglu"
        return dataclasses.replace(
            super().resolve(vocab, seq_len),
            kv_heads=self.kv_heads or self.heads,
            head_size=self.head_size or self.width // max(1, self.heads),
            ff=self.ff or (layers.round_up(8 * self.width / 3, 16) if gated else 4 * self.width),
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


class Attention(nnx.Module):
    """Causal multi-head attention with grouped key-value heads and optional query-key norm (Qwen3)."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config, std: Any, out_std: Any):
        D, H, G, K = cfg.width, cfg.heads, cfg.kv_heads, cfg.head_size
        self.cfg = decoder.untraced(cfg)
        self.query = Linear(rngs, {"embed": D, "heads": H * K}, std, cfg.bias)
        self.key = Linear(rngs, {"embed": D, "kv_heads": G * K}, std, cfg.bias)
        self.value = Linear(rngs, {"embed": D, "kv_heads": G * K}, std, cfg.bias)
        self.out = Linear(rngs, {"heads": H * K, "embed": D}, out_std, cfg.bias)
        whole = cfg.qk_norm_over == "all"
        axes = ({"heads": H * K}, {"kv_heads": G * K}) if whole else ({"head_size": K}, {"head_size": K})
        self.query_norm = Norm(rngs, axes[0], "rms", cfg.norm_eps) if cfg.qk_norm else None
        self.key_norm = Norm(rngs, axes[1], "rms", cfg.norm_eps) if cfg.qk_norm else None

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        cfg, (B, L, _) = self.cfg, x_BLD.shape
        q, k = self.query(x_BLD), self.key(x_BLD)
        if cfg.qk_norm and cfg.qk_norm_over == "all":
            q, k = self.query_norm(q), self.key_norm(k)
        q_BLHK = q.reshape(B, L, cfg.heads, cfg.head_size)
        k_BLGK = k.reshape(B, L, cfg.kv_heads, cfg.head_size)
        v_BLGK = self.value(x_BLD).reshape(B, L, cfg.kv_heads, cfg.head_size)
        if cfg.qk_norm and cfg.qk_norm_over == "head":
            q_BLHK, k_BLGK = self.query_norm(q_BLHK), self.key_norm(k_BLGK)
        if cfg.position == "rope":
            q_BLHK, k_BLGK = layers.rotary(q_BLHK, cfg.rope_theta), layers.rotary(k_BLGK, cfg.rope_theta)
        q_BLHK = constrain(q_BLHK, "batch", "position", "heads", "head_size")
        k_BLGK = constrain(k_BLGK, "batch", "position", "kv_heads", "head_size")
        v_BLGK = constrain(v_BLGK, "batch", "position", "kv_heads", "head_size")
        o_BLHK = layers.attention(q_BLHK, k_BLGK, v_BLGK, cfg.head_size**-0.5)
        return self.out(o_BLHK.reshape(B, L, cfg.heads * cfg.head_size))


class Block(nnx.Module):
    """One layer: attention and feed-forward, each behind a norm and around a residual."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config):
        std, out_std = init_scales(cfg)
        self.attention_norm = Norm(rngs, {"norm": cfg.width}, cfg.norm, cfg.norm_eps, cfg.bias)
        self.attention = Attention(rngs, cfg, std, out_std)
        self.mlp_norm = Norm(rngs, {"norm": cfg.width}, cfg.norm, cfg.norm_eps, cfg.bias)
        self.mlp = Mlp(rngs, cfg.width, cfg.ff, cfg.activation, cfg.bias, std, out_std)

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD))
        x_BLD = x_BLD + self.mlp(self.mlp_norm(x_BLD))
        return constrain(x_BLD, "batch", "position", "width")


def init_scales(cfg: Config) -> tuple[Any, Any]:
    """Standard deviations of hidden matrices and of those that write to the residual stream (GPT-2: / sqrt(2 L))."""
    std = cfg.init_std if cfg.init == "gpt2" else cfg.init_std / 0.02 * cfg.width**-0.5
    return std, std / (2 * cfg.depth) ** 0.5


class Model(decoder.Decoder):
    """Token ids [B, L] to logits [B, L, V]. `cfg` must be resolved; its `init_std` may be a traced number."""

    def __init__(self, cfg: Config, rngs: nnx.Rngs, block: Any = Block, depth: int | None = None):
        super().__init__(cfg, rngs, lambda rngs: block(rngs, cfg), cfg.bias, depth)
        table = {"rows": cfg.positions, "columns": cfg.width}
        self.position = param(rngs, table, cfg.init_std) if cfg.position == "learned" else None

    def look_up(self, tokens_BL: Integer[Array, "B L"]) -> Float[Array, "B L D"]:
        """Token embeddings, with learned positions where the config has them."""
        x_BLD = super().look_up(tokens_BL)
        if self.position is None:
            return x_BLD
        return x_BLD + self.position[...].astype(x_BLD.dtype)[: tokens_BL.shape[1]]


def account(cfg: Config, seq_len: int) -> Accounting:
    """Counts of a resolved config. Groups: embed, position, head, attention, mlp, norm."""
    D, H, G, K, F, V, Y = cfg.width, cfg.heads, cfg.kv_heads, cfg.head_size, cfg.ff, cfg.vocab, cfg.depth
    gates = 3 if cfg.activation == "swiglu" else 2
    attention, mlp = D * K * (H + 2 * G) + H * K * D, gates * D * F
    qk = K * (H + G if cfg.qk_norm_over == "all" else 2) if cfg.qk_norm else 0
    norms = Y * (2 * D * (2 if cfg.bias else 1) + qk)
    biases = {"attention": K * (H + 2 * G) + D, "mlp": (gates - 1) * F + D} if cfg.bias else {"attention": 0, "mlp": 0}
    params, matmul = decoder.outside(cfg, cfg.bias)
    params |= {
        "position": (cfg.positions or 0) * D,
        "attention": Y * (attention + biases["attention"]),
        "mlp": Y * (mlp + biases["mlp"]),
        "norm": params["norm"] + norms,
    }
    return Accounting(
        params=params,
        active=params,
        matmul=matmul | {"attention": 2.0 * Y * attention, "mlp": 2.0 * Y * mlp},
        attention={"attention": 4.0 * Y * H * K * seq_len},
        causal={"attention": 2.0 * Y * H * K * (seq_len + 1)},
        conventions=transformer_conventions(
            width=D, depth=Y, heads_width=H * K, heads=H, ff=F, ff_matrices=gates, vocab=V, seq_len=seq_len
        ),
    )
