"""A layer's mixture of experts: the router, the routed experts, those that are always on.

routing.py has the arithmetic of choosing, moving rows and measuring balance; models/families/moe.py the options, which
arrive here as `cfg`. Letters of the axes: models/contract.py; W is the state of a recurrent router.
"""

import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from models.blocks import layers, routing
from models.blocks.layers import Linear, Mlp, param
from models.blocks.options import untraced
from models.blocks.transformer import Scales
from models.contract import Role
from models.mesh.current import constrain
from models.mesh.shards import per_shard
from models.mesh.tokens import flatten_tokens, unflatten_tokens
from models.numerics.formats import Format, straight_through

# Logical axes of the experts' matrices.
ENTER: tuple[str, ...] = ("experts", "embed", "ff")
LEAVE: tuple[str, ...] = ("experts", "ff", "embed")


class Cell(nnx.Module):
    """The gated recurrent unit that all layers' routers share (RMoE, Qiu et al. 2024); in float32."""

    def __init__(self, rngs: nnx.Rngs, width: int):
        axes = {"state": width, "gates": 3 * width}
        std = (3 * width) ** -0.5  # the variance of torch's initialisation
        self.input = Linear(rngs, Role.READS, axes, std, bias=True)
        self.hidden = Linear(rngs, Role.READS, axes, std, bias=True)

    def __call__(self, u_BLW: Float[Array, "B L W"], h_BLW: Float[Array, "B L W"]) -> Float[Array, "B L W"]:
        reset, update, new = jnp.split(self.input(u_BLW), 3, axis=-1)
        reset_h, update_h, new_h = jnp.split(self.hidden(h_BLW), 3, axis=-1)
        keep = jax.nn.sigmoid(update + update_h)
        candidate = jnp.tanh(new + jax.nn.sigmoid(reset + reset_h) * new_h)
        return (1 - keep) * candidate + keep * h_BLW


class Router(nnx.Module):
    """Logits of all experts, in float32 whatever the compute type; and the selection bias, where there is one."""

    def __init__(self, rngs: nnx.Rngs, cfg: Any, std: Any):
        D, E, W = cfg.width, cfg.experts, cfg.router_width
        recurrent = cfg.router == "recurrent"
        enter = {"state": W} if recurrent else {"embed": D}
        self.down = Linear(rngs, Role.READS, {"embed": D, "state": W}, std) if recurrent else None
        self.out = Linear(rngs, Role.ROUTER, enter | {"router": E}, std)
        self.bias = param(rngs, Role.ROUTER, {"router": E}) if cfg.bias_rate else None
        self.scale = 1 / cfg.width_ratio

    def __call__(
        self, x_BLD: Float[Array, "B L D"], h_BLW: Float[Array, "B L W"] | None, cell: Cell | None
    ) -> tuple[Float[Array, "B L E"], Float[Array, "B L W"] | None]:
        """Return logits, and the state for the next layer's router (none without a cell)."""
        x_BLD = x_BLD.astype(jnp.float32)
        with jax.default_matmul_precision("highest"):
            if cell is None:
                z_BLE = self.out(x_BLD)
            else:
                assert self.down is not None and h_BLW is not None
                h_BLW = constrain(cell(self.down(x_BLD), h_BLW), "batch", "position", "state")
                z_BLE = self.out(h_BLW)
            return constrain(z_BLE * self.scale, "batch", "position", "router"), h_BLW


class Routed(NamedTuple):
    """What the experts made of a batch."""

    y_BLD: Float[Array, "B L D"]
    chosen_BLE: Bool[Array, "B L E"]
    dropped: Float[Array, ""]  # share; see routing.Load


class Mixture(nnx.Module):
    """Router, routed experts, shared experts."""

    def __init__(self, rngs: nnx.Rngs, cfg: Any, std: Scales):
        assert cfg.expert_ff is not None
        D, E, F = cfg.width, cfg.experts, cfg.expert_ff
        self.cfg = cfg = untraced(cfg)
        self.router = Router(rngs, cfg, std.hidden * cfg.width_ratio**0.5)  # muP: the head's, not a hidden matrix's
        enter = dict(zip(ENTER, (E, D, F), strict=True))
        leave = dict(zip(LEAVE, (E, F, D), strict=True))
        self.gate = param(rngs, Role.READS, enter, std.value) if cfg.gated else None
        self.up = param(rngs, Role.READS, enter, std.value)
        self.down = param(rngs, Role.WRITES, leave, std.out)
        shared = cfg.shared_experts * F
        self.shared = Mlp(rngs, D, shared, cfg.activation, cfg.bias, std.value, std.out, cfg.quant) if shared else None

    def __call__(
        self, x_BLD: Float[Array, "B L D"], h_BLW: Float[Array, "B L W"] | None = None, cell: Cell | None = None
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L W"] | None, routing.Load]:
        """Return the output, the router's state for the next layer, and the load."""
        cfg = self.cfg
        z_BLE, h_BLW = self.router(x_BLD, h_BLW, cell)
        if cfg.mode == "expert_choice":
            routed = self._by_experts(x_BLD, z_BLE)
        else:
            routed = self._by_tokens(x_BLD, z_BLE)
        load = routing.measure(routed.chosen_BLE, z_BLE, cfg.score, cfg.top_k, routed.dropped)
        y_BLD = routed.y_BLD
        if self.shared is not None:
            y_BLD = y_BLD + self.shared(x_BLD)
        return y_BLD, h_BLW, load

    def _weights(self, dtype: Any) -> routing.Matrices:
        """The experts' matrices, rounded as the config says, in the type in which they are multiplied."""
        form = None if self.cfg.quant is None else self.cfg.quant.weight

        def rounded(weight: Any) -> Array:
            return straight_through(weight[...], form, -2).astype(dtype)

        gate = None if self.gate is None else rounded(self.gate)
        return routing.Matrices(gate, rounded(self.up), rounded(self.down))

    def _weight_axes(self) -> routing.Matrices:
        """Logical axes in the places of the matrices."""
        axes: list[Any] = [None if self.gate is None else ENTER, ENTER, LEAVE]
        return routing.Matrices(*axes)

    @property
    def _act_format(self) -> Format | None:
        return None if self.cfg.quant is None else self.cfg.quant.act

    def _by_tokens(self, x_BLD: Float[Array, "B L D"], z_BLE: Float[Array, "B L E"]) -> Routed:
        """Each token chooses its experts."""
        cfg = self.cfg
        choice = routing.choose(
            z_BLE,
            cfg.top_k,
            cfg.score,
            cfg.renormalise,
            cfg.routed_scaling,
            None if self.router.bias is None else self.router.bias[...],
            (cfg.n_group, cfg.topk_group),
        )
        if cfg.mode == "dropless":
            return self._dropless(x_BLD, *choice)
        return self._with_capacity(x_BLD, *choice)

    def _dropless(
        self,
        x_BLD: Float[Array, "B L D"],
        expert_BLC: Integer[Array, "B L C"],
        weight_BLC: Float[Array, "B L C"],
        chosen_BLE: Bool[Array, "B L E"],
    ) -> Routed:
        """Serve every choice: matrices travel to the tokens."""
        form = self._act_format
        act = layers.ACTIVATIONS[self.cfg.activation]
        serve = functools.partial(routing.dropless, act=act, kernel=self.cfg.kernel, form=form)
        by_row = [flatten_tokens(x_BLD), flatten_tokens(expert_BLC), flatten_tokens(weight_BLC)]
        # A rounding to the largest of a row has to see all of it.
        y_ND = per_shard(serve, by_row, self._weights(x_BLD.dtype), self._weight_axes(), partial=form is None)
        return Routed(unflatten_tokens(y_ND, x_BLD.shape[:2]), chosen_BLE, jnp.zeros(()))

    def _with_capacity(
        self,
        x_BLD: Float[Array, "B L D"],
        expert_BLC: Integer[Array, "B L C"],
        weight_BLC: Float[Array, "B L C"],
        chosen_BLE: Bool[Array, "B L E"],
    ) -> Routed:
        """Serve as many choices of a sequence as each expert has slots: rows travel to the experts and back."""
        cfg = self.cfg
        B, L, D = x_BLD.shape
        E = cfg.experts
        count = routing.slots(L, cfg.top_k, E, cfg.capacity_factor)
        weights = self._weights(x_BLD.dtype)

        # A capacity is of a whole sequence: where positions are split, they are gathered here.
        seats = functools.partial(routing.seats, experts=E, count=count, priority=cfg.priority)
        row_BLC = jax.vmap(seats)(constrain(expert_BLC, "batch", "attended", "slots"))
        x_BLD = constrain(x_BLD, "batch", "attended", "width")
        x_BRD = jax.vmap(functools.partial(routing.take, rows=E * count))(x_BLD, row_BLC)

        # Where the tokens are, then where the experts are: XLA moves rows from one to the other.
        at_token = ("batch", "experts", "slots", "width")
        at_expert = ("sequences", "experts", "slots", "width")
        x_BESD = constrain(x_BRD.reshape(B, E, count, D), *at_token)
        x_BESD = constrain(x_BESD, *at_expert)
        product = functools.partial(jnp.einsum, "BESI,EIO->BESO")
        act = layers.ACTIVATIONS[cfg.activation]
        serve = functools.partial(routing.feed_forward, product, act=act, form=self._act_format)
        y_BESD = per_shard(serve, [x_BESD], weights, self._weight_axes(), ("sequences",))
        y_BESD = constrain(y_BESD, *at_expert)
        y_BRD = constrain(y_BESD, *at_token).reshape(B, E * count, D)

        dropped = jnp.mean(row_BLC == E * count, dtype=jnp.float32)
        weight_BLC = constrain(weight_BLC, "batch", "attended", "slots")
        return Routed(jax.vmap(routing.give_back)(y_BRD, row_BLC, weight_BLC), chosen_BLE, dropped)

    def _by_experts(self, x_BLD: Float[Array, "B L D"], z_BLE: Float[Array, "B L E"]) -> Routed:
        """Each expert chooses its tokens among all of the batch."""
        cfg = self.cfg
        B, L, D = x_BLD.shape
        E = cfg.experts
        count = routing.choice_slots(B * L, cfg.top_k, E)
        weights = self._weights(x_BLD.dtype)
        # Experts look at all tokens of the batch: XLA cannot gather from split rows beside a manual trial axis.
        x_ND = constrain(x_BLD.reshape(-1, D), "attended", "width")
        p_NE = constrain(routing.probabilities(z_BLE, cfg.score).reshape(-1, E), "attended", "router")
        gate_ES, token_ES = routing.expert_choice(p_NE, count)
        x_ESD = constrain(x_ND[token_ES], "experts", "slots", "width")

        product = functools.partial(jnp.einsum, "ESI,EIO->ESO")
        act = layers.ACTIVATIONS[cfg.activation]
        y_ESD = routing.feed_forward(product, x_ESD, weights, act, self._act_format)
        y_ESD = constrain(y_ESD.astype(jnp.float32) * gate_ES[..., None], "attended", "slots", "width")
        y_ND = jnp.zeros(x_ND.shape, jnp.float32).at[token_ES].add(y_ESD).astype(x_BLD.dtype)

        expert_E1 = jnp.arange(E)[:, None]
        chosen_NE = jnp.zeros((B * L, E), bool).at[token_ES, expert_E1].set(True)
        missed = jnp.mean(~chosen_NE.any(axis=1), dtype=jnp.float32)
        return Routed(y_ND.reshape(B, L, D), chosen_NE.reshape(B, L, E), missed)
