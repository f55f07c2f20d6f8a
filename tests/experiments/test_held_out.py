"""Held-out text of a mixture's own, and corpora of one package."""

import pathlib

import numpy as np
import pytest

from experiments.cli import InputError
from experiments.data.options import Data
from experiments.prepare import prepare
from experiments.run import freeze, identity
from experiments.training import evaluate


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
        result = held[-1].result(nats.reshape(-1, run.batch))
        assert result.corpus_losses == (1.0, 2.0) and result.columns["loss_part_2"] == 2.0
        assert result.loss_nats == pytest.approx(1.5, abs=0.02) and "parts" not in result.columns
    np.testing.assert_array_equal(held[0].tokens, held[1].tokens)
    with pytest.raises(InputError, match="evaluation.weights="):
        freeze.freeze({"evaluation": {"weights": (1.0, 2.0)}})
    alone, _ = freeze.freeze({})
    assert identity.fingerprint(alone, ("m",)) == "88642c69fb5f2f95", "the name of a run of before has not changed"


def test_a_package_of_the_embedded_corpus(tmp_path: pathlib.Path):
    """Its text only; the whole corpus keeps its identity."""
    (manifest,) = prepare(Data(corpus=("embedded/absl-py:1",), holdout=0.1), tmp_path, progress=False)
    assert 50_000 < manifest.train.bytes < 1_000_000 and set(manifest.details["packages"]) == {"absl-py"}
    with pytest.raises(InputError, match=r"embedded/numpyy.*did you mean 'numpy'"):
        prepare(Data(corpus=("embedded/numpyy",)), tmp_path, progress=False)
