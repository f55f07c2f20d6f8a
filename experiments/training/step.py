"""TrainState, train_step, eval_step of one trial: pure functions, no files, no logging.

All take a `Run` whose runtime options may be traced numbers. A population (experiments/training/program.py) maps them over
trials and devices.
"""

import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer
import optax

from experiments.run.schema import Run
from experiments.training import loss as losses
from experiments.training import microbatches, optimizer, schedule
import models
from models.contract import Output
from models.growing import operators
from models.mesh import rules


class TrainState(NamedTuple):
    """One trial: parameters by path, optimizer state, steps done."""

    params: dict[str, Float[Array, "..."]]
    opt: Any
    step: Integer[Array, ""]


@functools.cache
def _abstract(family: str, cfg: Any) -> tuple[Any, dict[str, tuple[str, ...]]]:
    model = nnx.eval_shape(lambda: models.load(family).Model(cfg, nnx.Rngs(params=0)))
    graphdef, state = nnx.split(model)
    return graphdef, {"/".join(map(str, path)): axes for path, axes in rules.logical_axes(state).items()}


def param_axes(run: Run) -> dict[str, tuple[str, ...]]:
    """Logical axis names of every parameter by path ("blocks/attention/query/kernel")."""
    return _abstract(run.family, run.model)[1]


def layout(run: Run) -> operators.Layout:
    """The run's model without its values."""
    shapes = jax.eval_shape(lambda: init_params(run))
    return operators.Layout(run.family, run.model, param_axes(run), {path: leaf.shape for path, leaf in shapes.items()})


def init_params(run: Run, values: Run | None = None) -> dict[str, Float[Array, "..."]]:
    """Initial parameters. `values` is `run` with traced runtime options (seed, initialisation scale)."""
    values = values or run
    model = models.load(run.family).Model(values.model, nnx.Rngs(params=jax.random.key(values.seed)))
    return {"/".join(map(str, path)): v.get_value() for path, v in nnx.to_flat_state(nnx.state(model))}


def init_state(run: Run, values: Run) -> TrainState:
    """The state before the first step."""
    params = init_params(run, values)
    return TrainState(params, optimizer.transform(values, param_axes(run)).init(params), jnp.zeros((), jnp.int32))


def state_axes(run: Run) -> TrainState:
    """Logical axes of every leaf of a TrainState; those of the optimizer follow from their parameter's."""
    axes = param_axes(run)
    shapes = jax.eval_shape(lambda: init_state(run, run))
    opt = optax.tree_map_params(
        lambda params: optimizer.transform(run, axes).init(params),
        lambda _, names: names,
        shapes.opt,
        axes,
        transform_non_params=lambda _: (),
        is_leaf=rules.is_axes,
    )
    return TrainState(axes, opt, ())


def model(run: Run, params: dict[str, Array]) -> Any:
    """The run's model with these parameters."""
    graphdef, axes = _abstract(run.family, run.model)
    state = nnx.from_flat_state([(tuple(path.split("/")), nnx.Param(params[path])) for path in axes])
    return nnx.merge(graphdef, state)


def apply(run: Run, params: dict[str, Array], tokens_BL: Integer[Array, "B L"]) -> Output:
    """Run the model on its parameters."""
    return model(run, params)(tokens_BL)


def objective(
    run: Run, values: Run, params: dict[str, Array], tokens_BT: Integer[Array, "B T"], *counts: Array
) -> tuple[Float[Array, ""], tuple[dict[str, Array], Output]]:
    """What training minimises, of a batch of sequences of seq_len + 1 tokens; its terms, and the rest of the output.

    `counts`: of the whole batch, where the sequences are a part of it (microbatches.py).
    """
    inputs_BL, targets_BL = tokens_BT[:, :-1].astype(jnp.int32), tokens_BT[:, 1:].astype(jnp.int32)
    built = model(run, params)
    x_BLD, output = built.hidden(inputs_BL, *counts)
    total, terms = losses.read_out(built.readout(), x_BLD, targets_BL, values.loss, output.aux, values.model)
    return total, (terms, output)


def effective(
    run: Run, values: Run, state: TrainState, added: dict[str, Array] | None = None
) -> dict[str, Float[Array, "..."]]:
    """The parameters that the model computes with: `state`'s, behind the masks of a growth where `added` has them."""
    if added is None:
        return state.params
    tokens = state.step.astype(jnp.float32) * run.batch_tokens
    return operators.masked(state.params, added, tokens, values.growth.ramp_tokens)


def train_step(
    run: Run,
    values: Run,
    state: TrainState,
    tokens_BT: Integer[Array, "B T"],
    added: dict[str, Array] | None = None,
    parts: int = 1,
    offload: str = "none",
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One optimizer step on a batch of sequences of seq_len + 1 tokens. Metrics: loss (nats), grad_norm, lr, terms.

    `added`: what a growth has added (growth.Plan.added), for the masks of its operator "random". `parts`: so many equal
    parts of the batch go through the model one after the other, with the result of the whole (microbatches.py).
    `offload`: what of the state lies in the host's memory (offload.py).
    """

    def loss(params: dict[str, Array], tokens_BT: Array, *counts: Array) -> tuple[Float[Array, ""], Any]:
        params = effective(run, values, state._replace(params=params), added)
        total, (terms, output) = objective(run, values, params, tokens_BT, *counts)
        return total, (terms | output.metrics, output.state)

    gradient = jax.grad(loss, has_aux=True)
    if parts == 1:
        grads, (metrics, ruled) = gradient(state.params, tokens_BT)
    else:
        tokens_PBT, params = microbatches.split(tokens_BT, parts), effective(run, values, state, added)
        count = lambda tokens_BT: model(run, params).hidden(tokens_BT[:, :-1].astype(jnp.int32))[1].counts  # noqa: E731
        counts = microbatches.counts(count, tokens_PBT)
        grads, (metrics, ruled) = microbatches.mean_gradient(
            lambda tokens_BT: gradient(state.params, tokens_BT, *counts), tokens_PBT, param_axes(run)
        )
    updates, opt = optimizer.transform(values, param_axes(run), offload).update(grads, state.opt, state.params)
    seen = (state.step + 1).astype(jnp.float32) * run.batch_tokens
    lr = values.opt.lr * schedule.schedule(values, seen - run.batch_tokens)
    params = jax.tree.map(lambda p, u: p - lr * u, state.params, updates) | ruled
    metrics |= {"grad_norm": optax.global_norm(grads), "lr": lr}
    return TrainState(params, opt, state.step + 1), metrics


def eval_step(run: Run, params: dict[str, Array], tokens_BT: Integer[Array, "B T"]) -> Float[Array, "B"]:
    """Summed nats of each sequence."""
    built, tokens_BT = model(run, params), tokens_BT.astype(jnp.int32)
    x_BLD, _ = built.hidden(tokens_BT[:, :-1])
    return losses.nats(built.readout(), x_BLD, tokens_BT[:, 1:], run.loss).sum(axis=-1)
