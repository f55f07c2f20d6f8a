"""Dense decoder: Llama-style by default (Touvron et al. 2023), GPT-2-style by options (Radford et al. 2019).

One pre-norm block: h = x + Attention(Norm(x)); y = h + Mlp(Norm(h)). SPECS: equations and counts are stated with
`account`. This file leaves the loss, the optimizer and the mesh to others.
"""

import dataclasses
from typing import Any

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from experiments.cli import InputError, nearest
from experiments.option import option
from models import layers
from models.contract import Accounting, Output, transformer_conventions
from models.layers import Linear, Mlp, Norm, param
from models.partition import constrain

CHOICES = {
    "norm": ("rms", "layer"),
    "activation": tuple(layers.ACTIVATIONS),
    "position": ("rope", "learned"),
    "init": ("gpt2", "fan_in"),
    "dtype": ("float32", "bfloat16"),
    "remat": layers.REMAT,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the dense family. None means: derived by the rule in the comment."""

    width: int = 256
    depth: int = 4
    heads: int = 4
    kv_heads: int | None = None  # as many as heads
    head_size: int | None = None  # width / heads
    ff: int | None = None  # gated: 8/3 width rounded up to a multiple of 16; else 4 width
    vocab: int | None = None  # as many as the tokenizer has
    activation: str = "swiglu"
    norm: str = "rms"
    norm_eps: float = 1e-5
    qk_norm: bool = False
    bias: bool = False
    tied: bool = False
    position: str = "rope"
    rope_theta: float = 1e4
    positions: int | None = None  # rows of the learned position table: as many as seq_len
    init: str = "gpt2"  # gpt2: std, residual outputs std / sqrt(2 depth); fan_in: the same times (width x std^2)^-1/2
    init_std: float | Array = option(0.02, runtime=True)  # an array while it is traced
    dtype: str = "float32"  # of activations; parameters, norms, softmax and loss are float32
    unroll: bool | None = option(None, numerics=False)  # layers unrolled or scanned; None: as the backend likes
    remat: str = option("none", numerics=False)

    def resolve(self, vocab: int, seq_len: int) -> "Config":
        """The same options with every derived one filled in."""
        gated = self.activation == "swiglu"
        return dataclasses.replace(
            self,
            kv_heads=self.kv_heads or self.heads,
            head_size=self.head_size or self.width // max(1, self.heads),
            ff=self.ff or (layers.round_up(8 * self.width / 3, 16) if gated else 4 * self.width),
            vocab=self.vocab or vocab,
            positions=(self.positions or seq_len) if self.position == "learned" else None,
        )

    def check(self, seq_len: int) -> None:
        """Raises InputError, naming the fields, for sizes and choices that cannot be built."""
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise InputError(f"model.{name}={value!r} is not known; {nearest(str(value), known, 'choice')}")
        for name in ("width", "depth", "heads", "kv_heads", "head_size", "ff", "vocab", "positions"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"model.{name}={value} must be at least 1")
        if not 0 < self.init_std < float("inf"):
            raise InputError(f"model.init_std={self.init_std} must be a positive number")
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
        self.cfg = dataclasses.replace(cfg, init_std=Config.init_std)
        self.query = Linear(rngs, {"embed": D, "heads": H * K}, std, cfg.bias)
        self.key = Linear(rngs, {"embed": D, "kv_heads": G * K}, std, cfg.bias)
        self.value = Linear(rngs, {"embed": D, "kv_heads": G * K}, std, cfg.bias)
        self.out = Linear(rngs, {"heads": H * K, "embed": D}, out_std, cfg.bias)
        self.query_norm = Norm(rngs, {"head_size": K}, "rms", cfg.norm_eps) if cfg.qk_norm else None
        self.key_norm = Norm(rngs, {"head_size": K}, "rms", cfg.norm_eps) if cfg.qk_norm else None

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        cfg, (B, L, _) = self.cfg, x_BLD.shape
        q_BLHK = self.query(x_BLD).reshape(B, L, cfg.heads, cfg.head_size)
        k_BLGK = self.key(x_BLD).reshape(B, L, cfg.kv_heads, cfg.head_size)
        v_BLGK = self.value(x_BLD).reshape(B, L, cfg.kv_heads, cfg.head_size)
        if self.query_norm is not None:
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


class Model(nnx.Module):
    """Token ids [B, L] to logits [B, L, V]. `cfg` must be resolved; its `init_std` may be a traced number."""

    def __init__(self, cfg: Config, rngs: nnx.Rngs):
        V, D = cfg.vocab, cfg.width
        self.cfg = dataclasses.replace(cfg, init_std=Config.init_std)
        self.embed = param(rngs, {"rows": V, "columns": D}, cfg.init_std)
        table = {"rows": cfg.positions, "columns": D}
        self.position = param(rngs, table, cfg.init_std) if cfg.position == "learned" else None
        self.blocks = layers.stack(lambda rngs: Block(rngs, cfg), rngs, cfg.depth)
        self.norm = Norm(rngs, {"norm": D}, cfg.norm, cfg.norm_eps, cfg.bias)
        self.head = None if cfg.tied else Linear(rngs, {"embed": D, "vocab": V}, cfg.init_std)

    def __call__(self, tokens_BL: Integer[Array, "B L"]) -> Output:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        x_BLD = self.embed[...].astype(dtype)[tokens_BL]
        if self.position is not None:
            x_BLD = x_BLD + self.position[...].astype(dtype)[: tokens_BL.shape[1]]
        x_BLD = constrain(x_BLD, "batch", "position", "width")
        x_BLD = layers.apply_stack(self.blocks, x_BLD, unroll=cfg.unroll, remat=cfg.remat)
        x_BLD = self.norm(x_BLD)
        if self.head is not None:
            logits_BLV = self.head(x_BLD)
        else:
            logits_BLV = (x_BLD.reshape(-1, cfg.width) @ self.embed[...].astype(dtype).T).reshape(*tokens_BL.shape, -1)
        return Output(constrain(logits_BLV, "batch", "position", "vocab").astype(jnp.float32), {})


def account(cfg: Config, seq_len: int) -> Accounting:
    """Counts of a resolved config. Groups: embed, position, head, attention, mlp, norm."""
    D, H, G, K, F, V, Y = cfg.width, cfg.heads, cfg.kv_heads, cfg.head_size, cfg.ff, cfg.vocab, cfg.depth
    gates = 3 if cfg.activation == "swiglu" else 2
    attention, mlp = D * K * (H + 2 * G) + H * K * D, gates * D * F
    norms = (2 * Y + 1) * D * (2 if cfg.bias else 1) + (2 * Y * K if cfg.qk_norm else 0)
    biases = {"attention": K * (H + 2 * G) + D, "mlp": (gates - 1) * F + D} if cfg.bias else {"attention": 0, "mlp": 0}
    params = {
        "embed": V * D,
        "position": (cfg.positions or 0) * D,
        "head": 0 if cfg.tied else V * D,
        "attention": Y * (attention + biases["attention"]),
        "mlp": Y * (mlp + biases["mlp"]),
        "norm": norms,
    }
    return Accounting(
        params=params,
        active=params,
        matmul={"attention": 2.0 * Y * attention, "mlp": 2.0 * Y * mlp, "head": 2.0 * V * D},
        attention={"attention": 4.0 * Y * H * K * seq_len},
        causal={"attention": 2.0 * Y * H * K * (seq_len + 1)},
        conventions=transformer_conventions(
            width=D, depth=Y, heads_width=H * K, heads=H, ff=F, ff_matrices=gates, vocab=V, seq_len=seq_len
        ),
    )
