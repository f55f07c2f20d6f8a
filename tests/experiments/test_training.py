"""Whole runs: learning, killing and resuming, divergence, records, damaged and unwritable folders."""

import json
import random
import subprocess
import sys
import time

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import prepare, train
from experiments.cli import InputError
from experiments.run import freeze, identity
from experiments.store import checkpoint, record, run_file, segments
from experiments.store.train_state import TrainState, named_leaves
from tests.support.commands import run_command
from tests.support.families import SOME
from tests.support.paths import REPOSITORY
from tests.support.training import (
    OFTEN,
    arrays,
    assert_kills_change_nothing,
    assert_same_run,
    rows,
    run,
    write_config,
)


@pytest.mark.parametrize("family", SOME)
def test_learns_and_records(tiny, tmp_path, family):
    config = tiny(family, tokens=256 * 150, **{"execution.tensorboard": True, "execution.eval_every_tokens": 256 * 60})
    result = run(config, tmp_path / "run")
    row = result["columns"]
    frozen, execution = freeze.freeze(config)
    (manifest,) = prepare.prepare(frozen.data, execution.data_root)
    assert result["status"] == "complete" and row["steps"] == row["steps_done"] == 150
    assert row["loss_nats"] < manifest.unigram_entropy_nats, "better than the frequencies of the bytes"
    assert 0 < row["loss_nats_sem"] < 0.5 and row["eval_tokens"] == 2_048
    assert row["bits_per_byte"] == pytest.approx(row["loss_nats"] / np.log(2), rel=0.02), (
        "bytes are tokens, but separators"
    )
    assert row["params_total"] > row["params_no_embed"] > 0 and row["flops_total"] >= row["flops_causal"] > 0
    log = rows(tmp_path / "run")
    assert [r["step"] for r in log if "eval_loss" in r] == [60, 120, 150]
    assert [r["step"] for r in log if "loss" in r][:3] == [1, 10, 20]
    assert list((tmp_path / "run" / "tb").glob("events*"))


def test_the_same_command_again_does_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tiny(tokens=256 * 5), "run")  # a relative folder, as users type it
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    run(tiny(tokens=256 * 5), tmp_path / "run", lambda event: pytest.fail("nothing was to be done"))
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}


def test_kill_at_random_steps_changes_nothing(tiny, tmp_path):
    config = write_config(tiny, tmp_path / "config.py", tokens=256 * 400, **OFTEN)
    assert_kills_change_nothing(config, tmp_path, sorted(random.Random().sample(range(15, 330), 2)))


class Interrupted(Exception):
    pass


LONG = {"execution.checkpoint_every_tokens": None, "data.unique_tokens": 100_000}


def test_sigterm_saves_and_exits_with_again(tiny, tmp_path):
    config = write_config(tiny, tmp_path / "config.py", tokens=256 * 5_000, **LONG)
    command = [sys.executable, "-m", "experiments.train", f"--config={config}", f"--workdir={tmp_path}/run"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    while len(segments.read(tmp_path / "run")) <= 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert process.wait(60) == 75
    step, _ = arrays(tmp_path / "run")
    assert step > 5

    def look(event):
        assert event["event"] == "start" and event["done"] == step, "goes on where it was stopped"
        raise Interrupted

    with pytest.raises(Interrupted):
        run(tiny(tokens=256 * 5_000, **LONG), tmp_path / "run", look)


def test_a_run_goes_on_on_other_devices(tiny, tmp_path):
    """Saved by one device, resumed on eight with split parameters: the same run to 1e-5."""
    options = {"execution.checkpoint_every_tokens": 256 * 10, "execution.steps_per_dispatch": 10}
    options |= {"execution.cpu_devices": 8, "model.vocab": 258}
    whole = run(tiny(tokens=256 * 40, **options), tmp_path / "whole")
    starts = []

    def interrupt(event):
        if event["event"] == "progress" and event["done"] == 30:
            raise Interrupted
        starts.append(event)

    with pytest.raises(Interrupted):
        run(tiny(tokens=256 * 40, **options), tmp_path / "run", interrupt)
    mesh = {"execution.mesh.fsdp": 2, "execution.mesh.tensor": 2, "execution.mesh.data": 2}
    split = run(tiny(tokens=256 * 40, **options | mesh), tmp_path / "run", starts.append)
    assert starts[-1]["event"] == "record" and {20} == {e["done"] for e in starts if e["event"] == "start"} - {0}
    assert split["columns"]["loss_nats"] == pytest.approx(whole["columns"]["loss_nats"], rel=1e-5)


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    """Scalars and bfloat16 too: a checksum that is computed wrongly makes every checkpoint count as damaged."""
    state = TrainState({"a": jnp.ones((2, 3)), "b": jnp.ones(3, jnp.bfloat16)}, (jnp.int32(7),), jnp.int32(4))
    store = checkpoint.Checkpoints(epath.Path(tmp_path / "checkpoints"), checkpoint.Keep(2), "f")
    store.save(state, 4, {"seconds": 1.5})
    store.wait()
    wanted = {}
    for name, leaf in named_leaves(state).items():
        wanted[name] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    back = {}
    assert store.restore([wanted], back.update, pytest.fail) == (4, {"seconds": 1.5})
    store.close()
    for name, leaf in named_leaves(state).items():
        assert back[name].dtype == leaf.dtype and (back[name] == leaf).all()


def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(tiny, tmp_path, capsys):
    options = {"execution.checkpoint_every_tokens": 256 * 10}
    run(tiny(tokens=256 * 40, **options), tmp_path / "whole")
    run(tiny(tokens=256 * 40, **options), tmp_path / "run")
    (tmp_path / "run" / "record.json").unlink()
    newest = tmp_path / "run" / "checkpoints" / "40"
    for file in newest.rglob("d/*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    run(tiny(tokens=256 * 40, **options), tmp_path / "run")
    said = capsys.readouterr().err
    assert "checkpoints/40 is damaged" in said and said.count(" is damaged") == 1
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_diverged_run_is_recorded_and_its_neighbour_completes(tiny, tmp_path):
    configs = [tiny(**{"opt.lr": 1e30}), tiny(seed=1)]
    frozen = [freeze.freeze(config) for config in configs]
    events = []
    train.train([r for r, _ in frozen], [epath.Path(tmp_path / n) for n in "ab"], frozen[0][1], events.append)
    bad, good = (record.read(tmp_path / n / "record.json") for n in "ab")
    assert bad["status"] == "diverged" and "not finite at step" in bad["reason"]
    assert bad["columns"].get("loss_nats") is None and bad["columns"]["params_total"] > 0
    assert good["status"] == "complete" and good["columns"]["packing_trials"] == 2
    assert {e["status"] for e in events if e["event"] == "record"} == {"diverged", "complete"}
    alone = run(tiny(seed=1), tmp_path / "alone")
    assert good["columns"]["loss_nats"] == pytest.approx(alone["columns"]["loss_nats"], rel=1e-5)


def test_another_config_in_a_workdir_is_refused(tiny, tmp_path):
    run(tiny(tokens=256 * 2), tmp_path)
    with pytest.raises(InputError, match=r"differ in opt.lr\): choose another folder$"):
        run(tiny(tokens=256 * 2, **{"opt.lr": 0.5}), tmp_path)


def test_a_folder_of_a_refused_run_may_be_deleted(tiny, tmp_path):
    refused, _ = freeze.freeze(tiny(tokens=256 * 4))
    run_file.reserve(epath.Path(tmp_path / "run"), refused, "0" * 16, ())
    with pytest.raises(InputError, match=r"or delete this one: nothing has been trained in it$"):
        run(tiny(**{"opt.lr": 0.5}), tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"execution.mesh.data": 4096}, "execution.mesh.data=4096 asks for 4096 devices; there are"),
        ({"execution.mesh.data": 3}, "do not divide over execution.mesh.data=3"),
        (
            {"seq_len": 1 << 16, "batch_tokens": 1 << 16, "tokens": 1 << 16, "evaluation.tokens": 1 << 17},
            "less than one sequence of 65537",
        ),
    ],
)
def test_a_run_that_cannot_start_leaves_nothing_behind(tiny, tmp_path, options, named):
    with pytest.raises(InputError, match=named):
        run(tiny(**options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_program_that_cannot_be_traced_leaves_no_identity(tiny, tmp_path):
    with pytest.raises(InputError, match="'kv_heads' of size 2 cannot be split over execution.mesh.tensor=4"):
        run(tiny(**{"execution.mesh.tensor": 4}), tmp_path)
    assert not (tmp_path / "run.json").exists()
    assert run(tiny(tokens=256 * 2), tmp_path)["status"] == "complete", "the folder is free for another run"


def test_a_parent_that_is_not_there_is_refused(tiny, tmp_path):
    with pytest.raises(InputError, match=r"parent=0123456789abcdef.*execution.parent_workdir"):
        run(tiny(parent="0123456789abcdef"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_few_tokens_is_one_line(tiny, tmp_path):
    with pytest.raises(InputError, match=r"tokens ?= ?\d+.*unique_tokens"):
        run(tiny(tokens=10**9), tmp_path / "run")
    with pytest.raises(InputError, match=r"model.vocab=100 .* 257"):
        run(tiny(**{"model.vocab": 100}), tmp_path / "run")


def test_unwritable_workdir_is_one_line(tiny, tmp_path):
    config = write_config(tiny, tmp_path / "config.py")
    (tmp_path / "file").write_text("in the way")
    done = run_command("experiments.train", f"--config={config}", f"--workdir={tmp_path}/file/run")
    assert done.returncode in (1, 2) and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "file" in done.stderr
    full = run_command("experiments.train", f"--config={config}", "--workdir=/dev/full/run")
    assert full.returncode in (1, 2) and len(full.stderr.strip().splitlines()) == 1, full.stderr


def test_a_full_or_read_only_disk_is_one_line_and_loses_nothing(tiny, tmp_path, small_disk):
    folder, remount = small_disk
    options = {"model.width": 64, "execution.checkpoint_every_tokens": 256 * 20}
    config = write_config(tiny, tmp_path / "config.py", tokens=256 * 60, **options)
    command = ("experiments.train", f"--config={config}", f"--workdir={folder}/run")
    full = run_command(*command)
    assert full.returncode == 1 and "no space left" in full.stderr and str(folder) in full.stderr
    assert len(full.stderr.strip().splitlines()) == 1, full.stderr
    assert not (folder / "run" / "record.json").exists()
    remount("size=50m,ro")
    unwritable = run_command(*command)
    assert unwritable.returncode == 1 and "read-only" in unwritable.stderr
    assert len(unwritable.stderr.strip().splitlines()) == 1, unwritable.stderr
    remount("rw")
    assert run_command(*command).returncode == 0
    assert record.read(folder / "run" / "record.json")["status"] == "complete"


@pytest.mark.parametrize("text", ["", "{", '{"schema": 1}', '{"schema": 99}', "[]"])
def test_a_broken_record_is_named(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(InputError, match="record.json"):
        record.read(tmp_path / "record.json")


def test_an_older_record_is_read(tiny, tmp_path):
    """The first schema, as its first version wrote it: without what came later."""
    frozen, _ = freeze.freeze(tiny())
    value = {
        "schema": 1,
        "fingerprint": "x",
        "status": "complete",
        "run": identity.to_dict(frozen),
        "columns": {"loss_nats": 1},
    }
    (tmp_path / "record.json").write_text(json.dumps(value))
    assert record.read(tmp_path / "record.json")["reason"] is None


def test_columns_name_every_option_once(tiny):
    frozen, _ = freeze.freeze(tiny())
    row = record.columns(frozen)
    assert {"width", "depth", "lr", "weight_decay", "tokens", "batch_tokens", "seed", "family"} <= row.keys()
    assert len(row) >= sum(1 for _ in identity.leaves(frozen))
