"""Trials in the slots of a program, with their states: what is on the devices. What is done with them is for loop.py."""

from collections.abc import Iterator, Mapping, Sequence
import sys
from typing import Any

import jax
import numpy as np

from experiments.alive import hosts
from experiments.run.schema import Execution, Run
from experiments.store.train_state import TrainState
from experiments.training import packing
from experiments.training.program import Program, program
from experiments.training.trial import Trial, token_dtype


class Population:
    """Trials of one signature, each in a slot of one program. `state` has the slots in front of every leaf."""

    def __init__(self, trials: Sequence[Trial], execution: Execution):
        self.trials = list(trials)
        self.program, self.slots = _seat(self.trials, execution)
        any_run = trials[0].run  # for empty slots
        runs = [trial.run if trial else any_run for trial in self.slots]
        added = [trial.parent.added(trial.run) if trial and trial.parent else None for trial in self.slots]
        values = self.program.stack_values(runs, added)
        self.values = hosts.put(values, self.program.slot_sharding)
        self.state = self._first_states(runs)

    def seated(self) -> Iterator[tuple[int, Trial]]:
        """Yield every trial with its slot."""
        for slot, trial in enumerate(self.slots):
            if trial is not None:
                yield slot, trial

    # --- states

    def _first_states(self, runs: Sequence[Run]) -> TrainState:
        """Return initial states; in their place those of checkpoints, or else of parents, where trials have them."""
        state = self.program.init(runs)
        like = _of_one_slot(state)
        replaced: dict[int, TrainState] = {}
        for slot, trial in self.seated():
            found = trial.checkpoints.restore(like, _warn)
            if found:
                replaced[slot], notes = found
                trial.recall(int(replaced[slot].step), notes)
            trial.metrics.cut(trial.step)
        born = [(slot, trial) for slot, trial in self.seated() if trial.parent and slot not in replaced]
        if not replaced and not born:
            return state
        host = _on_host(state)
        for slot, trial in born:
            fresh = jax.tree.map(lambda leaf, slot=slot: leaf[slot].copy(), host)
            replaced[slot] = trial.inherited(fresh)
        return self._put(host, replaced)

    def _put(self, host: TrainState, replaced: Mapping[int, TrainState]) -> TrainState:
        """Return the states that `host` holds, with those of some slots replaced, on the devices."""
        for slot, one in replaced.items():
            for all_slots, leaf in zip(jax.tree.leaves(host), jax.tree.leaves(one), strict=True):
                all_slots[slot] = leaf
        return hosts.put(host, self.program.state_sharding)

    def rewind(self, slot: int, trial: Trial, spike: int) -> None:
        """Put a trial back to its newest checkpoint before a loss spike; it leaves out the batches up to the spike.

        Raises RuntimeError where no sound checkpoint is left.
        """
        trial.checkpoints.wait()
        found = trial.checkpoints.restore(_of_one_slot(self.state), _warn, until=spike)
        if found is None:
            raise RuntimeError(f"{trial.directory}: no sound checkpoint to go back to from step {spike + 1}")
        before, notes = found
        trial.rewind(int(before.step), notes, spike)
        self.state = self._put(_on_host(self.state), {slot: before})
        _warn(f"{trial.fingerprint}: loss spike at step {spike + 1}; back to step {trial.step}")

    def state_of(self, slot: int) -> TrainState:
        """Return the state of one slot, without the axis of slots."""
        return self.program.take(self.state, slot)

    # --- work on the devices

    def next_steps(self) -> np.ndarray:
        """Return the steps of each slot in the next dispatch, none of them past something that is due."""
        remaining = [trial.steps_to_event() if trial else 0 for trial in self.slots]
        return self.program.next_steps(remaining)

    def tokens(self, steps: np.ndarray) -> np.ndarray:
        """Return the tokens of the next `steps[k]` steps of every slot k."""
        tokens = np.zeros(self.program.token_shape(), token_dtype(self.trials))
        for slot, trial in self.seated():
            count = int(steps[slot])
            if count:
                sequences = trial.sequences(trial.step, trial.step + count)
                tokens[slot, :count] = sequences.reshape(count, trial.run.batch, trial.run.seq_len + 1)
        return tokens

    def train(self, tokens: np.ndarray, steps: np.ndarray) -> dict[str, np.ndarray]:
        """Take `steps[k]` steps of every slot k; return metrics [slot, step]. Trials are not told."""
        self.state, metrics = self.program.train(self.state, self.values, tokens, steps)
        return {name: hosts.whole(values) for name, values in metrics.items()}

    def held_out_tokens(self, due: Sequence[Trial]) -> tuple[np.ndarray, np.ndarray]:
        """Return the held-out tokens of some trials, by slot, and the number of batches of every slot."""
        held_out = [trial.held_out if trial and trial in due else None for trial in self.slots]
        of_due = [sequences for sequences in held_out if sequences]
        batches = np.array([sequences.batches if sequences else 0 for sequences in held_out], np.int32)
        dtype = np.result_type(*(sequences.tokens.dtype for sequences in of_due))
        tokens = np.zeros(self.program.token_shape(int(batches.max())), dtype)
        for slot, sequences in enumerate(held_out):
            if sequences:
                tokens[slot, : sequences.batches] = sequences.tokens
        return tokens, batches

    def evaluate(self, tokens: np.ndarray, batches: np.ndarray) -> np.ndarray:
        """Return the summed nats of each sequence of the first `batches[k]` batches of every slot k."""
        params = self.program.effective(self.state, self.values)
        return self.program.evaluate(params, tokens, batches)

    def columns(self) -> dict[str, Any]:
        """Return columns of a record: how the trials share the devices."""
        sizes = [f"{name}={size}" for name, size in self.program.mesh.shape.items() if size > 1]
        return {
            "packing": self.program.packing,
            "packing_trials": len(self.trials),
            "packing_mesh": "x".join(sizes) or "1",
        }


def _seat(trials: Sequence[Trial], execution: Execution) -> tuple[Program, list[Trial | None]]:
    """Make the program, and give each trial a slot; a slot without a trial has None.

    Slots are shared out by steps, so that all devices finish together. A device may get more trials than an even share
    has slots: then the program gets more.
    """
    run = trials[0].run
    made = program(run, len(trials), execution)
    members_by_group = packing.assign([trial.run.steps for trial in trials], made.groups)
    per_group = max(len(members) for members in members_by_group)
    if per_group * made.groups > made.slots:
        made = program(run, per_group * made.groups, execution)
    slots: list[Trial | None] = [None] * made.slots
    slots_per_group = made.slots // made.groups
    for group, members in enumerate(members_by_group):
        first = group * slots_per_group
        for place, member in enumerate(members):
            slots[first + place] = trials[member]
    return made, slots


def _of_one_slot(state: TrainState) -> TrainState:
    """Return shapes and types of one slot's state."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state)


def _on_host(state: TrainState) -> TrainState:
    """Return all states as numpy arrays that may be written to."""
    return jax.tree.map(lambda leaf: np.array(hosts.whole(leaf)), state)


def _warn(text: str) -> None:
    print(text, file=sys.stderr)
