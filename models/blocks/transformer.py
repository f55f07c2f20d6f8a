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
from models.blocks.context import Context
from models.blocks.layers import Linear, Norm
from models.blocks.linear_attention import FEATURES, LinearPast, linear_attention, log_decay
from models.blocks.options import untraced
from models.blocks.past import KeyValues, leading, next_positions, slots
from models.contract import Role
from models.errors import InputError
from models.mesh.exchange import exchange
from models.numerics.formats import straight_through

Stream = Float[Array, "B L D"]  # the residual stream, or what is added to it
Queries = Float[Array, "B L H K"]
Keys = Float[Array, "B L G K"]


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


def check_heads(cfg: Any) -> None:
    """Raise InputError, naming the fields, for a width that heads do not divide, or heads that a rotation cannot turn."""
    if cfg.head_size is None and cfg.width % cfg.heads:
        raise InputError(f"model.width={cfg.width} is not divisible by model.heads={cfg.heads}")
    if cfg.heads % (cfg.kv_heads or cfg.heads):
        raise InputError(f"model.heads={cfg.heads} is not divisible by model.kv_heads={cfg.kv_heads}")
    size = cfg.head_size or cfg.width // cfg.heads
    if cfg.position == "rope" and size % 2:
        raise InputError(f"model.head_size={size} (width / heads) must be even for model.position='rope'")


class Attention(nnx.Module):
    """Causal multi-head attention with grouped key-value heads and optional query-key norm (Qwen3).

    linear: TransNormerLLM's (Qin et al. 2023, as published in code): features of queries and keys before the rotation,
    decay in place of the softmax (models/blocks/linear_attention.py), all heads of a position normalised together
    without a weight, and multiplied with a projection of the input. Its decays here are those of flash-linear-attention.
    """

    def __init__(self, rngs: nnx.Rngs, cfg: Any):
        self.cfg = untraced(cfg)
        std = init_scales(cfg)
        stream = {"embed": cfg.width}
        heads = {"heads": cfg.heads * cfg.head_size}
        kv_heads = {"kv_heads": cfg.kv_heads * cfg.head_size}

        def linear(role: Role, axes: dict[str, int], scale: Any) -> Linear:
            return Linear(rngs, role, axes, scale, cfg.bias, cfg.quant)

        # Initial values follow the order in which parameters are made.
        self.query = linear(Role.QUERY, stream | heads, std.hidden)
        self.key = linear(Role.KEY, stream | kv_heads, std.hidden)
        self.value = linear(Role.VALUE, stream | kv_heads, std.value)
        self.out = linear(Role.WRITES, heads | stream, std.out)
        self.gate = linear(Role.READS, stream | heads, std.value) if cfg.attention == "linear" else None

        query_axes, key_axes = self._norm_axes()
        self.query_norm = Norm(rngs, query_axes, "rms", cfg.norm_eps) if cfg.qk_norm else None
        self.key_norm = Norm(rngs, key_axes, "rms", cfg.norm_eps) if cfg.qk_norm else None
        self.past: KeyValues | LinearPast | None = nnx.data(None)

    def remember(self, batch: int, length: int) -> None:
        """Give the layer an empty past: models/blocks/past.py."""
        cfg = self.cfg
        lead = leading(self.out.kernel, batch)
        if cfg.attention == "linear":
            self.past = LinearPast(lead, cfg.heads, cfg.head_size)
            return
        axes = {
            "kv_heads": cfg.kv_heads,
            "head_size": cfg.head_size,
        }
        count = slots(length, cfg.window)
        self.past = KeyValues(lead, count, axes, cfg.dtype)

    def _norm_axes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Axes of the norms of queries and of keys."""
        cfg = self.cfg
        size = cfg.head_size
        if cfg.qk_norm_over == "all":
            return {"heads": cfg.heads * size}, {"kv_heads": cfg.kv_heads * size}
        return {"head_size": size}, {"head_size": size}

    def __call__(self, x_BLD: Stream, layer: Integer[Array, ""], context: Context = Context()) -> Stream:
        """Return what is added to the stream. `layer` counts from 1; only decays depend on it."""
        cfg = self.cfg
        B, L, _ = x_BLD.shape
        q_BLHK, k_BLGK = self._queries_and_keys(x_BLD, context)
        v = self.value(x_BLD)
        v_BLGK = v.reshape(B, L, cfg.kv_heads, cfg.head_size)

        # Where positions are split over devices, attention needs all of them: devices change to a part of the heads.
        q_BLHK = exchange(q_BLHK, "heads", "head_size")
        k_BLGK = exchange(k_BLGK, "kv_heads", "head_size")
        v_BLGK = exchange(v_BLGK, "kv_heads", "head_size")
        k_BLGK = straight_through(k_BLGK, cfg.kv_format, -1)
        v_BLGK = straight_through(v_BLGK, cfg.kv_format, -1)

        o_BLHK = self._read(q_BLHK, k_BLGK, v_BLGK, layer, context)
        o_BLHK = exchange(o_BLHK, "heads", "head_size", back=True)
        o_BLHK = checkpoint_name(o_BLHK, "attention")  # which remat "attention" keeps

        o = o_BLHK.reshape(B, L, cfg.heads * cfg.head_size)
        if self.gate is not None:
            normalised = layers.normalise(o, "rms", cfg.norm_eps)
            o = normalised * self.gate(x_BLD)
        return self.out(o)

    def _read(
        self, q_BLHK: Queries, k_BLGK: Keys, v_BLGK: Keys, layer: Integer[Array, ""], context: Context
    ) -> Queries:
        """Return what queries read of the values, of those in the past too."""
        cfg = self.cfg
        past = self.past
        scale = cfg.score_scale
        if isinstance(past, KeyValues):
            return past.attend(q_BLHK, k_BLGK, v_BLGK, scale, cfg.window)
        if cfg.attention == "softmax":
            return attention(
                q_BLHK,
                k_BLGK,
                v_BLGK,
                scale,
                window=cfg.window,
                kernel=cfg.attention_kernel,
                context=context,
                dropout=cfg.attention_dropout,
            )
        decay_H = log_decay(cfg.heads, layer, cfg.depth)
        o_BLHK = linear_attention(q_BLHK, k_BLGK, v_BLGK, decay_H, scale, cfg.chunk, context.documents_BL)
        if past is not None:
            o_BLHK = o_BLHK + past.read(q_BLHK * scale, decay_H)
            past.extend(k_BLGK, v_BLGK, decay_H)
        return o_BLHK

    def _queries_and_keys(self, x_BLD: Stream, context: Context) -> tuple[Queries, Keys]:
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
            feature = FEATURES[cfg.features]
            q_BLHK = feature(q_BLHK)
            k_BLGK = feature(k_BLGK)
        if cfg.position == "rope":
            position_BL = next_positions(self.past, L, context.positions_BL)
            q_BLHK = layers.rotary(q_BLHK, cfg.rope_theta, position=position_BL, scale=cfg.rope_scale)
            k_BLGK = layers.rotary(k_BLGK, cfg.rope_theta, position=position_BL, scale=cfg.rope_scale)
        return q_BLHK, k_BLGK

    def _normalised(self, q: Array, k: Array) -> tuple[Array, Array]:
        """Queries and keys behind their norms, where there are any."""
        if self.query_norm is None or self.key_norm is None:
            return q, k
        return self.query_norm(q), self.key_norm(k)
