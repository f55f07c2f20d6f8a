"""TrainState, train_step, eval_step of one trial: pure functions, no files, no logging.

All take a `Run` whose runtime options may be traced numbers. A population (experiments/training/program.py) maps them over
trials and devices.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer
import optax

from experiments.run.schema import Run
from experiments.store.train_state import TrainState
from experiments.training import loss as losses
from experiments.training import microbatches, optimizer, schedule
from models import functional
from models.contract import Output
from models.growing import operators


def init_state(run: Run, values: Run) -> TrainState:
    """The state before the first step."""
    params = functional.init_params(run.family, values.model, values.seed)
    return TrainState(
        params,
        optimizer.transform(values, functional.param_axes(run.family, run.model)).init(params),
        jnp.zeros((), jnp.int32),
    )


def state_axes(run: Run) -> TrainState:
    """Return the logical axes of every leaf of a TrainState; those of the optimizer follow from their parameter's."""
    axes = functional.param_axes(run.family, run.model)
    params = jax.eval_shape(lambda: functional.init_params(run.family, run.model, run.seed))
    return TrainState(axes, optimizer.state_axes(run, axes, params), ())


def objective(
    run: Run, values: Run, params: dict[str, Array], tokens_BT: Integer[Array, "B T"], *counts: Array
) -> tuple[Float[Array, ""], tuple[dict[str, Array], Output]]:
    """What training minimises, of a batch of sequences of seq_len + 1 tokens; its terms, and the rest of the output.

    `counts`: of the whole batch, where the sequences are a part of it (microbatches.py).
    """
    inputs_BL, targets_BL = tokens_BT[:, :-1].astype(jnp.int32), tokens_BT[:, 1:].astype(jnp.int32)
    built = functional.model(run.family, run.model, params)
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

        def count(tokens_BT: Array) -> tuple[Array, ...]:
            built = functional.model(run.family, run.model, params)
            _, output = built.hidden(tokens_BT[:, :-1].astype(jnp.int32))
            return output.counts

        counts = microbatches.counts(count, tokens_PBT)
        grads, (metrics, ruled) = microbatches.mean_gradient(
            lambda tokens_BT: gradient(state.params, tokens_BT, *counts),
            tokens_PBT,
            functional.param_axes(run.family, run.model),
        )
    updates, opt = optimizer.transform(values, functional.param_axes(run.family, run.model), offload).update(
        grads, state.opt, state.params
    )
    seen = (state.step + 1).astype(jnp.float32) * run.batch_tokens
    lr = values.opt.lr * schedule.schedule(values, seen - run.batch_tokens)
    params = jax.tree.map(lambda p, u: p - lr * u, state.params, updates) | ruled
    metrics |= {"grad_norm": optax.global_norm(grads), "lr": lr}
    return TrainState(params, opt, state.step + 1), metrics


def eval_step(run: Run, params: dict[str, Array], tokens_BT: Integer[Array, "B T"]) -> Float[Array, "B"]:
    """Summed nats of each sequence."""
    built, tokens_BT = functional.model(run.family, run.model, params), tokens_BT.astype(jnp.int32)
    x_BLD, _ = built.hidden(tokens_BT[:, :-1])
    return losses.nats(built.readout(), x_BLD, tokens_BT[:, 1:], run.loss).sum(axis=-1)
