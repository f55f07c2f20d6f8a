"""Configs: defaults to a frozen run, what is refused, what a fingerprint and a signature depend on."""

import dataclasses
import errno

import pytest

from experiments.cli import InputError, explain
from experiments.configs import default, smoke
from experiments.run import identity, options_table, schema
from experiments.run.freeze import freeze as freeze_
import models
from tests.support.commands import run_command
from tests.support.data import python


def freeze(**options):
    config = default.get_config("dense").to_dict()
    for key, value in options.items():
        *sections, name = key.split("__")
        node = config
        for section in sections:
            node = node[section]
        node[name] = value
    return freeze_(config)[0]


def test_defaults_are_the_dataclasses():
    run, execution = freeze_(default.get_config("dense"))
    assert execution == schema.Execution()
    assert run == schema.Run("dense", run.model)
    assert run.model.resolve(257, 128) == run.model


def test_freeze_reads_back_what_a_record_holds():
    run = freeze(model__kv_heads=2, data__weights=(), opt__clip_norm=None, model__position="learned")
    assert freeze_(identity.to_dict(run))[0] == run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model__witdh": 1}, ["model.witdh", "width"]),
        ({"tokns": 1}, ["tokns", "tokens"]),
        ({"model__width": "64"}, ["model.width", "'64'", "int"]),
        ({"model__width": 64.5}, ["model.width", "64.5"]),
        ({"opt__lr": True}, ["opt.lr", "bool"]),
        ({"opt__lr": float("inf")}, ["opt.lr", "finite"]),
        ({"opt__lr": -1.0}, ["opt.lr", "positive"]),
        ({"opt__beta2": 1.0}, ["opt.beta2=1.0", "0 to below 1"]),
        ({"model__heads": 5}, ["model.width=256", "model.heads=5"]),
        ({"model__kv_heads": 3}, ["model.heads=4", "model.kv_heads=3"]),
        ({"model__depth": 0}, ["model.depth=0", "at least 1"]),
        ({"model__norm": "rmss"}, ["model.norm", "'rms'"]),
        ({"family": "dens"}, ["family='dens'", "'dense'"]),
        ({"batch_tokens": 1000}, ["batch_tokens=1000", "seq_len=128"]),
        ({"tokens": 10}, ["tokens=10", "batch_tokens=2048"]),
        ({"schedule__name": "wsd"}, ["schedule.decay_tokens=0"]),
        ({"schedule__warmup_tokens": 3_000_000}, ["schedule.warmup_tokens=3000000", "tokens=2000000"]),
        ({"execution__packing": "vmapp"}, ["execution.packing", "'vmap'"]),
        ({"data__holdout": 1.5}, ["data.holdout", "1.5"]),
    ],
)
def test_bad_values_name_the_field(options, words):
    with pytest.raises(InputError) as error:
        freeze(**options)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_fingerprint_sees_numerics_only():
    base = freeze()
    one = identity.fingerprint(base, ("a",))
    assert one == identity.fingerprint(freeze(), ("a",))
    assert one == identity.fingerprint(freeze(model__remat="full", model__unroll=True), ("a",))
    assert one == identity.fingerprint(freeze(model__kv_heads=4), ("a",)), (
        "a derived value is the same as one spelt out"
    )
    assert one == identity.fingerprint(freeze(data__corpus=("other.txt",)), ("a",)), (
        "the manifest speaks for the corpus"
    )
    different = [freeze(seed=1), freeze(opt__lr=1e-3), freeze(model__width=128), freeze(data__unique_tokens=10_000)]
    names = {identity.fingerprint(run, ("a",)) for run in different} | {identity.fingerprint(base, ("b",)), one}
    assert len(names) == len(different) + 2


def test_defaults_are_pinned():
    """Fingerprints leave defaults out: whoever changes one must raise NUMERICS_VERSION, and then this number."""
    defaults = {
        path: str(meta["default"])
        for path, _, meta in identity.leaves(freeze())
        if meta.get("numerics", True) and meta["default"] is not dataclasses.MISSING
    }
    known = (identity.NUMERICS_VERSION, identity.short_digest({k: defaults[k] for k in sorted(PINNED)}))
    assert known == (1, PINNED_DIGEST), f"defaults of old options changed: {known}"


PINNED = [
    "model.width",
    "model.depth",
    "model.heads",
    "model.activation",
    "model.norm",
    "model.norm_eps",
    "model.qk_norm",
    "model.bias",
    "model.tied",
    "model.position",
    "model.rope_theta",
    "model.init",
    "model.init_std",
    "model.dtype",
    "opt.name",
    "opt.lr",
    "opt.beta1",
    "opt.beta2",
    "opt.eps",
    "opt.weight_decay",
    "opt.clip_norm",
    "schedule.name",
    "schedule.warmup_tokens",
    "schedule.warmup_start",
    "schedule.decay_tokens",
    "schedule.decay_shape",
    "schedule.final",
    "loss.z_loss",
    "evaluation.tokens",
    "tokens",
    "batch_tokens",
    "seq_len",
    "seed",
    "parent",
]
PINNED_DIGEST = "29b9001bf1dcf521"


def test_signature_ignores_runtime_options():
    base = identity.signature(freeze())
    for same in (freeze(seed=3), freeze(opt__lr=1e-4), freeze(tokens=9_000_000), freeze(model__init_std=0.1)):
        assert identity.signature(same) == base
    for other in (freeze(model__width=128), freeze(batch_tokens=4096), freeze(model__remat="full")):
        assert identity.signature(other) != base


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.model.witdh=3"], ["model.witdh", "width"]),
        (["--config.model.width=abc"], ["model.width=abc", "whole number"]),
        (["--config.model.heads=5"], ["model.width=48", "model.heads=5"]),
        (["--confg=x"], ["confg"]),
    ],
)
def test_command_line_errors_are_one_line(arguments, words, tmp_path):
    config = "--config=experiments/configs/smoke.py"
    done = run_command("experiments.train", config, f"--workdir={tmp_path}/run", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "run").exists()


def test_file_errors_are_one_line(tmp_path):
    for flag in (
        f"--config={tmp_path}/none.py",
        "--config=README.md",
        "--config=experiments/configs/smoke.py:nofamily",
    ):
        done = run_command("experiments.train", flag, f"--workdir={tmp_path}/run")
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("family", models.family_names())
def test_the_small_config_is_one_of_every_family(family):
    run, _ = freeze_(smoke.get_config(family))
    assert run.family == family and run.model.width == 48 and run.model.depth == 3


def test_prepare_and_train_read_the_same_flags(tmp_path):
    config = "--config=experiments/configs/smoke.py"
    for command, flags in (("experiments.prepare", []), ("experiments.train", [f"--workdir={tmp_path}/run"])):
        done = run_command(command, config, *flags, "--config.data.tokeniser=bytes")
        assert done.returncode == 2
        assert done.stderr == "error: unknown config key data.tokeniser; did you mean 'tokenizer'?\n"
    here = [f"--config.execution.data_root={tmp_path}", "--config.data.corpus=('embedded:1',)"]
    done = run_command("experiments.prepare", config, *here, "--config.opt.clip_norm=none")
    assert done.returncode == 0, done.stderr


def test_the_table_of_options_has_every_option_of_a_run():
    for family in models.family_names():
        run, execution = freeze_(default.get_config(family))
        rows = {row.name: row for row in options_table.rows(family)}
        names = {path for path, _, _ in identity.leaves(run)}
        names |= {f"execution.{path}" for path, _, _ in identity.leaves(execution)}
        assert rows.keys() == names
        assert rows["schedule.decay_tokens"].applies_when == "schedule.name='wsd' or 'power'"
        assert rows["opt.name"].default == "adamw" and "muon" in rows["opt.name"].allowed.split(" | ")
        assert rows["loss.chunk"].default == "none" and rows["loss.chunk"].allowed == "at least 1, or none"
        assert rows["opt.lr"].help and rows["execution.packing"].allowed == "auto | map | vmap"


def test_the_command_prints_the_table_of_options():
    done = run_command("experiments.train", "--options=moe")
    assert done.returncode == 0, done.stderr
    assert "model.capacity_factor" in done.stdout and "execution.mesh.fsdp" in done.stdout
    assert {row.name for row in options_table.rows("dense", "muon")} > {"opt.iterations", "opt.momentum"}
    done = run_command("experiments.train", "--options=mo")
    assert done.returncode == 2 and done.stderr == "error: family='mo' is not known; did you mean 'moe'?\n"


def test_a_path_that_may_not_be_read_is_not_said_to_be_unwritable():
    denied = explain(PermissionError(errno.EACCES, "Permission denied", "/a/table.csv"))
    assert denied.startswith("/a/table.csv: permission denied") and "written" not in denied
    assert "cannot be written" in explain(OSError(errno.EROFS, "Read-only file system", "/a/out.json"))


def test_an_exception_in_a_thread_is_one_line():
    program = (
        "import threading; from experiments import cli\n"
        "def work(): raise ValueError('too\\nlate')\n"
        "def main(_):\n"
        "    thread = threading.Thread(target=work, name='beat'); thread.start(); thread.join()\n"
        "cli.run(main)\n"
    )
    done = python(program)
    assert done.returncode == 0
    assert done.stderr == "error in thread 'beat': ValueError: too late\n"


def test_an_error_ends_the_process_whatever_threads_do():
    """As a failed save may leave threads of a library that wait for each other."""
    program = (
        "import threading; from experiments import cli\n"
        "cli.LAST_SECONDS = 0.1\n"
        "def main(_):\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    raise OSError(28, 'No space left on device', '/full/file')\n"
        "cli.run(main)\n"
    )
    done = python(program)
    assert done.returncode == 1
    assert done.stderr == "error: /full/file: no space left; free some and run the same command again\n"
