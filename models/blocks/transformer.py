"""Attention of a transformer's layer, and the scales at which its matrices start.

The options are those of models/families/dense.py, which arrive here as a resolved `cfg`. What softmax and linear attention
compute is in attention.py and linear_attention.py. Letters of the axes: models/contract.py.
"""

from typing import Any, NamedTuple

from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Integer

from models.blocks import layers
from models.blocks.attention import attention
from models.blocks.layers import Linear, Norm
from models.blocks.linear_attention import FEATURES, linear_attention, log_decay
from models.blocks.options import untraced
from models.contract import Role
from models.mesh.exchange import exchange
from models.numerics.formats import straight_through


class Scales(NamedTuple):
    """Standard deviations of initial weights; traced numbers where init_std is one."""

    hidden: Any  # queries, keys and routers
    value: Any  # values, and into feed-forwards
    out: Any  # what writes to the residual stream


def init_scales(cfg: Any) -> Scales:
    """Return the scales of a layer's matrices.

    Outputs have std / sqrt(2 depth) (GPT-2); with deepnorm they, values and feed-forwards have std (8 depth)^-1/4
    (DeepNet).
    """
    std = cfg.init_std
    if cfg.init == "fan_in":
        std = cfg.init_std / 0.02 * (cfg.width / cfg.width_ratio) ** -0.5
    hidden, out = cfg.init_stds(std)
    if cfg.norm_placement == "deepnorm":
        smaller = hidden * (8 * cfg.depth) ** -0.25
        return Scales(hidden, smaller, smaller)
    return Scales(hidden, hidden, out)


class Attention(nnx.Module):
    """Causal multi-head attention with grouped key-value heads and optional query-key norm (Qwen3).

    linear: TransNormerLLM's (Qin et al. 2023, as published in code): features of queries and keys before the rotation,
    decay in place of the softmax (models/blocks/linear_attention.py), all heads of a position normalised together
    without a weight, and multiplied with a projection of the input. Its decays here are those of flash-linear-attention.
    """

    def __init__(self, rngs: nnx.Rngs, cfg: Any):
        std = init_scales(cfg)
        to_heads = {"embed": cfg.width, "heads": cfg.heads * cfg.head_size}
        to_kv_heads = {"embed": cfg.width, "kv_heads": cfg.kv_heads * cfg.head_size}
        from_heads = {"heads": cfg.heads * cfg.head_size, "embed": cfg.width}
        linear = cfg.attention == "linear"
        self.cfg = untraced(cfg)
        self.query = Linear(rngs, Role.QUERY, to_heads, std.hidden, cfg.bias, cfg.quant)
        self.key = Linear(rngs, Role.KEY, to_kv_heads, std.hidden, cfg.bias, cfg.quant)
        self.value = Linear(rngs, Role.VALUE, to_kv_heads, std.value, cfg.bias, cfg.quant)
        self.out = Linear(rngs, Role.WRITES, from_heads, std.out, cfg.bias, cfg.quant)
        self.gate = Linear(rngs, Role.READS, to_heads, std.value, cfg.bias, cfg.quant) if linear else None
        query_axes, key_axes = self._norm_axes()
        self.query_norm = Norm(rngs, query_axes, "rms", cfg.norm_eps) if cfg.qk_norm else None
        self.key_norm = Norm(rngs, key_axes, "rms", cfg.norm_eps) if cfg.qk_norm else None

    def _norm_axes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Axes of the norms of queries and of keys."""
        cfg = self.cfg
        if cfg.qk_norm_over == "all":
            return {"heads": cfg.heads * cfg.head_size}, {"kv_heads": cfg.kv_heads * cfg.head_size}
        return {"head_size": cfg.head_size}, {"head_size": cfg.head_size}

    def __call__(self, x_BLD: Float[Array, "B L D"], layer: Integer[Array, ""]) -> Float[Array, "B L D"]:
        """Return what is added to the stream. `layer` counts from 1; only decays depend on it."""
        cfg = self.cfg
        B, L, _ = x_BLD.shape
        q_BLHK, k_BLGK = self._queries_and_keys(x_BLD)
        v_BLGK = self.value(x_BLD).reshape(B, L, cfg.kv_heads, cfg.head_size)

        q_BLHK = exchange(q_BLHK, "heads", "head_size")
        k_BLGK = exchange(k_BLGK, "kv_heads", "head_size")
        v_BLGK = exchange(v_BLGK, "kv_heads", "head_size")
        k_BLGK = straight_through(k_BLGK, cfg.kv_format, -1)
        v_BLGK = straight_through(v_BLGK, cfg.kv_format, -1)
        if cfg.attention == "linear":
            decay_H = log_decay(cfg.heads, layer, cfg.depth)
            o_BLHK = linear_attention(q_BLHK, k_BLGK, v_BLGK, decay_H, cfg.score_scale, cfg.chunk)
        else:
            o_BLHK = attention(q_BLHK, k_BLGK, v_BLGK, cfg.score_scale, window=cfg.window, kernel=cfg.attention_kernel)
        o_BLHK = checkpoint_name(exchange(o_BLHK, "heads", "head_size", back=True), "attention")

        o = o_BLHK.reshape(B, L, cfg.heads * cfg.head_size)
        if self.gate is not None:
            o = layers.normalise(o, "rms", cfg.norm_eps) * self.gate(x_BLD)
        return self.out(o)

    def _queries_and_keys(
        self, x_BLD: Float[Array, "B L D"]
    ) -> tuple[Float[Array, "B L H K"], Float[Array, "B L G K"]]:
        """Project, normalise and turn by the position, as the config says."""
        cfg = self.cfg
        B, L, _ = x_BLD.shape
        q = self.query(x_BLD)
        k = self.key(x_BLD)
        if cfg.qk_norm_over == "all":
            q, k = self._normalised(q, k)
        q_BLHK = q.reshape(B, L, cfg.heads, cfg.head_size)
        k_BLGK = k.reshape(B, L, cfg.kv_heads, cfg.head_size)
        if cfg.qk_norm_over == "head":
            q_BLHK, k_BLGK = self._normalised(q_BLHK, k_BLGK)
        if cfg.attention == "linear":
            q_BLHK = FEATURES[cfg.features](q_BLHK)
            k_BLGK = FEATURES[cfg.features](k_BLGK)
        if cfg.position == "rope":
            q_BLHK = layers.rotary(q_BLHK, cfg.rope_theta)
            k_BLGK = layers.rotary(k_BLGK, cfg.rope_theta)
        return q_BLHK, k_BLGK

    def _normalised(self, q: Array, k: Array) -> tuple[Array, Array]:
        """Queries and keys behind their norms, where there are any."""
        if self.query_norm is None or self.key_norm is None:
            return q, k
        return self.query_norm(q), self.key_norm(k)
