"""Where text comes from: local files, TFDS by name, installed packages; and what is said when something is wrong."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import time

from etils import epath
import numpy as np
import pyarrow
from pyarrow import parquet
import pytest

from experiments.cli import InputError, explain
from experiments.data import dedup, reading, selection
from experiments.data.manifest import Manifest
from experiments.data.options import Data
from experiments.data.sources import tfds
from experiments.prepare import prepare
from tests.support.data import (
    FINGERPRINT,
    REPOSITORY,
    documents_in,
    make_corpora,
    python,
    ready,
    texts_of,
    write_corpus,
)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_corpora(tmp_path_factory.mktemp("here"))


def test_kinds_of_files(tmp_path: pathlib.Path):
    """Folder, glob, single files; all three formats give the same documents."""
    texts = [f"document {n} with its own words {n * n}" for n in range(30)]
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "x.jsonl").write_text("\n\n".join(json.dumps({"body": t}) for t in texts[:10]))
    parquet.write_table(pyarrow.table({"body": texts[10:20], "n": list(range(10))}), tmp_path / "deep" / "y.parquet")
    for n, text in enumerate(texts[20:]):
        (tmp_path / "deep" / "er" / f"{n}.txt").write_text(text)
    (tmp_path / "deep" / "readme.md").write_text("not a corpus")

    def read(*names: str) -> list[str]:
        ms = prepare(Data(corpus=names, text_field="body"), tmp_path.parent / f"{tmp_path.name}-root", False)
        streams = [np.asarray(m.open(f"{s}.npy")) for m in ms for s in ("train", "holdout")]
        return sorted(text.decode() for stream in streams for text in documents_in(stream, 256))

    assert read(str(tmp_path)) == sorted(texts)
    assert read(f"{tmp_path}/**/*.txt") == sorted(texts[20:])
    assert read(f"{tmp_path}/deep/*.parquet", str(tmp_path / "x.jsonl")) == sorted(texts[:20])


def test_a_long_text_is_cut_at_blank_lines(tmp_path: pathlib.Path):
    draw = np.random.default_rng(0)
    text = "\n\n".join("paragraph " + "word " * int(n) for n in draw.integers(5, 300, 400))
    path = tmp_path / "book.txt"
    path.write_text(text)
    pieces = [piece for _, piece in reading.documents(reading.find(str(path))[0][1], "text", {})]
    assert "".join(pieces) == text and len(pieces) > 4
    assert all(len(piece) <= reading.PIECE for piece in pieces) and all(piece.endswith("\n\n") for piece in pieces[:-1])


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "broken.jsonl": (b'{"text": "a"}\n\n{"text": \n', r"broken\.jsonl:3: not a line of JSON"),
    "list.jsonl": (b'{"text": "a"}\n[1]\n', r"list\.jsonl:2: expected a JSON object"),
    "field.jsonl": (b'{"texts": "a"}\n', r"field\.jsonl:1: no field data\.text_field='text'; did you mean 'texts'"),
    "number.jsonl": (b'{"text": "a"}\n{"text": 3}\n', r"number\.jsonl:2: data\.text_field='text' holds int"),
    "null.jsonl": (b'{"text": null}\n', r"no text in .*null\.jsonl, 1 null"),
    "latin.jsonl": (b'{"text": "caf\xe9"}\n', r"latin\.jsonl:1: not a line of JSON .*utf-8"),
    "half.jsonl": (b'{"text": "\\ud800"}\n', r"half\.jsonl:1: .*surrogate"),
    "latin.txt": (b"plain\ncaf\xe9 au lait\n", r"latin\.txt:2: not UTF-8 text .*0xe9"),
    "cut.parquet": (b"PAR1 and then nothing", r"cut\.parquet: not a readable Parquet file"),
    "empty.jsonl": (b"\n\n", r"data\.corpus: no text in .*empty\.jsonl"),
    "one.txt": (b"only this", r"1 document\(s\); expected at least two"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_malformed_files_are_named_with_their_line(tmp_path: pathlib.Path, name: str):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        prepare(Data(corpus=(str(tmp_path / name),)), tmp_path / "root", False)
    assert "\n" not in explain(caught.value)
    assert not list((tmp_path / "root" / "records").glob("*/manifest.json"))


def test_a_bad_parquet_column_is_named(tmp_path: pathlib.Path):
    parquet.write_table(pyarrow.table({"txt": ["a", "b"], "text": [1, 2]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet, row 0: data\.text_field='text' holds int"):
        prepare(Data(corpus=(str(tmp_path / "x.parquet"),)), tmp_path / "root", False)
    with pytest.raises(InputError, match=r"x\.parquet: no column data\.text_field='tx'; did you mean 'txt'"):
        prepare(Data(corpus=(str(tmp_path / "x.parquet"),), text_field="tx"), tmp_path / "root", False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpus": ()}, r"data\.corpus=\(\): expected one or more"),
        ({"corpus": ("embedded", "embedded")}, r"data\.corpus=.* named twice"),
        ({"corpus": ("embedded:big",)}, r"data\.corpus='embedded:big': expected 'embedded'"),
        ({"corpus": ("tfds:",)}, r"data\.corpus='tfds:': expected 'tfds:NAME'"),
        ({"corpus": ("text.docx",)}, r"data\.corpus='text\.docx': expected a file ending in \.txt"),
        ({"corpus": ("text.parquet.gz",)}, r"data\.corpus='text\.parquet\.gz': expected a file ending in \.txt"),
        ({"weights": (1.0, 2.0)}, r"data\.weights=.* expected 1, one per corpus"),
        ({"weights": (0.0,)}, r"data\.weights=.* expected positive"),
        ({"weights": (float("nan"),)}, r"data\.weights=.* expected positive"),
        ({"tokenizer": "gpt2"}, r"data\.tokenizer='gpt2': expected 'bytes'"),
        ({"tokenizer": "bpe:100"}, r"data\.tokenizer='bpe:100': expected a vocabulary of 257"),
        ({"text_field": ""}, r"data\.text_field='' must be the name of a field"),
        ({"holdout": 0.0}, r"data\.holdout=0\.0 must be a share above 0"),
        ({"holdout": 1.5}, r"data\.holdout=1\.5 must be a share"),
        ({"unique_tokens": 0}, r"data\.unique_tokens=0 must be at least 1"),
    ],
)
def test_impossible_options_are_named(options: dict, message: str):
    with pytest.raises(InputError, match=message):
        Data(**options).check()


def test_missing_files_come_with_a_hint(here: pathlib.Path, tmp_path: pathlib.Path):
    with pytest.raises(InputError, match=r"no such text; did you mean 'a\.jsonl'"):
        prepare(Data(corpus=(str(here / "aa.jsonl"),)), tmp_path, False)
    with pytest.raises(
        InputError, match=r"no \.txt, \.jsonl, \.parquet, \.arrow file in this folder; \.md, .*'.*\*\.md'"
    ):
        prepare(Data(corpus=(str(tmp_path),)), tmp_path / "root", False)
    with pytest.raises(InputError, match=r"data\.corpus='/nowhere/x/y\.txt': no such file or folder"):
        prepare(Data(corpus=("/nowhere/x/y.txt",)), tmp_path, False)
    with pytest.raises(InputError, match=r"data\.tokenizer=.*tok\.json': no such file"):
        ready(here, tokenizer=str(tmp_path / "tok.json"))
    (tmp_path / "tok.json").write_text("{}")
    with pytest.raises(InputError, match=r"data\.tokenizer=.*tok\.json': not a tokenizers JSON"):
        ready(here, tokenizer=str(tmp_path / "tok.json"))
    (tmp_path / "tok.model").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"data\.tokenizer=.*tok\.model': not a SentencePiece model"):
        ready(here, tokenizer=str(tmp_path / "tok.model"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"execution\.data_root=.*file': expected a folder"):
        prepare(Data(), tmp_path / "file", False)


def test_tfds_by_name_from_disk(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """A dataset that TFDS prepared is read by its name, wherever TFDS_DATA_DIR says; configurations must be named."""
    from experiments.data.documents import quiet
    from experiments.data.text_dataset import TextDataset

    path = write_corpus(tmp_path / "c.jsonl", 40)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    with quiet():
        rows = (
            (f"0:{i}", {"text": text}) for i, (_, text) in enumerate(reading.documents(epath.Path(path), "text", {}))
        )
        TextDataset(rows=rows, data_dir=str(tmp_path / "tfds"), file_format="array_record").download_and_prepare()
    (m,) = prepare(Data(corpus=("tfds:text_dataset",), holdout=0.1), tmp_path / "root", False)
    assert m.train.documents + m.holdout.documents == 40 and m.details["version"] == "1.0.0"
    (direct,) = prepare(Data(corpus=(str(path),), holdout=0.1), tmp_path / "root", False)
    assert m.files == direct.files
    with pytest.raises(InputError, match=r"data\.text_field='txt': .* did you mean 'text'"):
        prepare(Data(corpus=("tfds:text_dataset",), text_field="txt"), tmp_path / "root", False)
    for config in ("de", "en"):
        shutil.copytree(tmp_path / "tfds" / "text_dataset", tmp_path / "tfds" / "wiki" / config)
    assert tfds.find("wiki/en") == tfds.data_dir() / "wiki" / "en" / "1.0.0"
    with pytest.raises(InputError, match=r"expected a configuration, as in 'tfds:wiki/de'"):
        tfds.find("wiki")
    info = tmp_path / "tfds" / "text_dataset" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(InputError, match=r"stored as tfrecord, which only TensorFlow reads; build it again"):
        prepare(Data(corpus=("tfds:text_dataset",), holdout=0.3), tmp_path / "root", False)


def test_fields_of_tfds_are_joined_too(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    from experiments.data.documents import quiet
    from experiments.data.text_dataset import TextDataset

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    rows = [(str(n), {"text": f"text {n}", "document": f"title {n}", "position": n}) for n in range(20)]
    with quiet():
        options = {"data_dir": str(tmp_path / "tfds"), "file_format": "array_record"}
        TextDataset(rows=rows, in_pieces=True, **options).download_and_prepare()
    made = Data(corpus=("tfds:text_dataset",), text_field="document+text", holdout=0.2)
    (m,) = prepare(made, tmp_path / "root", False)
    streams = [np.asarray(m.open(f"{split}.npy")) for split in ("train", "holdout")]
    texts = [text.decode() for stream in streams for text in documents_in(stream, 256)]
    assert sorted(texts) == sorted(f"title {n}\n\ntext {n}" for n in range(20))
    with pytest.raises(InputError, match=r"data\.text_field='title\+text': .* known fields: .*document"):
        prepare(dataclasses.replace(made, text_field="title+text"), tmp_path / "root", False)
    with pytest.raises(InputError, match=r"data\.text_field='text\.body'"):
        prepare(dataclasses.replace(made, text_field="text.body"), tmp_path / "root", False)


def test_tfds_without_network_fails_fast(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(tfds.reachable, "__defaults__", ("http://127.0.0.1:9/",))  # a port where nobody listens
    start = time.monotonic()
    with pytest.raises(
        InputError, match=r"data\.corpus='tfds:wiki40b/en': not in .*tfds' and there is no network.*TFDS_DATA_DIR"
    ):
        prepare(Data(corpus=("tfds:wiki40b/en",)), tmp_path / "root", False)
    with pytest.raises(
        InputError, match=r"data\.corpus='tfds:wiki40c/en': TFDS has no such dataset; did you mean 'wiki40b'"
    ):
        prepare(Data(corpus=("tfds:wiki40c/en",)), tmp_path / "root", False)
    assert time.monotonic() - start < 20


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return prepare(Data(corpus=("embedded:2",), holdout=0.1), tmp_path_factory.mktemp("embedded"), False)[0]


def test_embedded_corpus_is_source_of_the_pinned_packages(embedded: Manifest, tmp_path: pathlib.Path):
    pinned = {line.split("=")[0] for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if "==" in line}
    assert set(embedded.details["packages"]) == {name.split("[")[0] for name in pinned}
    assert 1_700_000 < embedded.train.bytes + embedded.holdout.bytes <= 2_000_000
    texts = [t for s in ("train", "holdout") for t in documents_in(np.asarray(embedded.open(f"{s}.npy")), 256)]
    installed = {
        hashlib.sha256(selection.without_licence(s.path.read_bytes())).digest()
        for s in selection.sources(selection.packages())
        if s.path.exists()
    }
    assert all(hashlib.sha256(text).digest() in installed for text in texts)
    assert all(selection.why_not(text) is None for text in texts)
    assert sum(text.startswith(b"# Copyright") for text in texts) == 0
    assert {"licence only", "tiny"} <= set(embedded.details["dropped"])
    result = python(FINGERPRINT, tmp_path, "embedded:2", "bytes", PYTHONHASHSEED="1")
    assert result.stdout.strip() == embedded.fingerprint


def test_embedded_holdout_has_no_near_duplicate_in_training(embedded: Manifest):
    """By another measure than the one that removed them: shared runs of five whole lines."""

    def runs(text: bytes) -> set[bytes]:
        lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 3]
        return {b"\n".join(lines[k : k + 5]) for k in range(len(lines) - 4)}

    train, held = (documents_in(np.asarray(embedded.open(f"{s}.npy")), 256) for s in ("train", "holdout"))
    trained = [runs(text) for text in train]
    assert len(held) >= 5
    for text in held:
        mine = runs(text)
        if len(mine) >= 5:
            assert max(len(mine & other) for other in trained) < 0.5 * len(mine)


def test_near_duplicates_are_found_both_ways(here: pathlib.Path):
    texts = [json.loads(line)["text"].encode() * 1 for line in (here / "a.jsonl").read_text().splitlines()]
    long = [b"\n".join(texts[k : k + 10]) for k in range(0, 60, 10)]
    seen = dedup.Seen()
    assert all(seen.add(text) for text in long)
    assert not seen.add(long[0])
    assert not seen.add(long[1].replace(b" ", b"\n  ").upper())  # other spacing and case
    assert not seen.add(long[2][: len(long[2]) * 7 // 10] + texts[100])  # most of it is known
    assert not seen.add(long[3] + b"\n".join(texts[110:130]))  # most of a known one is in it
    assert seen.add(long[4][: len(long[4]) // 4] + b"\n".join(texts[130:140]))  # a quoted part is no duplicate
    assert seen.add(b"short")


def test_local_corpora_can_be_deduplicated(here: pathlib.Path, tmp_path: pathlib.Path):
    """Repeated and contained documents go, in another spacing too; what is left is no other identity without them."""
    texts = texts_of(here / "a.jsonl")[:60]
    known = [texts[0], texts[1].replace(" ", "  ").upper(), texts[2][: len(texts[2]) * 3 // 4]]
    rows = [json.dumps({"text": text}) for text in [*texts, *known]]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    plain = Data(corpus=(str(tmp_path / "rows.jsonl"),), holdout=0.1)
    (all_of_them,) = prepare(plain, tmp_path / "root", False)
    (chosen,) = prepare(dataclasses.replace(plain, deduplicate=True), tmp_path / "root", False)
    assert all_of_them.details["dropped"] == {} and chosen.details["dropped"] == {"near-duplicate": len(known)}
    left = [np.asarray(chosen.open(f"{split}.npy")) for split in ("train", "holdout")]
    assert sorted(text.decode() for stream in left for text in documents_in(stream, 256)) == sorted(texts)
    assert chosen.fingerprint != all_of_them.fingerprint and "deduplicate" not in all_of_them.options
    assert prepare(plain, tmp_path / "root", False)[0].directory == all_of_them.directory
    with pytest.raises(InputError, match=r"data\.deduplicate=True has an effect only where data\.corpus names files"):
        Data(corpus=("embedded:1",), deduplicate=True).check()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"x = 1\n", "tiny"),
        (b"# comment\n" * 500 + b"x = 1\n", "tiny"),
        (b"# Generated by the protocol buffer compiler.  DO NOT EDIT!\n" + b"name = value\n" * 100, "generated"),
        (b"table = [" + b"1234567890, " * 500 + b"]\n", "table"),
        (b"table = [\n" + b"  12345, 67890,\n" * 500 + b"]\n", "table"),
        (b"name = 'caf\xe9'\n" * 100, "not UTF-8"),
        (b"name = value\n" * 20_000, "large"),
        (b'"""The text generated by a model."""\n' + b"name = value\n" * 100, None),
    ],
)
def test_files_that_teach_nothing_are_left_out(text: bytes, reason: str | None):
    assert selection.why_not(text) == reason
