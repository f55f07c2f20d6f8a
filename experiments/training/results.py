"""Say in columns of a record how far a run has come, what it has spent, and what it has read."""

from typing import Any

import jax

from experiments.benchmarks import chips
from experiments.data import coverage, text_columns
from experiments.store import lineage as lineages
from experiments.training import clock
from experiments.training.trial import Trial

JOULES_PER_KWH = 3.6e6


def columns(trial: Trial, loss: float | None = None) -> dict[str, Any]:
    """Return the columns of a trial's record that do not come from its evaluation alone or from its options.

    `loss`: held-out, if it ended in an evaluation.
    """
    columns: dict[str, Any] = {"steps_done": trial.step, "wall_seconds": round(trial.seconds, 3)}
    columns |= clock.columns(trial.shares)
    columns |= energy(trial.devices, trial.accelerator_seconds, jax.devices()[0].device_kind)
    columns |= _of_text(trial)
    columns |= coverage.columns(trial.batches, trial.records_taken)
    columns |= lineages.columns(trial.lineage)
    columns |= _of_parent(trial, loss)
    columns |= trial.noise.columns()
    if trial.spikes:
        columns |= trial.spikes.columns()
    return columns


def _of_text(trial: Trial) -> dict[str, Any]:
    """Return columns of the text that a trial has been trained on, and of the one that it is judged by."""
    tokens = trial.step * trial.run.batch_tokens
    return text_columns.columns(trial.manifests, tokens, trial.held_out.corpus)


def _of_parent(trial: Trial, loss: float | None) -> dict[str, Any]:
    """Return columns of the loss that a trial started from, and of what its options add to it if it took no step."""
    if trial.parent is None:
        return {}
    names = tuple(manifest.fingerprint for manifest in trial.manifests)
    before = trial.parent.loss_before(trial.run, names)
    columns = {"parent_loss_nats": before}
    if trial.run.only_evaluates and before is not None and loss is not None:
        columns["added_loss"] = loss - before
    return columns


def energy(devices: int, accelerator_seconds: float, device_kind: str) -> dict[str, Any]:
    """Return columns of the devices that a run had, with its share of their time and of their energy.

    The energy is what the chips take at most (experiments/benchmarks/chips.json); None for chips that do not say.
    """
    chip = chips.chip_of(device_kind)
    kwh = None
    if chip is not None and chip.watts is not None:
        chip_seconds = accelerator_seconds / chip.devices
        kwh = chip_seconds * chip.watts / JOULES_PER_KWH
    return {"devices": devices, "accelerator_seconds": round(accelerator_seconds, 3), "kwh": kwh}
