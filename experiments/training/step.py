"""One step of one trial, and its evaluation: pure functions, no files, no logging.

All take a `Run` twice: `run`, of which everything but the runtime options is looked at, and `values`, whose runtime options
may be traced numbers. A population (experiments/training/program.py) maps them over trials and devices.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer
import optax

from experiments.run.schema import Run
from experiments.store.train_state import TrainState
from experiments.training import averages, microbatches, noise, optimizer, optimizer_state, schedule
from experiments.training import loss as losses
from models import functional
from models.contract import Output
from models.growing import masks

Params = dict[str, Float[Array, "..."]]
Metrics = dict[str, Float[Array, ""]]
Sequences = Integer[Array, "B T"]

DROPOUT = 1 << 31  # told apart from the draws of initial parameters, which count from 0


def _inputs_and_targets(tokens_BT: Sequences) -> tuple[Integer[Array, "B L"], Integer[Array, "B L"]]:
    """Return every token but the last, and the one that follows each."""
    inputs_BL = tokens_BT[:, :-1].astype(jnp.int32)
    targets_BL = tokens_BT[:, 1:].astype(jnp.int32)
    return inputs_BL, targets_BL


def targets(run: Run, tokens_BT: Sequences) -> tuple[Integer[Array, "B L"], Integer[Array, "B P"]]:
    """Return what a model reads of sequences, and the targets of its predictions: NO_TOKEN where one does not count."""
    inputs_BL, targets_BL = _inputs_and_targets(tokens_BT)
    counts_BL = run.model.is_counted(inputs_BL)
    if counts_BL is not None:
        targets_BL = jnp.where(counts_BL, targets_BL, losses.NO_TOKEN)
    return inputs_BL, _predicting(run, targets_BL)


def _predicting(run: Run, x: Array) -> Array:
    """Return of an array [B, L, ...] the positions whose logits predict a token."""
    first = run.model.first_prediction
    return x[:, first:] if first else x


def counted_targets(run: Run, tokens_BT: Sequences) -> Float[Array, ""] | None:
    """Return how many targets of a batch count in its loss; None: all of them."""
    inputs_BL, _ = _inputs_and_targets(tokens_BT)
    counts_BL = run.model.is_counted(inputs_BL)
    return None if counts_BL is None else counts_BL.sum().astype(jnp.float32)


def init_state(run: Run, values: Run) -> TrainState:
    """Return the state before the first step."""
    params = functional.init_params(run.family, values.model, values.seed)
    infos = functional.param_info(run.family, run.model)
    opt = optimizer.transform(values, infos).init(params)
    first_step = jnp.zeros((), jnp.int32)
    means = averages.of_all(run, params)
    return TrainState(params, opt, first_step, means)


def abstract_state(run: Run) -> TrainState:
    """Return shape and type of every leaf of `init_state`; nothing is computed, and the model is not traced again."""
    params = functional.abstract_params(run.family, run.model)
    infos = functional.param_info(run.family, run.model)
    opt = jax.eval_shape(optimizer.transform(run, infos).init, params)
    first_step = jax.ShapeDtypeStruct((), jnp.int32)
    means = averages.of_all(run, params)
    return TrainState(params, opt, first_step, means)


def state_axes(run: Run) -> TrainState:
    """Return a TrainState of the logical axes of every leaf; those of the optimizer follow from their parameter's."""
    axes = functional.param_axes(run.family, run.model)
    params = functional.abstract_params(run.family, run.model)
    infos = functional.param_info(run.family, run.model)
    opt_axes = optimizer_state.state_axes(run, infos, params)
    of_means = averages.of_all(run, axes)
    return TrainState(axes, opt_axes, (), of_means)


def dropout_keys(run: Run, values: Run, step: Integer[Array, ""]) -> Array | None:
    """Return a random key for each sequence of a step's batch; None where nothing is dropped.

    They depend on the seed, the step and the sequence's place in the batch: not on how the batch is cut or split.
    """
    model = run.model
    if not getattr(model, "dropout", 0) and not getattr(model, "attention_dropout", 0):
        return None
    of_run = jax.random.fold_in(jax.random.key(values.seed), DROPOUT)
    of_step = jax.random.fold_in(of_run, step)
    return jax.vmap(lambda sequence: jax.random.fold_in(of_step, sequence))(jnp.arange(run.batch))


def objective(
    run: Run,
    values: Run,
    params: dict[str, Array],
    tokens_BT: Sequences,
    *batch_counts: Array,
    keys_B: Array | None = None,
    counted: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], tuple[dict[str, Array], Output]]:
    """Return what training minimises on a batch of sequences of seq_len + 1 tokens; its terms, and the rest of the output.

    `batch_counts`: what the model counts over the whole batch, where the sequences are a microbatch of it. `keys_B`: see
    `dropout_keys`; None: nothing is dropped. `counted`: over how many targets the mean is; None: those of these sequences.
    """
    inputs_BL, targets_BP = targets(run, tokens_BT)
    if counted is None:
        counted = counted_targets(run, tokens_BT)
    model = functional.model(run.family, run.model, params)
    x_BLD, output = model.hidden(inputs_BL, *batch_counts, **_dropping(keys_B))
    x_BPD = _predicting(run, x_BLD)
    total, terms = losses.read_out(model.readout(), x_BPD, targets_BP, values.loss, output.aux, values.model, counted)
    return total, (terms, output)


def _dropping(keys_B: Array | None) -> dict[str, Array]:
    """Return keys as an argument of a model: a family without dropout knows none."""
    return {} if keys_B is None else {"keys_B": keys_B}


def effective(run: Run, values: Run, state: TrainState, added: dict[str, Array] | None = None) -> Params:
    """Return the parameters that the model computes with: `state`'s, behind the masks of a growth.

    `added`: what a growth has added; None where there are no masks.
    """
    if added is None:
        return state.params
    tokens = state.step.astype(jnp.float32) * run.batch_tokens
    return masks.masked(state.params, added, tokens, values.growth.ramp_tokens)


def train_step(
    run: Run,
    values: Run,
    state: TrainState,
    tokens_BT: Sequences,
    added: dict[str, Array] | None = None,
    microbatch_count: int = 1,
    offload: str = "none",
    noise_scale: bool = False,
    is_taken: bool | Bool[Array, ""] = True,
) -> tuple[TrainState, Metrics]:
    """Take one optimizer step on a batch of sequences of seq_len + 1 tokens. Metrics: loss (nats), grad_norm, lr, terms.

    added: what a growth has added (operators.Plan.added), for the masks of its operator "random".
    microbatch_count: in so many parts the batch goes through the model, with the result of the whole (microbatches.py).
    offload: what of the state lies in the host's memory (offload.py).
    noise_scale: measure what the gradient noise scale is made of, between the parts (noise.py).
    is_taken: the result will be; of a slot whose steps are done it is not, and an optimizer may do less.
    """
    infos = functional.param_info(run.family, run.model)
    point = optimizer_state.gradient_point(values, infos, state)
    at_point = state._replace(params=point)
    grads, metrics, ruled_params = _gradients(run, values, at_point, tokens_BT, added, microbatch_count, noise_scale)
    steps = state.step + 1
    tokens_after = steps.astype(jnp.float32) * run.batch_tokens
    factor = schedule.schedule(values, tokens_after - run.batch_tokens)
    lr = values.opt.lr * factor
    transform = optimizer.transform(values, infos, offload)
    updates, opt = transform.update(grads, state.opt, state.params, lr=lr, is_taken=is_taken)
    opt = optimizer_state.with_params(values, infos, opt, ruled_params)
    updated_params = jax.tree.map(lambda p, u: p - lr * u, state.params, updates)
    # A rule of the model decides over what the optimizer made of the same parameter.
    params = updated_params | ruled_params
    metrics |= {"grad_norm": optax.global_norm(grads), "lr": lr}
    means = averages.updated(values, state.averages, params, steps)
    return TrainState(params, opt, steps, means), metrics


def _gradients(
    run: Run,
    values: Run,
    state: TrainState,
    tokens_BT: Sequences,
    added: dict[str, Array] | None,
    microbatch_count: int,
    noise_scale: bool,
) -> tuple[Params, Metrics, Params]:
    """Return gradients, metrics, and the parameters that follow a rule of the model instead of the optimizer."""

    keys_B = dropout_keys(run, values, state.step)
    counted = counted_targets(run, tokens_BT)
    if counted is not None:
        # The mean over parts of sums over this is the mean over the batch, although parts count differently many.
        counted = counted / microbatch_count

    def loss(
        params: dict[str, Array], tokens_BT: Array, keys_B: Array | None, *batch_counts: Array
    ) -> tuple[Float[Array, ""], tuple[dict[str, Array], dict[str, Array]]]:
        masked = effective(run, values, state._replace(params=params), added)
        total, (terms, output) = objective(
            run, values, masked, tokens_BT, *batch_counts, keys_B=keys_B, counted=counted
        )
        return total, (terms | output.metrics, output.state)

    gradient = jax.grad(loss, has_aux=True)
    if microbatch_count == 1:
        grads, (metrics, ruled_params) = gradient(state.params, tokens_BT, keys_B)
        return grads, metrics, ruled_params

    params = effective(run, values, state, added)

    def count(part: microbatches.Part) -> tuple[Array, ...]:
        """Return the whole-batch counts of these tokens; their sums are those of the batch."""
        tokens_BT, keys_B = part
        inputs_BL, _ = _inputs_and_targets(tokens_BT)
        model = functional.model(run.family, run.model, params)
        _, output = model.hidden(inputs_BL, **_dropping(keys_B))
        return output.counts

    parts = microbatches.split_all(tokens_BT, keys_B, microbatch_count)
    batch_counts = microbatches.sum_counts(count, parts)

    def part_gradient(part: microbatches.Part) -> tuple[Params, tuple[Metrics, Params]]:
        tokens_BT, keys_B = part
        return gradient(state.params, tokens_BT, keys_B, *batch_counts)

    axes = functional.param_axes(run.family, run.model)
    if not noise_scale:
        grads, (metrics, ruled_params), _ = microbatches.mean_gradient(part_gradient, parts, axes, microbatch_count)
        return grads, metrics, ruled_params
    squares = functools.partial(noise.squares, group_by_path=noise.groups(functional.param_info(run.family, run.model)))
    grads, (metrics, ruled_params), of_part = microbatches.mean_gradient(
        part_gradient, parts, axes, microbatch_count, squares
    )
    part_tokens = run.batch_tokens // microbatch_count
    metrics |= noise.estimates(of_part, squares(grads), microbatch_count, part_tokens)
    return grads, metrics, ruled_params


def stretches(run: Run, tokens: int) -> int:
    """Return into how many stretches a sequence of so many tokens is cut in an evaluation: others than seq_len in none."""
    return run.evaluation.positions if tokens == run.seq_len + 1 else 1


def eval_step(run: Run, params: dict[str, Array], tokens_BT: Sequences) -> Float[Array, "B P"]:
    """Return the summed nats of each stretch of each sequence."""
    batch, length = tokens_BT.shape
    nats_BL = token_nats(run, params, tokens_BT)
    return nats_BL.reshape(batch, stretches(run, length), -1).sum(axis=-1)


def token_nats(run: Run, params: dict[str, Array], tokens_BT: Sequences) -> Float[Array, "B L"]:
    """Return the nats of every token of each sequence but the first; 0 for those that do not count."""
    inputs_BL, targets_BP = targets(run, tokens_BT)
    first = run.model.first_prediction
    model = functional.model(run.family, run.model, params)
    x_BLD, _ = model.hidden(inputs_BL)
    nats_BP = losses.nats(model.readout(), _predicting(run, x_BLD), targets_BP, run.loss)
    if run.model.is_counted(inputs_BL) is not None:
        nats_BP = jnp.where(targets_BP == losses.NO_TOKEN, 0.0, nats_BP)
    return jnp.pad(nats_BP, ((0, 0), (first, 0))) if first else nats_BP
