"""Say in columns of a record how far a run has come, what it has spent, and what it has read."""

from collections.abc import Mapping
import math
from typing import Any

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
    columns |= energy(trial.on.devices, trial.on.spent(trial.seconds))
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


def energy(devices: int, device_seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return columns of the devices that a run has at last, with its share of their time and of their energy.

    device_seconds: by the kind of device; a run that went on elsewhere has had several. The energy is what the chips take
    at most (experiments/benchmarks/chips.json); None where one of them does not say.
    """
    kwh = 0.0
    for kind, seconds in device_seconds.items():
        chip = chips.chip_of(kind)
        watts = math.nan if chip is None or chip.watts is None else chip.watts / chip.devices
        kwh += seconds * watts / JOULES_PER_KWH
    return {
        "devices": devices,
        "accelerator_seconds": round(sum(device_seconds.values()), 3),
        "kwh": None if math.isnan(kwh) else kwh,
    }
