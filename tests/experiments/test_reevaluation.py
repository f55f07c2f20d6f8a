"""Runs that take no step: trained ones, rounded, with other experts a token, at other positions; what is refused of them."""

import functools

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import prepare
from experiments.cli import InputError
from experiments.run import freeze, options_table
from experiments.store import inherit, record, weights
from experiments.training import step
from experiments.training.evaluate import HeldOut, other_lengths
from experiments.training.trial import Trial
from models.numerics import formats
from sweeps.study.cells import freeze_points
from sweeps.study.grid import cases, chain, reevaluate, tag
from tests.support.training import arrays, run

STEPS = 12
# Weights so large that attention does something from the first step on.
TRUNKS = {
    "dense": {"init_std": 0.3, "quant_weight": "int8"},
    "moe": {"init_std": 0.3, "expert_ff": 24},
    "tokenformer": {"init_std": 0.3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trunks")


@pytest.fixture
def trained(tiny, folder):
    """Gives the folder of a trained run of a family, and a maker of configs of runs that take no step behind it."""

    def of_family(family):
        own = {f"model.{name}": value for name, value in TRUNKS[family].items()}
        path = folder / family
        run(tiny(family, **own, tokens=256 * STEPS, **{"evaluation.seq_lens": (64,)}), path)
        fingerprint = record.read(path / "record.json")["fingerprint"]
        place = {"parent": fingerprint, "execution.parent_workdir": str(path), "opt.lr": 2e-3, "tokens": 0}

        def config(**options):
            return tiny(family, **own | place | {"evaluation.seq_lens": (64,)} | options)

        return path, config

    return of_family


def evaluated(config, params):
    """The held-out loss at each length of these parameters under a config, without a run."""
    one, execution = freeze.freeze(config)
    manifests = prepare.prepare(one.data, execution.data_root, progress=False)
    evaluate = jax.jit(functools.partial(step.eval_step, one))
    losses = {}
    for seq_len, held_out in {one.seq_len: HeldOut(one, manifests), **other_lengths(one, manifests)}.items():
        nats_SBP = np.stack([evaluate(params, tokens) for tokens in held_out.tokens])
        losses[seq_len] = held_out.result(nats_SBP).loss_nats
    return losses


def test_a_parent_evaluated_again_is_the_parent(tiny, tmp_path, trained):
    """Bit for bit, its optimizer's state too; it costs nothing, and a child of it goes on as one of its parent would."""
    path, config = trained("dense")
    before = record.read(path / "record.json")["columns"]
    found = run(config(), tmp_path / "again")["columns"]
    assert found["loss_nats"] == found["parent_loss_nats"] == before["loss_nats"] and found["added_loss"] == 0
    assert found["loss_len_64"] == before["loss_len_64"]
    assert found["steps_done"] == found["tokens"] == found["flops_total"] == 0
    assert found["lineage_tokens"] == before["tokens"] and found["flops_lineage"] == before["flops_total"]
    assert found["unique_tokens"] == before["unique_tokens"]
    (at, mine), (_, theirs) = arrays(tmp_path / "again"), arrays(path)
    assert at == 0
    for name, array in theirs.items():
        if name != ".step":
            np.testing.assert_array_equal(np.asarray(mine[name]), np.asarray(array), err_msg=name)

    def goes_on(parent):
        place = {"parent": record.read(parent / "record.json")["fingerprint"], "execution.parent_workdir": str(parent)}
        one, execution = freeze.freeze(config(**place, tokens=256 * 4))
        manifests = prepare.prepare(one.data, execution.data_root, progress=False)
        found = inherit.find(one, epath.Path(tmp_path / "x"), execution)
        return Trial(one, "x", epath.Path(tmp_path / "x"), manifests, execution, found)

    ours, direct = goes_on(tmp_path / "again"), goes_on(path)
    assert ours.lineage == direct.lineage
    np.testing.assert_array_equal(ours.sequences(0, 4), direct.sequences(0, 4))


CHANGES = [
    pytest.param("moe", {"model.top_k": 4}, id="top_k"),
    pytest.param("dense", {"model.rope_theta": 500.0, "model.rope_scale": 2.0, "model.window": 16}, id="positions"),
    pytest.param("tokenformer", {"model.rope_scale": 2.0}, id="tokenformer", marks=pytest.mark.slow),
    pytest.param("dense", {"model.quant_weight": "e2m1b8", "model.quant_act": "int8"}, id="rounded"),
]


@pytest.mark.parametrize(("family", "options"), CHANGES)
def test_other_options_are_those_of_the_evaluation(tmp_path, trained, family, options):
    path, config = trained(family)
    found = run(config(**options), tmp_path / "child")["columns"]
    expected = evaluated(config(**options), weights.load(path).params)
    assert found["loss_nats"] == pytest.approx(expected[32], rel=1e-6)
    assert found["loss_len_64"] == pytest.approx(expected[64], rel=1e-6)
    before = record.read(path / "record.json")["columns"]["loss_nats"]
    assert found["parent_loss_nats"] == before and found["added_loss"] == found["loss_nats"] - before
    assert abs(found["added_loss"]) > 1e-5


@pytest.mark.parametrize(("family", "text"), [("dense", "e2m1b8"), ("moe", "int4")])
def test_a_rounded_child_is_its_parent_with_rounded_matrices(tmp_path, trained, family, text):
    """Every matrix of a linear layer, along the axis that it contracts; not the embedding, the head, norms and routers."""
    path, config = trained(family)
    found = run(config(**{"model.quant_weight": text}), tmp_path / "child")["columns"]
    form = formats.parse(text)
    rounded = {}
    for name, array in weights.load(path).params.items():
        of_layers = name.startswith("blocks/") and "router" not in name and array.ndim >= 3
        rounded[name] = np.asarray(formats.quantize(jnp.asarray(array), form, -2)) if of_layers else array
    expected = evaluated(config(**{"model.quant_weight": None}), rounded)
    assert found["loss_nats"] == pytest.approx(expected[32], rel=1e-6)
    assert found["added_loss"] > 1e-4


def test_positions_that_are_divided_are_those_of_a_shorter_text():
    from models.blocks.layers import rotary

    x = jax.random.normal(jax.random.key(0), (1, 8, 2, 6))
    whole = np.asarray(rotary(x, 1e4))
    np.testing.assert_allclose(np.asarray(rotary(x, 1e4, scale=2.0))[:, ::2], rotary(x[:, ::2], 1e4), rtol=1e-5)
    np.testing.assert_array_equal(rotary(x, 1e4, scale=1.0), whole)


REFUSED = [
    ({"model.width": 64}, ["model.width=64", "32", "tokens=0"]),
    ({"model.depth": 6}, ["model.depth=6", "3", "tokens=0"]),
    ({"model.norm": "layer"}, ["model.norm='layer'", "'rms'", "tokens=0"]),
    ({"opt.lr": 0.5}, ["opt.lr=0.5", "tokens"]),
    ({"schedule.name": "constant"}, ["schedule.name='constant'", "tokens=0"]),
    ({"averaging.ema": True, "opt.lr": 0.1}, ["averaging.ema=True", "opt.lr=0.1", "tokens=0: expected 0.002, False"]),
    ({"loss.z_loss": 1e-4}, ["loss.z_loss=0.0001", "tokens=0"]),
    ({"growth.noise": 0.1}, ["growth.noise=0.1", "tokens=0"]),
    ({"tokens": 1}, ["tokens=1", "batch_tokens=256"]),
    ({"parent": None, "execution.parent_workdir": None}, ["tokens=0", "parent"]),
    ({"model.quant_weight": "int9"}, ["model.quant_weight='int9'"]),
]


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=lambda value: "-".join(value))
def test_what_may_not_differ_is_refused_in_one_line(tmp_path, trained, options, words):
    _, config = trained("dense")
    with pytest.raises(InputError) as refused:
        run(config(**options), tmp_path / "child")
    text = str(refused.value)
    assert "\n" not in text and all(word in text for word in words), text
    assert not (tmp_path / "child").exists()


def test_judged_by_other_text_nothing_is_said_to_be_added(tmp_path, trained):
    _, config = trained("dense")
    found = run(config(**{"evaluation.tokens": 1_024}), tmp_path / "fewer")["columns"]
    assert found["parent_loss_nats"] is None and "added_loss" not in found
    found = run(config(seq_len=64, **{"evaluation.seq_lens": ()}), tmp_path / "longer")["columns"]
    assert found["parent_loss_nats"] is None and found["lineage_tokens"] == 256 * STEPS


def test_a_study_has_trained_runs_evaluated_again():
    """Children have what describes model, data and evaluation, and nothing of the training."""
    base = {"model.width": 16, "model.heads": 2, "model.depth": 1, "batch_tokens": 256, "seq_len": 32, "tokens": 2_560}
    base |= {"opt.name": "lion", "opt.lr": 1e-3, "schedule.warmup_tokens": 256, "growth.continue_data": True}
    trunk = cases(base | {"averaging.ema": True})
    rounded = reevaluate(trunk, cases({"model.quant_weight": "int4"}, {"model.quant_weight": "int2"}))
    cells = freeze_points(chain(tag(trunk, group="trunk"), tag(rounded, group="rounded")))
    assert [cell.run.model.quant_weight for cell in cells] == [None, "int4", "int2"]
    for cell in cells[1:]:
        assert cell.parent.run == cells[0].run and cell.run.steps == 0 and cell.run.opt.name == "lion"
        assert cell.run.model.width == 16 and not cell.run.averaging.ema
    with pytest.raises(InputError, match=r"model.width=32 differs from the parent's 16"):
        freeze_points(reevaluate(trunk, cases({"model.width": 32, "model.heads": 4})))


def test_the_table_of_options_says_what_a_child_may_differ_in():
    rows = {row.name: row.child for row in options_table.rows("moe")}
    said = {name: rows[f"model.{name}"] for name in ("top_k", "rope_theta", "quant_weight", "width", "experts")}
    assert said == {
        "top_k": "free",
        "rope_theta": "free",
        "quant_weight": "free",
        "width": "more",
        "experts": "the same",
    }
