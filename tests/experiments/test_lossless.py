"""Tokenizers are tried for loss of text: what they lose is counted, said, and refused unless it is allowed."""

import json
import pathlib

from etils import epath
import pytest

from experiments import train
from experiments.cli import InputError, explain
from experiments.data import lossless, manifest
from experiments.data.options import Data
from experiments.prepare import codec_of, prepare
from experiments.run import freeze
from experiments.store import record
from tests.support.data import make_corpora, ready, texts_of
from tests.support.tokenizers import LOSSLESS, LOSSY, make_tokenizer


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Corpora, with upper case and a ligature in one document of ten of the first."""
    folder = make_corpora(tmp_path_factory.mktemp("here"))
    texts = texts_of(folder / "a.jsonl")
    for number in range(0, len(texts), 10):
        texts[number] = f"The ligature \ufb01 {texts[number]}"
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return folder


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_tokenizer_that_gives_all_back_is_taken(here: pathlib.Path, kind: str):
    (made,), _ = ready(here, tokenizer=make_tokenizer(kind, here))
    assert made.lossless == 1.0 and "lost" not in made.details


@pytest.mark.parametrize("spec", ["bytes", "bpe:400"])
def test_the_tokenizers_of_this_project_lose_nothing(here: pathlib.Path, spec: str):
    assert ready(here, tokenizer=spec)[0][0].lossless == 1.0
    with pytest.raises(InputError, match=r"data\.lossy=True has an effect only where data\.tokenizer is a file"):
        ready(here, tokenizer=spec, lossy=True)


@pytest.mark.parametrize("kind", LOSSY)
def test_a_tokenizer_that_loses_text_is_refused(here: pathlib.Path, kind: str):
    """By the first preparation, and by one that finds what was prepared with leave; the share is counted exactly."""
    spec = make_tokenizer(kind, here)
    with pytest.raises(
        InputError, match=r"data\.tokenizer=.* loses text: .*% of .*becomes.*data\.lossy=True"
    ) as caught:
        ready(here, tokenizer=spec)
    assert "\n" not in explain(caught.value)
    assert not list((here / "root" / "records").glob(".*.tmp"))
    (made,), _ = ready(here, tokenizer=spec, lossy=True)
    codec = codec_of(made)
    texts = texts_of(here / "a.jsonl")
    returned = [codec.decode(ids) == text for text, (ids, _) in zip(texts, codec.encode(texts), strict=True)]
    assert made.lossless == pytest.approx(sum(returned) / len(returned)) and not all(returned)
    text, decoded = made.details["lost"]
    assert text != decoded and any(text in whole for whole in texts)
    with pytest.raises(InputError, match=r"loses text: .* of the documents of .*a\.jsonl' decode back"):
        ready(here, tokenizer=spec)


def test_a_loss_of_case_alone_is_counted_by_document(here: pathlib.Path):
    (made,), _ = ready(here, tokenizer=make_tokenizer("lower_case", here), lossy=True)
    some_upper = [text != text.lower() for text in texts_of(here / "a.jsonl")]
    assert made.lossless == pytest.approx(1 - sum(some_upper) / len(some_upper))


def test_leave_changes_no_number(here: pathlib.Path):
    """Whether a loss was allowed or could not be is no part of an identity."""
    spec = make_tokenizer("byte_level", here)
    strict, _ = ready(here, tokenizer=spec)
    allowed, _ = ready(here, tokenizer=spec, lossy=True)
    assert strict[0].fingerprint == allowed[0].fingerprint and strict[0].directory == allowed[0].directory


def test_a_manifest_of_before_is_read(here: pathlib.Path):
    """It has no share: all where the tokenizer is of this project, unknown elsewhere; its fingerprint is the same."""
    for spec, expected in (("bytes", 1.0), ("bpe:400", 1.0), (make_tokenizer("nfkc", here), None)):
        (made,), data = ready(here, "b.jsonl", tokenizer=spec, **({"lossy": True} if expected is None else {}))
        path = made.directory / "manifest.json"
        stored = json.loads(path.read_text())
        del stored["lossless"]
        path.write_text(json.dumps(stored))
        (before,) = prepare(data, here / "root", False)
        assert before.lossless == expected and before.fingerprint == made.fingerprint
        strict = Data(corpus=data.corpus, holdout=data.holdout, tokenizer=spec)
        assert prepare(strict, here / "root", False)[0].lossless == expected
        path.unlink()
        for file in list(made.directory.iterdir()):
            file.unlink()


def test_the_smallest_share_of_a_mixture_counts(here: pathlib.Path):
    made, _ = ready(here, "a.jsonl", "b.jsonl", tokenizer=make_tokenizer("lower_case", here), lossy=True)
    shares = [one.lossless or 0.0 for one in made]
    assert lossless.smallest_share(made) == min(shares) and shares[0] != shares[1]
    assert lossless.percent(0.99999) == "less than 100%" and lossless.percent(1.0) == "100.0%"
    assert manifest.load(made[0].directory).lossless == made[0].lossless


def test_what_is_known_of_text_and_tokenizer_are_columns_of_the_record(here: pathlib.Path, tmp_path: pathlib.Path):
    spec = make_tokenizer("lower_case", here)
    data = {"corpus": (str(here / "a.jsonl"),), "holdout": 0.1, "tokenizer": spec, "lossy": True}
    model = {"width": 16, "depth": 1, "heads": 1}
    sizes = {"tokens": 512, "batch_tokens": 256, "seq_len": 32}
    values = {"model": model, "data": data, "evaluation": {"tokens": 256}, **sizes}
    execution = {"data_root": str(here / "root"), "tensorboard": False}
    run, executed = freeze.freeze(values | {"execution": execution})
    (made,), _ = ready(here, tokenizer=spec, lossy=True)
    train.train([run], [epath.Path(tmp_path)], executed, lambda event: None)
    written = record.read(epath.Path(tmp_path) / "record.json")
    assert written["columns"]["lossless"] == made.lossless
    assert made.lossless not in (None, 1)
    columns = written["columns"]
    assert columns["loss_unigram_normalised"] == columns["loss_nats"] - made.unigram_entropy_nats
    assert columns["text_bytes"] == round(512 * made.train.bytes / made.train.tokens)
    assert columns["unique_tokens"] == 512
