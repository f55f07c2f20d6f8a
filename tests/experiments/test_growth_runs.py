"""Runs with a parent: continued, grown, killed and resumed, packed, sharded, in studies; what they are charged."""

import functools
import json
import pathlib
import random
import shutil

from etils import epath
import jax
import numpy as np
import pandas as pd
import pytest

from analysis.procedures.growth import speedup
from experiments import prepare, train
from experiments.cli import InputError
from experiments.run import freeze
from experiments.store import inherit, lineage, record, stored_state, weights
from experiments.training import step
from experiments.training.trial import Trial
from models.growing.options import Growth
from sweeps.study import file
from sweeps.study.cells import freeze_points
from sweeps.study.grid import branch, cases, chain, over, tag
from sweeps.work import populations, workdir
from tests.support.commands import run_command
from tests.support.training import (
    OFTEN,
    arrays,
    assert_kills_change_nothing,
    assert_same_run,
    rows,
    run,
    write_config,
)

HOLD = {"schedule.name": "constant"}


def frozen(config):
    return freeze.freeze(config)[0]


def fingerprint(directory):
    return record.read(pathlib.Path(directory) / "record.json")["fingerprint"]


def child_of(tiny, parent, family="dense", **options):
    values = {"parent": fingerprint(parent), "execution.parent_workdir": str(parent), **HOLD, **options}
    return tiny(family, **values)


@pytest.fixture(scope="module")
def trunk_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trunk")


@pytest.fixture
def trunk(tiny, trunk_folder):
    """A parent of 3 layers, trained for 20 steps at a constant rate."""
    run(tiny(tokens=256 * 20, **HOLD), trunk_folder / "trunk")
    return trunk_folder / "trunk"


def trial_of(config, directory):
    one, execution = freeze.freeze(config)
    manifests = prepare.prepare(one.data, execution.data_root, progress=False)
    parent = inherit.find(one, epath.Path(directory), execution)
    return Trial(one, "x", epath.Path(directory), manifests, execution, parent)


def fresh_state(one):
    return jax.tree.map(np.asarray, step.init_state(one, one))


def test_a_continuation_is_the_longer_run(tiny, tmp_path, trunk):
    """20 steps, then 20 of a child with the parent's optimizer: the losses and parameters of 40 steps, bit for bit."""
    result = run(child_of(tiny, trunk, tokens=256 * 20), tmp_path / "child")
    run(tiny(tokens=256 * 40, **HOLD), tmp_path / "whole")
    later = [r["loss"] for r in rows(tmp_path / "whole") if "loss" in r and r["step"] in (30, 40)]
    assert [r["loss"] for r in rows(tmp_path / "child") if "loss" in r and r["step"] in (10, 20)] == later
    ours, theirs = arrays(tmp_path / "child")[1], arrays(tmp_path / "whole")[1]
    for name in ours:
        if name != ".step":
            np.testing.assert_array_equal(np.asarray(ours[name]), np.asarray(theirs[name]), err_msg=name)
    whole = record.read(tmp_path / "whole" / "record.json")["columns"]
    assert result["columns"]["loss_nats"] == whole["loss_nats"]
    assert result["columns"]["tokens"] == 256 * 20 and result["columns"]["lineage_tokens"] == 256 * 40
    assert whole["lineage_tokens"] == whole["tokens"] and whole["flops_lineage"] == whole["flops_total"]
    assert result["columns"]["flops_lineage"] == whole["flops_total"]


def test_a_grown_run_starts_fresh_where_the_text_stands(tiny, tmp_path, trunk):
    config = child_of(
        tiny, trunk, **{"model.depth": 6, "batch_tokens": 512, "tokens": 512 * 6, "opt.lr": 3e-3, "seed": 5}
    )
    one, trial = frozen(config), trial_of(config, tmp_path / "child")
    parent, _ = stored_state.read_state(trunk / "checkpoints", fresh_state(frozen(tiny(tokens=256 * 20, **HOLD))))
    state = trial.inherited(fresh_state(one))
    for path, value in state.params.items():
        before = parent.params[path]
        expected = np.concatenate([before, before]) if path.startswith("blocks") else before
        np.testing.assert_array_equal(value, expected, err_msg=path)
    assert state.step == 0 and all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(state.opt)), "fresh moments"
    # The order is the one that the trunk (of another seed and batch) has chosen, from where it ended.
    trunk_trial = trial_of(tiny(tokens=256 * 20, **HOLD), tmp_path / "trunk")
    np.testing.assert_array_equal(trial.sequences(0, 2), trunk_trial.sequences(20, 24))
    again = trial_of(child_of(tiny, trunk, **{"growth.continue_data": False, "tokens": 256 * 2}), tmp_path / "again")
    np.testing.assert_array_equal(again.sequences(0, 2), trunk_trial.sequences(0, 2))
    result = run(config, tmp_path / "child")["columns"]
    flops = record.read(trunk / "record.json")["columns"]["flops_total"] + result["flops_total"]
    assert result["flops_lineage"] == pytest.approx(flops, rel=1e-12) and result["lineage_tokens"] == 256 * 20 + 512 * 6
    steps = [row for row in rows(tmp_path / "child") if "loss" in row]
    assert steps[0]["step"] == 1 and steps[0]["lr"] == pytest.approx(3e-3) and steps[-1]["tokens"] == 512 * 6


def test_grandchildren_go_on_in_each_text_and_are_charged_for_all(tiny, corpus, tmp_path, trunk):
    """A switch to another mixture and back: each text is read on from where the line left it."""
    other = {"data.unique_tokens": 20_000}
    run(child_of(tiny, trunk, tokens=256 * 4, **other), tmp_path / "switch")
    back = run(child_of(tiny, tmp_path / "switch", tokens=256 * 4), tmp_path / "back")["columns"]
    assert back["lineage_tokens"] == 256 * 28
    trial = trial_of(child_of(tiny, tmp_path / "switch", tokens=256 * 4), tmp_path / "x")
    np.testing.assert_array_equal(
        trial.sequences(0, 4), trial_of(tiny(tokens=256 * 20, **HOLD), tmp_path / "y").sequences(20, 24)
    )
    switch = trial_of(child_of(tiny, trunk, tokens=256 * 4, **other), tmp_path / "z")
    np.testing.assert_array_equal(switch.sequences(0, 4), trial_of(tiny(**other), tmp_path / "w").sequences(0, 4))
    flops = [record.read(f / "record.json")["columns"] for f in (trunk, tmp_path / "switch", tmp_path / "back")]
    assert back["flops_lineage"] == pytest.approx(sum(row["flops_total"] for row in flops), rel=1e-12)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    "how",
    [pytest.param({}, marks=pytest.mark.slow), {"growth.depth": "random", "growth.ramp_tokens": 256 * 20}],
    ids=["stack", "random"],
)
def test_killed_and_resumed_a_grown_run_ends_in_the_same_bits(tiny, tmp_path, trunk, how):
    """Once before it has saved anything, once after: its own checkpoint wins over the parent's."""
    options = {"model.depth": 6, "tokens": 256 * 40, "execution.steps_per_dispatch": 7}
    options |= {"execution.checkpoint_every_tokens": 256 * 12, "execution.eval_every_tokens": 256 * 15, **how}
    run(child_of(tiny, trunk, **options), tmp_path / "whole")
    for stop in (7, 30):

        def look(event, stop=stop):
            if event["event"] == "progress" and event["done"] >= stop:
                raise Interrupted

        with pytest.raises(Interrupted):
            run(child_of(tiny, trunk, **options), tmp_path / "killed", look)
    run(child_of(tiny, trunk, **options), tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_kill_of_a_growing_process_changes_nothing(tiny, tmp_path, trunk):
    """kill -9 while the masks still rise, and after."""
    how = {"growth.depth": "random", "growth.ramp_tokens": 256 * 200, "model.depth": 6, "tokens": 256 * 400}
    how |= {"parent": fingerprint(trunk), "execution.parent_workdir": str(trunk), **HOLD, **OFTEN}
    config = write_config(tiny, tmp_path / "config.py", **how)
    assert_kills_change_nothing(config, tmp_path, [random.randint(15, 150), random.randint(220, 330)])


def test_a_masked_run_starts_as_its_parent_and_ends_without_masks(tiny, tmp_path, trunk):
    """The first losses are the parent's own; in the end the stored parameters are those that were evaluated."""
    how = {"growth.depth": "random", "growth.ramp_tokens": 256 * 10, "model.depth": 6, "model.init_std": 0.5}
    same = {"execution.log_every_steps": 1, "tokens": 256 * 12, "opt.lr": 1e-9}
    run(child_of(tiny, trunk, **how, **same), tmp_path / "masked")
    run(child_of(tiny, trunk, **same), tmp_path / "plain")
    masked, plain = ([r["loss"] for r in rows(tmp_path / n) if "loss" in r] for n in ("masked", "plain"))
    assert masked[0] == pytest.approx(plain[0], abs=1e-5) and abs(masked[11] - plain[11]) > 1e-2
    held_out, params = trial_of(tiny(), tmp_path / "x").held_out, weights.load(tmp_path / "masked").params
    evaluate = jax.jit(functools.partial(step.eval_step, frozen(child_of(tiny, trunk, **how, **same))))
    result = held_out.result(np.stack([evaluate(params, tokens) for tokens in held_out.tokens]))
    recorded = record.read(tmp_path / "masked" / "record.json")["columns"]["loss_nats"]
    assert recorded == pytest.approx(result.loss_nats, rel=1e-5)


@pytest.mark.slow
def test_children_of_different_parents_train_as_one_population(tiny, tmp_path, trunk):
    """Packed or alone, on one device or split: the same numbers."""
    run(tiny(tokens=256 * 10, **HOLD, **{"model.depth": 2}), tmp_path / "short")
    how = {"growth.depth": "random", "growth.ramp_tokens": 256 * 8, "model.depth": 6, "tokens": 256 * 12}
    configs = [child_of(tiny, parent, **how) for parent in (trunk, tmp_path / "short")]
    for folder, config in zip("ab", configs, strict=True):
        run(config, tmp_path / folder)
    (tmp_path / "runs").mkdir()
    for parent in (trunk, tmp_path / "short"):
        (tmp_path / "runs" / fingerprint(parent)).symlink_to(parent)
    both = [frozen(tiny(**{"parent": fingerprint(p), **HOLD, **how})) for p in (trunk, tmp_path / "short")]
    execution = freeze.freeze(tiny())[1]
    train.train(both, [epath.Path(tmp_path / "runs" / n) for n in "ab"], execution, lambda event: None)
    run(child_of(tiny, trunk, **how, **{"execution.mesh.fsdp": 2}), tmp_path / "split")
    assert record.read(tmp_path / "split" / "record.json")["columns"]["packing_mesh"] == "fsdp=2"
    for mine, theirs in (("a", "runs/a"), ("b", "runs/b"), ("a", "split")):
        one, other = (record.read(tmp_path / n / "record.json")["columns"] for n in (mine, theirs))
        assert one["loss_nats"] == pytest.approx(other["loss_nats"], rel=1e-4)
    assert record.read(tmp_path / "runs" / "a" / "record.json")["columns"]["packing_trials"] == 2


def test_the_optimizer_can_be_grown_or_fresh(tiny, tmp_path, trunk):
    def moments(**options):
        config = child_of(tiny, trunk, **options)
        state = trial_of(config, tmp_path / "x").inherited(fresh_state(frozen(config)))
        return state.opt[1]

    before, _ = stored_state.read_state(trunk / "checkpoints", fresh_state(frozen(tiny(tokens=256 * 20, **HOLD))))
    deep = moments(**{"model.depth": 6, "growth.optimizer": "grown"})
    path = "blocks/mlp/up/kernel"
    np.testing.assert_array_equal(deep.nu[path], np.concatenate([before.opt[1].nu[path]] * 2))
    assert deep.count == 20
    assert moments(**{"model.depth": 6}).count == 0 and moments().count == 20
    assert not moments(**{"growth.optimizer": "fresh"}).mu[path].any()


@pytest.mark.slow
def test_learned_growth_takes_its_own_tokens(tiny, tmp_path, trunk):
    how = {
        "model.depth": 6,
        "growth.depth": "learn",
        "growth.learn_steps": 5,
        "growth.learn_lr": 1e-2,
        "tokens": 256 * 3,
    }
    config = child_of(tiny, trunk, **how)
    trial = trial_of(config, tmp_path / "x")
    np.testing.assert_array_equal(
        trial.sequences(-5, 3), trial_of(tiny(tokens=256 * 20, **HOLD), tmp_path / "y").sequences(20, 28)
    )
    columns = run(config, tmp_path / "child")["columns"]
    assert columns["lineage_tokens"] == 256 * 28 and columns["tokens"] == 256 * 3
    trunk_flops = record.read(trunk / "record.json")["columns"]["flops_total"]
    assert columns["flops_lineage"] == pytest.approx(trunk_flops + columns["flops_total"] * 8 / 3)


@pytest.mark.slow
def test_upcycled_and_imported(tiny, tmp_path, trunk):
    """A dense run as a mixture; a folder of weights as a parent, whose cost nobody knows."""
    experts = {"model.experts": 4, "model.ff": 96, "model.expert_ff": 96, "tokens": 256 * 2, "opt.lr": 1e-9}
    run(child_of(tiny, trunk, "moe", **experts), tmp_path / "moe")
    dense = record.read(trunk / "record.json")["columns"]["loss_nats"]
    mixed = record.read(tmp_path / "moe" / "record.json")["columns"]
    assert mixed["loss_nats"] == pytest.approx(dense, abs=1e-4) and mixed["params_total"] > mixed["params_active"]
    found = weights.load(trunk)
    weights.save(tmp_path / "weights", found.family, found.cfg, found.params, found.length)
    one, execution = freeze.freeze(tiny(parent=str(tmp_path / "weights"), tokens=256 * 2, **{"opt.lr": 1e-9}))
    one, execution = inherit.resolve(one, execution)
    assert inherit.FINGERPRINT.fullmatch(one.parent)
    train.train([one], [epath.Path(tmp_path / "import")], execution, lambda event: None)
    columns = record.read(tmp_path / "import" / "record.json")["columns"]
    assert columns["loss_nats"] == pytest.approx(dense, abs=1e-4)
    assert columns["lineage_tokens"] is None and columns["flops_lineage"] is None


@pytest.mark.slow
def test_the_command_takes_a_folder_as_parent_and_names_what_is_wrong(tiny, tmp_path, trunk):
    def launch(name, *arguments, **options):
        path = tmp_path / f"{name}.py"
        values = tiny(tokens=256 * 2, **HOLD, **options).to_dict()
        path.write_text(
            f"from ml_collections import ConfigDict\ndef get_config(arg=None):\n    return ConfigDict({values!r}).lock()\n"
        )
        return run_command("experiments.train", f"--config={path}", f"--workdir={tmp_path}/{name}", *arguments)

    good = launch("good", parent=str(trunk))
    assert good.returncode == 0, good.stderr
    assert json.loads((tmp_path / "good" / "run.json").read_text())["parent"] == fingerprint(trunk)
    assert "already complete" in launch("good", parent=str(trunk)).stdout
    bad = {
        "none": ({"parent": "0123456789abcdef"}, ["parent=0123456789abcdef", "parent_workdir"]),
        "missing": ({"parent": str(tmp_path / "nowhere")}, ["nowhere"]),
        "family": ({"parent": str(trunk), "model.depth": 7}, ["model.depth=7", "3 layers"]),
        "seq": ({"parent": str(trunk), "seq_len": 64}, ["seq_len=64", "32", "continue_data"]),
        "width": ({"parent": str(trunk), "model.width": 16, "model.heads": 2}, ["model.", "parent"]),
        "alone": ({"growth.depth": "zero"}, ["growth.depth='zero'", "parent"]),
    }
    for name, (options, words) in bad.items():
        done = launch(name, **options)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert not (tmp_path / name).exists()
        for word in words:
            assert word in done.stderr


def test_parents_that_cannot_be_used_are_one_line(tiny, tmp_path, trunk):
    with pytest.raises(InputError, match=r"expected the parent"):
        run(tiny(parent="0" * 16, **{"execution.parent_workdir": str(trunk)}), tmp_path / "a")
    with pytest.raises(InputError, match=r"parent_workdir.*expected both"):
        run(tiny(**{"execution.parent_workdir": str(trunk)}), tmp_path / "b")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_text((trunk / "run.json").read_text())
    half = {"parent": fingerprint(trunk), "execution.parent_workdir": str(tmp_path / "half"), **HOLD}
    with pytest.raises(InputError, match="not finished"):
        run(tiny(**half), tmp_path / "c")
    (tmp_path / "half" / "record.json").write_text((trunk / "record.json").read_text())
    with pytest.raises(InputError, match="holds no checkpoint"):
        run(tiny(**half), tmp_path / "c")
    with pytest.raises(InputError, match=r"tokens ?= ?\d+.*unique_tokens"):
        run(child_of(tiny, trunk, tokens=10**9), tmp_path / "d")


def test_a_run_of_before_lineages_is_a_parent_too(tiny, tmp_path, trunk):
    (tmp_path / "old").symlink_to(trunk)
    value = json.loads((trunk / "run.json").read_text())
    known = lineage.from_json(value.pop("lineage"))
    del value["run"]["growth"]
    folder = tmp_path / "older"
    folder.mkdir()
    (folder / "record.json").write_text((trunk / "record.json").read_text())
    (folder / "run.json").write_text(json.dumps(value))
    assert inherit.read(epath.Path(folder)).lineage == known


# --- studies


BASE = {"model.width": 16, "model.heads": 2, "model.depth": 1, "batch_tokens": 256, "seq_len": 32, "tokens": 2_560}


def test_a_point_can_be_the_parent_of_others():
    trunk = cases(BASE)
    grown = branch(trunk, over("model.depth", 2, 4), cases({"growth.noise": 0.2}))
    later = branch(grown[:1], cases({"schedule.name": "wsd", "schedule.decay_tokens": 2_560}))
    cells = freeze_points(chain(tag(trunk, group="trunk"), grown, later))
    nodes = workdir.identify(
        file.Study("x", "x", "", cells), {(c.run.data, "data"): (type("M", (), {"fingerprint": "m"}),) for c in cells}
    )
    assert [n.run.parent for n in nodes] == [None, nodes[0].fingerprint, nodes[0].fingerprint, nodes[1].fingerprint]
    assert nodes[3].run.growth == Growth() and nodes[3].run.model.depth == 2, "a child inherits sizes, but no growth"
    assert len({n.fingerprint for n in nodes}) == 4
    assert list(populations.levels(nodes, lambda _: False).values()) == [0, 1, 1, 2]
    assert cells[0].name.startswith("trunk") and "parent=(depth=1)" in cells[1].name
    with pytest.raises(InputError, match=r"model.depth=3.*parent's 2 layers"):
        freeze_points(branch(grown[:1], cases({"model.depth": 3})))


STUDY = '''"""Does what grows reach further? A trunk, what grows from it, and a control."""
from sweeps.study.grid import branch, cases, chain, over, product, tag

def get_study(arg=None):
    base = cases({
        "model.width": 16, "model.heads": 2, "batch_tokens": 256, "seq_len": 32, "data.corpus": (%(corpus)r,),
        "evaluation.tokens": 2048, "execution.tensorboard": False, "execution.data_root": %(root)r,
        "execution.compile_cache": None, "opt.lr": 1e-2,
    })
    trunk = product(base, cases({"model.depth": 1, "tokens": 256 * 20}))
    grown = branch(trunk, cases({"model.depth": 2, "tokens": 256 * 20}), over("growth.depth", "direct", "zero"))
    scratch = product(base, cases({"model.depth": 2}), over("tokens", 256 * 20, 256 * 40))
    return chain(tag(trunk, group="trunk"), tag(grown, group="grown"), tag(scratch, group="scratch"))
'''


@pytest.mark.slow
def test_a_study_of_two_levels_is_launched(corpus, data_root, tmp_path):
    (tmp_path / "study.py").write_text(STUDY % {"corpus": str(corpus), "root": str(data_root)})
    command = ["sweeps.launch", f"--study={tmp_path}/study.py", f"--workdir={tmp_path}/work"]
    done = run_command(*command)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "5 complete" in done.stdout
    assert "nothing to do" in run_command(*command).stdout
    assert run_command("sweeps.collect", f"--workdir={tmp_path}/work", f"--out={tmp_path}/grid.csv").returncode == 0
    grid = pd.read_csv(tmp_path / "grid.csv").set_index("name")
    trunk, grown, scratch = (grid[grid.group == g] for g in ("trunk", "grown", "scratch"))
    assert (grown.parent == trunk.fingerprint.iloc[0]).all() and (grown.lineage_tokens == 256 * 40).all()
    expected = trunk.flops_total.iloc[0] + grown.flops_total
    np.testing.assert_allclose(grown.flops_lineage, expected)
    np.testing.assert_allclose(scratch.flops_lineage, scratch.flops_total)
    saved = speedup(expected.iloc[0], scratch.loss_nats.mean(), scratch.flops_lineage, scratch.loss_nats)
    assert saved == pytest.approx((scratch.flops_total.prod() ** 0.5) / expected.iloc[0] - 1)
    assert np.isnan(speedup(1.0, 99.0, scratch.flops_lineage, scratch.loss_nats))
    # Without the trunk's checkpoint nothing can grow from it: one line, before anything starts.
    for name in grown.fingerprint:
        shutil.rmtree(tmp_path / "work" / "runs" / name)
    shutil.rmtree(tmp_path / "work" / "runs" / trunk.fingerprint.iloc[0] / "checkpoints")
    refused = run_command(*command)
    assert refused.returncode == 2 and "no checkpoint left" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("study", ["growth.py", "growth.py:operators", "aquila.py", "tokenformer.py"])
def test_a_study_of_growth_can_be_frozen(study):
    found = file.load(f"sweeps/studies/{study}")
    assert any(cell.parent for cell in found.cells) and not any("become" in note for note in found.notes)
