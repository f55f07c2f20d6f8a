"""Mixture of experts: the dense decoder with routed experts in place of each layer's feed-forward.

A layer's router gives every token a score for each expert; the token's output is the weighted sum over the few experts
that were chosen, plus experts that are always on. The options span OLMoE (softmax, dropless), Switch and GShard
(capacity), DeepSeek-V3 (sigmoid, shared experts, selection bias, groups), RMoE (a recurrent router across depth) and
expert choice. models/blocks/routing.py has the arithmetic of choosing, moving rows and measuring balance.

On a mesh, the axis `expert` splits the batch and, at rest, the experts. With a capacity, rows travel to where their expert
is and back (all-to-all: GShard, Lepikhin et al. 2020); dropless, the experts travel to the tokens as all matrices do, so
that no imbalance changes a shape or a chip's work. See `Mixture._by_tokens`.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any, ClassVar

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from models.accounting import Accounting, Dispatch, transformer_conventions
from models.blocks import layers, residual, routing, stack
from models.blocks.layers import Linear, Mlp, param
from models.contract import Output, Role
from models.errors import InputError
from models.families import dense
from models.mesh.current import constrain
from models.mesh.shards import per_shard
from models.mesh.tokens import flatten_tokens, unflatten_tokens
from models.numerics.formats import straight_through
from models.numerics.parametrization import Factors
from models.option import option

BALANCE = ("load_balance", "sequence_balance", "router_z")


@dataclasses.dataclass(frozen=True)
class Config(dense.Config):
    """Options of the mixture besides those of the dense family. `bias` adds none to experts and router."""

    experts: int = 8
    top_k: int = 2  # experts of a token; where experts choose: the mean over tokens
    expert_ff: int | None = None  # hidden size of one expert: ff / (top_k + shared_experts) rounded up to 8
    shared_experts: int = 0  # always on, as one feed-forward of so many times expert_ff
    dense_first: int = 0  # leading layers that keep a dense feed-forward of size ff

    score: str = "softmax"  # softmax | softmax_after (over the chosen only) | sigmoid
    renormalise: bool = True  # weights of the chosen sum to 1 (OLMoE: False)
    routed_scaling: float = 1.0  # multiplies the weights (DeepSeek-V3: 2.5)
    n_group: int = 1  # experts in equal groups, of which a token may use
    topk_group: int = 1  # so many (DeepSeek-V3: 8 and 4)
    router: str = "linear"  # linear | recurrent: one GRU across depth for all layers (RMoE)
    router_width: int = 128  # state of the recurrent router

    mode: str = "dropless"  # dropless | capacity | expert_choice (NOT causal)
    capacity_factor: float = 1.25  # rows of an expert over its even share of a sequence
    priority: str = "token"  # who is dropped first: late tokens | slot: second choices (NOT causal for top_k > 1)
    kernel: str = option("auto", numerics=False)  # of dropless rows: see routing.dropless

    # Coefficients of Output.aux; load_balance is 1 at balance for every top_k (others': routing.published_scale).
    load_balance: float | Array = option(0.01, runtime=True)
    sequence_balance: float | Array = option(0.0, runtime=True)  # DeepSeek-V3: 1e-4
    router_z: float | Array = option(1e-3, runtime=True)
    balance_layers: str = "mean"  # over layers: mean | sum | pooled (one load balance for all: Hugging Face)
    bias_rate: float = 0.0  # step of the selection bias of loss-free balancing (DeepSeek-V3: 1e-3); 0: there is none

    choices: ClassVar = dense.Config.choices | {
        "score": routing.SCORES,
        "router": ("linear", "recurrent"),
        "mode": ("dropless", "capacity", "expert_choice"),
        "priority": routing.PRIORITIES,
        "kernel": routing.KERNELS,
        "balance_layers": ("mean", "sum", "pooled"),
    }
    unrounded: ClassVar = dict.fromkeys(
        ("quant_grad", "quant_saved"), "rows of an expert lie where routing puts them, and so would their scales"
    )
    counts: ClassVar = (*dense.Config.counts, "experts", "top_k", "expert_ff", "n_group", "topk_group", "router_width")

    @property
    def causal(self) -> bool:
        """Experts that choose see the whole batch; a second choice can be dropped for a later token's first."""
        overtaken = self.mode == "capacity" and self.priority == "slot" and self.top_k > 1
        return self.mode != "expert_choice" and not overtaken

    def resolve(self, vocab: int, seq_len: int) -> "Config":
        """The same options with every derived one filled in."""
        cfg = super().resolve(vocab, seq_len)
        size = layers.round_up(cfg.ff / (self.top_k + self.shared_experts), 8)
        return dataclasses.replace(cfg, expert_ff=self.expert_ff or size)

    def check(self, seq_len: int) -> None:
        """Raises InputError, naming the fields, for sizes and choices that cannot be built."""
        super().check(seq_len)
        for name in ("shared_experts", "dense_first", "bias_rate", *BALANCE):
            if not 0 <= (value := getattr(self, name)) < float("inf"):
                raise InputError(f"model.{name}={value} must not be negative")
        for name in ("capacity_factor", "routed_scaling"):
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise InputError(f"model.{name}={value} must be a positive number")
        if self.layerwise:
            raise InputError("model.layerwise=True: experts of all layers have one size; expected False")
        if self.dense_first >= self.depth:
            raise InputError(f"model.dense_first={self.dense_first} must be less than model.depth={self.depth}")
        if self.top_k > self.experts:
            raise InputError(f"model.top_k={self.top_k} is more than model.experts={self.experts}")
        if self.experts % self.n_group:
            raise InputError(f"model.experts={self.experts} is not divisible by model.n_group={self.n_group}")
        if self.topk_group > self.n_group:
            raise InputError(f"model.topk_group={self.topk_group} is more than model.n_group={self.n_group}")
        if self.top_k > (most := self.experts // self.n_group * self.topk_group):
            raise InputError(f"model.top_k={self.top_k} is more than the {most} experts of model.topk_group groups")
        if self.transfers and self.router == "recurrent":
            raise InputError(
                f"model.router='recurrent' has no rule for model.parametrization={self.parametrization!r}; expected 'linear'"
            )
        if self.mode == "expert_choice":
            self._check_expert_choice()
        elif self.top_k == 1 < self.experts and (self.renormalise or self.score == "softmax_after"):
            raise InputError(
                "model.top_k=1: the only weight would always be 1, and the router without a gradient; "
                "expected model.renormalise=False and model.score 'softmax' or 'sigmoid'"
            )

    def check_parts(self, seq_len: int) -> None:
        """As in all families; and experts that choose look at all tokens of a batch."""
        super().check_parts(seq_len)
        if self.mode == "expert_choice":
            raise InputError(
                "model.mode='expert_choice' chooses among the tokens of a whole batch, which execution.microbatches > 1 would "
                "cut; expected execution.microbatches=1, or 'dropless' or 'capacity'"
            )

    def factors(self, path: str, axes: Sequence[str]) -> Factors:
        """As in the dense family. A router maps the width to a fixed number, as the head does: its matrix is no hidden one."""
        return super().factors(path, ("router",) if "router" in axes else axes)

    def _check_expert_choice(self) -> None:
        plain = {"score": "softmax", "bias_rate": 0, "n_group": 1}
        for name, value in plain.items():
            if getattr(self, name) != value:
                raise InputError(
                    f"model.{name}={getattr(self, name)!r} has no meaning for model.mode='expert_choice'; "
                    f"expected {value!r}"
                )


# Logical axes of the experts' matrices.
ENTER, LEAVE = ("experts", "embed", "ff"), ("experts", "ff", "embed")


class Cell(nnx.Module):
    """The gated recurrent unit that all layers' routers share (RMoE, Qiu et al. 2024); in float32."""

    def __init__(self, rngs: nnx.Rngs, width: int):
        axes, std = {"state": width, "gates": 3 * width}, (3 * width) ** -0.5  # the variance of torch's initialisation
        self.input = Linear(rngs, Role.ROUTER, axes, std, bias=True)
        self.hidden = Linear(rngs, Role.ROUTER, axes, std, bias=True)

    def __call__(self, u_BLW: Float[Array, "B L W"], h_BLW: Float[Array, "B L W"]) -> Float[Array, "B L W"]:
        (r, z, n), (hr, hz, hn) = (jnp.split(y, 3, axis=-1) for y in (self.input(u_BLW), self.hidden(h_BLW)))
        z = jax.nn.sigmoid(z + hz)
        return (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn) + z * h_BLW


class Router(nnx.Module):
    """Logits of all experts, in float32 whatever the compute type; and the selection bias, where there is one."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config, std: Any):
        D, E, W = cfg.width, cfg.experts, cfg.router_width
        recurrent = cfg.router == "recurrent"
        self.down = Linear(rngs, Role.ROUTER, {"embed": D, "state": W}, std) if recurrent else None
        enter = {"state": W} if recurrent else {"embed": D}
        self.out = Linear(rngs, Role.ROUTER, enter | {"router": E}, std)
        self.bias = param(rngs, Role.ROUTER, {"router": E}) if cfg.bias_rate else None
        self.scale = 1 / cfg.width_ratio

    def __call__(
        self, x_BLD: Float[Array, "B L D"], h_BLW: Float[Array, "B L W"] | None, cell: Cell | None
    ) -> tuple[Float[Array, "B L E"], Float[Array, "B L W"] | None]:
        """Logits, and the state for the next layer's router (none without a cell)."""
        x_BLD = x_BLD.astype(jnp.float32)
        with jax.default_matmul_precision("highest"):
            if cell is not None:
                h_BLW = constrain(cell(self.down(x_BLD), h_BLW), "batch", "position", "state")
                x_BLD = h_BLW
            return constrain(self.out(x_BLD) * self.scale, "batch", "position", "router"), h_BLW


class Mixture(nnx.Module):
    """Router, routed experts, shared experts."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config, std: dense.Scales):
        D, E, F = cfg.width, cfg.experts, cfg.expert_ff
        self.cfg = cfg = dense.decoder.untraced(cfg)
        self.router = Router(rngs, cfg, std.hidden * cfg.width_ratio**0.5)  # muP: the head's, not a hidden matrix's
        enter, leave = dict(zip(ENTER, (E, D, F), strict=True)), dict(zip(LEAVE, (E, F, D), strict=True))
        self.gate = param(rngs, Role.READS, enter, std.value) if cfg.activation == "swiglu" else None
        self.up = param(rngs, Role.READS, enter, std.value)
        self.down = param(rngs, Role.WRITES, leave, std.out)
        shared = cfg.shared_experts * F
        self.shared = Mlp(rngs, D, shared, cfg.activation, cfg.bias, std.value, std.out, cfg.quant) if shared else None

    def __call__(
        self, x_BLD: Float[Array, "B L D"], h_BLW: Float[Array, "B L W"] | None = None, cell: Cell | None = None
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L W"] | None, routing.Load]:
        """Output, the router's state for the next layer, and the load."""
        cfg = self.cfg
        z_BLE, h_BLW = self.router(x_BLD, h_BLW, cell)
        weight = None if cfg.quant is None else cfg.quant.weight
        arrays = (
            None if w is None else straight_through(w[...], weight, -2).astype(x_BLD.dtype)
            for w in (self.gate, self.up, self.down)
        )
        route = self._by_experts if cfg.mode == "expert_choice" else self._by_tokens
        y_BLD, chosen_BLE, dropped = route(x_BLD, z_BLE, routing.Matrices(*arrays))
        load = routing.measure(chosen_BLE, z_BLE, cfg.score, cfg.top_k, dropped)
        return y_BLD if self.shared is None else y_BLD + self.shared(x_BLD), h_BLW, load

    def _by_tokens(
        self, x_BLD: Float[Array, "B L D"], z_BLE: Float[Array, "B L E"], weights: routing.Matrices
    ) -> tuple[Float[Array, "B L D"], Bool[Array, "B L E"], Float[Array, ""]]:
        cfg, (B, L, D), C, E = self.cfg, x_BLD.shape, self.cfg.top_k, self.cfg.experts
        act, groups = layers.ACTIVATIONS[cfg.activation], (cfg.n_group, cfg.topk_group)
        form = None if cfg.quant is None else cfg.quant.act
        axes = routing.Matrices(None if weights.gate_EDF is None else ENTER, ENTER, LEAVE)
        bias = None if self.router.bias is None else self.router.bias[...]
        expert_BLC, weight_BLC, chosen_BLE = routing.choose(
            z_BLE, C, cfg.score, cfg.renormalise, cfg.routed_scaling, bias, groups
        )
        if cfg.mode == "dropless":
            serve = functools.partial(routing.dropless, act=act, kernel=cfg.kernel, form=form)
            by_row = [flatten_tokens(x) for x in (x_BLD, expert_BLC, weight_BLC)]
            # A rounding to the largest of a row has to see all of it.
            y_ND = per_shard(serve, by_row, weights, axes, partial=form is None)
            return unflatten_tokens(y_ND, (B, L)), chosen_BLE, jnp.zeros(())
        count = routing.slots(L, C, E, cfg.capacity_factor)
        seats = functools.partial(routing.seats, experts=E, count=count, priority=cfg.priority)
        # A capacity is of a whole sequence: where positions are split, they are gathered here.
        row_BLC = jax.vmap(seats)(constrain(expert_BLC, "batch", "attended", "slots"))
        x_BLD = constrain(x_BLD, "batch", "attended", "width")
        x_BRD = jax.vmap(functools.partial(routing.take, rows=E * count))(x_BLD, row_BLC)
        at_token, at_expert = (("batch", "experts", "slots", "width"), ("sequences", "experts", "slots", "width"))
        x_BESD = constrain(constrain(x_BRD.reshape(B, E, count, D), *at_token), *at_expert)
        product = functools.partial(jnp.einsum, "BESI,EIO->BESO")
        serve = functools.partial(routing.feed_forward, product, act=act, form=form)
        y_BESD = constrain(per_shard(serve, [x_BESD], weights, axes, ("sequences",)), *at_expert)
        y_BRD = constrain(y_BESD, *at_token).reshape(B, E * count, D)
        dropped = jnp.mean(row_BLC == E * count, dtype=jnp.float32)
        weight_BLC = constrain(weight_BLC, "batch", "attended", "slots")
        return jax.vmap(routing.give_back)(y_BRD, row_BLC, weight_BLC), chosen_BLE, dropped

    def _by_experts(
        self, x_BLD: Float[Array, "B L D"], z_BLE: Float[Array, "B L E"], weights: routing.Matrices
    ) -> tuple[Float[Array, "B L D"], Bool[Array, "B L E"], Float[Array, ""]]:
        cfg, (B, L, D), E = self.cfg, x_BLD.shape, self.cfg.experts
        count = routing.choice_slots(B * L, cfg.top_k, E)
        # Experts look at all tokens of the batch: XLA cannot gather from split rows beside a manual trial axis.
        x_ND = constrain(x_BLD.reshape(-1, D), "attended", "width")
        p_NE = constrain(routing.probabilities(z_BLE, cfg.score).reshape(-1, E), "attended", "router")
        gate_ES, token_ES = routing.expert_choice(p_NE, count)
        x_ESD = constrain(x_ND[token_ES], "experts", "slots", "width")
        act, form = layers.ACTIVATIONS[cfg.activation], None if cfg.quant is None else cfg.quant.act
        y_ESD = routing.feed_forward(lambda x, w: jnp.einsum("ESI,EIO->ESO", x, w), x_ESD, weights, act, form)
        y_ESD = constrain(y_ESD.astype(jnp.float32) * gate_ES[..., None], "attended", "slots", "width")
        y_ND = jnp.zeros(x_ND.shape, jnp.float32).at[token_ES].add(y_ESD).astype(x_BLD.dtype)
        chosen_NE = jnp.zeros((B * L, E), bool).at[token_ES, jnp.arange(E)[:, None]].set(True)
        return y_ND.reshape(B, L, D), chosen_NE.reshape(B, L, E), jnp.mean(~chosen_NE.any(axis=1), dtype=jnp.float32)


class Block(nnx.Module):
    """One layer: attention and mixture, each behind a norm and around a residual."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config):
        self.attention_norm = residual.Residual(rngs, cfg)
        self.attention = dense.Attention(rngs, cfg)
        self.mlp_norm = residual.Residual(rngs, cfg)
        self.mlp = Mixture(rngs, cfg, dense.init_scales(cfg))

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        h_BLW: Float[Array, "B L W"] | None,
        cell: Cell | None,
        layer: Integer[Array, ""],
    ) -> tuple[tuple[Float[Array, "B L D"], Float[Array, "B L W"] | None], routing.Load]:
        """Activations and router state for the next layer, and the load of this one."""
        y_BLD = self.attention(self.attention_norm.enter(x_BLD, layer), layer)
        x_BLD = self.attention_norm.leave(x_BLD, y_BLD, layer)
        y_BLD, h_BLW, load = self.mlp(self.mlp_norm.enter(x_BLD, layer), h_BLW, cell)
        return (self.mlp_norm.leave(x_BLD, y_BLD, layer), h_BLW), load


class Model(dense.Model):
    """Token ids [B, L] to logits [B, L, V], with balance terms, load metrics and the selection bias's next values."""

    def __init__(self, cfg: Config, rngs: nnx.Rngs):
        super().__init__(cfg, rngs, Block, cfg.depth - cfg.dense_first)
        first = cfg.dense_first
        self.first = stack.stack(lambda rngs: dense.Block(rngs, cfg), rngs, first) if first else None
        self.cell = Cell(rngs, cfg.router_width) if cfg.router == "recurrent" else None

    def layers(
        self, x_BLD: Float[Array, "B L D"], chosen_YE: Integer[Array, "Y E"] | None = None
    ) -> tuple[Float[Array, "B L D"], Output]:
        """Dense layers, then those with experts; the recurrent router's state starts at zero with the latter.

        `chosen_YE`: assignments to each expert in the whole batch of which these tokens are a part. Balance is a matter
        of the batch: with them every term is linear in the part's tokens, so that means over equal parts are exact.
        """
        cfg = self.cfg
        layer_Y = jnp.arange(1, cfg.depth + 1)
        if self.first is not None:
            numbers = layer_Y[: cfg.dense_first]
            x_BLD = stack.apply_stack(self.first, x_BLD, numbers, unroll=cfg.unroll, remat=cfg.remat)
        h_BLW = None if self.cell is None else jnp.zeros((*x_BLD.shape[:2], cfg.router_width), jnp.float32)
        (x_BLD, _), load = stack.fold_stack(
            lambda block, carry, layer: block(*carry, self.cell, layer),
            self.blocks,
            (x_BLD, h_BLW),
            layer_Y[cfg.dense_first :],
            unroll=cfg.unroll,
            remat=cfg.remat,
        )
        whole = load if chosen_YE is None else load._replace(chosen_E=chosen_YE)
        return x_BLD, Output(None, *self._report(whole), counts=(load.chosen_E,))

    def _report(self, load: routing.Load) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
        """Balance terms by name, metrics, parameters set by a rule; `load` is stacked over layers."""
        cfg, bias = self.cfg, self.blocks.mlp.router.bias
        terms_Y = {
            "load_balance": routing.load_balance(load),
            "sequence_balance": load.sequence_balance,
            "router_z": load.router_z,
        }
        aux = {
            name: value_Y.sum() if cfg.balance_layers == "sum" else value_Y.mean() for name, value_Y in terms_Y.items()
        }
        if cfg.balance_layers == "pooled":
            pooled = load._replace(chosen_E=load.chosen_E.sum(axis=0), probability_E=load.probability_E.mean(axis=0))
            aux["load_balance"] = routing.load_balance(pooled)
        violation_Y = routing.shares(load.chosen_E).max(axis=-1) - 1
        by_layer = {"max_violation": violation_Y, "dropped": load.dropped, "router_entropy": load.entropy} | terms_Y
        metrics = {
            f"{name}/{cfg.dense_first + y}": value_Y[y]
            for name, value_Y in by_layer.items()
            for y in range(cfg.depth - cfg.dense_first)
        }
        if bias is None:
            return aux, metrics, {}
        return aux, metrics, {"blocks/mlp/router/bias": routing.balanced_bias(bias[...], load.chosen_E, cfg.bias_rate)}


def expert_rows(cfg: Config, batch: int, seq_len: int) -> float:
    """Rows that expert matrices multiply per token of a batch: top_k, and those that pad blocks or capacities."""
    tokens, C, E = batch * seq_len, cfg.top_k, cfg.experts
    if cfg.mode == "capacity":
        return E * routing.slots(seq_len, C, E, cfg.capacity_factor) / seq_len
    if cfg.mode == "expert_choice":
        return E * routing.choice_slots(tokens, C, E) / tokens
    return math.prod(routing.block_rows(tokens * C, E, cfg.kernel)) / tokens


def account(cfg: Config, seq_len: int) -> Accounting:
    """Counts of a resolved config. Groups: as dense, with router, experts, shared; mlp is that of the dense layers.

    Of the experts a token passes through top_k. `flops_capacity` counts the rows that a capacity really multiplies.
    """
    base, D, Y, E, C = dense.account(cfg, seq_len), cfg.width, cfg.depth, cfg.experts, cfg.top_k
    W, mixed, gates = cfg.router_width, cfg.depth - cfg.dense_first, 3 if cfg.activation == "swiglu" else 2
    recurrent = cfg.router == "recurrent"
    # Matrix entries of one layer; the recurrent cell is stored once and multiplied in every layer.
    router, cell = (D * W + W * E, 6 * W * W) if recurrent else (D * E, 0)
    expert, shared = gates * D * cfg.expert_ff, gates * D * cfg.expert_ff * cfg.shared_experts
    shared_bias = (gates - 1) * cfg.expert_ff * cfg.shared_experts + D if cfg.bias and shared else 0
    params = base.params | {
        "mlp": base.params["mlp"] // Y * cfg.dense_first,
        "router": mixed * (router + (E if cfg.bias_rate else 0)) + cell + (6 * W if recurrent else 0),
        "experts": mixed * E * expert,
        "shared": mixed * (shared + shared_bias),
    }
    matmul = base.matmul | {
        "mlp": base.matmul["mlp"] / Y * cfg.dense_first,
        "router": 2.0 * mixed * (router + cell),
        "experts": 2.0 * mixed * C * expert,
        "shared": 2.0 * mixed * shared,
    }
    active_ff = cfg.dense_first * cfg.ff + mixed * (C + cfg.shared_experts) * cfg.expert_ff
    published = transformer_conventions(
        width=D, depth=Y, heads_width=cfg.heads * cfg.head_size, heads=cfg.heads, ff=active_ff / Y,
        ff_matrices=gates, vocab=cfg.vocab, seq_len=seq_len,
    )  # fmt: skip
    # The gate as epfml/schedules-and-scaling counts it; DeepSeek's formula has no place for experts.
    conventions = {"chinchilla": published["chinchilla"] + 3.0 * 3 * E * mixed}
    if cfg.mode == "capacity":
        padding = matmul["experts"] * (expert_rows(cfg, 1, seq_len) / C - 1)
        conventions["capacity"] = 3 * (sum(matmul.values()) + sum(base.attention.values()) + padding)
    # Only with a capacity do rows travel to experts; a token that has all of them needs no choice.
    travels = cfg.mode == "capacity" and C < E
    return Accounting(
        params=params,
        active=params | {"experts": mixed * C * expert},
        matmul=matmul,
        attention=base.attention,
        causal=base.causal,
        conventions=conventions,
        dispatch=Dispatch(params["experts"], C * cfg.capacity_factor) if travels else Dispatch(),
    )
