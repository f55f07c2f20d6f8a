"""The data path: what becomes a token, which token stands where, and what is said when something is wrong.

Contract: batches are a function of (manifest, seed, step); every record once an epoch; held-out text is never trained on; bytes per
token are exact. The bad inputs are those that users have. Everything is small except the preparation that gets killed.
"""

from collections import Counter
from collections.abc import Callable
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from hypothesis import given, settings, strategies as st
import numpy as np
import pyarrow
from pyarrow import parquet
import pytest

from experiments import manifest as manifests_module, tokenizer as tokenizers
from experiments.cli import InputError, explain
from experiments.corpora import dedup, named, reading, selection
from experiments.data import Batches, Data, Holdout, _interleave, check_enough, tokens_available
from experiments.manifest import Manifest, load, verify
from experiments.prepare import codec_of, look, prepare, publish

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
L = 32  # sequence length of most tests


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


def write_corpus(path: pathlib.Path, documents: int, seed: int = 0, words: int = 60) -> pathlib.Path:
    """JSON lines of random words, some of them not ASCII; the same on every machine."""
    draw = np.random.default_rng(seed)
    known = ["".join(chr(97 + c) for c in draw.integers(0, 26, draw.integers(2, 9))) for _ in range(300)]
    known += ["naïve", "Ærø", "日本語", "🎉🎉", "e\u0301tude", "<|doc|>", "  indented\n", "\ttab"]
    with path.open("w") as file:
        for _ in range(documents):
            text = " ".join(known[k] for k in draw.integers(0, len(known), words))
            file.write(json.dumps({"text": text}) + "\n")
    return path


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with two corpora, a.jsonl (400 documents) and b.jsonl (150), and a data root `root`."""
    folder = tmp_path_factory.mktemp("here")
    write_corpus(folder / "a.jsonl", 400, 0)
    write_corpus(folder / "b.jsonl", 150, 1)
    return folder


def data_of(here: pathlib.Path, *names: str, **options: object) -> Data:
    return Data(**{"corpus": tuple(str(here / name) for name in names or ("a.jsonl",)), "holdout": 0.1, **options})


def ready(here: pathlib.Path, *names: str, **options: object) -> tuple[tuple[Manifest, ...], Data]:
    data = data_of(here, *names, **options)
    return prepare(data, here / "root", progress=False), data


def texts_of(path: pathlib.Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def documents_in(stream: np.ndarray, separator: int) -> list[bytes]:
    assert stream[0] == separator
    return [part[1:].astype(np.uint8).tobytes() for part in np.split(stream, np.flatnonzero(stream == separator)[1:])]


# --- streams and splits


def test_stream_holds_every_document_once_and_splits_by_text(here: pathlib.Path):
    (m,), _ = ready(here)
    split = {name: documents_in(np.asarray(m.open(f"{name}.npy")), m.separator) for name in ("train", "holdout")}
    expected = Counter(text.encode() for text in texts_of(here / "a.jsonl"))
    assert Counter(split["train"] + split["holdout"]) == expected
    assert not set(split["train"]) & set(split["holdout"])
    assert 20 <= len(split["holdout"]) <= 65  # a tenth of 400, by hash
    for name, counts in (("train", m.train), ("holdout", m.holdout)):
        assert counts.documents == len(split[name]) and counts.bytes == sum(map(len, split[name]))
        assert counts.tokens == counts.bytes + counts.documents == len(m.open(f"{name}.npy"))
    assert [text.encode() for text in texts_of(here / "a.jsonl")][:50] != split["train"][:50]  # shuffled


def test_holdout_choice_depends_on_the_text_alone(tmp_path: pathlib.Path, here: pathlib.Path):
    """Other neighbours, another file name, another order and a repeated document: the same texts are held out."""
    lines = (here / "a.jsonl").read_text().splitlines()
    (tmp_path / "other.jsonl").write_text("\n".join([*lines[::-1][:200], *lines[:250]]))
    (m,), _ = ready(here)
    (other,) = prepare(Data(corpus=(str(tmp_path),), holdout=0.1), tmp_path / "root", progress=False)
    streams = [documents_in(np.asarray(x.open(f"{s}.npy")), 256) for x in (m, other) for s in ("train", "holdout")]
    assert not set(streams[0]) & set(streams[3]) and not set(streams[1]) & set(streams[2])
    assert other.train.documents + other.holdout.documents == 450


def test_manifest_is_the_same_everywhere(here: pathlib.Path, tmp_path: pathlib.Path):
    """Another folder, another process, another hash seed: the same fingerprint. Another text or option: another one."""
    (m,), _ = ready(here)
    shutil.copy(here / "a.jsonl", tmp_path / "renamed.jsonl")
    code = (
        "import sys; from experiments.data import Data; from experiments.prepare import prepare\n"
        "print(prepare(Data(corpus=(sys.argv[1],), holdout=0.1), sys.argv[2], progress=False)[0].fingerprint)"
    )
    result = python(code, tmp_path / "renamed.jsonl", tmp_path / "root", PYTHONHASHSEED="7")
    assert result.stdout.strip() == m.fingerprint, result.stderr
    assert str(here) not in json.dumps([dict(m.options), dict(m.files)])
    assert ready(here, holdout=0.2)[0][0].fingerprint != m.fingerprint
    assert ready(here, tokenizer="bpe:300")[0][0].fingerprint != m.fingerprint
    write_corpus(tmp_path / "more.jsonl", 401, 0)
    assert (
        prepare(Data(corpus=(str(tmp_path / "more.jsonl"),), holdout=0.1), tmp_path, False)[0].fingerprint
        != m.fingerprint
    )


def test_unigram_entropy_is_that_of_the_training_tokens(here: pathlib.Path):
    (m,), _ = ready(here)
    p = np.bincount(np.asarray(m.open("train.npy"))) / m.train.tokens
    assert m.unigram_entropy_nats == pytest.approx(-sum(x * np.log(x) for x in p if x), rel=1e-12)


def test_a_changed_source_is_prepared_anew(tmp_path: pathlib.Path):
    path = write_corpus(tmp_path / "c.jsonl", 30)
    first = prepare(Data(corpus=(str(path),)), tmp_path / "root", False)
    write_corpus(path, 30, seed=3)
    second = prepare(Data(corpus=(str(path),)), tmp_path / "root", False)
    assert first[0].fingerprint != second[0].fingerprint
    assert load(first[0].directory).fingerprint == first[0].fingerprint  # and the old records are still there


def test_records_outlive_their_source(tmp_path: pathlib.Path):
    path = write_corpus(tmp_path / "c.jsonl", 30)
    data = Data(corpus=(str(path),))
    (m,) = prepare(data, tmp_path / "root", False)
    path.unlink()
    assert prepare(data, tmp_path / "root", False)[0].fingerprint == m.fingerprint
    with pytest.raises(InputError, match=r"data\.corpus=.*c\.jsonl"):
        prepare(Data(corpus=(str(path),), holdout=0.3), tmp_path / "root", False)


# --- batches

BATCHES = (
    "import sys, hashlib, json; from experiments.data import Batches, Data; from experiments.prepare import prepare\n"
    "data = Data(corpus=tuple(json.loads(sys.argv[2])), weights=(0.7, 0.3), holdout=0.1)\n"
    "b = Batches(prepare(data, sys.argv[1], False), data, 32, 8, seed=5)\n"
    "print(hashlib.sha256(b''.join(b[s].tobytes() for s in map(int, sys.argv[3].split(',')))).hexdigest())"
)


def test_batches_do_not_depend_on_process_or_history(here: pathlib.Path):
    """A process that asks for late steps first, or for one only, sees what one that began at zero sees."""
    ms, data = ready(here, "a.jsonl", "b.jsonl", weights=(0.7, 0.3))
    batches = Batches(ms, data, L, 8, seed=5)
    wanted = [700, 3, 0, 701]
    one = [batches[s] for s in range(702)]
    result = python(BATCHES, here / "root", json.dumps(data.corpus), ",".join(map(str, wanted)))
    assert result.stdout.strip() == hashlib.sha256(b"".join(one[s].tobytes() for s in wanted)).hexdigest(), (
        result.stderr
    )


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_hosts_together_have_the_global_batch(here: pathlib.Path, hosts: int):
    ms, data = ready(here, "a.jsonl", "b.jsonl")
    batches, each = Batches(ms, data, L, 8, seed=1), 8 // hosts
    parts = [batches.part(11, host * each, (host + 1) * each) for host in range(hosts)]
    np.testing.assert_array_equal(np.concatenate(parts), batches[11])
    assert batches[11].shape == (8, L + 1) and batches[11].dtype == np.uint16


def test_batch_size_cuts_one_sequence_of_records(here: pathlib.Path):
    ms, data = ready(here)
    small, large = Batches(ms, data, L, 4, seed=2), Batches(ms, data, L, 12, seed=2)
    np.testing.assert_array_equal(np.concatenate([small[s] for s in range(6)]), np.concatenate([large[0], large[1]]))


def test_records_are_the_stream(here: pathlib.Path):
    """Record i is tokens iL to iL+L, for any L from one preparation; every token but the first is a target once."""
    ms, data = ready(here)
    stream = np.asarray(ms[0].open("train.npy"))
    for seq_len in (1, 7, 64):
        batches = Batches(ms, data, seq_len, 4, seed=0)
        assert batches.rows == (len(stream) - 1) // seq_len
        corpus, row = batches.locate(10, 30)
        assert not corpus.any()
        np.testing.assert_array_equal(
            batches.records(10, 30), [stream[r * seq_len : (r + 1) * seq_len + 1] for r in row]
        )


@pytest.mark.parametrize("names", [("a.jsonl",), ("a.jsonl", "b.jsonl")])
def test_an_epoch_is_every_record_once(here: pathlib.Path, names: tuple[str, ...]):
    ms, data = ready(here, *names)
    batches = Batches(ms, data, L, 8, seed=3)
    epochs = [
        list(zip(*(x.tolist() for x in batches.locate(e * batches.rows, (e + 1) * batches.rows)), strict=True))
        for e in (0, 1, 7)
    ]
    expected = sorted((c, r) for c, m in enumerate(ms) for r in range((m.train.tokens - 1) // L))
    assert all(sorted(epoch) == expected for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3 and epochs[0] != expected


def test_seeds_share_no_epoch(here: pathlib.Path):
    """Neighbouring seeds are unrelated: one run's second epoch is not another's first."""
    ms, data = ready(here)
    orders = [tuple(Batches(ms, data, L, 8, s).locate(e * 500, e * 500 + 100)[1]) for s in range(4) for e in range(4)]
    assert len(set(orders)) == len(orders)


def test_shuffle_mixes_every_window(here: pathlib.Path):
    """Windows of 64 records draw from the first half of the stream as a fair coin would, and neighbours are unrelated."""
    ms, data = ready(here)
    batches = Batches(ms, data, 8, 64, seed=4)
    row = batches.locate(0, batches.rows)[1]
    half = (row < batches.rows / 2)[: batches.rows // 64 * 64].reshape(-1, 64).sum(1)
    z = (half - 32) / 4  # binomial: 64 draws, a half each
    assert abs(z).max() < 5 and 0.5 < (z**2).mean() < 1.5
    assert abs(np.corrcoef(row[:-1], row[1:])[0, 1]) < 0.05


def test_order_of_batches_is_pinned(tmp_path: pathlib.Path):
    """Golden: another order (of TFDS, of grain's shuffle, of ours) makes other runs and needs a new NUMERICS_VERSION."""
    path = write_corpus(tmp_path / "c.jsonl", 60)
    data = Data(corpus=(str(path),), holdout=0.1)
    ms = prepare(data, tmp_path / "root", False)
    assert ms[0].files["train.npy"]["sha256"][:16] == "ec7c096422cf59b8"
    assert Batches(ms, data, L, 8, seed=0).locate(0, 8)[1].tolist() == "GOLDEN_ROWS"


def test_mixture_keeps_its_shares_and_epochs(here: pathlib.Path):
    ms, data = ready(here, "a.jsonl", "b.jsonl", weights=(1.0, 3.0))
    batches = Batches(ms, data, L, 8, seed=0)
    corpus, row = batches.locate(0, 3000)
    for k in (1, 8, 100, 2999):
        assert abs(np.count_nonzero(corpus[:k] == 1) - 0.75 * k) <= 1
    for index, m in enumerate(ms):  # within a corpus: each record once before any comes again
        rows, there = row[corpus == index], (m.train.tokens - 1) // L
        epochs = [rows[k : k + there] for k in range(0, len(rows) - there + 1, there)]
        assert all(len(set(epoch)) == there for epoch in epochs)
        np.testing.assert_array_equal(
            batches.records(0, 40)[corpus[:40] == index],
            Batches(ms, data, L, 8, 0)._views[index][row[:40][corpus[:40] == index]],
        )
    assert (ms[1].train.tokens - 1) // L < 2250  # the small corpus did repeat


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(st.integers(1, 10**9), min_size=1, max_size=5), start=st.integers(0, 10**12))
def test_interleaving_counts_without_gaps(weights: list[int], start: int):
    part, nth = _interleave(start, start + 50, weights)
    again, nth_again = _interleave(start + 20, start + 50, weights)
    assert (part[20:] == again).all() and (nth[20:] == nth_again).all()
    for index, weight in enumerate(weights):
        mine = nth[part == index]
        assert (np.diff(mine) == 1).all()
        assert all(
            abs(int(n) - (start + int(k)) * weight / sum(weights)) <= len(weights)
            for n, k in zip(mine, np.flatnonzero(part == index), strict=True)
        )


def test_unique_tokens_repeat_a_prefix(here: pathlib.Path):
    ms, data = ready(here, unique_tokens=40 * L + 5)
    batches = Batches(ms, data, L, 8, seed=0)
    assert batches.rows == 40 and tokens_available(ms, data, L) == 40 * L
    row = batches.locate(0, 160)[1].reshape(4, 40)
    assert all(sorted(epoch) == list(range(40)) for epoch in row.tolist())
    assert not (row[0] == row[1]).all()
    ms, mixed = ready(here, "a.jsonl", "b.jsonl", unique_tokens=40 * L, weights=(1.0, 1.0))
    assert {(int(c), int(r)) for c, r in zip(*Batches(ms, mixed, L, 8, 0).locate(0, 80), strict=True)} == {
        (c, r) for c in (0, 1) for r in range(20)
    }


def test_too_few_tokens_are_refused(here: pathlib.Path):
    ms, data = ready(here)
    there = tokens_available(ms, data, L)
    assert ms[0].train.tokens - L - 1 <= there < ms[0].train.tokens
    check_enough(ms, data, there, L)
    with pytest.raises(InputError, match=rf"tokens={there + 1}: .* has {there} .*data\.unique_tokens={there}"):
        check_enough(ms, data, there + 1, L)
    check_enough(ms, data_of(here, unique_tokens=there), 10 * there, L)
    with pytest.raises(InputError, match=r"data\.unique_tokens=10000000: more than the corpus holds"):
        check_enough(ms, data_of(here, unique_tokens=10_000_000), 100, L)
    with pytest.raises(InputError, match=r"less than one sequence"):
        Batches(ms, data, 10_000_000, 1, 0)
    ms, mixed = ready(here, "a.jsonl", "b.jsonl", weights=(1.0, 9.0))
    assert tokens_available(ms, mixed, L) < 1.2 * ms[1].train.tokens  # the small corpus is the limit
    check_enough(ms, mixed, tokens_available(ms, mixed, L), L)


# --- the held-out sequences and their bytes


def test_holdout_order_is_fixed_and_complete(here: pathlib.Path):
    ms, data = ready(here, "a.jsonl", "b.jsonl")
    held = Holdout(ms, data, L)
    tokens, sizes = held[0 : len(held)]
    assert len(held) == sum((m.holdout.tokens - 1) // L for m in ms)
    expected = [
        np.asarray(m.open("holdout.npy"))[r * L : r * L + L + 1] for m in ms for r in range((m.holdout.tokens - 1) // L)
    ]
    assert sorted(map(bytes, tokens)) == sorted(map(bytes, expected))
    assert (sizes == (tokens[:, 1:] != 256)).all()
    again = Holdout(ms, data, L)[5:9]
    np.testing.assert_array_equal(again[0], tokens[5:9])
    share = np.cumsum(held.corpus == 1) / np.arange(1, len(held) + 1)
    assert abs(share[40:] - share[-1]).max() < 0.05  # any prefix is the mixture
    for index, m in enumerate(ms):
        np.testing.assert_array_equal(
            tokens[held.corpus == index], Holdout((m,), data_of(here, ("a.jsonl", "b.jsonl")[index]), L)[:][0]
        )


def test_holdout_follows_the_weights(here: pathlib.Path):
    ms, data = ready(here, "a.jsonl", "b.jsonl", weights=(1.0, 1.0))
    held = Holdout(ms, data, L)
    assert abs(np.count_nonzero(held.corpus == 0) - np.count_nonzero(held.corpus == 1)) <= 1
    assert abs(np.cumsum(held.corpus * 2 - 1)).max() <= 1


def make_tokenizer(kind: str, folder: pathlib.Path) -> str:
    """A file of each kind of tokenizer that users bring, trained on a.jsonl or small enough to write by hand."""
    import sentencepiece
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    texts = texts_of(folder / "a.jsonl")
    path = folder / f"{kind}.json"
    if kind == "sentencepiece":
        path = folder / "sp.model"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=(writer := path.open("wb")),
            vocab_size=400,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            minloglevel=2,
            num_threads=1,
        )
        writer.close()
    elif kind == "wordpiece":  # drops case and spaces, marks the unknown
        core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        core.normalizer = normalizers.BertNormalizer(lowercase=True)
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        core.train_from_iterator(
            texts[:100],
            trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False),
        )
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        core.enable_truncation(16)
        core.save(str(path))
    elif kind == "metaspace":  # no token of its own for ends
        core = Tokenizer(models.Unigram())
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.train_from_iterator(
            texts,
            trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False),
        )
        core.save(str(path))
    return str(path)


@pytest.mark.parametrize("kind", ["bytes", "bpe:400", "sentencepiece", "wordpiece", "metaspace"])
def test_bytes_per_token_are_exact(here: pathlib.Path, kind: str):
    """For every document, the bytes of its tokens sum to its length in UTF-8; separators stand for none."""
    spec = kind if kind == "bytes" or kind.startswith("bpe") else make_tokenizer(kind, here)
    (m,), data = ready(here, tokenizer=spec)
    assert tokenizers.vocab_size(data) == m.vocab_size
    tokens = np.asarray(m.open("holdout.npy")).astype(np.int64)
    sizes = np.asarray(m.open("holdout_bytes.npy")) if kind != "bytes" else (tokens != 256).astype(np.int64)
    assert len(sizes) == len(tokens) == m.holdout.tokens and tokens.max() < m.vocab_size
    assert not sizes[tokens == m.separator].any()
    per_document = np.add.reduceat(sizes, np.flatnonzero(tokens == m.separator))
    (plain,), _ = ready(here)
    held = documents_in(np.asarray(plain.open("holdout.npy")), 256)
    assert per_document.tolist() == [len(text) for text in held]
    assert m.holdout.bytes == plain.holdout.bytes and m.train.bytes == plain.train.bytes
    view = Holdout((m,), data, 16)
    seen, counted = view[:]
    assert counted.sum() == sizes[1 : len(view) * 16 + 1].sum()
    assert not counted[seen[:, 1:] == m.separator].any()


@pytest.mark.parametrize("kind", ["bytes", "bpe:400", "sentencepiece"])
def test_decoding_gives_the_text_back(here: pathlib.Path, kind: str):
    spec = make_tokenizer(kind, here) if kind == "sentencepiece" else kind
    (m,), _ = ready(here, tokenizer=spec)
    codec = codec_of(m)
    assert codec.kind == m.tokenizer_kind and codec.sha256 == m.tokenizer_sha256
    for text in ["", "a", *texts_of(here / "a.jsonl")[:20], "日本語 <|doc|> 🎉\n\n  x\t", "</s> <s> <unk>"]:
        ((ids, sizes),) = codec.encode([text])
        assert codec.decode(ids) == text and sizes.sum() == len(text.encode())
        assert m.separator not in ids  # what looks like a separator in the text is text
    (plain,), _ = ready(here)
    expected = [text.decode() for text in documents_in(np.asarray(plain.open("holdout.npy")), 256)]
    assert codec.decode(np.asarray(m.open("holdout.npy"))) == "".join(tokenizers.SEPARATOR + text for text in expected)


def test_bytes_of_a_byte_level_token_are_its_own(here: pathlib.Path):
    """A character cut into three tokens gives each of them one byte, not three."""
    codec = tokenizers.train_bpe(["plain ascii text"] * 3, 260)
    ((ids, sizes),) = codec.encode(["日本"])
    assert len(ids) == 6 and sizes.tolist() == [1] * 6


def test_trained_bpe_is_deterministic_and_of_the_size_asked(here: pathlib.Path, tmp_path: pathlib.Path):
    (m,), data = ready(here, tokenizer="bpe:400")
    assert (m.vocab_size, m.tokenizer_kind, m.dtype) == (400, "bpe", "uint16")
    code = (
        "import sys; from experiments.data import Data; from experiments.prepare import prepare\n"
        "print(prepare(Data(corpus=(sys.argv[1],), holdout=0.1, tokenizer='bpe:400'), sys.argv[2], False)[0].fingerprint)"
    )
    result = python(code, here / "a.jsonl", tmp_path, RAYON_NUM_THREADS="1", PYTHONHASHSEED="3")
    assert result.stdout.strip() == m.fingerprint, result.stderr
    held = {text.decode() for text in documents_in(np.asarray(ready(here)[0][0].open("holdout.npy")), 256)}
    again = tokenizers.train_bpe((t for t in texts_of(here / "a.jsonl") if t not in held), 400)
    assert set(json.loads(again.content)["model"]["vocab"]) == set(json.loads(codec_of(m).content)["model"]["vocab"])
    with pytest.raises(InputError, match=r"data\.tokenizer='bpe:100000': the corpus yields only \d+ tokens"):
        ready(here, tokenizer="bpe:100000")


def test_a_mixture_has_one_tokenizer(here: pathlib.Path):
    ms, data = ready(here, "a.jsonl", "b.jsonl", tokenizer="bpe:300")
    assert ms[0].tokenizer_sha256 == ms[1].tokenizer_sha256
    alone, _ = ready(here, "b.jsonl", tokenizer="bpe:300")
    assert alone[0].tokenizer_sha256 != ms[1].tokenizer_sha256
    with pytest.raises(InputError, match="different tokenizers"):
        Batches((ms[0], alone[0]), data, L, 8, 0)


# --- the sources


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
    pieces = list(reading.documents(reading.find(str(path))[0][1], "text"))
    assert "".join(pieces) == text and len(pieces) > 4
    assert all(len(piece) <= reading.PIECE for piece in pieces) and all(piece.endswith("\n\n") for piece in pieces[:-1])


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "broken.jsonl": (b'{"text": "a"}\n\n{"text": \n', r"broken\.jsonl:3: not a line of JSON"),
    "list.jsonl": (b'{"text": "a"}\n[1]\n', r"list\.jsonl:2: expected a JSON object"),
    "field.jsonl": (b'{"texts": "a"}\n', r"field\.jsonl:1: no field data\.text_field='text'; did you mean 'texts'"),
    "number.jsonl": (b'{"text": "a"}\n{"text": 3}\n', r"number\.jsonl:2: data\.text_field='text' holds int"),
    "null.jsonl": (b'{"text": null}\n', r"null\.jsonl:1: .* holds NoneType"),
    "latin.jsonl": (b'{"text": "caf\xe9"}\n', r"latin\.jsonl:1: not a line of JSON .*utf-8"),
    "half.jsonl": (b'{"text": "\\ud800"}\n', r"half\.jsonl:1: .*surrogate"),
    "latin.txt": (b"plain\ncaf\xe9 au lait\n", r"latin\.txt: not UTF-8 text .*0xe9"),
    "cut.parquet": (b"PAR1 and then nothing", r"cut\.parquet: not a readable Parquet file"),
    "empty.jsonl": (b"\n\n", r"0 document\(s\); expected at least two"),
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
        ({"corpus": ("text.csv",)}, r"data\.corpus='text\.csv': expected a file ending in \.txt"),
        ({"weights": (1.0, 2.0)}, r"data\.weights=.* expected 1, one per corpus"),
        ({"weights": (0.0,)}, r"data\.weights=.* expected positive"),
        ({"weights": (float("nan"),)}, r"data\.weights=.* expected positive"),
        ({"tokenizer": "gpt2"}, r"data\.tokenizer='gpt2': expected 'bytes'"),
        ({"tokenizer": "bpe:100"}, r"data\.tokenizer='bpe:100': expected a vocabulary of 257"),
        ({"text_field": ""}, r"data\.text_field='': expected"),
        ({"holdout": 0.0}, r"data\.holdout=0\.0: expected a share above 0"),
        ({"holdout": 1.5}, r"data\.holdout=1\.5: expected a share"),
        ({"unique_tokens": 0}, r"data\.unique_tokens=0: expected a positive"),
    ],
)
def test_impossible_options_are_named(options: dict, message: str):
    with pytest.raises(InputError, match=message):
        Data(**options).check()


def test_missing_files_come_with_a_hint(here: pathlib.Path, tmp_path: pathlib.Path):
    with pytest.raises(InputError, match=r"no such text; did you mean 'a\.jsonl'"):
        prepare(Data(corpus=(str(here / "aa.jsonl"),)), tmp_path, False)
    with pytest.raises(InputError, match=r"no \.txt, \.jsonl, \.parquet file in this folder"):
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
    from experiments.corpora.local import LocalText
    from experiments.corpora.origin import quiet

    path = write_corpus(tmp_path / "c.jsonl", 40)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    with quiet():
        LocalText(
            files=[reading.find(str(path))[0][1]], data_dir=str(tmp_path / "tfds"), file_format="array_record"
        ).download_and_prepare()
    (m,) = prepare(Data(corpus=("tfds:local_text",), holdout=0.1), tmp_path / "root", False)
    assert m.train.documents + m.holdout.documents == 40 and m.details["version"] == "1.0.0"
    (direct,) = prepare(Data(corpus=(str(path),), holdout=0.1), tmp_path / "root", False)
    assert m.files == direct.files
    with pytest.raises(InputError, match=r"data\.text_field='txt': .* did you mean 'text'"):
        prepare(Data(corpus=("tfds:local_text",), text_field="txt"), tmp_path / "root", False)
    for config in ("de", "en"):
        shutil.copytree(tmp_path / "tfds" / "local_text", tmp_path / "tfds" / "wiki" / config)
    assert named.find("wiki/en") == named.data_dir() / "wiki" / "en" / "1.0.0"
    with pytest.raises(InputError, match=r"expected a configuration, as in 'tfds:wiki/de'"):
        named.find("wiki")
    info = tmp_path / "tfds" / "local_text" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(InputError, match=r"stored as tfrecord, which only TensorFlow reads; build it again"):
        prepare(Data(corpus=("tfds:local_text",), holdout=0.3), tmp_path / "root", False)


def test_tfds_without_network_fails_fast(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(named.reachable, "__defaults__", ("http://127.0.0.1:9/",))  # a port where nobody listens
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


# --- the embedded corpus


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
    code = (
        "import sys; from experiments.data import Data; from experiments.prepare import prepare\n"
        "print(prepare(Data(corpus=('embedded:2',), holdout=0.1), sys.argv[1], False)[0].fingerprint)"
    )
    assert python(code, tmp_path, PYTHONHASHSEED="1").stdout.strip() == embedded.fingerprint


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


# --- files: damage, crashes, company


def test_second_preparation_does_nothing(here: pathlib.Path):
    ms, data = ready(here)
    before = {p: p.stat().st_mtime_ns for p in (here / "root").rglob("*")}
    assert None not in look(data, here / "root")[2]
    assert prepare(data, here / "root", False) == ms
    assert {p: p.stat().st_mtime_ns for p in (here / "root").rglob("*")} == before


def damaged(tmp_path: pathlib.Path, here: pathlib.Path) -> tuple[Manifest, pathlib.Path]:
    (m,), _ = ready(here, tokenizer="bpe:300")
    copy = tmp_path / "copy"
    shutil.copytree(m.directory, copy)
    return load(copy), copy


def test_a_truncated_file_is_named(tmp_path: pathlib.Path, here: pathlib.Path):
    m, copy = damaged(tmp_path, here)
    with (copy / "train.npy").open("r+b") as file:
        file.truncate(1_000)
    for attempt in (lambda: load(copy), lambda: m.open("train.npy")):
        with pytest.raises(
            InputError,
            match=r"train\.npy: 1000 bytes, \d+ were written; the file is damaged; delete this folder and run",
        ):
            attempt()


@pytest.mark.parametrize("name", ["train.npy", "holdout_bytes.npy", "tokenizer.json"])
def test_an_altered_file_is_named(tmp_path: pathlib.Path, here: pathlib.Path, name: str):
    m, copy = damaged(tmp_path, here)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    stamp = (copy / name).stat()
    (copy / name).write_bytes(content)
    message = rf"{name}: its content is not what was written \(checksum differs\); delete"
    with pytest.raises(InputError, match=message):
        load(copy)
    os.utime(copy / name, ns=(stamp.st_atime_ns, stamp.st_mtime_ns - 10**9))  # even if nothing looks changed
    with pytest.raises(InputError, match=message):
        verify(m, thorough=True)


def test_a_missing_file_or_manifest_is_named(tmp_path: pathlib.Path, here: pathlib.Path):
    _, copy = damaged(tmp_path, here)
    manifest = (copy / "manifest.json").read_text()
    for text, message in (
        (manifest[:200], r"manifest\.json: unreadable"),
        ("[]", r"manifest\.json: unreadable"),
        (manifest.replace('"schema": 1', '"schema": 99'), r"manifest\.json: schema 99, this version reads 1"),
        (manifest.replace('"separator": 0', '"separator": 1'), r"manifest\.json: does not match its own fingerprint"),
    ):
        (copy / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=message):
            load(copy)
    (copy / "manifest.json").write_text(manifest)
    (copy / "holdout.npy").unlink()
    with pytest.raises(InputError, match=r"holdout\.npy: missing from a prepared corpus"):
        load(copy)
    with pytest.raises(InputError, match=r"no prepared corpus here"):
        load(tmp_path)


PREPARE = (
    "import sys; from experiments.data import Data; from experiments.prepare import prepare\n"
    "print(prepare(Data(corpus=(sys.argv[1],), holdout=0.1), sys.argv[2])[0].fingerprint)"
)


def start(path: pathlib.Path, root: pathlib.Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREPARE, str(path), str(root)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Enough text that a preparation can be met at work."""
    folder = tmp_path_factory.mktemp("larger")
    source = write_corpus(folder / "part", 2_000, words=400).read_text().splitlines()
    (folder / "c.jsonl").write_text(
        "\n".join(line.replace('": "', f'": "{k} ', 1) for k in range(4) for line in source)
    )
    (folder / "part").unlink()
    return folder / "c.jsonl"


def exists(root: pathlib.Path, pattern: str) -> Callable[[], bool]:
    return lambda: any(root.glob(pattern))


@pytest.mark.parametrize("moment", ["documents/*/local_text/incomplete*", "records/.*.tmp/train.npy"])
def test_kill_and_prepare_again(larger: pathlib.Path, tmp_path: pathlib.Path, moment: str):
    """kill -9 while TFDS writes documents, or while tokens are written: the next call ends as an undisturbed one does."""
    root = tmp_path / "root"
    met = exists(root, moment)
    process = start(larger, root)
    while not met() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    process.communicate()
    assert met() and not list(root.glob("records/*/manifest.json"))
    (m,) = prepare(Data(corpus=(str(larger),), holdout=0.1), root, False)
    (clean,) = prepare(Data(corpus=(str(larger),), holdout=0.1), larger.parent / "root", False)
    assert m.fingerprint == clean.fingerprint
    verify(m, thorough=True)
    left = [p.name for p in root.rglob("*") if "incomplete" in p.name or p.name.endswith(".tmp")]
    assert not left


def test_two_preparations_at_once(larger: pathlib.Path, tmp_path: pathlib.Path):
    processes = [start(larger, tmp_path / "root") for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert sum("reading its documents" in errors for _, errors in outputs) == 1  # one did the work
    assert len(list((tmp_path / "root" / "records").glob("*/manifest.json"))) == 1


READ_ONLY = (
    "import os, sys; import experiments.cli as cli, experiments.corpora.local; from experiments.data import Data, Batches\n"
    "from experiments.prepare import prepare; import grain, tensorflow_datasets as tfds; tfds.builder_from_directory\n"
    "os.getuid() or os.setuid(65534)\n"
    "for corpus in sys.argv[2:]:\n"
    "    data = Data(corpus=(corpus,), holdout=0.1)\n"
    "    try: print(Batches(prepare(data, sys.argv[1], False), data, 32, 4, 0)[0].shape)\n"
    "    except OSError as error: print(cli.explain(error))\n"
)


def test_read_only_root(here: pathlib.Path):
    """What is prepared can be used; what is not cannot be written, and one line says so."""
    ready(here)
    folder = here / "root"
    top = [here, *list(here.parents)[:2]]
    modes = {p: p.stat().st_mode for p in [*folder.rglob("*"), folder, *top]}
    try:
        for path in modes:
            path.chmod(0o555)
        result = python(READ_ONLY, folder, here / "a.jsonl", here / "b.jsonl")
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    lines = result.stdout.splitlines()
    assert lines[0] == "(4, 33)", result.stderr
    assert str(folder) in lines[1] and "cannot be written" in lines[1]


def test_published_folder_is_complete_only_with_its_manifest(
    tmp_path: pathlib.Path, here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """As on an object store: files first, manifest last; a copy that was broken off is no prepared corpus."""
    (m,), _ = ready(here)
    order: list[str] = []
    original = shutil.copyfileobj

    def watched(read, written, *rest):  # noqa: ANN001, ANN002, ANN202
        order.append(pathlib.Path(read.name).name)
        original(read, written, *rest)

    monkeypatch.setattr(shutil, "copyfileobj", watched)
    publish(m.directory, m.directory.parent.parent / "published")
    assert order[-1] == "manifest.json" and set(order) == {"manifest.json", *m.files}
    assert load(m.directory.parent.parent / "published").fingerprint == m.fingerprint


def test_a_remote_file_is_fetched_once_and_checked(
    tmp_path: pathlib.Path, here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    (m,), _ = ready(here)
    monkeypatch.setenv("LOSSGRID_CACHE", str(tmp_path / "cache"))
    checksum = m.files["train.npy"]["sha256"]
    local = manifests_module._fetch(m.directory / "train.npy", checksum)
    assert local.read_bytes() == (m.directory / "train.npy").read_bytes() and [
        p.name for p in (tmp_path / "cache").iterdir()
    ] == [local.name]
    stamp = local.stat().mtime
    assert manifests_module._fetch(m.directory / "train.npy", checksum).stat().mtime == stamp
    with pytest.raises(InputError, match="checksum differs"):
        manifests_module._fetch(m.directory / "train.npy", "0" * 64)


# --- imports and the command


def test_reading_data_imports_nothing_heavy():
    heavy = "tensorflow_datasets tokenizers sentencepiece jax grain pyarrow rich".split()
    result = python(f"import sys, experiments.data; print([m for m in {heavy} if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr
    result = python(
        "import sys; from experiments.data import Data; from experiments.prepare import look\n"
        f"look(Data(), '/tmp/none'); print([m for m in {heavy[:6]} if m in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stderr


CONFIG = """
from experiments.configs import smoke
def get_config(arg=None):
    config = smoke.get_config()
    config.unlock()
    config.data.corpus = {corpus!r}
    config.execution.data_root = {root!r}
    return config.lock()
"""


def test_command_shows_what_it_made(here: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "config.py").write_text(CONFIG.format(corpus=(str(here / "a.jsonl"),), root=str(tmp_path / "root")))

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "experiments.prepare", *arguments]
        return subprocess.run(
            line, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, env=os.environ | {"COLUMNS": "140"}
        )

    config = f"--config={tmp_path / 'config.py'}"
    first, second = command(config), command(config)
    assert first.returncode == second.returncode == 0, first.stderr
    (m,) = prepare(Data(corpus=(str(here / "a.jsonl"),)), tmp_path / "root", False)
    assert "Prepared" in first.stdout and "Nothing to do" in second.stdout and "Nothing to do" not in first.stdout
    for shown in (
        f"{m.train.tokens:,}",
        f"{m.holdout.bytes:,}",
        f"{m.unigram_entropy_nats:.4f}",
        str(m.directory),
        "first record",
    ):
        assert shown in second.stdout
    assert "not enough for this config's run: tokens=500000" in second.stdout.replace("\n", "")
    for arguments, message in (
        ((config, "--config.data.holdout=2.0"), "data.holdout=2.0: expected a share"),
        ((config, "--config.data.hold=0.1"), "hold"),
        ((config, "--config.data.corpus=('x.txt',)"), "data.corpus='x.txt': no such"),
        ((), "--config is missing"),
        ((config, "extra"), "unexpected argument 'extra'"),
    ):
        result = command(*arguments)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
