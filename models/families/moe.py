"""Mixture of experts: the dense decoder with routed experts in place of each layer's feed-forward.

A layer's router gives every token a score for each expert; the token's output is the weighted sum over the few experts
that were chosen, plus experts that are always on. The options span OLMoE (softmax, dropless), Switch and GShard
(capacity), DeepSeek-V3 (sigmoid, shared experts, selection bias, groups), RMoE (a recurrent router across depth) and
expert choice. models/blocks/mixture.py computes with them.
"""

import dataclasses
from typing import Any

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from models.accounting import Accounting, Dispatch
from models.blocks import dispatch, expert_matrices, layers, routing, stack
from models.blocks.context import Context, Place
from models.blocks.mixture import Cell, Mixture
from models.blocks.mixture_counts import chinchilla, expert_rows, mixture_counts
from models.blocks.residual import Residual
from models.blocks.transformer import Attention, init_scales
from models.contract import Output
from models.errors import InputError
from models.families import dense
from models.option import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, When, inherit, missing, option, when

TOKENS_CHOOSE = when("mode", "dropless", "capacity")
CAPACITY = when("mode", "capacity")
BACKWARD = "rows of an expert lie where routing puts them, and so would their scales"


@dataclasses.dataclass(frozen=True)
class Config(dense.Config):
    """Options of the mixture besides those of the dense family. `bias` adds none to experts and router."""

    experts: int = option(8, valid=AT_LEAST_ONE, help="routed experts of a layer")
    top_k: int = option(2, valid=AT_LEAST_ONE, growth="free", help="experts of a token; where they choose: the mean")
    expert_ff: int | None = option(
        None,
        valid=AT_LEAST_ONE,
        growth="size",
        help="hidden size of one expert; none: ff / (top_k + shared_experts) rounded up to 8",
    )
    shared_experts: int = option(
        0, valid=NOT_NEGATIVE, help="experts that are always on, as one feed-forward of so many times expert_ff"
    )
    dense_first: int = option(0, valid=NOT_NEGATIVE, help="leading layers that keep a dense feed-forward of size ff")

    score: str = option(
        "softmax",
        choices=routing.SCORES,
        when=TOKENS_CHOOSE,
        help="how logits become weights; softmax_after: over the chosen only",
    )
    renormalise: bool = option(
        True,
        when=(TOKENS_CHOOSE, when("score", "softmax", "sigmoid")),
        help="weights of the chosen sum to 1 (OLMoE: False)",
    )
    routed_scaling: float = option(
        1.0, valid=POSITIVE, when=TOKENS_CHOOSE, help="multiplies the weights (DeepSeek-V3: 2.5)"
    )
    n_group: int = option(
        1, valid=AT_LEAST_ONE, when=TOKENS_CHOOSE, help="equal groups of experts, of which a token may use topk_group"
    )
    topk_group: int = option(
        1, valid=AT_LEAST_ONE, when=when("n_group", above=1), growth="free", help="groups of a token (DeepSeek-V3: 4)"
    )
    router: str = option(
        "linear", choices=("linear", "recurrent"), help="recurrent: one GRU across depth for all layers (RMoE)"
    )
    router_width: int = option(
        128, valid=AT_LEAST_ONE, when=when("router", "recurrent"), help="state of the recurrent router"
    )

    mode: str = option(
        "dropless",
        choices=("dropless", "capacity", "expert_choice"),
        growth="free",
        help="how rows meet experts; expert_choice: experts choose tokens, NOT causal",
    )
    capacity_factor: float = option(
        1.25, valid=POSITIVE, when=CAPACITY, growth="free", help="rows of an expert over its even share of a sequence"
    )
    priority: str = option(
        "token",
        choices=dispatch.PRIORITIES,
        when=(CAPACITY, when("top_k", above=1)),
        growth="free",
        help="who is dropped first; token: late tokens; slot: second choices, NOT causal",
    )
    kernel: str = option(
        "auto",
        numerics=False,
        choices=expert_matrices.KERNELS,
        when=when("mode", "dropless"),
        help="how rows meet their expert's matrix: expert_matrices.dropless",
    )

    # Coefficients of Output.aux; load_balance is 1 at balance for every top_k (others': routing.published_scale).
    load_balance: float | Array = option(
        0.01, runtime=True, valid=NOT_NEGATIVE, help="coefficient of the load balance over the batch"
    )
    sequence_balance: float | Array = option(
        0.0,
        runtime=True,
        valid=NOT_NEGATIVE,
        help="coefficient of the load balance of each sequence (DeepSeek-V3: 1e-4)",
    )
    router_z: float | Array = option(
        1e-3, runtime=True, valid=NOT_NEGATIVE, help="coefficient of the mean squared logsumexp of router logits"
    )
    balance_layers: str = option(
        "mean",
        choices=("mean", "sum", "pooled"),
        growth="free",
        help="over layers; pooled: one load balance for all (Hugging Face)",
    )
    bias_rate: float = option(
        0.0,
        valid=NOT_NEGATIVE,
        when=TOKENS_CHOOSE,
        growth="free",
        help="step of the selection bias of loss-free balancing (DeepSeek-V3: 1e-3); 0: there is none",
    )

    document_mask: bool = inherit(dense.Config, "document_mask", when=when("mode", "dropless"))
    ff: int | None = inherit(
        dense.Config,
        "ff",
        when=When(
            "ff_is_read",
            "dense_first is above 0, or expert_ff is not set",
            bool,
            {"dense_first": 1},
        ),
        help="feed-forward size of the dense layers and, where expert_ff is not given, of the experts of a token",
    )
    layerwise: bool = missing(dense.Config, "layerwise", "experts of all layers have one size")
    quant_grad: str | None = missing(dense.Config, "quant_grad", BACKWARD)
    quant_saved: str | None = missing(dense.Config, "quant_saved", BACKWARD)

    @property
    def numerics_version(self) -> int:
        """As in all families. 2: experts that choose have no empty sequences to choose from in an evaluation."""
        others = super().numerics_version
        return max(others, 2) if self.mode == "expert_choice" else others

    @property
    def causal(self) -> bool:
        """Experts that choose see the whole batch; a second choice can be dropped for a later token's first."""
        overtaken = self.mode == "capacity" and self.priority == "slot" and self.top_k > 1
        return self.mode != "expert_choice" and not overtaken

    @property
    def mixed(self) -> int:
        """Layers that have experts."""
        return self.depth - self.dense_first

    def derived(self, seq_len: int) -> dict[str, Any]:
        """Return by name the options that follow from others, as they are or as their rules give them."""
        return super().derived(seq_len) | {"expert_ff": self.expert_ff or self.derived_expert_ff}

    @property
    def derived_expert_ff(self) -> int:
        """Size of an expert where none is given: a token's experts are together as large as a dense feed-forward."""
        ff = self.ff or self.derived_ff
        return layers.round_up(ff / max(1, self.top_k + self.shared_experts), 8)

    @property
    def ff_is_read(self) -> bool:
        """Whether `ff` says something: of dense layers, or of experts; also where it is what its own rule gives."""
        of_experts = self.expert_ff in (None, self.derived_expert_ff)
        return self.dense_first > 0 or of_experts or self.ff == self.derived_ff

    def check(self, seq_len: int) -> None:
        """Raise InputError, naming the fields, for what cannot be built and for options that would do nothing."""
        super().check(seq_len)
        if self.dense_first >= self.depth:
            raise InputError(f"model.dense_first={self.dense_first} must be less than model.depth={self.depth}")
        self._check_groups()
        if self.transfers and self.router == "recurrent":
            raise InputError(
                f"model.router='recurrent' has no rule for model.parametrization={self.parametrization!r}; "
                "expected 'linear'"
            )
        of_one = self.renormalise or self.score == "softmax_after"
        if self.mode != "expert_choice" and self.top_k == 1 < self.experts and of_one:
            raise InputError(
                "model.top_k=1: the only weight would always be 1, and the router without a gradient; "
                "expected model.renormalise=False and model.score 'softmax' or 'sigmoid'"
            )

    def _check_groups(self) -> None:
        """Refuse groups that the experts cannot form, or that leave nothing to choose."""
        if self.top_k > self.experts:
            raise InputError(f"model.top_k={self.top_k} is more than model.experts={self.experts}")
        if self.n_group == 1:
            return
        if self.experts % self.n_group:
            raise InputError(f"model.experts={self.experts} is not divisible by model.n_group={self.n_group}")
        if self.topk_group >= self.n_group:
            raise InputError(
                f"model.topk_group={self.topk_group} must be less than model.n_group={self.n_group}: "
                "a token that may use all groups has none"
            )
        most = self.experts // self.n_group * self.topk_group
        if self.top_k > most:
            raise InputError(f"model.top_k={self.top_k} is more than the {most} experts of model.topk_group groups")

    def check_parts(self, seq_len: int) -> None:
        """As in all families; and experts that choose look at all tokens of a batch."""
        super().check_parts(seq_len)
        if self.mode == "expert_choice":
            raise InputError(
                "model.mode='expert_choice' chooses among the tokens of a whole batch, which execution.microbatches > 1 "
                "would cut; expected execution.microbatches=1, or 'dropless' or 'capacity'"
            )

    def longest(self, seq_len: int | None) -> int | None:
        """As in all families; and the slots of experts are those of a whole sequence."""
        if self.mode != "capacity":
            return super().longest(seq_len)
        if seq_len is None:
            raise InputError("model.mode='capacity' has slots by a sequence's length, which is not known here")
        return seq_len

    def check_decoding(self, length: int) -> None:
        """As in all families; and no choice may wait for later tokens."""
        super().check_decoding(length)
        if not self.causal:
            field = "mode" if self.mode == "expert_choice" else "priority"
            raise InputError(f"model.{field}={getattr(self, field)!r}: a token's experts depend on later tokens")


class Block(nnx.Module):
    """One layer: attention and mixture, each behind a norm and around a residual."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config):
        self.attention_norm = Residual(rngs, cfg)
        self.attention = Attention(rngs, cfg)
        self.mlp_norm = Residual(rngs, cfg)
        self.mlp = Mixture(rngs, cfg, init_scales(cfg))

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        h_BLW: Float[Array, "B L W"] | None,
        cell: Cell | None,
        layer: Integer[Array, ""],
        context: Context = Context(),
    ) -> tuple[tuple[Float[Array, "B L D"], Float[Array, "B L W"] | None], routing.Load]:
        """Return activations and router state for the next layer, and the load of this one."""
        y_BLD = self.attention(self.attention_norm.enter(x_BLD, layer), layer, context)
        x_BLD = self.attention_norm.leave(x_BLD, y_BLD, layer, context)
        y_BLD, h_BLW, load = self.mlp(self.mlp_norm.enter(x_BLD, layer), h_BLW, cell)
        return (self.mlp_norm.leave(x_BLD, y_BLD, layer, context, Place.FEED_FORWARD), h_BLW), load


class Model(dense.Model):
    """Token ids [B, L] to logits [B, L, V], with balance terms, load metrics and the selection bias's next values."""

    def __init__(self, cfg: Config, rngs: nnx.Rngs):
        super().__init__(cfg, rngs, Block, cfg.mixed)
        first = cfg.dense_first
        self.first = stack.stack(lambda rngs: dense.Block(rngs, cfg), rngs, first) if first else None
        self.cell = Cell(rngs, cfg.router_width) if cfg.router == "recurrent" else None

    def layers(
        self,
        x_BLD: Float[Array, "B L D"],
        chosen_YE: Integer[Array, "Y E"] | None = None,
        context: Context = Context(),
    ) -> tuple[Float[Array, "B L D"], Output]:
        """Run dense layers, then those with experts; the recurrent router's state starts at zero with the latter.

        `chosen_YE`: assignments to each expert in the whole batch of which these tokens are a part. Balance is a matter
        of the batch: with them every term is linear in the part's tokens, so that means over equal parts are exact.
        """
        cfg = self.cfg
        layer_Y = jnp.arange(1, cfg.depth + 1)
        if self.first is not None:
            numbers = layer_Y[: cfg.dense_first]
            first = context.in_layer(*(keys[: cfg.dense_first] for keys in context.by_layer))
            x_BLD = stack.apply_stack(self.first, x_BLD, numbers, unroll=cfg.unroll, remat=cfg.remat, context=first)
        h_BLW = None
        if self.cell is not None:
            h_BLW = jnp.zeros((*x_BLD.shape[:2], cfg.router_width), jnp.float32)
        rows = [of_layers[cfg.dense_first :] for of_layers in (layer_Y, *context.by_layer)]
        (x_BLD, _), load = stack.fold_stack(
            lambda block, carry, layer, *of: block(*carry, self.cell, layer, context.in_layer(*of)),
            self.blocks,
            (x_BLD, h_BLW),
            *rows,
            unroll=cfg.unroll,
            remat=cfg.remat,
        )
        of_batch = load if chosen_YE is None else load._replace(chosen_E=chosen_YE)
        terms_Y = routing.balance_terms(of_batch)
        output = Output(
            None,
            aux=self._aux(of_batch, terms_Y),
            metrics=self._metrics(of_batch, terms_Y),
            state=self._next_bias(of_batch),
            counts=(load.chosen_E,),
        )
        return x_BLD, output

    def _aux(self, load: routing.Load, terms_Y: dict[str, Array]) -> dict[str, Array]:
        """Balance terms by name, over all layers."""
        aux = {}
        for name, value_Y in terms_Y.items():
            aux[name] = value_Y.sum() if self.cfg.balance_layers == "sum" else value_Y.mean()
        if self.cfg.balance_layers == "pooled":
            pooled = load._replace(chosen_E=load.chosen_E.sum(axis=0), probability_E=load.probability_E.mean(axis=0))
            aux["load_balance"] = routing.load_balance(pooled)
        return aux

    def _metrics(self, load: routing.Load, terms_Y: dict[str, Array]) -> dict[str, Array]:
        """Loads of each layer, by "name/number of the layer"."""
        violation_Y = routing.shares(load.chosen_E).max(axis=-1) - 1
        by_layer = {"max_violation": violation_Y, "dropped": load.dropped, "router_entropy": load.entropy} | terms_Y
        metrics = {}
        for name, value_Y in by_layer.items():
            for y in range(self.cfg.mixed):
                metrics[f"{name}/{self.cfg.dense_first + y}"] = value_Y[y]
        return metrics

    def _next_bias(self, load: routing.Load) -> dict[str, Array]:
        """The selection bias after this step, by its path, where there is one."""
        blocks: Any = self.blocks
        bias = blocks.mlp.router.bias
        if bias is None:
            return {}
        return {"blocks/mlp/router/bias": routing.balanced_bias(bias[...], load.chosen_E, self.cfg.bias_rate)}


def account(cfg: Config, seq_len: int) -> Accounting:
    """Count a resolved config. Groups: as dense, with router, experts, shared; mlp is that of the dense layers.

    Of the experts a token passes through top_k. `flops_capacity` counts the rows that a capacity really multiplies.
    """
    base = dense.account(cfg, seq_len)
    layer = mixture_counts(cfg)
    mixed = cfg.mixed
    selection_bias = cfg.experts if cfg.bias_rate else 0
    params = base.params | {
        "mlp": base.params["mlp"] // cfg.depth * cfg.dense_first,
        "router": mixed * (layer.router + selection_bias) + layer.cell + layer.cell_bias,
        "experts": mixed * cfg.experts * layer.expert,
        "shared": mixed * (layer.shared + layer.shared_bias),
    }
    matmul = base.matmul | {
        "mlp": base.matmul["mlp"] / cfg.depth * cfg.dense_first,
        "router": 2.0 * mixed * (layer.router + layer.cell),
        "experts": 2.0 * mixed * cfg.top_k * layer.expert,
        "shared": 2.0 * mixed * layer.shared,
    }
    attention = sum(base.attention.values())
    conventions = {"chinchilla": chinchilla(cfg, seq_len)}
    if cfg.mode == "capacity":
        padding = matmul["experts"] * (expert_rows(cfg, 1, seq_len) / cfg.top_k - 1)
        conventions["capacity"] = 3 * (sum(matmul.values()) + attention + padding)
    # Only with a capacity do rows travel to experts; a token that has all of them needs no choice.
    travels = cfg.mode == "capacity" and cfg.top_k < cfg.experts
    return Accounting(
        params=params,
        active=params | {"experts": mixed * cfg.top_k * layer.expert},
        matmul=matmul,
        attention=base.attention,
        causal=base.causal,
        conventions=conventions,
        dispatch=Dispatch(params["experts"], cfg.top_k * cfg.capacity_factor) if travels else Dispatch(),
    )


# The family whose models can become mixtures: models/growing/upcycling.py.
UPCYCLED_FROM = "dense"


def upcycled_parameter(path: str, cfg: Config) -> tuple[str, slice] | None:
    """Return which parameter of a dense model the mixture's at `path` continues, and with which of its layers.

    Experts continue a feed-forward. None: the dense model has none, as for routers and shared experts.
    """
    module, _, rest = path.partition("/")
    if module == "first":
        return f"blocks/{rest}", slice(None, cfg.dense_first)
    if module == "cell":
        return None
    if module != "blocks":
        return path, slice(None)
    behind_first = slice(cfg.dense_first, None)
    if rest in ("mlp/gate", "mlp/up", "mlp/down"):
        return f"{path}/kernel", behind_first
    if rest.startswith("mlp/"):
        return None
    return path, behind_first
