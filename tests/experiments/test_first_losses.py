"""The same config gives the same start: initial parameters and first losses are those that were recorded once.

A change of code that is meant to change no number has to leave these as they are; one that is meant to changes
NUMERICS_VERSION, and then the golden file. Processors differ in the last bits, hence a tolerance.
"""

import json

import jax
import numpy as np
import pytest

from experiments.configs import default
from experiments.run.freeze import freeze
from experiments.training import step
import models
from models import functional
from tests.support.paths import GOLDEN

RECORDED = json.loads((GOLDEN / "first_losses.json").read_text())
SIZES = {"width": 64, "depth": 2}
WITH_HEADS = ("dense", "encoder_decoder", "moe", "tokenformer")


def small_run(family: str):
    """The default run of a family, made small."""
    config = default.get_config(family)
    with config.ignore_type():
        config.model.update(SIZES)
        if family in WITH_HEADS:
            config.model.heads = 4
    run, _ = freeze(config)
    return run


def test_every_family_is_recorded():
    assert set(RECORDED) == set(models.family_names())


@pytest.mark.parametrize("family", RECORDED)
def test_parameters_and_losses_start_as_recorded(family: str):
    run = small_run(family)
    params = functional.init_params(run.family, run.model, run.seed)
    squares = [np.square(np.asarray(leaf, np.float64)).sum() for leaf in params.values()]
    assert np.sqrt(sum(squares)) == pytest.approx(RECORDED[family]["norm"], rel=1e-6)

    shape = (8, run.seq_len + 1)
    tokens = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint16)
    state = jax.jit(lambda: step.init_state(run, run))()
    take_step = jax.jit(lambda state, tokens: step.train_step(run, run, state, tokens))
    losses = []
    for _ in RECORDED[family]["losses"]:
        state, metrics = take_step(state, tokens)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, RECORDED[family]["losses"], rtol=2e-5)
