"""What one device does with its trials: the functions of experiments/training/step.py, over the slots of the device.

Pure functions of arrays, traced inside the programs of experiments/training/program.py. Trees have an axis of slots in front.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.run.identity import with_runtime
from experiments.run.schema import Run
from experiments.store.train_state import TrainState
from experiments.training import step
from experiments.training.microbatches import map_microbatches
from experiments.training.offload import is_away

Values = dict[str, Any]  # runtime options by path, and under "added" what a growth has added
Metrics = dict[str, Array]


def _at(tree: Any, slot: Any) -> Any:
    """Return one slot of a tree."""
    return jax.tree.map(lambda leaf: leaf[slot], tree)


def _with_slot(tree: Any, slot: Any, one: Any) -> Any:
    """Return a tree with one slot replaced."""
    return jax.tree.map(lambda all_slots, leaf: all_slots.at[slot].set(leaf), tree, one)


@dataclasses.dataclass(frozen=True)
class Slots:
    """The work of one device on its slots. `run`: any run of the signature; runtime options come with the values.

    packing: "map", one slot after the other (a device does exactly what a solo run would), or "vmap", all at once.
    """

    run: Run
    packing: str
    microbatches: int
    offload: str
    noise_scale: bool

    def _traced_run(self, values: Values) -> Run:
        return with_runtime(self.run, values)

    def _each(self, function: Callable[..., Any], *trees: Any) -> Any:
        """Map over the slots."""
        count = jax.tree.leaves(trees)[0].shape[0]
        if count == 1:
            return _alone(function, *trees)
        if self.packing == "vmap":
            return jax.vmap(function)(*trees)
        return jax.lax.map(lambda slot: function(*slot), trees)

    # --- the first state

    def init(self, values: Values) -> TrainState:
        """Return the initial state of every slot."""
        return self._each(self._init_one, values)

    def _init_one(self, values: Values) -> TrainState:
        return step.init_state(self.run, self._traced_run(values))

    # --- training

    def train(
        self, states: TrainState, values: Values, tokens_KSBT: Array, steps_K: Array
    ) -> tuple[TrainState, Metrics]:
        """Take `steps_K[k]` steps of slot k. Metrics [slot, step] are zero behind a slot's last step."""
        if steps_K.shape[0] == 1 or self.packing == "vmap":
            return self._each(self._train_one, states, values, tokens_KSBT, steps_K)
        return self._train_those_with_steps(states, values, tokens_KSBT, steps_K)

    def _train_those_with_steps(
        self, states: TrainState, values: Values, tokens_KSBT: Array, steps_K: Array
    ) -> tuple[TrainState, Metrics]:
        """Train from the first to the last slot that has steps to take, in place.

        A pass over all states, as a map would make it, costs more than small steps do.
        """
        count = steps_K.shape[0]
        slots = jnp.arange(count)
        has_steps = steps_K > 0
        stop = jnp.max(jnp.where(has_steps, slots + 1, 0))
        start = jnp.min(jnp.where(has_steps, slots, stop))
        inputs = (values, tokens_KSBT, steps_K)
        first_slot = _at((states, *inputs), 0)
        train_one = jax.jit(self._train_one, inline=True)  # traced once: for shapes of metrics, and for the loop
        _, metrics = jax.eval_shape(train_one, *first_slot)
        log = {name: jnp.zeros((count, *one.shape), one.dtype) for name, one in metrics.items()}

        def body(slot: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            states, _ = carry
            state = _at(states, slot)
            done = train_one(state, *_at(inputs, slot))
            return _with_slot(carry, slot, done)

        return jax.lax.fori_loop(start, stop, body, (states, log))

    def _train_one(
        self, state: TrainState, values: Values, tokens_SBT: Array, steps: Array
    ) -> tuple[TrainState, Metrics]:
        """Take `steps` steps of one slot, on as many of the batches as that."""
        take_step = jax.jit(self._take_step, inline=True)  # traced once: for the names of metrics, and for the loop
        _, metrics = jax.eval_shape(take_step, state, values, tokens_SBT[0], steps > 0)
        batches = tokens_SBT.shape[0]
        log = {name: jnp.zeros(batches, jnp.float32) for name in metrics}

        def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, log = carry
            # Packed by vmap, the loop goes on until the last slot is done, and what it makes of the others is dropped.
            state, metrics = take_step(state, values, tokens_SBT[i], i < steps)
            logged = {name: values_S.at[i].set(metrics[name]) for name, values_S in log.items()}
            return state, logged

        return jax.lax.fori_loop(0, steps, body, (state, log))

    def _take_step(
        self, state: TrainState, values: Values, tokens_BT: Array, is_taken: Array
    ) -> tuple[TrainState, Metrics]:
        """Take one step of one slot."""
        return step.train_step(
            self.run,
            self._traced_run(values),
            state,
            tokens_BT,
            values.get("added"),
            self.microbatches,
            self.offload,
            self.noise_scale,
            is_taken,
        )

    # --- evaluation

    def evaluate(self, params: Any, tokens_KSBT: Array, batches_K: Array) -> Float[Array, "K S B P"]:
        """Return the summed nats of each stretch of each sequence, for the first `batches_K[k]` batches of slot k."""
        return self._each(self._evaluate_one, params, tokens_KSBT, batches_K)

    def token_nats(self, params: Any, tokens_KSBT: Array, batches_K: Array) -> Float[Array, "K S B L"]:
        """Return the nats of every token but the first of each sequence, for the first `batches_K[k]` batches of slot k."""
        return self._each(self._token_nats_of_one, params, tokens_KSBT, batches_K)

    def _evaluate_one(self, params: Any, tokens_SBT: Array, batches: Array) -> Float[Array, "S B P"]:
        """Return the nats of every held-out sequence for one trial."""
        evaluate = functools.partial(step.eval_step, self.run, params)
        stretches = step.stretches(self.run, tokens_SBT.shape[-1])
        return self._by_batch(evaluate, tokens_SBT, batches, (stretches,))

    def _token_nats_of_one(self, params: Any, tokens_SBT: Array, batches: Array) -> Float[Array, "S B L"]:
        """Return the nats of every token for one trial."""
        evaluate = functools.partial(step.token_nats, self.run, params)
        return self._by_batch(evaluate, tokens_SBT, batches, (self.run.seq_len,))

    def _by_batch(
        self, evaluate: Callable[[Array], Array], tokens_SBT: Array, batches: Array, shape: tuple[int, ...]
    ) -> Array:
        """Return what `evaluate` says of each sequence, an array of `shape`, for the first batches: [S, B, …]."""

        def body(i: Array, nats: Array) -> Array:
            tokens_BT = tokens_SBT[i]
            of_batch = map_microbatches(evaluate, tokens_BT, self.microbatches)
            return nats.at[i].set(of_batch)

        nothing = jnp.zeros((*tokens_SBT.shape[:2], *shape), jnp.float32)
        return jax.lax.fori_loop(0, batches, body, nothing)

    def effective(self, states: TrainState, values: Values) -> Any:
        """Return the parameters that the models compute with, behind the masks of their growth."""

        def one(state: TrainState, values: Values) -> Any:
            return step.effective(self.run, self._traced_run(values), state, values["added"])

        return jax.vmap(one)(states, values)


def _alone(function: Callable[..., Any], *trees: Any) -> Any:
    """Call a function on the only slot. What lies with the host keeps its axis of slots: see offload.in_turn."""

    def take(leaf: Array) -> Array:
        return leaf if is_away(leaf) else leaf[0]

    def put_back(leaf: Array) -> Array:
        return leaf if is_away(leaf) else leaf[None]

    slot = jax.tree.map(take, trees)
    return jax.tree.map(put_back, function(*slot))
