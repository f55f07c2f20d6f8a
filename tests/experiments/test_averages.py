"""Means of parameters over steps: against plain sums, saved and resumed to the bit, evaluated beside the parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run import freeze, identity
from experiments.run.schema import Averaging
from experiments.store import segments, stored_state
from experiments.store.train_state import TrainState
from experiments.training import averages, step
from models import functional
from tests.support.families import configure
from tests.support.training import assert_same_run, run

STEPS = 100  # of `configure`, each of 96 tokens
BOTH = Averaging(ema=True, ema_decay=0.9, tail=True, tail_share=0.25)


def means_of(options, values):
    """The means after every step of a run whose only parameter has these values."""
    values_run = dataclasses.replace(configure("dense"), averaging=options)
    kept = averages.of_all(values_run, {"x": jnp.float32(7.0)})
    found = []
    update = jax.jit(lambda kept, x, number: averages.updated(values_run, kept, {"x": x}, number))
    for number, value in enumerate(values, start=1):
        kept = update(kept, jnp.float32(value), jnp.int32(number))
        found.append({name: float(mean["x"]) for name, mean in kept.items()})
    return found


def test_the_exponential_mean_has_weights_that_add_up_to_one():
    values = np.random.default_rng(0).normal(size=12)
    found = means_of(BOTH, values)
    for count in (1, 2, 12):
        weights = 0.9 ** np.arange(count)[::-1]
        expected = (weights * values[:count]).sum() / weights.sum()
        assert found[count - 1]["ema"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("share", "every", "counted"),
    [
        (0.25, None, range(76, 101)),
        (0.5, 96 * 15, (55, 70, 85, 100)),
        (0.001, None, (100,)),
        (1.0, None, range(1, 101)),
        (0.5, 96 * 1000, (100,)),
    ],
)
def test_the_mean_of_the_end_is_that_of_the_steps_that_count(share, every, counted):
    """Back from the last step, as a mean of checkpoints; before them it is what the parameters are."""
    values = np.random.default_rng(0).normal(size=STEPS)
    options = Averaging(tail=True, tail_share=share, tail_every_tokens=every)
    found = [means["tail"] for means in means_of(options, values)]
    wanted = [values[number - 1] for number in counted]
    assert found[-1] == pytest.approx(np.mean(wanted), rel=1e-3, abs=1e-5)
    for before in range(1, min(counted)):
        assert found[before - 1] == pytest.approx(values[before - 1], rel=1e-6)


def test_a_run_without_means_has_the_state_and_the_name_that_it_had(tiny):
    plain, _ = freeze.freeze(tiny())
    kept, _ = freeze.freeze(tiny(**{"averaging.ema": True}))
    assert step.abstract_state(plain).averages is None
    assert TrainState({}, None, None).averages is None
    assert step.abstract_state(kept).averages["ema"].keys() == functional.abstract_params("dense", kept.model).keys()
    options = identity.to_dict(plain)
    del options["averaging"]
    assert freeze.freeze(options)[0] == plain, "files of before say nothing of it"
    assert identity.fingerprint(kept, ()) != identity.fingerprint(plain, ())


def interrupted(event):
    if event["event"] == "progress" and event["done"] >= 8:
        raise KeyboardInterrupt


def test_means_are_resumed_to_the_bit_and_are_those_of_the_checkpoints(tiny, tmp_path):
    """The mean of the last three checkpoints, and its loss, which is not the exponential mean's nor the parameters'."""
    options = {"tokens": 256 * 12, "execution.checkpoint_every_tokens": 256 * 2, "execution.steps_per_dispatch": 2}
    options |= {"execution.keep_checkpoints": 9, "execution.eval_every_tokens": 256 * 6}
    kept = {"averaging.ema": True, "averaging.ema_decay": 0.8, "averaging.tail": True}
    kept |= {"averaging.tail_share": 0.5, "averaging.tail_every_tokens": 256 * 2}
    record = run(tiny(**options, **kept), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tiny(**options, **kept), tmp_path / "again", interrupted)
    run(tiny(**options, **kept), tmp_path / "again")
    assert_same_run(tmp_path / "whole", tmp_path / "again")

    columns = record["columns"]
    losses = [columns[name] for name in ("loss_nats", "loss_ema_nats", "loss_tail_nats")]
    assert len(set(losses)) == 3 and np.isfinite(losses).all()
    assert columns["loss_ema_nats_sem"] > 0 and columns["loss_tail_nats_sem"] > 0
    evaluated = [row for row in segments.read(tmp_path / "whole") if "eval_loss" in row]
    assert [row["eval_loss_ema_nats"] for row in evaluated][-1] == columns["loss_ema_nats"]
    assert len(evaluated) == 2 and evaluated[0]["eval_loss_tail_nats"] == evaluated[0]["eval_loss"], (
        "its end has not begun"
    )

    frozen, _ = freeze.freeze(tiny(**options, **kept))
    folder = tmp_path / "whole" / "checkpoints"
    state, _ = stored_state.read_state(folder, step.abstract_state(frozen))
    digests = [stored_state.digests(folder, number) for number in (8, 10, 12)]
    assert len({digest[".params['embed']"] for digest in digests}) == 3
    saved = []
    for number in (8, 10, 12):
        alone = tmp_path / f"alone_{number}"
        alone.mkdir()
        (alone / str(number)).symlink_to(folder / str(number))
        shapes = {path: value.shape for path, value in state.params.items()}
        saved.append(stored_state.read_params(alone, shapes)[0]["embed"])
    np.testing.assert_allclose(state.averages["tail"]["embed"], np.mean(saved, axis=0), rtol=1e-4, atol=1e-6)

    without = run(tiny(**options), tmp_path / "without")
    assert without["columns"]["loss_nats"] == pytest.approx(columns["loss_nats"], rel=1e-5)
    assert "loss_ema_nats" not in without["columns"]
