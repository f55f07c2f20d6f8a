"""Corpora as people get them: compressed, nested, tables, JSON of any layout, Arrow; errors name the file and the line."""

from collections.abc import Callable
import csv
import gzip
import io
import json
import os
import pathlib
import sys

import numpy as np
import pyarrow
from pyarrow import parquet
import pytest

from experiments.cli import InputError
from experiments.data.manifest import Manifest
from experiments.data.options import Data
from experiments.data.split import END, WHOLE
from experiments.prepare import prepare
from tests.support.data import documents_in

TEXTS = [f'document {n}, "quoted", naïve 日本語\nwith a second line; and more' for n in range(12)]


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def json_lines(texts: list[str]) -> bytes:
    return "\n".join(json.dumps({"id": n, "text": text}) for n, text in enumerate(texts)).encode()


def table(texts: list[str], delimiter: str) -> bytes:
    written = io.StringIO()
    writer = csv.writer(written, delimiter=delimiter)
    writer.writerow(["id", "text", "n"])
    writer.writerows([n, text, n * n] for n, text in enumerate(texts))
    return written.getvalue().encode()


def parquet_of(rows: pyarrow.Table) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(rows, sink)
    return sink.getvalue().to_pybytes()


def arrow(texts: list[str] | pyarrow.Array, is_file: bool) -> bytes:
    return arrow_of(pyarrow.table({"id": list(range(len(texts))), "text": texts}), is_file)


def arrow_of(rows: pyarrow.Table, is_file: bool = False) -> bytes:
    sink = pyarrow.BufferOutputStream()
    new = pyarrow.ipc.new_file if is_file else pyarrow.ipc.new_stream
    with new(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()


ROWS = [{"id": n, "text": text} for n, text in enumerate(TEXTS)]
FILES: dict[str, bytes] = {
    "lines.jsonl": json_lines(TEXTS),
    "lines.jsonl.gz": gzip.compress(json_lines(TEXTS)),
    "two_members.jsonl.gz": gzip.compress(json_lines(TEXTS[:5]) + b"\n") + gzip.compress(json_lines(TEXTS[5:])),
    "lines.jsonl.zst": zstd(json_lines(TEXTS)),
    "two_frames.jsonl.zst": zstd(json_lines(TEXTS[:5]) + b"\n") + zstd(json_lines(TEXTS[5:])),
    "c4.json.gz": gzip.compress(json_lines(TEXTS)),
    "list.json": json.dumps(ROWS).encode(),
    "list_indented.json": b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "comma.csv": table(TEXTS, ","),
    "comma.csv.zst": zstd(table(TEXTS, ",")),
    "semicolon.csv": b"\xef\xbb\xbf" + table(TEXTS, ";"),
    "tab.tsv": table(TEXTS, "\t"),
    "stream.arrow": arrow(TEXTS, is_file=False),
    "file.arrow": arrow(TEXTS, is_file=True),
}


def ready(path: pathlib.Path, root: pathlib.Path, field: str = "text", **options: object) -> Manifest:
    data = Data(**{"corpus": (str(path),), "text_field": field, "holdout": 0.2, **options})
    data.check()
    return prepare(data, root, progress=False)[0]


def documents(manifest: Manifest, *splits: str) -> list[str]:
    streams = [np.asarray(manifest.open(f"{name}.npy")) for name in splits or ("train", "holdout")]
    return [text.decode() for stream in streams for text in documents_in(stream, 256)]


@pytest.mark.parametrize("name", FILES)
def test_every_layout_gives_the_same_documents(tmp_path: pathlib.Path, name: str):
    (tmp_path / name).write_bytes(FILES[name])
    manifest = ready(tmp_path / name, tmp_path / "root")
    assert sorted(documents(manifest)) == sorted(TEXTS)
    assert manifest.details["dropped"] == {}


WRAPPINGS = {".txt.gz": gzip.compress, ".txt.zst": zstd, ".md": bytes, ".md.gz": gzip.compress}


@pytest.mark.parametrize("ending", WRAPPINGS)
def test_a_text_file_is_a_document_in_any_wrapping(tmp_path: pathlib.Path, ending: str):
    for number, text in enumerate(TEXTS[:2]):
        wrapped = WRAPPINGS[ending](text.encode())
        (tmp_path / f"{number}{ending}").write_bytes(wrapped)
    manifest = ready(tmp_path / f"*{ending}", tmp_path / "root")
    assert sorted(documents(manifest)) == sorted(TEXTS[:2])


def test_a_folder_is_searched_for_texts_not_for_what_is_about_them(tmp_path: pathlib.Path):
    """A README and the description of a dataset are no corpus; a glob that names their ending says that they are."""
    (tmp_path / "data").mkdir()
    parquet.write_table(pyarrow.table({"text": TEXTS[:6]}), tmp_path / "data" / "train-00000-of-00002.parquet")
    (tmp_path / "data" / "more.jsonl.gz").write_bytes(gzip.compress(json_lines(TEXTS[6:])))
    (tmp_path / "README.md").write_text("about the texts")
    (tmp_path / "dataset_infos.json").write_text(json.dumps({"default": {"features": {}}}))
    assert sorted(documents(ready(tmp_path, tmp_path.parent / "root"))) == sorted(TEXTS)
    assert sorted(documents(ready(tmp_path / "**/*", tmp_path.parent / "root"))) == sorted(TEXTS)
    (tmp_path / "more.md").write_text("more words")
    about = documents(ready(tmp_path / "*.md", tmp_path.parent / "root"))
    assert sorted(about) == ["about the texts", "more words"]


def write_rows(folder: pathlib.Path, rows: list[dict]) -> list[pathlib.Path]:
    """The same rows as JSON lines and as Parquet."""
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return [folder / "rows.jsonl", folder / "rows.parquet"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_file_whose_name_is_no_text_is_refused_before_anything_is_written(tmp_path: pathlib.Path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "sound.txt").write_text("a text")
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("another text")
    with pytest.raises(InputError, match=r"the name of .*caf.*\.txt' is not UTF-8; rename it"):
        ready(folder, tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/nowhere")], ids=["pipe", "link"])
def test_what_is_no_file_is_refused_by_name(tmp_path: pathlib.Path, make: Callable[[pathlib.Path], None]):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "sound.txt").write_text("a text")
    make(folder / "other.txt")
    with pytest.raises(InputError, match=r"texts/other\.txt' is no file"):
        ready(folder, tmp_path / "root")


def test_fields_inside_others_and_several_joined(tmp_path: pathlib.Path):
    rows = [{"title": f"title {n}", "content": {"text": text, "url": "x"}} for n, text in enumerate(TEXTS)]
    rows[3]["title"] = None
    rows[4]["content"] = None
    rows[5] = {"title": None, "content": None}
    rows[6]["title"] = "  "
    expected = [f"title {n}\n\n{text}" for n, text in enumerate(TEXTS) if n not in (3, 4, 5, 6)]
    expected += [TEXTS[3], "title 4", TEXTS[6]]
    for path in write_rows(tmp_path, rows):
        manifest = ready(path, tmp_path / "root", "title+content.text")
        assert sorted(documents(manifest)) == sorted(expected)
        assert manifest.details["dropped"] == {"null": 1}
        inside = documents(ready(path, tmp_path / "root", "content.text"))
        assert sorted(inside) == sorted(text for n, text in enumerate(TEXTS) if n not in (4, 5))
        with pytest.raises(InputError, match=r"data\.text_field='content\.tetx'.*did you mean 'content\.text'"):
            ready(path, tmp_path / "root", "content.tetx")
        with pytest.raises(InputError, match=r"'titel' of data\.text_field='titel\+content\.text'; .* 'title'"):
            ready(path, tmp_path / "root", "titel+content.text")


def test_a_field_whose_name_has_a_dot(tmp_path: pathlib.Path):
    for path in write_rows(tmp_path, [{"content.text": text} for text in TEXTS]):
        assert sorted(documents(ready(path, tmp_path / "root", "content.text"))) == sorted(TEXTS)


def test_nulls_and_empty_texts_are_counted_and_left_out(tmp_path: pathlib.Path):
    rows: list[dict] = [{"text": text} for text in TEXTS] + [{"text": None}, {"text": None}, {"text": " \n"}]
    for path in write_rows(tmp_path, rows):
        manifest = ready(path, tmp_path / "root")
        assert sorted(documents(manifest)) == sorted(TEXTS)
        assert manifest.details["dropped"] == {"null": 2, "empty": 1}
    (tmp_path / "t.csv").write_bytes(table([*TEXTS, ""], ","))
    assert ready(tmp_path / "t.csv", tmp_path / "root").details["dropped"] == {"empty": 1}


NO_TEXT = pyarrow.Array.from_buffers(pyarrow.string(), 2, pyarrow.array([b"a", b"caf\xe9"]).buffers())
TWICE = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], ["text", "text"])
FAR = pyarrow.array(
    [{"text": "a", "at": 2**60}], pyarrow.struct({"text": pyarrow.string(), "at": pyarrow.timestamp("us")})
)
BAD: dict[str, tuple[bytes, str]] = {
    "cut.jsonl.gz": (gzip.compress(json_lines(TEXTS * 50))[:-400], r"cut\.jsonl\.gz: not a whole \.gz file"),
    "plain.jsonl.gz": (json_lines(TEXTS), r"plain\.jsonl\.gz: not a whole \.gz file"),
    "cut.jsonl.zst": (zstd(json_lines(TEXTS))[:-40], r"cut\.jsonl\.zst: not a whole \.zst file"),
    "plain.jsonl.zst": (json_lines(TEXTS), r"plain\.jsonl\.zst: not a whole \.zst file"),
    "line.jsonl.gz": (
        gzip.compress(b'{"text": "a"}\n{"text": 3}'),
        r"line\.jsonl\.gz:2: data\.text_field='text' holds",
    ),
    "broken.json": (b'[{"text": "a"},\n {"text": "b"},\n {"text": }]', r"broken\.json:3: not JSON"),
    "comma.json": (b'[{"text": "a"}\n {"text": "b"}]', r"comma\.json:2: not JSON"),
    "after.json": (b'[{"text": "a"},\n{"text": "b"}]\n[]', r"after\.json:3: not JSON"),
    "item.json": (b'[\n{"text": "a"},\n{"text": 3}]', r"item\.json:3: data\.text_field='text' holds int"),
    "number.json": (b"[\n1, 2]", r"number\.json:2: expected a JSON object with a field 'text', found int"),
    "key.json": (b'{\n"data": []}', r"key\.json:1: no field data\.text_field='text'"),
    "latin.json": (b'[{"text": "a"},\n{"text": "caf\xe9"}]', r"latin\.json:2: not UTF-8"),
    "column.csv": (b"id,txet\n1,a\n", r"column\.csv:1: no column data\.text_field='text'; did you mean 'txet'"),
    "cells.csv": (b"id,text\n1,a\n2,b, and more\n", r"cells\.csv:3: 3 cells; the first line names 2 columns"),
    "quote.csv": (b'id,text\n1,a\n2,"b\n', r"quote\.csv:3: not a row of a table"),
    "twice.csv": (b"text,text\n1,a\n", r"twice\.csv:1: 2 columns are named 'text'"),
    "latin.csv": (b"text,n\na,1\ncaf\xe9,2\n", r"latin\.csv:3: not UTF-8"),
    "empty.csv": (b"", r"empty\.csv:1: no column"),
    "cut.arrow": (arrow(TEXTS, is_file=False)[:200], r"cut\.arrow: not a readable Arrow file"),
    "junk.arrow": (b"junk", r"junk\.arrow: not a readable Arrow file"),
    "deep.jsonl": (b'{"text": "a"}\n' + b"[" * 200_000, r"deep\.jsonl:2: not a line of JSON"),
    "deep.json": (b'[{"text": "a"},\n{"text":' + b"[" * 200_000, r"deep\.json: a value after line 1 cannot be read"),
    "digits.json": (b'[{"text": "a"},\n{"n":' + b"1" * 5_000 + b"}]", r"digits\.json: a value after line 1 cannot be"),
    "latin.parquet": (parquet_of(pyarrow.table({"text": NO_TEXT})), r"latin\.parquet: not a readable .* UTF8"),
    "latin.arrow": (arrow(NO_TEXT, is_file=True), r"latin\.arrow: not a readable .* UTF8"),
    "twice.parquet": (parquet_of(TWICE), r"twice\.parquet: 2 columns are named 'text'"),
    "twice.arrow": (arrow_of(TWICE), r"twice\.arrow: 2 columns are named 'text'"),
    "far.arrow": (arrow_of(pyarrow.table({"text": FAR})), r"far\.arrow: not a readable Arrow file \(date value"),
    "thrift.parquet": (b"PAR1" + b"\x0f" * 60 + b"\x20\0\0\0PAR1", r"thrift\.parquet: not a readable Parquet file"),
    "names.jsonl": (
        json.dumps({f"k{n}\n" + "k" * 1_000: 1 for n in range(1_000)}).encode(),
        r"names\.jsonl:1: no field data\.text_field='text'; known fields: k0 k.{1,5000} and 960 more$",
    ),
    "through.jsonl": (b'{"text": "a"}', r"through\.jsonl:1: 'text' of data\.text_field='text\.body' holds str"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path: pathlib.Path, name: str):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        ready(tmp_path / name, tmp_path / "root", "text.body" if name == "through.jsonl" else "text")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["", "+", "title+", "content..text", ".text"])
def test_a_field_without_a_name_is_refused(field: str):
    with pytest.raises(InputError, match=r"data\.text_field=.* must be the name of a field"):
        Data(corpus=("a.jsonl",), text_field=field).check()


def book(number: int, lines: int) -> str:
    """A text whose every line says of which book and where in it it is."""
    return "\n".join(f"book {number} line {line:06d} " + "word " * 20 for line in range(lines))


def books_of(texts: list[str]) -> set[int]:
    return {int(text.split()[1]) for text in texts}


def test_a_long_document_is_on_one_side(tmp_path: pathlib.Path):
    """Forty books, each cut into three or more pieces: no book is in training and held out."""
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(book(number, 1_500))
    manifest = ready(tmp_path, tmp_path.parent / "root", holdout=0.1)
    train, held = documents(manifest, "train"), documents(manifest, "holdout")
    assert len(train) + len(held) >= 120
    assert books_of(held) and not books_of(train) & books_of(held)
    assert len(books_of(train) | books_of(held)) == 40 and manifest.details["held_out"] == WHOLE


@pytest.mark.parametrize("name", ["book.txt", "book.txt.gz"])
def test_of_a_single_document_the_end_is_held_out(tmp_path: pathlib.Path, name: str):
    """Contiguous, about the share that was asked for; and both the manifest and the command say so."""
    text = book(0, 12_000)
    content = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    manifest = ready(tmp_path / name, tmp_path / "root", holdout=0.1)
    train, held = documents(manifest, "train"), documents(manifest, "holdout")
    assert text == "".join(sorted(train) + sorted(held))
    assert 0.08 < sum(map(len, held)) / len(text) < 0.16
    assert manifest.details["held_out"] == END


def test_of_few_long_documents_no_whole_one_is_lost(tmp_path: pathlib.Path):
    """Where no document's hash is below the share, the end of one is held out, not a third of the text."""
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(book(number, 6_000))
    manifest = ready(tmp_path, tmp_path.parent / "root", holdout=0.001)
    held = documents(manifest, "holdout")
    assert len(held) == 1 and manifest.details["held_out"] == END
    assert held[0].endswith(book(int(held[0].split()[1]), 6_000)[-1000:])


def test_texts_that_were_never_cut_keep_their_split_and_folder(tmp_path: pathlib.Path):
    """Golden: short files and rows are split and stored as before there were pieces."""
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"text {number} " * 50)
    manifest = ready(tmp_path, tmp_path.parent / "root")
    assert manifest.fingerprint == "87921535c409791f2f7e88ba438f8c54ddb76339619425fd7cfa31fbcd9f33b1"
