"""Text whose entropy is known: each kind is what it says, the same on every machine, and learnt as far as it can be."""

import hashlib
import json
import math
import pathlib

import numpy as np
import pytest

from experiments.cli import InputError
from experiments.data import alphabet, manifest
from experiments.data.options import Data
from experiments.data.sources import synthetic
from experiments.prepare import prepare
from tests.support.data import documents_in, python
from tests.support.training import run

# A small corpus of each kind.
SMALL = {"markov": "markov,order=2,symbols=8,length=50,documents=600"}
DATA = {"holdout": 0.1}


def process_of(text: str):
    """The process that a corpus names."""
    module, options = synthetic.parse(f"synthetic:{text}")
    return module.Process(options)


def texts_of(text: str) -> list[str]:
    """All documents that a corpus names."""
    return list(process_of(text).texts())


def prepared(text: str, folder: pathlib.Path, **options: object):
    """The manifest of a corpus."""
    data = Data(corpus=(f"synthetic:{text}",), **DATA | options)
    (manifest,) = prepare(data, folder, progress=False)
    return manifest


# --- every kind


def test_there_is_a_small_corpus_of_every_kind():
    assert set(SMALL) == set(synthetic.kinds())


@pytest.mark.parametrize("kind", SMALL)
def test_a_kind_is_deterministic_and_fewer_documents_are_the_first_of_more(kind: str):
    texts = texts_of(SMALL[kind])
    assert len(texts) == 600 and all(texts)
    assert texts == texts_of(SMALL[kind])
    assert texts_of(f"{SMALL[kind]},seed=1") != texts
    fewer = SMALL[kind].replace("documents=600", "documents=300")
    assert texts_of(fewer) == texts[:300]


@pytest.mark.parametrize("kind", SMALL)
def test_a_kind_is_prepared_with_its_entropy(kind: str, tmp_path: pathlib.Path):
    """Held-out documents are the process's too, and none of them is among those for training."""
    made = prepared(SMALL[kind], tmp_path)
    splits = []
    for split in ("train", "holdout"):
        stream = np.asarray(made.open(f"{split}.npy"))
        splits.append([text.decode() for text in documents_in(stream, made.separator)])
    assert sorted(splits[0] + splits[1]) == sorted(texts_of(SMALL[kind]))
    assert splits[1] and not set(splits[0]) & set(splits[1])
    stated = process_of(SMALL[kind]).entropy()
    if stated is None:
        assert made.entropy_nats is None
        return
    assert made.details["entropy"]["method"] == stated.method
    assert (made.entropy_nats_error == 0) == (stated.method == "exact")
    assert 0 < made.entropy_nats < made.unigram_entropy_nats + 4 * made.entropy_nats_error


DIGESTS = (
    "import hashlib, sys\nfrom experiments.data.sources import synthetic\n"
    "for name in sys.argv[1:]:\n"
    "    module, options = synthetic.parse(name)\n"
    "    print(hashlib.sha256('|'.join(module.Process(options).texts()).encode()).hexdigest())"
)  # a program: CORPUS ...


def test_another_process_makes_the_same_texts():
    """In an interpreter of its own, with other hashes of strings."""
    made = python(DIGESTS, *(f"synthetic:{text}" for text in SMALL.values()), PYTHONHASHSEED="7")
    here = [hashlib.sha256("|".join(texts_of(text)).encode()).hexdigest() for text in SMALL.values()]
    assert made.stdout.split() == here, made.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("markow", "'markow' is no kind of synthetic text; expected one of .*markov"),
        ("", "'' is no kind of synthetic text; expected one of .*markov"),
        ("markov,oder=2", "'oder' is no option of it; expected one of documents, seed, order, symbols"),
        ("markov,order", "'order' is not OPTION=VALUE"),
        ("markov,order=two", "'order=two' is not a whole number"),
        ("markov,order=1,order=2", "'order=2' gives order a second time"),
        ("markov,symbols=1", "symbols=1 must be from 2 to 2048"),
        ("markov,order=5,symbols=64", "order=5 with symbols=64: expected symbols"),
        ("markov,concentration=nan", "'concentration=nan' is not a number"),
        ("markov,documents=0", "documents=0 must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text: str, said: str):
    with pytest.raises(InputError, match=f"^data.corpus='synthetic:{text}': {said}") as error:
        Data(corpus=(f"synthetic:{text}",)).check()
    assert "\n" not in str(error.value)


# --- Markov chains


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_entropy_of_a_chain_is_that_of_its_n_grams(order: int):
    """Counted: how often each symbol follows each context. Of order 0 it is that of single symbols."""
    process = process_of(f"markov,order={order},symbols=4,length=500,documents=1000,concentration=0.5")
    counts = np.zeros((4**order, 4))
    for text in process.texts():
        symbols = alphabet.read(text)
        whole = max(len(symbols) - order, 0)  # symbols with a whole context
        context = np.zeros(whole, np.int64)
        for place in range(order):
            context = context * 4 + symbols[place : place + whole]
        np.add.at(counts, (context, symbols[order:]), 1)
    share = counts / counts.sum()
    given = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    counted = -(share * np.log(np.where(given > 0, given, 1))).sum()
    assert counted == pytest.approx(process.chain.rate, abs=0.005)
    np.testing.assert_allclose(share.sum(1), process.chain.stationary, atol=0.01)


def test_the_entropy_of_documents_is_their_mean_log_probability():
    """With their first symbols, their length, and the token between them, also where they are short."""
    process = process_of("markov,order=2,symbols=4,length=3,documents=40000")
    contexts = process.chain.stationary.reshape(4, 4)
    first = contexts.sum(1)
    nats = 0.0
    characters = 0
    for text in process.texts():
        symbols = alphabet.read(text)
        characters += len(symbols) + 1
        nats -= (len(symbols) - 1) * math.log(2 / 3) + math.log(1 / 3) + math.log(first[symbols[0]])
        if len(symbols) > 1:
            nats -= math.log(contexts[symbols[0], symbols[1]] / first[symbols[0]])
        context = symbols[:-2] * 4 + symbols[1:-1]
        nats -= np.log(process.chain.transitions[context, symbols[2:]]).sum()
    assert nats / characters == pytest.approx(process.entropy().nats, rel=0.01)


# --- per token


def test_the_entropy_of_a_document_is_the_same_for_every_tokenizer(tmp_path: pathlib.Path):
    """Fewer tokens have more each: what a BPE saves in tokens it has in nats."""
    made = [prepared(SMALL["markov"], tmp_path, tokenizer=spec) for spec in ("bytes", "symbols:8", "bpe:300")]
    by_symbol = process_of(SMALL["markov"]).entropy().nats
    assert [one.entropy_nats for one in made[:2]] == [by_symbol, by_symbol]
    assert made[2].entropy_nats > by_symbol
    totals = [one.entropy_nats * (one.train.tokens + one.holdout.tokens) for one in made]
    np.testing.assert_allclose(totals, totals[0], rtol=1e-12)
    assert made[1].vocab_size == 9 and made[1].lossless == 1


def test_a_text_with_other_characters_is_refused(tmp_path: pathlib.Path):
    with pytest.raises(InputError, match=r"'symbols:4': cannot encode the text \(it has other characters\)"):
        prepared(SMALL["markov"], tmp_path, tokenizer="symbols:4")
    with pytest.raises(InputError, match="symbols:60000': expected from 1 to 50000 symbols"):
        prepared(SMALL["markov"], tmp_path, tokenizer="symbols:60000")


def test_a_manifest_of_before_knows_no_entropy(tmp_path: pathlib.Path):
    made = prepared(SMALL["markov"], tmp_path)
    path = made.directory / "manifest.json"
    stored = json.loads(path.read_text())
    del stored["entropy_nats"], stored["entropy_nats_error"]
    path.write_text(json.dumps(stored))
    before = manifest.load(made.directory)
    assert before.entropy_nats is None and before.fingerprint == made.fingerprint


# --- a run


def test_a_run_says_how_much_there_was_to_learn(tiny, tmp_path: pathlib.Path):
    """Two chains of one symbol's memory: the columns are their entropies by their shares, and the loss comes down to them."""
    corpora = tuple(f"synthetic:markov,symbols=8,documents=300,seed={seed}" for seed in (1, 2))
    options = {"data.corpus": corpora, "data.tokenizer": "symbols:8", "evaluation.weights": (3, 1), "opt.lr": 1e-2}
    row = run(tiny(tokens=256 * 200, **options), tmp_path / "run")["columns"]
    own = [process_of(corpus.removeprefix("synthetic:")).entropy().nats for corpus in corpora]
    assert [row["entropy_part_1"], row["entropy_part_2"]] == own
    assert row["entropy_nats"] == pytest.approx(0.75 * own[0] + 0.25 * own[1], rel=0.01)
    assert row["entropy_nats_error"] == 0
    ratio = row["bits_per_byte"] / row["loss_nats"]
    assert row["entropy_bits_per_byte"] == pytest.approx(row["entropy_nats"] * ratio, rel=1e-3)
    assert 0 < row["loss_nats"] - row["entropy_nats"] < 0.1
