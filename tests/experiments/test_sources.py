"""A source of data is one file of experiments/data/sources, found by its name; so is one from elsewhere."""

import pathlib
import struct

import numpy as np
import pytest

from experiments.cli import InputError
from experiments.data import sources
from experiments.data.batches import Batches
from experiments.data.options import Data
from experiments.data.sources import messages
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
    assert sources.source_names() == ("embedded", "local", "messages", "synthetic", "tfds", "toy")
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
        ("messages:de", "messages"),
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


# --- message catalogues


def write_catalogue(path: pathlib.Path, texts: dict[str, str]) -> None:
    """A .mo file as msgfmt writes it, without its hash table."""
    path.parent.mkdir(parents=True)
    pairs = sorted((key.encode(), value.encode()) for key, value in texts.items())
    start = 28 + 16 * len(pairs)
    body = b""
    tables: list[bytes] = []
    for side in (0, 1):
        table = b""
        for pair in pairs:
            table += struct.pack("<2I", len(pair[side]), start + len(body))
            body += pair[side] + b"\0"
        tables.append(table)
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + len(tables[0]), 0, start)
    path.write_bytes(head + tables[0] + tables[1] + body)


HEADER = "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=n != 1;\n"


def test_catalogues_are_parallel_text(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """A message and its translation a document; with its plural, without its context, and of every kind of the language."""
    german = {"": HEADER, "file": "Datei", "menu\4open": "öffnen", "%d day\0%d days": "%d Tag\0%d Tage", "OK": "OK"}
    write_catalogue(tmp_path / "one/locale/de/LC_MESSAGES/one.mo", german)
    write_catalogue(tmp_path / "two/de_AT/LC_MESSAGES/two.mo", {"": HEADER, "tomato": "Paradeiser"})
    write_catalogue(tmp_path / "two/del/LC_MESSAGES/two.mo", {"": HEADER, "tomato": "another language"})
    (tmp_path / "two/de/LC_MESSAGES").mkdir(parents=True)
    (tmp_path / "two/de/LC_MESSAGES/broken.mo").write_bytes(b"no catalogue")
    monkeypatch.setattr(messages, "roots", lambda: [tmp_path])
    (manifest,) = prepare(Data(corpus=("messages:de",), holdout=0.3), tmp_path / "root", progress=False)
    texts = []
    for split in ("train", "holdout"):
        texts += documents_in(np.asarray(manifest.open(f"{split}.npy")), manifest.separator)
    expected = ["file\nDatei", "open\nöffnen", "%d day\n%d Tag", "%d day\n%d Tage", "tomato\nParadeiser"]
    assert sorted(text.decode() for text in texts) == sorted(expected)
    assert manifest.details["dropped"] == {"not translated": 1, "catalogue unreadable (OSError)": 1}
    assert manifest.details["catalogues"] == ["de/broken", "de/one", "de_AT/two"]
    with pytest.raises(
        InputError, match=r"'messages:fr': no catalogue in this language is installed; there are de, de_AT, del$"
    ):
        prepare(Data(corpus=("messages:fr",)), tmp_path / "root", progress=False)
    with pytest.raises(InputError, match="expected 'messages:LANGUAGE'"):
        Data(corpus=("messages:",)).check()
