"""Admit runs to training: check them against their data, parents and folders, and say in its folder that a run has begun."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
from typing import NamedTuple

from etils import epath

from experiments.cli import InputError
from experiments.data.batches import check_enough
from experiments.data.holdout import held_out
from experiments.data.manifest import Manifest
from experiments.data.options import Data
from experiments.run import identity
from experiments.run.schema import Execution, Run
from experiments.store import inherit, run_file
from experiments.store import lineage as lineages
from experiments.store import record as records
from experiments.training.trial import Trial


class Admitted(NamedTuple):
    """A run that may train: what a Trial needs of it."""

    run: Run
    fingerprint: str
    directory: epath.Path
    manifests: tuple[Manifest, ...]
    parent: inherit.Parent | None

    def start(self, execution: Execution) -> Trial:
        """Return its Trial."""
        return Trial(self.run, self.fingerprint, self.directory, self.manifests, execution, self.parent)


def admit(
    runs: Sequence[Run],
    directories: Sequence[epath.Path],
    corpora: Mapping[Data, tuple[Manifest, ...]],
    execution: Execution,
) -> list[Admitted]:
    """Return the runs that have no record yet. Writes nothing. Raises InputError for one that cannot be trained there.

    `corpora`: the prepared ones, by the data that runs ask for.
    """
    admitted = []
    for run, directory in zip(runs, directories, strict=True):
        manifests = corpora[run.data]
        size = max(manifest.vocab_size for manifest in manifests)
        if size > run.model.vocab:
            raise InputError(f"model.vocab={run.model.vocab} is less than the tokenizer's vocabulary of {size}")
        fingerprint = identity.fingerprint(run, _names(manifests))
        run_file.check(directory, run, fingerprint)
        if is_recorded(directory):
            continue
        parent = inherit.find(run, directory, execution)
        _check_data(run, manifests, parent)
        admitted.append(Admitted(run, fingerprint, directory, manifests, parent))
    return admitted


def is_recorded(directory: epath.Path) -> bool:
    """Tell whether a folder has the record of a run that has ended. One that failed is trained again."""
    path = directory / "record.json"
    return path.exists() and records.read(path)["status"] != "failed"


@contextlib.contextmanager
def reserved(trials: Sequence[Trial]) -> Iterator[None]:
    """Write the run.json of trials; take it back where one turns out to be bad input before its first step."""
    written = []
    for trial in trials:
        if run_file.reserve(trial.directory, trial.run, trial.fingerprint, _names(trial.manifests), trial.lineage):
            written.append(trial.directory)
    try:
        yield
    except InputError:
        for directory in written:
            run_file.withdraw(directory)
        raise


def _names(manifests: Sequence[Manifest]) -> tuple[str, ...]:
    return tuple(manifest.fingerprint for manifest in manifests)


def _check_data(run: Run, manifests: tuple[Manifest, ...], parent: inherit.Parent | None) -> None:
    """Raise InputError when there is not so much data left behind what the parents have read, or nothing held out."""
    for manifest in manifests:
        held_out(manifest, run.data, run.seq_len)
    if run.only_evaluates:
        return
    names = _names(manifests)
    before = parent.lineage if parent else None
    line = lineages.after(run, names, before, parent is not None and parent.learns(run))
    read = dict(line.reads)[lineages.data_key(run, names)]
    check_enough(manifests, run.data, read.sequences * read.seq_len, run.seq_len)
