"""One run of a population while it is under way, and its folder."""

import dataclasses
import math
import os
from typing import Any

from etils import epath
import numpy as np

from experiments import files
from experiments.alive import stops
from experiments.cli import InputError
from experiments.data.batches import check_enough
from experiments.run import identity, stored
from experiments.run.schema import Execution, Run
from experiments.store import lineage as lineages
from experiments.store.inherit import Parent
from experiments.store.metrics import Metrics, Mirror
from experiments.training.spikes import Spikes


@dataclasses.dataclass
class Trial:
    """One run of a population while it is under way."""

    run: Run
    fingerprint: str
    directory: epath.Path
    manifests: tuple[Any, ...]
    execution: Execution
    parent: Parent | None = None
    step: int = 0
    seconds: float = 0.0
    saved: int = -1
    status: str = "running"

    def __post_init__(self) -> None:
        from experiments.data.batches import Batches
        from experiments.store.checkpoint import Checkpoints
        from experiments.training.evaluate import Sequences

        run, names = self.run, tuple(m.fingerprint for m in self.manifests)
        before = self.parent.lineage if self.parent else None
        at = lineages.start(run, names, before)
        self.learns = self.parent is not None and self.parent.learns(run)
        self.lineage = lineages.after(run, names, before, self.learns)
        self._first = at.sequences + lineages.learned_tokens(run, self.learns) // run.seq_len
        self.batches = Batches(self.manifests, run.data, run.seq_len, run.batch, at.seed)
        self.held_out = Sequences(run, self.manifests)
        self.metrics = Metrics(self.directory, self.execution.tensorboard, self._mirrors())
        factor, limit = self.execution.spike_factor, self.execution.spike_limit
        self.spikes = None if factor is None else Spikes(factor, limit)
        self.checkpoints = Checkpoints(
            self.directory / "checkpoints", self.execution.keep_checkpoints, self.fingerprint
        )

    def _mirrors(self) -> list[Mirror]:
        if self.execution.wandb is None:
            return []
        from experiments.store import wandb_mirror

        return [wandb_mirror.WandbMirror(self.execution.wandb, self.fingerprint, self.directory, self.run)]

    def records(self, start: int, stop: int) -> np.ndarray:
        """Training sequences of steps [start, stop): [(stop - start) batch, seq_len + 1]. Steps of learning are negative."""
        batch = self.run.batch
        if self.spikes:  # what was left out lies before all steps to come
            start, stop = self.spikes.batch(start), self.spikes.batch(start) + stop - start
        return self.batches.records(self._first + start * batch, self._first + stop * batch)

    def inherited(self, fresh: Any) -> Any:
        """The state that the run starts from, if it has a parent; `fresh` is the one without."""
        if self.parent is None:
            return fresh
        steps = self.run.growth.learn_steps
        from experiments.training import growth

        return growth.first_state(self.parent, self.run, fresh, lambda i: self.records(i - steps, i - steps + 1))

    def spike(self, first: int, losses: np.ndarray) -> int | None:
        """The step (0-based) of a loss spike among steps first, first+1, … that the run is to go back from, or None."""
        at = self.spikes.find(losses) if self.spikes else None
        if at is None or self.spikes is None or self.saved < 0:
            return None
        sequences = self._first + (self.run.steps + self.spikes.left_out + first + at + 1 - self.saved) * self.run.batch
        try:
            check_enough(self.manifests, self.run.data, sequences * self.run.seq_len, self.run.seq_len)
        except InputError:
            return None  # no text to put in the place of what would be left out
        return first + at

    def asked_to_stop(self) -> stops.Stop | None:
        """A request to end this run early, for a run under way on a local disk."""
        local = "://" not in os.fspath(self.directory)
        return stops.asked(self.directory) if local and self.status == "running" else None

    @property
    def notes(self) -> dict[str, Any]:
        """What a checkpoint has to remember besides the state."""
        return {"seconds": self.seconds} | ({"spikes": self.spikes.notes()} if self.spikes else {})

    def recall(self, step: int, notes: dict[str, Any]) -> None:
        """Go on from the checkpoint of a step."""
        self.step = self.saved = step
        self.seconds = notes["seconds"]
        if self.spikes:
            self.spikes.recall(notes.get("spikes", {}))

    @property
    def recorded(self) -> bool:
        """Whether its record has been written."""
        return self.status.endswith("and recorded")

    @property
    def left(self) -> int:
        """Steps still to be taken."""
        return self.run.steps - self.step if self.status == "running" else 0

    def _every(self, tokens: int | None) -> int:
        return max(1, round(tokens / self.run.batch_tokens)) if tokens else self.run.steps

    def until_event(self) -> int:
        """Steps to the next evaluation, checkpoint or end."""
        marks = [self.run.steps]
        for tokens in (self.execution.eval_every_tokens, self.execution.checkpoint_every_tokens):
            every = self._every(tokens)
            marks.append((self.step // every + 1) * every)
        return max(0, min(marks) - self.step) if self.status == "running" else 0

    def due(self, tokens: int | None) -> bool:
        """Whether something that happens every so many tokens, and at the end, happens now."""
        return self.step == self.run.steps or bool(tokens and self.step and self.step % self._every(tokens) == 0)

    def log(self, first: int, metrics: dict[str, np.ndarray], speed: float) -> None:
        """Write the rows of steps first+1, first+2, …; note a loss that is not finite."""
        for i, loss in enumerate(metrics["loss"]):
            step = first + i + 1
            finite = math.isfinite(loss)
            if step % self.execution.log_every_steps == 0 or step in (1, self.run.steps) or not finite:
                row = {"step": step, "tokens": step * self.run.batch_tokens}
                row |= {name: float(values[i]) for name, values in metrics.items()}
                self.metrics.append(row | {"tokens_per_second": round(speed, 1), "seconds": round(self.seconds, 3)})
            if not finite:
                self.status, self.step = "diverged", step
                return


def workdir_of(
    directory: epath.Path,
    run: Run,
    fingerprint: str,
    manifests: tuple[str, ...],
    lineage: lineages.Lineage | None = None,
) -> None:
    """Claim a directory for a run. Raises InputError when it holds another one."""
    path = directory / "run.json"
    if path.exists():
        try:
            held = files.read_json(path)
            other = held["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({type(error).__name__}); delete it to use the folder") from error
        if other != fingerprint:
            mine, theirs = identity.to_dict(run), held["run"]
            differs = [k for k in _flat(mine) if _flat(mine)[k] != _flat(theirs).get(k)] or ["the data"]
            raise InputError(
                f"--workdir={directory} holds run {other}; this config is run {fingerprint} (they differ in "
                f"{', '.join(differs[:4])}): choose another folder"
            )
        return
    value = {"schema": stored.SCHEMA, "fingerprint": fingerprint, "run": identity.to_dict(run)}
    value |= {"manifests": list(manifests), "parent": run.parent}
    files.write_json(path, value | ({"lineage": lineages.to_json(lineage)} if lineage else {}))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
