"""Batches: a function of (manifest, seed, step); every record once an epoch; held-out text is never trained on."""

from collections import Counter
import hashlib
import json
import pathlib
import random
import shutil

import grain
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.data import coverage
from experiments.data.batches import Batches, _interleave, check_enough, tokens_available
from experiments.data.holdout import Holdout
from experiments.data.manifest import load
from experiments.data.options import Data
from experiments.data.order import Order, _Cipher
from experiments.prepare import prepare
from tests.support.data import (
    FINGERPRINT,
    L,
    data_of,
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
    result = python(FINGERPRINT, tmp_path / "root", tmp_path / "renamed.jsonl", "bytes", PYTHONHASHSEED="7")
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
    path.write_text(path.read_text().replace("z", "o"))  # of the same size
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


BATCHES = (
    "import sys, hashlib, json; from experiments.data.batches import Batches; from experiments.data.options import Data; from experiments.prepare import prepare\n"
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
    batches = [Batches(ms, data, L, 8, seed) for seed in range(4)]
    orders = [tuple(b.locate(e * b.rows, e * b.rows + 100)[1]) for b in batches for e in range(4)]
    assert len(set(orders)) == len(orders)


def test_shuffle_mixes_every_window(here: pathlib.Path):
    """Windows of 64 records draw from the first half of the stream as a fair coin would; neighbours are unrelated."""
    ms, data = ready(here)
    batches = Batches(ms, data, 8, 64, seed=4)
    row = batches.locate(0, batches.rows)[1]
    half = (row < batches.rows / 2)[: batches.rows // 64 * 64].reshape(-1, 64).sum(1)
    z = (half - 32) / 4  # binomial: 64 draws, a half each
    assert abs(z).max() < 5 and 0.5 < (z**2).mean() < 1.5
    assert abs(np.corrcoef(row[:-1], row[1:])[0, 1]) < 0.05


def test_order_of_batches_is_pinned(tmp_path: pathlib.Path):
    """Golden: another order (TFDS's, grain's or ours) makes other runs; it needs a new NUMERICS_VERSION."""
    path = write_corpus(tmp_path / "c.jsonl", 60)
    data = Data(corpus=(str(path),), holdout=0.1)
    ms = prepare(data, tmp_path / "root", False)
    assert ms[0].files["train.npy"]["sha256"][:16] == "ec7c096422cf59b8"
    assert Batches(ms, data, L, 8, seed=0).locate(0, 8)[1].tolist() == [233, 377, 372, 246, 407, 428, 243, 490]


@settings(max_examples=150, deadline=None)
@given(
    size=st.one_of(st.integers(1, 300), st.integers(0, 40).flatmap(lambda k: st.integers(max(1, 2**k - 2), 2**k + 2))),
    seed=st.one_of(st.integers(0, 2**32 - 1), st.just(2**32 - 1)),
    draw=st.randoms(use_true_random=False),
)
def test_an_order_is_the_one_of_grain(size: int, seed: int, draw: random.Random):
    """Number by number, of any stretch and across epochs; computed at once, or records would cost microseconds each."""
    order = Order(size, seed)
    theirs = grain.MapDataset.range(size).shuffle(seed).repeat(4)
    for first in (0, size - 1, 2 * size - 3, draw.randrange(4 * size)):
        positions = np.arange(max(first, 0), min(first + 20, 4 * size))
        expected = [theirs[int(position)] for position in positions]
        assert order.at(positions).tolist() == expected


def test_a_stretch_of_an_order_is_one_call(monkeypatch):
    """The work of Python does not grow with the records."""
    calls = []
    plain = _Cipher.permuted

    def counted(self, positions):
        calls.append(len(positions))
        return plain(self, positions)

    monkeypatch.setattr(_Cipher, "permuted", counted)
    numbers = Order(100_000, 3).at(np.arange(95_000, 105_000))
    assert calls == [5_000, 5_000] and numbers.max() < 100_000


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
    first = held._row[held.corpus == 0][:25]  # a sample of the whole stream, not its beginning
    assert 0.3 < first.mean() / ((ms[0].holdout.tokens - 1) // L) < 0.7
    share = np.cumsum(held.corpus == 1) / np.arange(1, len(held) + 1)
    assert abs(share[40:] - share[-1]).max() < 0.05  # any prefix is the mixture
    for index, m in enumerate(ms):
        np.testing.assert_array_equal(
            tokens[held.corpus == index], Holdout((m,), data_of(here, ("a.jsonl", "b.jsonl")[index]), L)[:][0]
        )


def test_holdout_follows_the_weights(here: pathlib.Path):
    ms, data = ready(here, "a.jsonl", "b.jsonl")
    held = Holdout(ms, data, L, weights=(1.0, 1.0))
    assert abs(np.count_nonzero(held.corpus == 0) - np.count_nonzero(held.corpus == 1)) <= 1
    assert abs(np.cumsum(held.corpus * 2 - 1)).max() <= 1


def test_a_small_part_is_repeated_beside_a_large_one_that_is_read_once(here: pathlib.Path):
    """The advice of the refusal is to repeat what is short, and it is taken."""
    ms, data = ready(here, "a.jsonl", "b.jsonl", weights=(3.0, 1.0))
    whole = [(m.train.tokens - 1) // L for m in ms]
    tokens = 4 * L * whole[1]  # all of b, and three times as much of a
    with pytest.raises(InputError, match=rf"data\.unique=\({whole[0] * L}, None\)$") as refusal:
        check_enough(ms, data, tokens, L)
    assert "unique_tokens" not in str(refusal.value)
    ms, mixed = ready(here, "a.jsonl", "b.jsonl", weights=(3.0, 1.0), unique=(20 * L + 3, None))
    check_enough(ms, mixed, tokens, L)
    batches = Batches(ms, mixed, L, 8, seed=0)
    corpus, row = batches.locate(0, 4 * whole[1])
    assert set(row[corpus == 0]) == set(range(20)), "a prefix, as of unique_tokens"
    assert sorted(row[corpus == 1]) == list(range(whole[1])), "all of the other once"
    taken = 4 * whole[1]
    assert coverage.columns(batches, taken) == {
        "unique_tokens": (20 + whole[1]) * L,
        "unique_tokens_part_1": 20 * L,
        "epochs_part_1": 3 * whole[1] / 20,
        "unique_tokens_part_2": whole[1] * L,
        "epochs_part_2": 1.0,
    }
    # The next record that the large part would need is one too many.
    with pytest.raises(InputError, match=rf"take {(whole[1] + 1) * L} of .*which has {whole[1] * L}"):
        check_enough(ms, mixed, tokens + 4 * L, L)
    too_many = data_of(here, "a.jsonl", "b.jsonl", weights=(3.0, 1.0), unique=(10**7, None))
    with pytest.raises(InputError, match=r"data\.unique=\(10000000, None\): more than the corpus holds"):
        check_enough(ms, too_many, L, L)


@pytest.mark.parametrize("options", [{}, {"weights": (2.0, 3.0)}, {"weights": (2.0, 3.0), "unique": (900, 500)}])
def test_what_is_read_is_counted_as_it_is_read(here: pathlib.Path, options: dict):
    ms, data = ready(here, "a.jsonl", "b.jsonl", **options)
    batches = Batches(ms, data, L, 8, seed=1)
    for records in (0, 1, 7, 100, batches.rows, 2 * batches.rows + 13):
        corpus, _ = batches.locate(0, records)
        assert batches.counts(records) == np.bincount(corpus, minlength=2).tolist()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"unique": (5,)}, r"data\.unique=\(5,\): expected 2 numbers or None, one per corpus"),
        ({"unique": (0, None)}, r"data\.unique=\(0, None\): expected positive"),
        ({"unique": (5, None), "unique_tokens": 7}, r"data\.unique=.* and data\.unique_tokens=7 say the same"),
        ({"unique": (5, None), "weights": ()}, r"data\.unique=.* has an effect only where data\.weights are given"),
    ],
)
def test_unique_tokens_of_parts_that_cannot_be(options: dict, text: str):
    values = {"corpus": ("a.txt", "b.txt"), "weights": (1.0, 1.0)} | options
    with pytest.raises(InputError, match=text):
        Data(**values).check()
