"""One run while it is under way: where it stands, what is due, what it reads, what it writes.

Its state lies in a slot of a population (population.py); when it is asked for a thing, loop.py decides.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import os
import sys
from typing import Any

from etils import epath
import numpy as np

from experiments.alive import stops
from experiments.cli import InputError
from experiments.data.batches import Batches, check_enough
from experiments.data.manifest import Manifest
from experiments.run.schema import Execution, Run
from experiments.store import lineage as lineages
from experiments.store.inherit import Parent
from experiments.store.metrics import Metrics, Mirror
from experiments.store.train_state import TrainState
from experiments.training.spikes import Spikes

RUNNING = "running"
REMOTE_SECONDS = 15.0  # between two looks for a request to stop where each is a request to an object store


@dataclasses.dataclass
class Trial:
    """One run of a population while it is under way."""

    run: Run
    fingerprint: str
    directory: epath.Path
    manifests: tuple[Manifest, ...]
    execution: Execution
    parent: Parent | None = None
    step: int = 0  # steps done
    seconds: float = 0.0  # spent on it, over all processes that have trained it
    saved_step: int | None = None  # of the newest checkpoint
    status: str = RUNNING
    recorded: bool = False  # whether its record has been written

    def __post_init__(self) -> None:
        # Orbax takes long to import: only where something trains.
        from experiments.store.checkpoint import Checkpoints, Keep
        from experiments.training.evaluate import HeldOut

        run = self.run
        execution = self.execution
        manifests = tuple(manifest.fingerprint for manifest in self.manifests)
        before = self.parent.lineage if self.parent else None
        self.learns = self.parent is not None and self.parent.learns(run)
        self.lineage = lineages.after(run, manifests, before, self.learns)
        begin = lineages.start(run, manifests, before)
        learned_sequences = lineages.learned_tokens(run, self.learns) // run.seq_len
        self._first_sequence = begin.sequences + learned_sequences
        self._batches = Batches(self.manifests, run.data, run.seq_len, run.batch, begin.seed)
        self.held_out = HeldOut(run, self.manifests)
        self.metrics = Metrics(self.directory, execution.tensorboard, self._mirrors())
        is_remote = "://" in os.fspath(self.directory)
        self._looks_for_stops = stops.Looks(REMOTE_SECONDS if is_remote else 0.0)
        self._unreadable: str | None = None  # what was said of a request to stop
        self.spikes = None
        if execution.spike_factor is not None:
            self.spikes = Spikes(execution.spike_factor, execution.spike_limit)
        every = self._steps_of(execution.keep_every_tokens) if execution.keep_every_tokens else None
        keep = Keep(execution.keep_checkpoints, every)
        self.checkpoints = Checkpoints(self.directory / "checkpoints", keep, self.fingerprint)

    def _mirrors(self) -> list[Mirror]:
        """Return the mirrors of the metrics that the execution asks for."""
        project = self.execution.wandb
        if project is None:
            return []
        from experiments.store import wandb_mirror

        return [wandb_mirror.WandbMirror(project, self.fingerprint, self.directory, self.run)]

    # --- what it reads

    @property
    def token_dtype(self) -> np.dtype[Any]:
        """Return the type of its tokens."""
        return self._batches.dtype

    def sequences(self, start: int, stop: int) -> np.ndarray:
        """Return the training sequences of steps [start, stop): [(stop - start) batch, seq_len + 1].

        Steps of a learned growth, before the run's own, are negative.
        """
        steps = stop - start
        first_batch = start
        if self.spikes:  # what was left out lies before all steps to come
            first_batch = self.spikes.batch_of(start)
        batch = self.run.batch
        first = self._first_sequence + first_batch * batch
        return self._batches.records(first, first + steps * batch)

    def inherited(self, fresh: TrainState) -> TrainState:
        """Return the state that the run starts from, if it has a parent; `fresh` is the one without."""
        if self.parent is None:
            return fresh
        from experiments.training import growth

        learn_steps = self.run.growth.learn_steps

        def batch(number: int) -> np.ndarray:
            step = number - learn_steps
            return self.sequences(step, step + 1)

        return growth.first_state(self.parent, self.run, fresh, batch)

    def added(self) -> dict[str, np.ndarray] | None:
        """Return what its growth has added, for the masks of programs that have them; None: nothing."""
        return self.parent.added(self.run) if self.parent else None

    # --- where it stands

    @property
    def running(self) -> bool:
        """Say whether it still trains."""
        return self.status == RUNNING

    @property
    def steps_left(self) -> int:
        """Return the steps still to be taken."""
        return self.run.steps - self.step if self.running else 0

    def _steps_of(self, tokens: int | None) -> int:
        """Return the steps between two events that come every so many tokens; None: at the end only."""
        if not tokens:
            return self.run.steps
        return max(1, round(tokens / self.run.batch_tokens))

    def steps_to_event(self) -> int:
        """Return the steps to the next evaluation, checkpoint or end."""
        if not self.running:
            return 0
        next_event = self.run.steps
        for tokens in (self.execution.eval_every_tokens, self.execution.checkpoint_every_tokens):
            every = self._steps_of(tokens)
            next_event = min(next_event, (self.step // every + 1) * every)
        return max(0, next_event - self.step)

    def is_due(self, tokens: int | None) -> bool:
        """Say whether something that happens every so many tokens, and at the end, happens now."""
        if self.step == self.run.steps:
            return True
        return bool(tokens and self.step and self.step % self._steps_of(tokens) == 0)

    def asked_to_stop(self) -> stops.Stop | None:
        """Return a request to end this run early, while it is under way.

        One that cannot be read is said once: whoever made it has to make it anew.
        """
        if not self.running or not self._looks_for_stops.due():
            return None
        try:
            return stops.asked(self.directory)
        except (InputError, OSError) as error:
            text = str(error)
            if text != self._unreadable:
                print(f"{self.fingerprint} is asked to stop, and goes on: {text}", file=sys.stderr)
            self._unreadable = text
            return None

    # --- what it remembers with a checkpoint

    @property
    def notes(self) -> dict[str, Any]:
        """Return what a checkpoint has to remember besides the state."""
        notes: dict[str, Any] = {"seconds": self.seconds}
        if self.spikes:
            notes["spikes"] = self.spikes.notes()
        return notes

    def recall(self, step: int, notes: Mapping[str, Any]) -> None:
        """Go on from the checkpoint of a step."""
        self.step = self.saved_step = step
        self.seconds = notes["seconds"]
        if self.spikes:
            self.spikes.recall(notes.get("spikes", {}))

    def rewind(self, step: int, notes: Mapping[str, Any], spike: int) -> None:
        """Go back to the checkpoint of a step, and leave out the batches from there to the spike's."""
        assert self.spikes
        # The checkpoint may be older than what was left out before, and time has passed since.
        rewinds = self.spikes.rewinds
        left_out = self.spikes.ranges
        seconds = self.seconds
        self.recall(step, notes)
        self.spikes.rewinds = rewinds
        self.spikes.ranges = left_out
        self.seconds = seconds
        self.spikes.skip(step, spike)
        self.metrics.rewind(step)

    # --- what its losses say

    def find_spike(self, first: int, losses: np.ndarray) -> int | None:
        """Return the step (0-based) of a loss spike that the run is to go back from, or None.

        `losses`: of steps first, first + 1, …
        """
        if self.spikes is None:
            return None
        position = self.spikes.find(losses.tolist())
        if position is None or self.saved_step is None:
            return None
        spike = first + position
        return spike if self._has_text_for(spike + 1 - self.saved_step) else None

    def _has_text_for(self, batches: int) -> bool:
        """Say whether there is text to put in the place of so many batches that would be left out."""
        assert self.spikes
        read_batches = self.run.steps + self.spikes.left_out + batches
        sequences = self._first_sequence + read_batches * self.run.batch
        try:
            check_enough(self.manifests, self.run.data, sequences * self.run.seq_len, self.run.seq_len)
        except InputError:
            return False
        return True

    def log(self, first: int, metrics: Mapping[str, np.ndarray], tokens_per_second: float) -> None:
        """Write the rows of steps first+1, first+2, …; note a loss that is not finite."""
        for i, loss in enumerate(metrics["loss"]):
            step = first + i + 1
            is_finite = math.isfinite(loss)
            if self._is_logged(step) or not is_finite:
                row = {"step": step, "tokens": step * self.run.batch_tokens}
                row |= {name: float(values[i]) for name, values in metrics.items()}
                row |= {"tokens_per_second": round(tokens_per_second, 1), "seconds": round(self.seconds, 3)}
                self.metrics.append(row)
            if not is_finite:
                self.status = "diverged"
                self.step = step
                return

    def _is_logged(self, step: int) -> bool:
        return step % self.execution.log_every_steps == 0 or step in (1, self.run.steps)


def token_dtype(trials: Sequence[Trial]) -> np.dtype[Any]:
    """Return a type that holds the tokens of all trials."""
    return np.result_type(*(trial.token_dtype for trial in trials))
