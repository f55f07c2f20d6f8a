"""Prepare the corpora of a study, and check that they have enough text for its runs."""

from etils import epath

from experiments.cli import InputError
from experiments.data.manifest import Manifest
from experiments.data.options import Data
from experiments.store import lineage
from sweeps.study.cells import Cell, ancestry
from sweeps.study.file import Study

Place = tuple[Data, str]  # data options, and the folder of prepared corpora


def prepare_corpora(study: Study, progress: bool = True) -> dict[Place, tuple[Manifest, ...]]:
    """Prepare what is missing of every corpus in the study: manifests by (data, data_root).

    Raises InputError, naming the point, when a corpus has too few tokens for a run.
    """
    from experiments import prepare
    from experiments.data import batches

    manifests: dict[Place, tuple[Manifest, ...]] = {}
    for cell in study.cells:
        for one in ancestry(cell):
            if _place(one) not in manifests:
                root = epath.Path(one.execution.data_root)
                manifests[_place(one)] = prepare.prepare(one.run.data, root, progress)
        try:
            read = data_read_by(cell, manifests)
            tokens = read.sequences * read.seq_len
            batches.check_enough(manifests[_place(cell)], cell.run.data, tokens, cell.run.seq_len)
        except InputError as error:
            raise InputError(f"{study.name}, {cell.name}: {error}") from error
    return manifests


def data_read_by(cell: Cell, manifests: dict[Place, tuple[Manifest, ...]]) -> lineage.Read:
    """Return how far a run and its ancestors will have read its data when it is done.

    Raises InputError where a child cannot go on in its parent's data.
    """
    done: lineage.Lineage | None = None
    names: tuple[str, ...] = ()
    for one in ancestry(cell):
        names = tuple(manifest.fingerprint for manifest in manifests[_place(one)])
        growth = one.run.growth
        learns = one.parent is not None and "learn" in (growth.depth, growth.width)
        done = lineage.after(one.run, names, done, learns)
    assert done is not None, "a cell is the last of its own ancestry"
    return dict(done.reads)[lineage.data_key(cell.run, names)]


def _place(cell: Cell) -> Place:
    return cell.run.data, cell.execution.data_root
