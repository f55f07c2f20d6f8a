"""A layer's mixture of experts: the router, the routed experts, those that are always on.

routing.py has the arithmetic of choosing, moving rows and measuring balance; models/families/moe.py the options, which
arrive here as `cfg`. Letters of the axes: models/contract.py; W is the state of a recurrent router.

On a mesh, the axis `expert` splits the batch and, at rest, the experts. With a capacity, rows travel to where their
expert is and back (all-to-all: GShard, Lepikhin et al. 2020); dropless, the experts travel to the tokens as all matrices
do, so that no imbalance changes a shape or a chip's work.
"""

import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from models.blocks import dispatch, expert_matrices, layers, routing
from models.blocks.layers import Linear, Mlp, param
from models.blocks.options import untraced
from models.blocks.past import empty, leading
from models.blocks.transformer import Scales
from models.contract import Role
from models.mesh.current import constrain
from models.mesh.shards import per_shard
from models.mesh.tokens import flatten_tokens, unflatten_tokens
from models.numerics.formats import Format, straight_through

# Logical axes of the experts' matrices.
ENTER: tuple[str, ...] = ("experts", "embed", "ff")
LEAVE: tuple[str, ...] = ("experts", "ff", "embed")

Stream = Float[Array, "B L D"]  # the residual stream, or what is added to it
State = Float[Array, "B L W"]
Logits = Float[Array, "B L E"]
Choices = Integer[Array, "B L C"]  # numbers of a token's experts, best first
Weights = Float[Array, "B L C"]  # and what their outputs are multiplied by
Chosen = Bool[Array, "B L E"]  # the choices as a mask


class Cell(nnx.Module):
    """The gated recurrent unit that all layers' routers share (RMoE, Qiu et al. 2024); in float32."""

    def __init__(self, rngs: nnx.Rngs, width: int):
        axes = {"state": width, "gates": 3 * width}
        std = (3 * width) ** -0.5  # the variance of torch's initialisation
        self.input = Linear(rngs, Role.READS, axes, std, bias=True)
        self.hidden = Linear(rngs, Role.READS, axes, std, bias=True)

    def __call__(self, u_BLW: State, h_BLW: State) -> State:
        """Return the next state from an input and the state before."""
        of_input = self.input(u_BLW)
        of_state = self.hidden(h_BLW)
        reset, update, new = jnp.split(of_input, 3, axis=-1)
        reset_h, update_h, new_h = jnp.split(of_state, 3, axis=-1)
        keep = jax.nn.sigmoid(update + update_h)
        # As in torch, the reset gate multiplies the state behind its matrix, not before it.
        let_through = jax.nn.sigmoid(reset + reset_h)
        candidate = jnp.tanh(new + let_through * new_h)
        return (1 - keep) * candidate + keep * h_BLW


class Router(nnx.Module):
    """Logits of all experts, in float32 whatever the compute type; and the selection bias, where there is one."""

    def __init__(self, rngs: nnx.Rngs, cfg: Any, std: Any):
        stream = {"embed": cfg.width}
        state = {"state": cfg.router_width}
        experts = {"router": cfg.experts}
        if cfg.router == "recurrent":
            enter = state
            self.down = Linear(rngs, Role.READS, stream | state, std)
        else:
            enter = stream
            self.down = None
        self.out = Linear(rngs, Role.ROUTER, enter | experts, std)
        self.bias = param(rngs, Role.ROUTER, experts) if cfg.bias_rate else None
        self.scale = 1 / cfg.width_ratio

    def __call__(self, x_BLD: Stream, h_BLW: State | None, cell: Cell | None) -> tuple[Logits, State | None]:
        """Return logits, and the state for the next layer's router (none without a cell)."""
        x_BLD = x_BLD.astype(jnp.float32)
        # A rounded logit could change a choice, and float32 products are rounded on some backends unless told not to.
        with jax.default_matmul_precision("highest"):
            if cell is None:
                z_BLE = self.out(x_BLD)
            else:
                assert self.down is not None and h_BLW is not None
                u_BLW = self.down(x_BLD)
                h_BLW = cell(u_BLW, h_BLW)
                h_BLW = constrain(h_BLW, "batch", "position", "state")
                z_BLE = self.out(h_BLW)
            z_BLE = constrain(z_BLE * self.scale, "batch", "position", "router")
            return z_BLE, h_BLW


class Routed(NamedTuple):
    """What the experts made of a batch."""

    y_BLD: Stream
    chosen_BLE: Chosen
    dropped: Float[Array, ""]  # share; see routing.Load


class Seated(nnx.Module):
    """How many assignments of a sequence each expert has had, [B, E]; it has slots for the first `capacity`."""

    def __init__(self, lead: tuple[int, ...], experts: int, capacity: int):
        self.capacity = capacity
        self.count = empty(lead, {"router": experts}, jnp.int32)

    def take(self, chosen_BLE: Chosen) -> Integer[Array, "B E"]:
        """Return how many slots are left, and count the choices of the next positions."""
        left_BE = self.capacity - self.count[...]
        self.count[...] += chosen_BLE.sum(axis=1, dtype=jnp.int32)
        return left_BE


class Mixture(nnx.Module):
    """Router, routed experts, shared experts."""

    def __init__(self, rngs: nnx.Rngs, cfg: Any, std: Scales):
        assert cfg.expert_ff is not None
        cfg = untraced(cfg)
        self.cfg = cfg
        # muP: a router's matrix starts as the head's does, not as a hidden matrix.
        router_std = std.hidden * cfg.width_ratio**0.5
        self.router = Router(rngs, cfg, router_std)

        sizes = {"experts": cfg.experts, "embed": cfg.width, "ff": cfg.expert_ff}
        enter = {axis: sizes[axis] for axis in ENTER}
        leave = {axis: sizes[axis] for axis in LEAVE}
        self.gate = param(rngs, Role.READS, enter, std.value) if cfg.gated else None
        self.up = param(rngs, Role.READS, enter, std.value)
        self.down = param(rngs, Role.WRITES, leave, std.out)

        # Experts that are always on together are one feed-forward of their summed size.
        if cfg.shared_experts:
            self.shared = Mlp(
                rngs,
                cfg.width,
                cfg.shared_experts * cfg.expert_ff,
                cfg.activation,
                cfg.bias,
                std.value,
                std.out,
                cfg.quant,
            )
        else:
            self.shared = None
        self.past: Seated | None = nnx.data(None)

    def remember(self, batch: int, length: int) -> None:
        """Count who has a seat with each expert, where there are not seats for all: models/blocks/past.py."""
        cfg = self.cfg
        if cfg.mode == "capacity":
            capacity = dispatch.slots(length, cfg.top_k, cfg.experts, cfg.capacity_factor)
            self.past = Seated(leading(self.router.out.kernel, batch), cfg.experts, capacity)

    def __call__(
        self, x_BLD: Stream, h_BLW: State | None = None, cell: Cell | None = None
    ) -> tuple[Stream, State | None, routing.Load]:
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

    def _weights(self, dtype: Any) -> expert_matrices.Matrices:
        """The experts' matrices, rounded as the config says, in the type in which they are multiplied."""
        quant = self.cfg.quant
        form = None if quant is None else quant.weight

        def rounded(weight: Any) -> Array:
            value = straight_through(weight[...], form, -2)
            return value.astype(dtype)

        gate = None if self.gate is None else rounded(self.gate)
        up = rounded(self.up)
        down = rounded(self.down)
        return expert_matrices.Matrices(gate, up, down)

    def _weight_axes(self) -> expert_matrices.Matrices:
        """Logical axes in the places of the matrices."""
        axes: list[Any] = [None if self.gate is None else ENTER, ENTER, LEAVE]
        return expert_matrices.Matrices(*axes)

    @property
    def _act_format(self) -> Format | None:
        """The format that rows are rounded to, where there is one."""
        quant = self.cfg.quant
        return None if quant is None else quant.act

    def _by_tokens(self, x_BLD: Stream, z_BLE: Logits) -> Routed:
        """Each token chooses its experts."""
        cfg = self.cfg
        bias = self.router.bias
        bias_E = None if bias is None else bias[...]
        groups = (cfg.n_group, cfg.topk_group)
        choice = routing.choose(
            z_BLE,
            cfg.top_k,
            cfg.score,
            cfg.renormalise,
            cfg.routed_scaling,
            bias_E,
            groups,
        )
        if cfg.mode == "dropless":
            return self._dropless(x_BLD, *choice)
        return self._with_capacity(x_BLD, *choice)

    def _dropless(
        self,
        x_BLD: Stream,
        expert_BLC: Choices,
        weight_BLC: Weights,
        chosen_BLE: Chosen,
    ) -> Routed:
        """Serve every choice: matrices travel to the tokens."""
        form = self._act_format
        act = layers.ACTIVATIONS[self.cfg.activation]
        serve = functools.partial(expert_matrices.dropless, act=act, kernel=self.cfg.kernel, form=form)
        x_ND = flatten_tokens(x_BLD)
        expert_NC = flatten_tokens(expert_BLC)
        weight_NC = flatten_tokens(weight_BLC)
        weights = self._weights(x_BLD.dtype)
        y_ND = per_shard(
            serve,
            [x_ND, expert_NC, weight_NC],
            weights,
            self._weight_axes(),
            # A rounding to the largest of a row has to see all of it.
            partial=form is None,
        )
        y_BLD = unflatten_tokens(y_ND, x_BLD.shape[:2])
        none_dropped = jnp.zeros(())
        return Routed(y_BLD, chosen_BLE, none_dropped)

    def _with_capacity(
        self,
        x_BLD: Stream,
        expert_BLC: Choices,
        weight_BLC: Weights,
        chosen_BLE: Chosen,
    ) -> Routed:
        """Serve as many choices of a sequence as each expert has slots: rows travel to the experts and back."""
        cfg = self.cfg
        B, L, D = x_BLD.shape
        E = cfg.experts
        if self.past is None:
            left_BE = None
            count = dispatch.slots(L, cfg.top_k, E, cfg.capacity_factor)
        else:
            left_BE = self.past.take(chosen_BLE)
            count = min(self.past.capacity, L)
        weights = self._weights(x_BLD.dtype)

        # A capacity is of a whole sequence: where positions are split, they are gathered here.
        seats = functools.partial(dispatch.seats, experts=E, count=count, priority=cfg.priority)
        expert_BLC = constrain(expert_BLC, "batch", "attended", "slots")
        row_BLC = jax.vmap(lambda expert_LC, left_E: seats(expert_LC, left_E=left_E))(expert_BLC, left_BE)
        x_BLD = constrain(x_BLD, "batch", "attended", "width")
        rows = E * count
        take = functools.partial(dispatch.take, rows=rows)
        x_BRD = jax.vmap(take)(x_BLD, row_BLC)

        # Where the tokens are, then where the experts are: XLA moves rows from one to the other.
        at_token = ("batch", "experts", "slots", "width")
        at_expert = ("sequences", "experts", "slots", "width")
        x_BESD = x_BRD.reshape(B, E, count, D)
        x_BESD = constrain(x_BESD, *at_token)
        x_BESD = constrain(x_BESD, *at_expert)
        product = functools.partial(jnp.einsum, "BESI,EIO->BESO")
        act = layers.ACTIVATIONS[cfg.activation]
        serve = functools.partial(expert_matrices.feed_forward, product, act=act, form=self._act_format)
        y_BESD = per_shard(serve, [x_BESD], weights, self._weight_axes(), ("sequences",))
        y_BESD = constrain(y_BESD, *at_expert)
        y_BESD = constrain(y_BESD, *at_token)
        y_BRD = y_BESD.reshape(B, rows, D)

        # A choice without a slot has the row behind the last one.
        is_dropped_BLC = row_BLC == rows
        dropped = jnp.mean(is_dropped_BLC, dtype=jnp.float32)
        weight_BLC = constrain(weight_BLC, "batch", "attended", "slots")
        y_BLD = jax.vmap(dispatch.give_back)(y_BRD, row_BLC, weight_BLC)
        return Routed(y_BLD, chosen_BLE, dropped)

    def _by_experts(self, x_BLD: Stream, z_BLE: Logits) -> Routed:
        """Each expert chooses its tokens among all of the batch."""
        cfg = self.cfg
        B, L, D = x_BLD.shape
        N = B * L
        E = cfg.experts
        count = dispatch.choice_slots(N, cfg.top_k, E)
        weights = self._weights(x_BLD.dtype)
        # Experts look at all tokens of the batch: XLA cannot gather from split rows beside a manual trial axis.
        x_ND = x_BLD.reshape(-1, D)
        x_ND = constrain(x_ND, "attended", "width")
        p_BLE = routing.probabilities(z_BLE, cfg.score)
        p_NE = p_BLE.reshape(-1, E)
        p_NE = constrain(p_NE, "attended", "router")
        gate_ES, token_ES = routing.expert_choice(p_NE, count)
        x_ESD = constrain(x_ND[token_ES], "experts", "slots", "width")

        product = functools.partial(jnp.einsum, "ESI,EIO->ESO")
        act = layers.ACTIVATIONS[cfg.activation]
        y_ESD = expert_matrices.feed_forward(product, x_ESD, weights, act, self._act_format)
        y_ESD = y_ESD.astype(jnp.float32) * gate_ES[..., None]
        y_ESD = constrain(y_ESD, "attended", "slots", "width")
        # A token that several experts chose has the sum of what they made of it; one that none chose has zeros.
        nothing_ND = jnp.zeros(x_ND.shape, jnp.float32)
        y_ND = nothing_ND.at[token_ES].add(y_ESD)
        y_ND = y_ND.astype(x_BLD.dtype)
        y_BLD = y_ND.reshape(B, L, D)

        expert_E1 = jnp.arange(E)[:, None]
        nobody_NE = jnp.zeros((N, E), bool)
        chosen_NE = nobody_NE.at[token_ES, expert_E1].set(True)
        is_missed_N = ~chosen_NE.any(axis=1)
        missed = jnp.mean(is_missed_N, dtype=jnp.float32)
        chosen_BLE = chosen_NE.reshape(B, L, E)
        return Routed(y_BLD, chosen_BLE, missed)
