"""Text from a model: the same for a seed whatever else is written, whole characters, and a corpus that can be read."""

import io
import json

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sample as command
from experiments.cli import InputError
from experiments.data import tokenizer
from experiments.data.options import Data
from experiments.prepare import prepare
from experiments.sample import sample
from experiments.sampling.choice import Choice, choose
from experiments.sampling.text import Writer
from experiments.store import weights
import models
from models import functional
from tests.support.commands import run_command
from tests.support.training import run as train_run

PROMPTS = ["naïve 日本", "", "a", "the same beginning and some more of it"]


def text_of(found):
    return [one.text for one in found]


def write_weights(folder, family="dense", length=64, **options):
    """A folder of weights over bytes whose logits differ enough for a draw to have a favourite."""
    values = {"width": 32, "depth": 2, "init_std": 0.3} | options
    cfg = models.load(family).Config(**values).resolve(264, length)
    weights.save(folder, family, cfg, functional.init_params(family, cfg, 0), length)
    return str(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "dense", heads=4)


def test_a_seed_is_a_text_whatever_is_written_beside_it(source):
    options = {"tokens": 40, "tokenizer": "bytes", "seed": 5}
    many = sample(source, PROMPTS, 9, **options)
    assert [one.prompt for one in many[::9]] == PROMPTS
    assert len({one.written for one in many}) == len(many)
    for number, prompt in enumerate(PROMPTS):
        alone = sample(source, [prompt], 2, **options)
        assert text_of(alone) == text_of(many[9 * number : 9 * number + 2])
    assert text_of(sample(source, PROMPTS, 9, **options | {"seed": 6})) != text_of(many)


def test_greedy_follows_the_likeliest_token_of_the_full_pass(source):
    (found,) = sample(source, ["ab"], tokens=12, tokenizer="bytes", choice=Choice(temperature=0))
    model = weights.load(source)
    params = {path: jnp.asarray(array) for path, array in model.params.items()}
    full = jax.jit(lambda tokens_BL: functional.apply(model.family, model.cfg, params, tokens_BL).logits_BLV)
    codec = tokenizer.Bytes()
    ids = [codec.separator, *b"ab"]
    for _ in range(12):
        padded = [*ids, *[0] * (16 - len(ids))]
        logits_BLV = full(jnp.asarray([padded]))
        ids.append(int(np.argmax(logits_BLV[0, len(ids) - 1, : codec.vocab_size])))
        if ids[-1] == codec.separator:
            break
    assert found.text == codec.decode([index for index in ids if index != codec.separator]).rstrip("\ufffd")


def test_a_text_is_one_document_of_a_model_that_sees_no_other(source, tmp_path):
    masked = write_weights(tmp_path / "masked", heads=4, document_mask=True, separator=256)
    options = {"prompts": ["ab"], "tokens": 20, "tokenizer": "bytes"}
    assert text_of(sample(masked, **options)) == text_of(sample(source, **options))


def test_choices_keep_what_they_say():
    logits_BV = np.log(np.array([[0.5, 0.25, 0.15, 0.1]]))
    keys = jax.random.split(jax.random.key(0), 2000)
    rows = np.repeat(logits_BV, 2000, axis=0)

    def shares(choice):
        return np.bincount(np.asarray(choose(rows, keys, choice)), minlength=4) / 2000

    np.testing.assert_allclose(shares(Choice()), [0.5, 0.25, 0.15, 0.1], atol=0.04)
    np.testing.assert_allclose(shares(Choice(temperature=0.5)), np.array([100, 25, 9, 4]) / 138, atol=0.04)
    np.testing.assert_allclose(shares(Choice(top_k=2)), [2 / 3, 1 / 3, 0, 0], atol=0.04)
    np.testing.assert_allclose(shares(Choice(top_p=0.7)), [2 / 3, 1 / 3, 0, 0], atol=0.04)
    np.testing.assert_allclose(shares(Choice(top_p=0.01)), [1, 0, 0, 0])
    np.testing.assert_allclose(shares(Choice(top_k=3, top_p=0.8)), [2 / 3, 1 / 3, 0, 0], atol=0.04)
    np.testing.assert_allclose(shares(Choice(temperature=0)), [1, 0, 0, 0])


@pytest.mark.parametrize(
    ("written", "stops", "pieces", "text"),
    [
        ("aé日🎉b", (), ["a", "é", "日", "🎉", "b"], "aé日🎉b"),
        ("one\n\ntwo", ("\n\n",), ["o", "n", "e"], "one"),
        ("one\ntwo", ("\n\n",), ["o", "n", "e", "\nt", "w", "o"], "one\ntwo"),
        ("abc", ("bc", "b"), ["a"], "a"),
    ],
)
def test_text_comes_in_whole_characters_and_ends_before_a_stop(written, stops, pieces, text):
    writer = Writer(tokenizer.Bytes(), [], stops)
    found = []
    for byte in written.encode():
        found.append(writer.add(byte))
        if writer.stopped:
            break
    found.append(writer.end(cut=True))
    assert [piece for piece in found if piece] == pieces
    assert writer.text == text


def test_a_character_that_is_cut_off_is_left_out_and_one_that_is_broken_is_marked():
    for cut, text in ((True, "a"), (False, "a\ufffd")):
        writer = Writer(tokenizer.Bytes(), [], ())
        for byte in "a日".encode()[:3]:
            writer.add(byte)
        writer.end(cut=cut)
        assert writer.text == text


@pytest.mark.slow
def test_a_run_of_a_mesh_with_a_trained_tokenizer_writes_a_corpus_that_can_be_trained_on(tiny, tmp_path, data_root):
    options = {"execution.mesh.data": None, "execution.mesh.fsdp": 2, "data.tokenizer": "bpe:300", "tokens": 256 * 4}
    train_run(tiny("min_gru", **options), tmp_path / "run")
    flags = (f"--source={tmp_path}/run", f"--data_root={data_root}", "--tokens=50", "--seed=3")
    out = tmp_path / "texts.jsonl"
    for number in (1, 20):  # its own file may be replaced
        done = run_command("experiments.sample", *flags, f"--documents={number}", f"--out={out}")
        assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert len(rows) == 20 and {row["end"] for row in rows} <= {"separator", "tokens"}
    shown = run_command("experiments.sample", *flags)
    as_printed = io.StringIO(rows[0]["text"], newline=None).read()  # a carriage return is a line's end to who reads
    assert shown.stdout == as_printed + "\n"
    (manifest,) = prepare(Data(corpus=(str(out),)), epath.Path(tmp_path / "data"), progress=False)
    found = manifest.train.documents + manifest.holdout.documents
    assert found == sum(bool(row["text"].strip()) for row in rows)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"temperature": -1.0}, "--temperature=-1.0; expected 0"),
        ({"temperature": 0.0, "top_k": 3}, "--top_k has an effect only where --temperature is above 0"),
        ({"temperature": 1.0, "top_p": 0.0}, "--top_p=0.0; expected a share above 0"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(source, flags, message):
    with pytest.raises(InputError, match=message):
        sample(source, tokenizer="bytes", choice=Choice(**flags))


def test_what_a_model_cannot_write_is_refused(source, tmp_path):
    with pytest.raises(InputError, match="--tokenizer is missing: .* is no run"):
        sample(source)
    with pytest.raises(InputError, match="--tokenizer='gone.json': no such file"):
        sample(source, tokenizer="gone.json")
    with pytest.raises(InputError, match="model.json is missing"):
        sample(str(tmp_path), tokenizer="bytes")
    with pytest.raises(InputError, match="--stop is empty"):
        sample(source, tokenizer="bytes", stops=[""])
    moe = {"heads": 4, "experts": 4}
    chooses = write_weights(tmp_path / "chooses", "moe", mode="expert_choice", **moe)
    with pytest.raises(InputError, match="model.mode='expert_choice': a token's experts depend on later tokens"):
        sample(chooses, tokenizer="bytes")
    learned = write_weights(tmp_path / "learned", heads=4, position="learned")
    for limited in (learned, write_weights(tmp_path / "capacity", "moe", mode="capacity", **moe)):
        with pytest.raises(InputError, match="--tokens=62 behind a prompt of 3 .* of at most 64; expected fewer"):
            sample(limited, ["ab"], tokens=62, tokenizer="bytes")
    assert sample(learned, ["ab"], tokens=61, tokenizer="bytes")[0].end
    with pytest.raises(InputError, match="--documents=2 would be the same text"):
        sample(source, documents=2, tokenizer="bytes", choice=Choice(temperature=0))


def test_prompts_come_from_a_flag_a_file_or_standard_input(monkeypatch, tmp_path):
    given = dict.fromkeys(("prompt", "prompt_file"))
    monkeypatch.setattr(command, "flags", type("", (), {"FLAGS": type("", (), given)}))
    FLAGS = command.flags.FLAGS
    assert command._prompts() == [""]
    FLAGS.prompt_file = str(tmp_path / "one.txt")
    (tmp_path / "one.txt").write_text("two\nlines\n")
    assert command._prompts() == ["two\nlines\n"]
    FLAGS.prompt_file = "-"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("päd".encode())))
    assert command._prompts() == ["päd"]
    FLAGS.prompt_file = str(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a\u2028", "text": "ab"}\n{"text": "c"}\n')
    assert command._prompts() == ["a\u2028", "c"]
    (tmp_path / "rows.jsonl").write_text('{"text": "c"}\n[1]\n')
    with pytest.raises(InputError, match="rows.jsonl:2: no row with a text in `prompt` or `text`"):
        command._prompts()
    FLAGS.prompt = "x"
    with pytest.raises(InputError, match="--prompt and --prompt_file are both given"):
        command._prompts()
