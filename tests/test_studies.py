"""Studies in sweeps/studies that are launched as a user launches them."""

import pathlib

import numpy as np
import pytest

from experiments.prepare import prepare
import models
from sweeps import study
from tests.conftest import REPOSITORY, launched

FAMILIES = REPOSITORY / "sweeps" / "studies" / "families.py"


def unigram_entropy(manifest) -> float:
    """Nats per token of the training stream for a model that knows how often each occurs, and no more."""
    count = np.bincount(manifest.open("train.npy"))
    share = count[count > 0] / count.sum()
    return float(-(share * np.log(share)).sum())


def test_the_study_of_families_has_all_of_them():
    cells = study.load(f"{FAMILIES}:smoke").cells
    assert {cell.run.family for cell in cells} == set(models.families())
    assert len(cells) == 3 * len(models.families())
    by_family = {cell.run.family: cell.run for cell in cells}
    assert by_family["moe"].model.experts == 4 and by_family["dense"].model.ff == 128


@pytest.mark.slow
def test_every_family_learns_more_than_how_often_bytes_occur(tmp_path: pathlib.Path, data_root: pathlib.Path):
    """Trained on the embedded corpus through launch and collect; compared with the corpus's own unigram entropy."""
    grid = launched(f"{FAMILIES}:smoke", tmp_path, data_root, timeout=580)
    cells = study.load(f"{FAMILIES}:smoke", str(data_root)).cells
    (manifest,) = prepare(cells[0].run.data, cells[0].execution.data_root, progress=False)
    entropy = unigram_entropy(manifest)
    assert entropy == pytest.approx(manifest.unigram_entropy_nats, rel=1e-6)
    assert set(grid["status"]) == {"complete"} and set(grid["family"]) == set(models.families())
    best = grid.groupby("family")["loss_nats"].min()
    assert (best < entropy - 0.2).all(), f"{best.to_dict()} beside {entropy}"
