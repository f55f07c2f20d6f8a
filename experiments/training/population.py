"""Trials in the slots of a program, with their states: what is on the devices. What is done with them is for loop.py."""

from collections.abc import Iterator, Mapping, Sequence
import functools
import sys
from typing import Any

import jax
import numpy as np

from experiments.alive import hosts
from experiments.cli import WorkError
from experiments.run.schema import Execution, Run
from experiments.store.train_state import TrainState
from experiments.training import packing
from experiments.training.clock import DeviceTime
from experiments.training.filling import Filling
from experiments.training.program import Program, program
from experiments.training.trial import Trial, token_dtype

Metrics = dict[str, np.ndarray]  # [slot, step] by name
Request = tuple[tuple[int, int, int], ...]  # slots, and the records that they take: the first, and one behind the last


class Population:
    """Trials of one signature, each in a slot of one program.

    program: the compiled functions.
    slots: the trial in each slot; None where there is none.
    values: runtime options, by slot.
    state: the states, with the slots in front of every leaf.
    """

    def __init__(self, trials: Sequence[Trial], execution: Execution):
        self.trials = list(trials)
        self.program, self.slots = _seat(self.trials, execution)
        mesh = self.program.mesh
        for trial in self.trials:
            trial.on = DeviceTime.of(mesh)
        runs = []
        added = []
        for trial in self.slots:
            # An empty slot has any run; it never takes a step.
            if trial is None:
                runs.append(trials[0].run)
                added.append(None)
            else:
                runs.append(trial.run)
                added.append(trial.added())
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
        """Return the states that trials go on from: of their checkpoints, or else of their parents, or else initial ones.

        Raises what Checkpoints.restore and Trial.inherited raise.
        """
        # Where every state is restored, none is initialised only to be overwritten.
        fresh = None
        if not all(_has_checkpoint(trial) for _, trial in self.seated()):
            fresh = self.program.init(runs)
        newborn = {}
        for slot, trial in self.seated():
            # A trial with a checkpoint of its own needs its parent's no more.
            if trial.parent and not _has_checkpoint(trial):
                assert fresh is not None
                newborn[slot] = trial.inherited(self._on_host(fresh, slot))
        if newborn and self.program.slots == 1:
            _free(fresh)
            fresh = None
        filling = Filling(self.program, fresh)
        for slot, state in newborn.items():
            filling.put_host(slot, state)
        for slot, trial in self.seated():
            found = _restore(filling, slot, trial) if trial.was_saved else None
            if found is not None:
                trial.recall(*found)
            trial.metrics.cut(trial.step)
        return filling.state()

    def _on_host(self, state: TrainState, slot: int) -> TrainState:
        """Return a copy of one slot's state as numpy arrays, on all processes."""

        def copied(leaf: jax.Array) -> np.ndarray:
            return np.array(hosts.whole(leaf)[slot])

        return jax.tree.map(copied, state)

    def rewind(self, slot: int, trial: Trial, spike: int) -> None:
        """Put a trial back to the state before a loss spike that its options say; it leaves out the batches up to the spike.

        Raises WorkError where there is no sound checkpoint of it.
        """
        assert trial.spikes
        start = trial.spikes.rewind_step(spike)
        trial.checkpoints.wait()
        number = spike + 1
        state: TrainState | None = self.state
        if self.program.slots == 1:
            _free(state)
            state = None
        filling = Filling(self.program, state)
        found = _restore(filling, slot, trial, until=start)
        if found is None or found[0] != start:
            raise WorkError(f"{trial.directory}: no sound checkpoint of step {start} to go back to from step {number}")
        self.state = filling.state()
        step, notes = found
        trial.checkpoints.forget_after(step)
        trial.rewind(step, notes, spike)
        _warn(f"{trial.fingerprint}: loss spike at step {number}; back to step {trial.step}")

    def state_of(self, slot: int) -> TrainState:
        """Return the state of one slot, without the axis of slots."""
        return self.program.take(self.state, slot)

    # --- work on the devices

    def next_steps(self, ahead: np.ndarray) -> np.ndarray:
        """Return the steps of each slot in the next dispatch, none of them past something that is due.

        `ahead`: the steps of each slot that are under way.
        """
        remaining = -ahead
        for slot, trial in self.seated():
            remaining[slot] += trial.steps_to_event()
        return self.program.next_steps(remaining.tolist())

    def steps_behind(self, ahead: np.ndarray) -> np.ndarray:
        """Return the steps of each slot behind those that are under way, when what is due there will have been done."""
        remaining = np.zeros_like(ahead)
        for slot, trial in self.seated():
            remaining[slot] = trial.steps_to_event(int(ahead[slot]))
        return self.program.next_steps(remaining.tolist())

    def request(self, steps: np.ndarray, ahead: np.ndarray) -> Request:
        """Return what is to be read for `steps[k]` steps of every slot k, behind those that are under way."""
        stretches = []
        for slot, trial in self.seated():
            start = trial.step + int(ahead[slot])
            stop = start + int(steps[slot])
            if start < stop:
                first, end = trial.stretch(start, stop)
                stretches.append((slot, first, end))
        return tuple(stretches)

    def read(self, request: Request) -> np.ndarray:
        """Return the tokens of a request. May be called in another thread: nothing is looked at that changes."""
        shape = self.program.token_shape()
        tokens = np.zeros(shape, token_dtype(self.trials))
        for slot, first, end in request:
            trial = self.slots[slot]
            assert trial is not None
            sequences = trial.records(first, end)
            count = len(sequences) // trial.run.batch
            tokens[slot, :count] = sequences.reshape(count, *shape[2:])
        return tokens

    def enqueue(self, tokens: np.ndarray, steps: np.ndarray) -> dict[str, jax.Array]:
        """Have `steps[k]` steps of every slot k taken; return metrics to fetch later. Trials are not told."""
        state, metrics = self.program.train(self.state, self.values, tokens, steps)
        self.state = state
        return metrics

    @staticmethod
    def fetch(metrics: dict[str, jax.Array]) -> Metrics:
        """Wait for metrics [slot, step]."""
        return {name: hosts.whole(values) for name, values in metrics.items()}

    def held_out_tokens(self, due: Sequence[Trial]) -> tuple[np.ndarray, np.ndarray]:
        """Return the held-out tokens of some trials, by slot, and the number of batches of every slot."""
        tokens_of = {}
        most = 0
        for trial in due:
            held_out = trial.held_out
            tokens_of[trial.fingerprint] = held_out.tokens
            most = max(most, held_out.batches)
        return self.by_slot(tokens_of, most)

    def by_slot(self, tokens_of: Mapping[str, np.ndarray], most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens [S, B, T] of some trials, by fingerprint, as those of all slots [K, most, B, T]; batches of each slot."""
        *leading, _ = self.program.token_shape(most)
        (length,) = {tokens.shape[-1] for tokens in tokens_of.values()}
        # Token files may differ in type: the widest holds the tokens of all.
        dtypes = [tokens.dtype for tokens in tokens_of.values()]
        tokens = np.zeros((*leading, length), np.result_type(*dtypes))
        batches = np.zeros(len(self.slots), np.int32)
        for slot, trial in self.seated():
            own = tokens_of.get(trial.fingerprint)
            if own is not None:
                count = len(own)
                batches[slot] = count
                tokens[slot, :count] = own
        return tokens, batches

    def evaluate(self, tokens: np.ndarray, batches: np.ndarray) -> np.ndarray:
        """Return the summed nats of each stretch of each sequence of the first `batches[k]` batches of every slot k."""
        return self._evaluate(self.state, tokens, batches)

    def evaluate_means(self, tokens: np.ndarray, batches: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Return for each slot the same of every mean of the parameters, by name, in its own batches alone."""
        of_slots: list[dict[str, np.ndarray]] = []
        for _ in self.slots:
            of_slots.append({})
        means = self.state.averages or {}
        for name, params in means.items():
            state = self.state
            in_their_place = state._replace(params=params)
            nats_KSB = self._evaluate(in_their_place, tokens, batches)
            for slot, of_slot in enumerate(of_slots):
                count = batches[slot]
                of_slot[name] = nats_KSB[slot, :count]
        return of_slots

    def _evaluate(self, state: TrainState, tokens: np.ndarray, batches: np.ndarray) -> np.ndarray:
        """Evaluate the parameters of a state."""
        program = self.program
        params = program.effective(state, self.values)
        nats_KSB = program.evaluate(params, tokens, batches)
        return nats_KSB

    def token_nats(self, tokens: np.ndarray, batches: np.ndarray) -> np.ndarray:
        """Return the nats of every token but the first of each sequence, for the first `batches[k]` batches of every slot k."""
        program = self.program
        params = program.effective(self.state, self.values)
        return program.evaluate(params, tokens, batches, every_token=True)

    def columns(self) -> dict[str, Any]:
        """Return columns of a record: how the trials share the devices."""
        program = self.program
        sizes = []
        for name, size in program.mesh.shape.items():
            if size > 1:
                sizes.append(f"{name}={size}")
        return {
            "packing": program.packing,
            "packing_trials": len(self.trials),
            "packing_mesh": "x".join(sizes) or "1",
        }


def _seat(trials: Sequence[Trial], execution: Execution) -> tuple[Program, list[Trial | None]]:
    """Make the program, and give each trial a slot; a slot without a trial has None.

    Slots are shared out by steps, so that all devices finish together. A device may get more trials than an even share
    has slots: then the program gets more.
    """
    run = trials[0].run
    steps = [trial.run.steps for trial in trials]
    made = program(run, len(trials), execution)
    members_by_group = packing.assign(steps, made.groups)
    most = max(len(members) for members in members_by_group)
    needed = most * made.groups
    if needed > made.slots:
        made = program(run, needed, execution)
    slots_per_group = made.slots // made.groups
    slots: list[Trial | None] = []
    for members in members_by_group:
        empty = slots_per_group - len(members)
        slots += [trials[member] for member in members]
        slots += [None] * empty
    return made, slots


def _has_checkpoint(trial: Trial) -> bool:
    """Say, on all processes alike, whether a trial has a checkpoint to go on from, sound or not."""
    return trial.was_saved and trial.checkpoints.has_any()


def _restore(filling: Filling, slot: int, trial: Trial, until: int | None = None) -> tuple[int, Any] | None:
    """Put the newest checkpoint of a trial into its slot; return its step and notes, or None where there is none."""
    parts = filling.parts()
    place = functools.partial(filling.put, slot)
    return trial.checkpoints.restore(parts, place, _warn, until)


def _free(state: TrainState | None) -> None:
    """Free the memory of states whose place is needed."""
    for leaf in jax.tree.leaves(state):
        leaf.delete()


def _warn(text: str) -> None:
    if hosts.first():
        print(text, file=sys.stderr)
