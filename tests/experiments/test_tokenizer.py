"""Text to tokens and back, and exact bytes per token, for every kind of tokenizer that users bring."""

import json
import pathlib

import numpy as np
import pytest
from tokenizers import Tokenizer as Core
from tokenizers import models

from experiments.cli import InputError
from experiments.data import tokenizer as tokenizers
from experiments.data.batches import Batches
from experiments.data.holdout import Holdout
from experiments.prepare import codec_of
from tests.support.data import FINGERPRINT, L, documents_in, make_corpora, python, ready, texts_of
from tests.support.tokenizers import make_tokenizer


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_corpora(tmp_path_factory.mktemp("here"))


@pytest.mark.parametrize("kind", ["bytes", "bpe:400", "sentencepiece", "wordpiece", "metaspace"])
def test_bytes_per_token_are_exact(here: pathlib.Path, kind: str):
    """For every document, the bytes of its tokens sum to its length in UTF-8; separators stand for none."""
    spec = kind if kind == "bytes" or kind.startswith("bpe") else make_tokenizer(kind, here)
    (m,), data = ready(here, tokenizer=spec, lossy=kind in ("wordpiece", "metaspace"))
    assert tokenizers.vocab_size(data) == m.vocab_size
    tokens = np.asarray(m.open("holdout.npy")).astype(np.int64)
    sizes = np.asarray(m.open("holdout_bytes.npy")) if kind != "bytes" else (tokens != 256).astype(np.int64)
    assert len(sizes) == len(tokens) == m.holdout.tokens and tokens.max() < m.vocab_size
    assert not sizes[tokens == m.separator].any()
    per_document = np.add.reduceat(sizes, np.flatnonzero(tokens == m.separator))
    (plain,), _ = ready(here)
    held = documents_in(np.asarray(plain.open("holdout.npy")), 256)
    assert per_document.tolist() == [len(text) for text in held]
    assert len(tokens) > 20 * m.holdout.documents  # whole documents, whatever truncation the tokenizer's file asks for
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
    (m,), _ = ready(here, tokenizer="bpe:400")
    assert (m.vocab_size, m.tokenizer_kind, m.dtype) == (400, "bpe", "uint16")
    result = python(FINGERPRINT, tmp_path, here / "a.jsonl", "bpe:400", RAYON_NUM_THREADS="1", PYTHONHASHSEED="3")
    assert result.stdout.strip() == m.fingerprint, result.stderr
    held = {text.decode() for text in documents_in(np.asarray(ready(here)[0][0].open("holdout.npy")), 256)}
    again = tokenizers.train_bpe((t for t in texts_of(here / "a.jsonl") if t not in held), 400)
    assert set(json.loads(again.content or b"")["model"]["vocab"]) == set(
        json.loads(codec_of(m).content or b"")["model"]["vocab"]
    )
    with pytest.raises(InputError, match=r"data\.tokenizer='bpe:100000': the corpus yields only \d+ tokens"):
        ready(here, tokenizer="bpe:100000")


def test_a_mixture_has_one_tokenizer(here: pathlib.Path):
    ms, data = ready(here, "a.jsonl", "b.jsonl", tokenizer="bpe:300")
    assert ms[0].tokenizer_sha256 == ms[1].tokenizer_sha256
    alone, _ = ready(here, "b.jsonl", tokenizer="bpe:300")
    assert alone[0].tokenizer_sha256 != ms[1].tokenizer_sha256
    with pytest.raises(InputError, match="different tokenizers"):
        Batches((ms[0], alone[0]), data, L, 8, 0)


def test_a_tokenizer_that_can_encode_nothing_is_named():
    core = Core(models.BPE())
    with pytest.raises(InputError, match=r"data\.tokenizer='empty\.json': it has no token"):
        tokenizers.parse("empty.json", core.to_str().encode())
    core = Core(models.WordLevel({"known": 0}, unk_token="[UNK]"))
    codec = tokenizers.parse("words.json", core.to_str().encode())
    with pytest.raises(InputError, match=r"data\.tokenizer='words\.json': cannot encode the text \(.*UNK"):
        codec.encode(["unknown"])
