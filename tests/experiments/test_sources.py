"""A source of data is one file of experiments/data/sources, found by its name; so is one from elsewhere."""

import pathlib

import numpy as np
import pytest

from experiments.cli import InputError
from experiments.data import sources
from experiments.data.batches import Batches
from experiments.data.options import Data
from experiments.prepare import prepare
from tests.support.data import documents_in

TOY = '''"""Numbers as texts: "toy:COUNT"."""

from experiments.data.documents import written
from experiments.data.sources import Found
from models.errors import InputError

PREFIX = "toy:"
DEDUPLICATES = True


def check(name):
    if not name.removeprefix(PREFIX).isdigit():
        raise InputError(f"data.corpus={name!r}: expected 'toy:COUNT'")


def options(name, text_field):
    return {"count": int(name.removeprefix(PREFIX))}


def look(name):
    return Found([1, options(name, "")], {"note": "counted"})


def obtain(name):
    """Nothing has to be fetched."""


def open_documents(origin, folder, text_field, say):
    def texts(dropped):
        dropped["odd"] = 0
        for number in range(origin.options["count"]):
            if number % 2:
                dropped["odd"] += 1
            else:
                yield str(number), f"the number {number} and what comes after it"

    return written(origin, folder, texts, say)
'''


@pytest.fixture
def toy(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a folder with a source of its own to where sources are found."""
    folder = tmp_path / "more_sources"
    folder.mkdir()
    (folder / "toy.py").write_text(TOY)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(folder)])


@pytest.mark.usefixtures("toy")
def test_a_source_from_outside_is_prepared_and_read(tmp_path: pathlib.Path):
    assert sources.source_names() == ("embedded", "local", "synthetic", "tfds", "toy")
    data = Data(corpus=("toy:100",), holdout=0.2)
    (manifest,) = prepare(data, tmp_path / "root", progress=False)
    assert manifest.options == {"kind": "toy", "count": 100, "holdout": 0.2, "version": 1}
    assert manifest.details["dropped"] == {"odd": 50} and manifest.details["note"] == "counted"
    texts = []
    for split in ("train", "holdout"):
        texts += documents_in(np.asarray(manifest.open(f"{split}.npy")), manifest.separator)
    assert sorted(texts) == sorted(f"the number {n} and what comes after it".encode() for n in range(0, 100, 2))
    batch = Batches((manifest,), data, seq_len=16, batch=4, seed=0)[0]
    assert batch.shape == (4, 17) and batch.max() <= 256
    with pytest.raises(InputError, match=r"data\.corpus='toy:many': expected 'toy:COUNT'"):
        Data(corpus=("toy:many",)).check()


@pytest.mark.parametrize(
    ("corpus", "kind"),
    [
        ("embedded", "embedded"),
        ("embedded:8", "embedded"),
        ("embedded/numpy", "embedded"),
        ("tfds:wiki40b/en", "tfds"),
        ("synthetic:markov,order=2", "synthetic"),
        ("text.jsonl", "local"),
        ("./embedded.txt", "local"),
        ("gs://bucket/texts", "local"),
    ],
)
def test_a_corpus_belongs_to_one_source(corpus: str, kind: str):
    assert sources.source_of(corpus)[0] == kind


def test_a_file_that_only_begins_like_the_embedded_corpus_is_refused():
    with pytest.raises(InputError, match=r"data\.corpus='embedded_x\.txt': expected 'embedded'"):
        Data(corpus=("embedded_x.txt",)).check()
