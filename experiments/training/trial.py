"""One run while it is under way: where it stands, what is due, what it reads, what it writes.

Its state lies in a slot of a population (population.py); when it is asked for a thing, loop.py decides.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

from etils import epath
import numpy as np

from experiments.alive import hosts, stops
from experiments.cli import InputError
from experiments.data.batches import Batches, check_enough
from experiments.data.manifest import Manifest
from experiments.run.schema import Execution, Run
from experiments.store import lineage as lineages
from experiments.store.inherit import Parent
from experiments.store.metrics import Metrics, Mirror
from experiments.store.train_state import TrainState
from experiments.training import clock
from experiments.training.clock import DeviceTime, Shares
from experiments.training.noise import NoiseScale
from experiments.training.spikes import Spikes

if TYPE_CHECKING:
    from experiments.store.checkpoint import Checkpoints

RUNNING = "running"
REWIND_STEPS = 100  # between two states that a spike leads back to (Chowdhery et al. 2022 went back as many)


@dataclasses.dataclass
class Trial:
    """One run of a population while it is under way."""

    run: Run
    fingerprint: str
    directory: epath.Path
    manifests: tuple[Manifest, ...]
    execution: Execution
    parent: Parent | None = None
    on: DeviceTime = dataclasses.field(default_factory=DeviceTime)  # what its program shares out
    step: int = 0  # steps done
    shares: Shares = dataclasses.field(default_factory=clock.nothing)  # seconds that all processes have spent on it
    looked_at: int | None = None  # step at which all that is due has been done
    saved_step: int | None = None  # of the newest checkpoint
    status: str = RUNNING
    recorded: bool = False  # whether its record has been written

    def __post_init__(self) -> None:
        from experiments.training.evaluate import HeldOut, other_lengths

        run = self.run
        execution = self.execution
        manifests = tuple(manifest.fingerprint for manifest in self.manifests)
        before = self.parent.lineage if self.parent else None
        self.learns = self.parent is not None and self.parent.learns(run)
        self.lineage = lineages.after(run, manifests, before, self.learns)
        begin = lineages.start(run, manifests, before)
        learned_sequences = lineages.learned_tokens(run, self.learns) // run.seq_len
        self._first_sequence = begin.sequences + learned_sequences
        self.batches = Batches(self.manifests, run.data, run.seq_len, run.batch, begin.seed)
        self.held_out = HeldOut(run, self.manifests)
        self.at_other_lengths = other_lengths(run, self.manifests)
        self.metrics = Metrics(
            self.directory, execution.tensorboard, _mirrors(run, self.fingerprint, self.directory, execution.wandb)
        )
        self.requests = stops.Requests(self.directory)
        self.noise = NoiseScale()
        self.spikes = None
        self._back_steps: int | None = None
        if run.spikes.factor is not None:
            self._back_steps = self._steps_of(run.spikes.every_tokens or REWIND_STEPS * run.batch_tokens)
            self.spikes = Spikes(run.spikes.factor, run.spikes.limit, self._back_steps)
        self.was_saved = _make_folder(self.directory / "checkpoints")

    @functools.cached_property
    def checkpoints(self) -> "Checkpoints":
        """Return its checkpoints. Orbax takes long to import: not before the first one is saved or read."""
        tokens = self.execution.keep_every_tokens
        every = self._steps_of(tokens) if tokens else None
        return _open_checkpoints(self, every, self._back_steps)

    # --- what it reads

    @property
    def token_dtype(self) -> np.dtype[Any]:
        """Return the type of its tokens."""
        return self.batches.dtype

    def stretch(self, start: int, stop: int) -> tuple[int, int]:
        """Return which records steps [start, stop) take: the first, and one behind the last.

        Steps of a learned growth, before the run's own, are negative.
        """
        steps = stop - start
        first_batch = start
        if self.spikes:  # what was left out lies before all steps to come
            first_batch = self.spikes.batch_of(start)
        batch = self.run.batch
        first = self._first_sequence + first_batch * batch
        return first, first + steps * batch

    @property
    def records_taken(self) -> int:
        """Return how many records its line has taken, those that were left out included."""
        first, _ = self.stretch(self.step, self.step)
        return first

    def records(self, first: int, end: int) -> np.ndarray:
        """Return training sequences [end - first, seq_len + 1] by the numbers of their records."""
        return self.batches.records(first, end)

    def sequences(self, start: int, stop: int) -> np.ndarray:
        """Return the training sequences of steps [start, stop): [(stop - start) batch, seq_len + 1]."""
        return self.records(*self.stretch(start, stop))

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

    @property
    def seconds(self) -> float:
        """Return the seconds spent on it."""
        return sum(self.shares.values())

    def steps_to_event(self, ahead: int = 0) -> int:
        """Return the steps to the next evaluation, checkpoint or end, from `ahead` steps behind those done."""
        if not self.running:
            return 0
        step = self.step + ahead
        execution = self.execution
        evaluation = self._steps_of(execution.eval_every_tokens)
        checkpoint = self._steps_of(execution.checkpoint_every_tokens)
        intervals = [evaluation, checkpoint]
        if self.spikes:
            intervals.append(self.spikes.every)
        next_event = self.run.steps
        for every in intervals:
            next_event = min(next_event, (step // every + 1) * every)
        return max(0, next_event - step)

    def is_at_event(self) -> bool:
        """Say whether something is due at this step that has not been done."""
        if not self.running:
            return not self.recorded
        if self.step == self.looked_at:
            return False
        return self.is_due(self.execution.eval_every_tokens) or self.is_save_due()

    def is_save_due(self) -> bool:
        """Say whether its state is to be saved at this step: a checkpoint is due, or a spike may lead back to it."""
        if self.spikes and self.step % self.spikes.every == 0:
            return True
        return self.is_due(self.execution.checkpoint_every_tokens)

    def is_due(self, tokens: int | None) -> bool:
        """Say whether something that happens every so many tokens, and at the end, happens now."""
        if self.step == self.run.steps:
            return True
        return bool(tokens and self.step and self.step % self._steps_of(tokens) == 0)

    # --- what it remembers with a checkpoint

    @property
    def notes(self) -> dict[str, Any]:
        """Return what a checkpoint has to remember besides the state."""
        notes: dict[str, Any] = {"seconds": self.seconds, "shares": dict(self.shares)}
        notes["noise"] = self.noise.notes()
        notes["device_seconds"] = self.on.spent(self.seconds)
        if self.spikes:
            notes["spikes"] = self.spikes.notes()
        return notes

    def recall(self, step: int, notes: Mapping[str, Any]) -> None:
        """Go on from the checkpoint of a step."""
        self.step = self.saved_step = step
        # Checkpoints of before do not know what their seconds were spent on.
        unknown = {clock.REST: notes["seconds"]}
        self.shares = clock.nothing() | notes.get("shares", unknown)
        if self.execution.noise_scale:  # else what it was once is no column of what is measured now
            self.noise.recall(notes.get("noise", {}))
        self.on.recall(notes)
        if self.spikes:
            self.spikes.recall(notes.get("spikes", {}))

    def rewind(self, step: int, notes: Mapping[str, Any], spike: int) -> None:
        """Go back to the checkpoint of a step, and leave out the batches from there to the spike's."""
        assert self.spikes
        # The checkpoint may be older than what was left out before, and time has passed since.
        spikes = self.spikes
        rewinds = spikes.rewinds
        left_out = spikes.ranges
        shares = self.shares
        self.recall(step, notes)
        spikes.rewinds = rewinds
        spikes.ranges = left_out
        self.shares = shares
        spikes.skip(step, spike)
        self.looked_at = step
        self.metrics.rewind(step)

    # --- what its losses say

    def find_spike(self, first: int, losses: np.ndarray) -> int | None:
        """Return the step (0-based) of a loss spike that the run is to go back from, or None.

        `losses`: of steps first, first + 1, …
        """
        if self.spikes is None:
            return None
        return self.spikes.find_step(first, losses.tolist(), self._has_text_for)

    def _has_text_for(self, batches: int) -> bool:
        """Say whether there is text to put in the place of so many batches that would be left out."""
        assert self.spikes
        read_batches = self.run.steps + self.spikes.left_out + batches
        sequences = self._first_sequence + read_batches * self.run.batch
        return _is_enough(self.manifests, self.run, sequences)

    def log(self, first: int, metrics: Mapping[str, np.ndarray], tokens_per_second: float) -> None:
        """Write the rows of steps first+1, first+2, …; note a loss that is not finite."""
        metrics = dict(metrics) | self.noise.scales(metrics)
        for i, loss in enumerate(metrics["loss"]):
            step = first + i + 1
            is_finite = math.isfinite(loss)
            if _is_logged(step, self.run.steps, self.execution.log_every_steps) or not is_finite:
                row = {"step": step, "tokens": step * self.run.batch_tokens}
                row |= {name: float(values[i]) for name, values in metrics.items()}
                row |= {"tokens_per_second": round(tokens_per_second, 1), "seconds": round(self.seconds, 3)}
                row |= clock.columns(self.shares)
                self.metrics.append(row)
            if not is_finite:
                self.status = "diverged"
                self.step = step
                return

    def log_evaluation(self, row: Mapping[str, Any]) -> None:
        """Write the row of an evaluation at this step."""
        tokens = self.step * self.run.batch_tokens
        noise = {f"eval_{name}": value for name, value in self.noise.columns().items()}
        self.metrics.append_evaluation({"step": self.step, "tokens": tokens, **row, **noise})


def _is_enough(manifests: tuple[Manifest, ...], run: Run, sequences: int) -> bool:
    """Say whether a run's text has so many sequences."""
    tokens = sequences * run.seq_len
    try:
        check_enough(manifests, run.data, tokens, run.seq_len)
    except InputError:
        return False
    return True


def token_dtype(trials: Sequence[Trial]) -> np.dtype[Any]:
    """Return a type that holds the tokens of all trials."""
    return np.result_type(*(trial.token_dtype for trial in trials))


def _make_folder(folder: epath.Path) -> bool:
    """Make the folder of checkpoints, so that whether it can be there is known before the first step.

    Returns, on all processes alike, whether earlier ones have left anything in it, sound or not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return hosts.told(any(folder.iterdir()))


def _open_checkpoints(trial: Trial, every_steps: int | None, back_steps: int | None) -> "Checkpoints":
    """Open the checkpoints of a trial (see Keep for what is kept)."""
    from experiments.store.checkpoint import Checkpoints, Keep

    keep = Keep(trial.execution.keep_checkpoints, every_steps, back_steps)
    return Checkpoints(trial.directory / "checkpoints", keep, trial.fingerprint)


def _mirrors(run: Run, fingerprint: str, directory: epath.Path, project: str | None) -> list[Mirror]:
    """Return the mirrors of a run's metrics; `project` is that of Weights & Biases, None: there is none."""
    if project is None:
        return []
    from experiments.store import wandb_mirror

    return [wandb_mirror.WandbMirror(project, fingerprint, directory, run)]


def _is_logged(step: int, steps: int, every: int) -> bool:
    """Say whether the metrics of a step are written: of the first, the last, and every so many."""
    return step % every == 0 or step in (1, steps)
