"""Held-out text of a mixture's own, and corpora of one package."""

import dataclasses
import json
import pathlib

from etils import epath
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.data.batches import Batches
from experiments.data.options import Data
from experiments.prepare import prepare
from experiments.run import freeze, identity
from experiments.store import weights as stored_weights
from experiments.training import admission, evaluate, loss, results, step
from experiments.training.clock import DeviceTime
from experiments.training.trial import Trial
from models import functional
from tests.support.training import rows
from tests.support.training import run as train_one


@pytest.fixture
def two(tmp_path: pathlib.Path) -> tuple[str, ...]:
    """Two texts with letters of their own."""
    for name, word in (("a", "abc"), ("b", "xyz")):
        for number in range(60):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{number}.txt").write_text(f"{word} {number} " * 200)
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_a_mixture_is_judged_on_a_text_of_its_own(two: tuple[str, ...], tmp_path: pathlib.Path):
    """With evaluation.weights, runs of any mixture share their held-out text, and each part has its own loss."""
    held = []
    for weights in ((0.9, 0.1), (0.1, 0.9)):
        values = {"data": {"corpus": two, "holdout": 0.2, "weights": weights}, "seq_len": 32, "batch_tokens": 256}
        run, _ = freeze.freeze(values | {"evaluation": {"weights": (1.0, 1.0), "tokens": 2_048}})
        manifests = prepare(run.data, tmp_path / "root", progress=False)
        held.append(evaluate.HeldOut(run, manifests))
        nats = np.zeros(held[-1].batches * run.batch)
        nats[: held[-1].sequence_count] = np.where(held[-1].corpus == 0, 32.0, 64.0)
        result = held[-1].result(nats.reshape(-1, run.batch, 1))
        assert result.corpus_losses == (1.0, 2.0) and result.columns["loss_part_2"] == 2.0
        assert result.loss_nats == pytest.approx(1.5, abs=0.02) and "parts" not in result.columns
    np.testing.assert_array_equal(held[0].tokens, held[1].tokens)
    with pytest.raises(InputError, match="evaluation.weights="):
        freeze.freeze({"evaluation": {"weights": (1.0, 2.0)}})
    alone, _ = freeze.freeze({})
    assert identity.fingerprint(alone, ("m",)) == "88642c69fb5f2f95", "the name of a run of before has not changed"


def test_every_mixture_is_judged_on_one_text(two: tuple[str, ...], tmp_path: pathlib.Path):
    """Without evaluation.weights the held-out text is the same for all mixtures: each corpus by the size of its own."""
    held = {}
    for weights in ((), (0.9, 0.1), (0.1, 0.9)):
        values = {"data": {"corpus": two, "holdout": 0.2, "weights": weights}, "seq_len": 32, "batch_tokens": 256}
        run, _ = freeze.freeze(values | {"evaluation": {"tokens": 2_048}})
        manifests = prepare(run.data, tmp_path / "root", progress=False)
        held[weights] = evaluate.HeldOut(run, manifests)
    for mixture in held.values():
        np.testing.assert_array_equal(mixture.tokens, held[()].tokens)
    sizes = [manifest.holdout.tokens for manifest in manifests]
    assert np.mean(held[0.1, 0.9].corpus) == pytest.approx(sizes[1] / sum(sizes), abs=0.02)


# Data weights, evaluation weights, the fingerprint when data.weights were the shares of the held-out text too.
OF_BEFORE = [
    ((), (), "6f9c83df20f9b630"),
    ((), (1.0, 1.0), "9fbeb1367d42b4d3"),
    ((0.9, 0.1), (1.0, 1.0), "3ca59b7511cb4fea"),
    ((0.9, 0.1), (), "d3030541401afcc7"),
]


@pytest.mark.parametrize(("weights", "shares", "name"), OF_BEFORE)
def test_runs_that_are_judged_otherwise_have_another_name(
    weights: tuple[float, ...], shares: tuple[float, ...], name: str
):
    values = {"data": {"corpus": ("a.txt", "b.txt"), "weights": weights}, "evaluation": {"weights": shares}}
    run, _ = freeze.freeze(values)
    judged_as_before = not weights or bool(shares)
    assert (identity.fingerprint(run, ("m", "n")) == name) is judged_as_before


def test_what_is_repeated_in_training_does_not_bind_the_held_out_text(two: tuple[str, ...], tmp_path: pathlib.Path):
    """Half of the unique tokens would be more than the small part holds; a tenth of them is not."""
    (tmp_path / "b" / "0.txt").write_text("short")
    for number in range(20, 60):
        (tmp_path / "b" / f"{number}.txt").unlink()
    data = {"corpus": two, "holdout": 0.2, "weights": (0.9, 0.1), "unique_tokens": 60_000}
    run, _ = freeze.freeze(
        {"data": data, "seq_len": 32, "batch_tokens": 256, "evaluation": {"weights": (1.0, 1.0), "tokens": 1_024}}
    )
    held = evaluate.HeldOut(run, prepare(run.data, tmp_path / "root", progress=False))
    assert abs(np.mean(held.corpus) - 0.5) < 0.02


def test_a_package_of_the_embedded_corpus(tmp_path: pathlib.Path):
    """Its text only; the whole corpus keeps its identity."""
    (manifest,) = prepare(Data(corpus=("embedded/absl-py:1",), holdout=0.1), tmp_path, progress=False)
    assert 50_000 < manifest.train.bytes < 1_000_000 and set(manifest.details["packages"]) == {"absl-py"}
    with pytest.raises(InputError, match=r"embedded/numpyy.*did you mean 'numpy'"):
        prepare(Data(corpus=("embedded/numpyy",)), tmp_path, progress=False)


def test_the_last_batch_is_filled_up_with_text(tiny):
    """Experts that choose among all tokens of a batch choose from what fills it up as well: from text, not from zeros."""
    run, execution = freeze.freeze(tiny("moe", **{"model.mode": "expert_choice", "evaluation.tokens": 10 * 32}))
    held = evaluate.HeldOut(run, prepare(run.data, execution.data_root, progress=False))
    assert (held.sequence_count, run.batch, held.batches) == (10, 8, 2)
    counted = held.tokens.reshape(16, -1)[:10]
    assert {row.tobytes() for row in held.tokens[1, 2:]} <= {row.tobytes() for row in counted}
    # An empty sequence would change the loss of the others.
    initial = functional.init_params(run.family, run.model, run.seed)
    params = {path: 5 * value for path, value in initial.items()}  # so that experts matter
    emptied = held.tokens[1].copy()
    emptied[2:] = 0
    among_zeros = step.eval_step(run, params, jnp.asarray(emptied))
    nats = np.stack([step.eval_step(run, params, jnp.asarray(batch)) for batch in held.tokens])
    assert not np.allclose(nats[1, :2], among_zeros[:2], rtol=1e-4)
    other = nats.copy()
    other[1, 2:] = 1e9
    assert held.result(nats) == held.result(other), "what fills a batch up does not count"


def test_losses_by_position_and_at_other_lengths(tiny, tmp_path: pathlib.Path):
    """They are those of the model by hand: stretches of the sequences, and sequences of another length."""
    options = {"tokens": 256 * 2, "model.depth": 1, "evaluation.positions": 4, "evaluation.seq_lens": (64,)}
    recorded = train_one(tiny(**options), tmp_path / "run")
    columns = recorded["columns"]
    run, execution = freeze.freeze(tiny(**options))
    stored = stored_weights.load(tmp_path / "run").params
    params = {path: jnp.asarray(value) for path, value in stored.items()}
    manifests = prepare(run.data, execution.data_root, progress=False)
    for seq_len in (32, 64):
        tokens = evaluate.HeldOut(run, manifests, seq_len).tokens.reshape(-1, seq_len + 1)
        tokens = tokens[: run.evaluation.tokens // seq_len].astype(np.int32)
        logits = functional.apply(run.family, run.model, params, jnp.asarray(tokens[:, :-1])).logits_BLV
        nats, _ = loss.cross_entropy(logits, jnp.asarray(tokens[:, 1:]))
        assert columns[f"loss_len_{seq_len}"] == pytest.approx(float(nats.mean()), rel=1e-5)
        if seq_len == run.seq_len:
            by_position = nats.mean(axis=0).reshape(4, -1).mean(axis=1)
    found = [columns[f"loss_position_{number}"] for number in (1, 2, 3, 4)]
    np.testing.assert_allclose(found, by_position, rtol=1e-5)
    assert np.mean(found) == pytest.approx(columns["loss_nats"]) and columns["loss_len_32"] == columns["loss_nats"]
    evaluated = [row for row in rows(tmp_path / "run") if "eval_loss" in row]
    assert evaluated[-1]["eval_loss_position_4"] == found[3] and "eval_loss_len_64" in evaluated[-1]
    assert columns["devices"] == 1 and columns["kwh"] is None, "what a CPU takes is not known"
    assert columns["accelerator_seconds"] == columns["wall_seconds"]


def test_other_lengths_do_not_bind_what_is_repeated(two: tuple[str, ...], tmp_path: pathlib.Path):
    """A run may repeat its text to the last token, also where that is no target at another length."""
    data = Data(corpus=two[:1], holdout=0.2)
    (manifest,) = prepare(data, tmp_path / "root", progress=False)
    there = manifest.train.tokens
    divisor = next((length for length in range(2, 500) if there % length == 0), 1)
    seq_len = next(length for length in (31, 29) if there % length)
    options = {
        "seq_len": seq_len,
        "batch_tokens": 8 * seq_len,
        "data": dataclasses.asdict(data) | {"unique_tokens": there},
    }
    run, _ = freeze.freeze(options | {"evaluation": {"tokens": 4_096, "seq_lens": (divisor,)}})
    assert len(Batches([manifest], run.data, seq_len, 8, seed=0)[0]) == 8
    assert evaluate.other_lengths(run, (manifest,)).keys() == {divisor}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"evaluation.positions": 5}, r"evaluation\.positions=5 does not divide seq_len=32"),
        ({"evaluation.seq_lens": (64, 32)}, r"evaluation\.seq_lens=\(64, 32\): loss_nats is that of seq_len=32"),
        ({"evaluation.seq_lens": (4_096,)}, r"evaluation\.seq_lens=\(4096,\): expected numbers from 1 to .*=2048"),
        (
            {"evaluation.seq_lens": (64,), "model.position": "learned"},
            r"evaluation\.seq_lens=\(64,\): model\.positions=32 is less than",
        ),
    ],
)
def test_lengths_that_cannot_be(tiny, options: dict, said: str):
    with pytest.raises(InputError, match=said):
        freeze.freeze(tiny(**options))


def test_energy_is_that_of_the_chips():
    assert results.energy(8, {"NVIDIA H100 80GB HBM3": 7_200.0})["kwh"] == pytest.approx(1.4)
    assert results.energy(8, {"TPU v4": 7_200.0})["kwh"] == pytest.approx(0.384)
    assert results.energy(8, {"TPU v5e": 7_200.0}) == {"devices": 8, "accelerator_seconds": 7_200.0, "kwh": None}


def test_a_run_that_goes_on_elsewhere_has_the_energy_of_each_place(tiny, tmp_path: pathlib.Path):
    """Hours on four chips of a TPU, then hours on two of another kind; of seconds of unknown devices none is known."""
    run, execution = freeze.freeze(tiny())
    corpora = {run.data: prepare(run.data, execution.data_root, progress=False)}
    (admitted,) = admission.admit([run], [epath.Path(tmp_path / "run")], corpora, execution)

    def placed(kind: str, devices: int) -> Trial:
        trial = admitted.start(execution)
        trial.on = DeviceTime(devices, kind)
        return trial

    first = placed("TPU v4", 4)
    first.shares["step"] += 900.0
    second = placed("NVIDIA H100 80GB HBM3", 2)
    second.recall(5, json.loads(json.dumps(first.notes)))
    second.shares["step"] += 900.0
    found = results.energy(2, second.on.spent(second.seconds))
    assert found["accelerator_seconds"] == 6 * 900
    assert found["kwh"] == pytest.approx(4 * 900 * 0.384 / 7_200 + 2 * 900 * 1.4 / 7_200)
    third = placed("NVIDIA H100 80GB HBM3", 2)
    third.recall(5, {"seconds": 900.0, "accelerator_seconds": 3_600.0})
    third.shares["step"] += 900.0
    of_before = results.energy(2, third.on.spent(third.seconds))
    assert of_before == {"devices": 2, "accelerator_seconds": 5_400.0, "kwh": None}
