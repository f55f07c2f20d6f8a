"""Parallel text becomes rows of one length; a run on them learns to translate, and counts targets alone."""

import json
import math

import pytest

from experiments.data.batches import Batches
from experiments.data.options import Data
from experiments.prepare import codec_of, prepare
from experiments.run import freeze
from experiments.sample import sample
from models.errors import InputError
from tests.support.training import run

CIPHER = "synthetic:cipher,documents=1000,words=20,length=3"
PAIRS = {"data.corpus": (CIPHER,), "data.between": " = ", "data.pairs": (20, 24), "seq_len": 44, "batch_tokens": 352}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file of pairs: of two that fit, one with a long source, one with a long target, one without a target."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs = [
        ("ab", "ABC"),
        ("", "X"),
        ("qwertyuiopasdghjklzxvnm" * 2, "X"),
        ("x", "0918273645QWRTYUIOPSGHJK" * 2),
        ("cde", "DE"),
        ("fg", "F" * 6),
    ]
    lines = [json.dumps({"source": source, "target": target}) for source, target in pairs]
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines))
    return path


def data_of(path, **options):
    return Data(**{"corpus": (str(path),), "text_field": "source+target", "pairs": (8, 8), "holdout": 0.3} | options)


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:265"])
def test_rows_hold_a_source_and_a_target(written, tmp_path, tokenizer):
    """Each record is a row: the source and separators, one more, the target and separators, and the next row's first token."""
    data = data_of(written, tokenizer=tokenizer)
    (manifest,) = prepare(data, tmp_path, progress=False)
    codec = codec_of(manifest)
    end = manifest.separator
    found = {}
    for name in ("train", "holdout"):
        stream = manifest.open(f"{name}.npy")
        assert len(stream) % 16 == 1 and stream[-1] == end
        for row in stream[:-1].reshape(-1, 16):
            source, target = row[:8], row[9:]
            assert source[-1] == row[8] == target[-1] == end
            found[codec.decode(source[source != end])] = codec.decode(target[target != end])
    assert found == {"ab": "ABC", "cde": "DE", "fg": "FFFFFF"}
    assert manifest.details["left_out"] == {"no pair": 1, "source too long": 1, "target too long": 1}
    assert manifest.train.documents + manifest.holdout.documents == 3
    assert Batches((manifest,), data, 16, 1, 0)[0].shape == (1, 17)
    (plain,) = prepare(data_of(written, tokenizer=tokenizer, pairs=()), tmp_path, progress=False)
    assert plain.fingerprint != manifest.fingerprint and plain.directory != manifest.directory


def test_no_pair_at_all_is_one_line(written, tmp_path):
    with pytest.raises(
        InputError, match=r"data\.pairs=\(8, 8\): no row for .* of '.*pairs.jsonl'; left out: 6 no pair"
    ):
        prepare(data_of(written, between=" = "), tmp_path, progress=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seq_len": 40, "batch_tokens": 320}, r"data\.pairs=\(20, 24\) are rows of 44 tokens; expected seq_len=40"),
        ({"model.source": None}, r"model\.source=22: data\.pairs=\(20, 24\) have a source of 20 tokens; expected that"),
        ({"data.pairs": (20,)}, r"data\.pairs=\(20,\) must be two numbers of tokens"),
        (
            {"evaluation.seq_lens": (88,)},
            r"evaluation\.seq_lens=\(88,\): data\.pairs=\(20, 24\) are rows of one length",
        ),
        ({"evaluation.positions": 2}, r"evaluation\.positions=2: family='encoder_decoder' predicts targets alone"),
        ({"data.pairs": ()}, r"data\.between=' = ' has an effect only where data\.pairs are given"),
    ],
)
def test_what_does_not_fit_is_refused(tiny, options, said):
    with pytest.raises(InputError, match=said):
        freeze.freeze(tiny("encoder_decoder", **PAIRS | {"model.source": 20} | options))


def test_a_run_counts_targets_alone_and_learns(tiny, tmp_path):
    options = PAIRS | {"model.source": 20, "tokens": 352 * 60, "evaluation.tokens": 2200, "data.holdout": 0.2}
    config = tiny("encoder_decoder", **options, **{"model.depth": 1, "model.encoder_depth": 1})
    columns = run(config, tmp_path)["columns"]
    prompts = ["a b", "c"]
    texts = sample(tmp_path, prompts, tokens=5)
    assert [text.prompt for text in texts] == prompts and all(len(text.written) <= 5 for text in texts)
    with pytest.raises(InputError, match=r"model\.source=20: the prompt has 20 tokens; expected fewer"):
        sample(tmp_path, ["a" * 20])
    assert columns["loss_nats"] < math.log(27) - 0.3, "better than all letters alike"
    assert columns["params_encoder"] > 0 and columns["loss_unigram_normalised"] is None
    assert columns["eval_tokens"] < 2200 / 2
    # Every target has its end besides its letters, so that bits per byte are of fewer bytes than there are tokens.
    bits = columns["loss_nats"] / math.log(2)
    assert bits < columns["bits_per_byte"] < 1.3 * bits
    assert "entropy_nats" not in columns
