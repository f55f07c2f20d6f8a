"""What the benchmark compares is the same on both sides."""

import jax
import numpy as np
import pytest

from experiments import benchmark
from experiments.benchmarks import processes, torch_step
from experiments.run.freeze import freeze
from experiments.training import step
from models import functional

TINY = {"width": 32, "depth": 2, "heads": 2, "batch": 2, "seq_len": 16}
STEPS = 3


@pytest.mark.hf
def test_torch_and_ours_take_the_same_steps():
    pytest.importorskip("torch")
    config = processes.config_of(TINY)
    run, _ = freeze(config | {"schedule": {"name": "constant", "warmup_tokens": 0}})
    draw = np.random.default_rng(0)
    tokens_BT = draw.integers(0, 256, (run.batch, run.seq_len + 1))

    take = torch_step.TorchStep(run, tokens_BT)
    theirs = [take() for _ in range(STEPS)]

    state = step.init_state(run, run)
    ours = []
    for _ in range(STEPS):
        state, metrics = jax.jit(step.train_step, static_argnums=(0, 1))(run, run, state, tokens_BT)
        ours.append(float(metrics["loss"]))
    assert theirs == pytest.approx(ours, abs=2e-4)
    assert set(take.weights) == set(functional.param_shapes(run.family, run.model))


@pytest.mark.skipif(torch_step.missing() is None, reason="torch is installed here")
def test_without_torch_its_part_says_so():
    (row,) = benchmark.bench_torch_steps(rounds=1)
    assert row == {"left out": "torch is not installed; pip install -r requirements-hf.txt"}
