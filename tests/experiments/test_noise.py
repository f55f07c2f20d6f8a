"""The gradient noise scale: what is measured between microbatches is unbiased, changes no number, and is kept over a stop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.run import freeze
from experiments.training import noise, step
import models
from models import functional
from tests.support.families import make
from tests.support.training import assert_same_run, rows, run

PARTS = 4


def one_step(tiny, measured: bool, parts: int = PARTS):
    """A step's metrics and parameters, and the gradient of each part by itself."""
    # With Adam's usual eps a parameter whose gradient is all rounding error moves by a whole learning rate.
    frozen, _ = freeze.freeze(tiny(**{"opt.eps": 1e-3, "model.depth": 1}))
    tokens = np.random.default_rng(0).integers(0, 257, (frozen.batch, frozen.seq_len + 1)).astype(np.uint16)
    state = step.init_state(frozen, frozen)
    take = jax.jit(lambda state, x: step.train_step(frozen, frozen, state, x, None, parts, "none", measured))
    after, metrics = take(state, tokens)

    @jax.jit
    def gradient(x):
        return jax.grad(lambda params: step.objective(frozen, frozen, params, x)[0])(state.params)

    of_parts = [gradient(jnp.asarray(tokens[part::parts])) for part in range(parts)]
    return frozen, after, metrics, of_parts


def squared(gradient) -> float:
    return sum(float(jnp.sum(value**2)) for value in gradient.values())


def test_what_is_measured_is_the_formula_of_the_parts_and_changes_no_number(tiny):
    frozen, after, metrics, of_parts = one_step(tiny, True)
    _, plain, without, _ = one_step(tiny, False)
    for name, value in without.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6)
    for path, value in plain.params.items():
        np.testing.assert_allclose(after.params[path], value, rtol=1e-5, atol=1e-7)
    whole = jax.tree.map(lambda *values: sum(values) / PARTS, *of_parts)
    small = np.mean([squared(one) for one in of_parts])
    large = squared(whole)
    tokens = frozen.batch_tokens
    part = tokens / PARTS
    signal = (tokens * large - part * small) / (tokens - part)
    trace = (small - large) / (1 / part - 1 / tokens)
    np.testing.assert_allclose(metrics["gradient_square"], signal, rtol=1e-4)
    np.testing.assert_allclose(metrics["gradient_variance"], trace, rtol=1e-4)
    of_groups = [float(value) for name, value in metrics.items() if name.startswith("gradient_variance/")]
    assert sum(of_groups) == pytest.approx(trace, rel=1e-4)
    heads = {path: gradient for path, gradient in of_parts[0].items() if path.startswith("head")}
    assert heads and "gradient_variance/head" in metrics


def test_estimates_are_unbiased():
    """Of gradients with a known mean and covariance, whatever the number of parts."""
    draw = np.random.default_rng(0)
    mean = draw.normal(size=50)
    deviation = 3.0  # of each entry of a sequence's gradient
    for parts in (2, 8):
        sequences = 16 // parts  # of a part
        found = []
        for _ in range(4_000):
            gradients = mean + draw.normal(size=(parts, 50)) * deviation / sequences**0.5
            of_part = {noise.ALL: np.mean(np.sum(gradients**2, axis=1))}
            of_whole = {noise.ALL: np.sum(gradients.mean(axis=0) ** 2)}
            estimate = noise.estimates(of_part, of_whole, parts, sequences * 10)
            found.append([estimate[noise.SIGNAL], estimate[noise.VARIANCE]])
        signal, variance = np.mean(found, axis=0)
        assert signal == pytest.approx(np.sum(mean**2), rel=0.03)
        assert variance == pytest.approx(50 * deviation**2 * 10, rel=0.03), "a token's, of sequences of 10"


def test_the_scale_is_a_ratio_of_means_and_does_not_depend_on_dispatches():
    draw = np.random.default_rng(0)
    metrics = {"gradient_square": 1 + draw.normal(size=400), "gradient_variance": 500 + 100 * draw.normal(size=400)}
    at_once = noise.NoiseScale()
    scales = at_once.scales(metrics)["noise_scale_tokens"]
    assert scales[-1] == pytest.approx(500, rel=0.3)
    in_two = noise.NoiseScale()
    in_two.scales({name: values[:150] for name, values in metrics.items()})
    resumed = noise.NoiseScale()
    resumed.recall(in_two.notes())
    rest = resumed.scales({name: values[150:] for name, values in metrics.items()})["noise_scale_tokens"]
    np.testing.assert_array_equal(rest, scales[150:])
    assert noise.NoiseScale().columns() == {} and np.isnan(noise.NoiseScale().scale())


@pytest.mark.parametrize("family", models.family_names())
def test_every_parameter_has_a_group(family):
    frozen, _ = make(family)
    groups = noise.groups(functional.param_info(frozen.family, frozen.model))
    assert {"embed", "norm"} <= set(groups.values())
    assert {"attention", "mixer"} & set(groups.values()) and "mlp" in groups.values()


MEASURED = {"execution.microbatches": 2, "execution.noise_scale": True, "model.depth": 1}


def test_a_run_has_it_in_its_metrics_and_columns(tiny, tmp_path):
    columns = run(tiny(**MEASURED, tokens=256 * 3), tmp_path)["columns"]
    scales = {name: value for name, value in columns.items() if name.startswith("noise_scale_tokens")}
    assert {"noise_scale_tokens", "noise_scale_tokens_attention", "noise_scale_tokens_mlp"} <= scales.keys()
    logged = rows(tmp_path)
    assert "gradient_variance/mlp" in logged[0] and "noise_scale_tokens/mlp" in logged[0]
    assert logged[-1]["eval_noise_scale_tokens"] == scales["noise_scale_tokens"]
    plain, _ = freeze.freeze(tiny(**{"model.depth": 1}, tokens=256 * 3))
    measured, _ = freeze.freeze(tiny(**MEASURED, tokens=256 * 3))
    assert measured == plain, "it is no part of a run"


@pytest.mark.slow
def test_it_goes_on_over_a_stop(tiny, tmp_path):
    options = MEASURED | {"execution.checkpoint_every_tokens": 256 * 5, "execution.steps_per_dispatch": 5}
    options |= {"tokens": 256 * 15}

    def stop(event):
        if event["event"] == "progress" and event["done"] >= 10:
            raise KeyboardInterrupt

    whole = run(tiny(**options), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tiny(**options), tmp_path / "again", stop)
    again = run(tiny(**options), tmp_path / "again")
    assert_same_run(tmp_path / "whole", tmp_path / "again")
    scales = {name: value for name, value in whole["columns"].items() if name.startswith("noise_scale_tokens")}
    assert scales and scales == {name: again["columns"][name] for name in scales}


def test_one_part_has_no_noise(tiny):
    with pytest.raises(
        InputError, match=r"noise_scale=True has an effect only where execution\.microbatches is above 1"
    ):
        freeze.freeze(tiny(**{"execution.noise_scale": True}))
