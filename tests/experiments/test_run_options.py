"""Options of a run besides the model's: where they have no effect they are refused, and where they have one it is seen.

An option outside its condition raises InputError that names it. Inside, another value changes the run's fingerprint,
its program or what enters it; of data that its manifest names, the folder of the records; of an execution, nothing.
"""

import dataclasses
import re
from typing import Any

import pytest

from experiments import prepare
from experiments.cli import InputError
from experiments.data import origin, sources
from experiments.data.options import Data
from experiments.run import build, config_file, freeze, identity, schema
from experiments.training import optimizers
from models.growing.options import Growth
from models.mesh.mesh import MeshShape
from models.option import option, unmet, when, with_idle_options_unset
from tests.support.commands import run_command
from tests.support.paths import REPOSITORY
from tests.support.training import write_config

SECTIONS = {
    "data": Data,
    "opt": optimizers.load(optimizers.DEFAULT).Config,
    "schedule": schema.Schedule,
    "loss": schema.Loss,
    "evaluation": schema.Evaluation,
    "spikes": schema.Spikes,
    "averaging": schema.Averaging,
    "execution": schema.Execution,
    "execution.mesh": MeshShape,
}

WORDS = str(REPOSITORY / "tests" / "support" / "words.json")
TASKS = str(REPOSITORY / "tests" / "support" / "tasks.jsonl")

# Another value than the default where one cannot be made up.
OTHERS: dict[str, Any] = {
    "data.corpus": ("embedded:1",),
    "data.weights": (1.0, 2.0),
    "data.tokenizer": "bpe:300",
    "data.text_field": "body",
    "data.pairs": (64, 64),
    "data.unique_tokens": 500_000,
    "data.unique": (500_000, None),
    "evaluation.tokens": 1_024,
    "evaluation.weights": (1.0, 2.0),
    "evaluation.tasks": (TASKS,),
    "evaluation.coverage": (5,),
    "evaluation.seq_lens": (64, 256),
    "schedule.decay_tokens": 50_000,
    "execution.data_root": "elsewhere",
    "execution.parent_workdir": "elsewhere",
    "execution.compile_cache": "elsewhere",
    "execution.wandb": "project",
}

# Options under which others have an effect.
CONDITIONS: dict[str, dict[str, Any]] = {
    "data.weights": {"data.corpus": ("a.txt", "b.txt")},
    "data.unique": {"data.corpus": ("a.txt", "b.txt"), "data.weights": (0.5, 0.5)},
    "data.deduplicate": {"data.corpus": ("a.txt",)},
    "data.lossy": {"data.tokenizer": WORDS},
    "data.text_field": {"data.corpus": ("a.txt",)},
    "data.between": {"data.pairs": (64, 64)},
    "evaluation.weights": {"data.corpus": ("a.txt", "b.txt")},
    "evaluation.coverage": {"evaluation.tasks": (TASKS,)},
    "schedule.warmup_start": {"schedule.warmup_tokens": 10_000},
    "schedule.decay_tokens": {"schedule.name": "wsd"},
    "schedule.decay_shape": {"schedule.name": "wsd", "schedule.decay_tokens": 10_000},
    "schedule.a": {"schedule.name": "power"},
    "schedule.b": {"schedule.name": "power"},
    "averaging.ema_decay": {"averaging.ema": True},
    "averaging.tail_share": {"averaging.tail": True},
    "averaging.tail_every_tokens": {"averaging.tail": True},
    "spikes.limit": {"spikes.factor": 5.0},
    "execution.noise_scale": {"execution.microbatches": 2},
    "spikes.every_tokens": {"spikes.factor": 5.0},
}

# Where the defaults meet a condition, an option that breaks it.
ELSEWHERE: dict[str, dict[str, Any]] = {
    "schedule.final": {"schedule.name": "constant"},
    "execution.stall_seconds": {"execution.stall_factor": None},
}


def all_options() -> dict[str, dataclasses.Field[Any]]:
    found = {}
    for section, cls in SECTIONS.items():
        for field in dataclasses.fields(cls):
            if not dataclasses.is_dataclass(field.default):
                found[f"{section}.{field.name}"] = field
    for field in dataclasses.fields(schema.Run):
        if field.name not in (*SECTIONS, "family", "model", "growth"):
            found[field.name] = field
    return found


OPTIONS = all_options()


def other_value(name: str) -> Any:
    """Return a value of an option that is not its default."""
    field = OPTIONS[name]
    if name in OTHERS:
        return OTHERS[name]
    others = [choice for choice in field.metadata.get("choices", ()) if choice != field.default]
    if others:
        return others[0]
    if isinstance(field.default, bool):
        return not field.default
    if field.default is None:
        return 4 if name not in ("parent",) else "0123456789abcdef"
    if not field.default:
        return type(field.default)(1)
    return field.default / 2 if isinstance(field.default, float) else field.default * 2


def nested(options: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for path, value in options.items():
        *sections, name = path.split(".")
        node = config
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return config


def freeze_options(options: dict[str, Any]) -> tuple[schema.Run, schema.Execution]:
    return freeze.freeze(nested(options))


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in ("opt.name", "execution.mesh.fsdp")])
def test_another_value_is_seen(name: str):
    around = CONDITIONS.get(name, {})
    if name == "schedule.decay_tokens":
        around = around | {name: 10_000}
    base, execution = freeze_options(around)
    run, changed = freeze_options(around | {name: other_value(name)})
    if name.startswith("execution."):
        assert run == base and changed != execution
        return
    assert run != base
    seen = identity.fingerprint(run, ("m",)) != identity.fingerprint(base, ("m",))
    seen |= identity.signature(run) != identity.signature(base)
    seen |= identity.runtime_values(run) != identity.runtime_values(base)
    seen |= asked_for(run) != asked_for(base)
    assert seen or name in ("loss.chunk", "data.lossy"), "an option that changes nothing"


def _described(name: str, run: schema.Run) -> origin.Origin:
    return sources.describe(name, run.data.text_field, run.data.deduplicate)


def asked_for(run: schema.Run) -> list[str]:
    """Return the names of the folders of records that a run asks for."""
    return [prepare._request(_described(name, run), run.data) for name in run.data.corpus]


def conditional() -> list[str]:
    return [name for name, field in OPTIONS.items() if field.metadata.get("when")]


def test_the_conditions_are_those_that_are_tried():
    assert set(conditional()) <= CONDITIONS.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("name", conditional())
def test_an_option_without_effect_is_refused(name: str):
    with pytest.raises(InputError) as error:
        freeze_options(ELSEWHERE.get(name, {}) | {name: other_value(name)})
    text = str(error.value)
    assert text.startswith(f"{name}=") and "\n" not in text
    assert "has an effect only where" in text or "one per corpus" in text


GROWTH = {
    "depth": "zero",
    "order": "gradual",
    "first": 1,
    "last": 2,
    "width": "aki",
    "width_map": "modulo",
    "split": "uneven",
    "noise": 0.1,
    "ramp_tokens": 100,
    "learn_steps": 7,
    "learn_lr": 0.1,
    "router_std": 0.1,
    "optimizer": "fresh",
    "continue_data": False,
}


def test_growth_without_a_parent_is_refused():
    assert GROWTH.keys() == {field.name for field in dataclasses.fields(Growth)}
    for name, value in GROWTH.items():
        with pytest.raises(InputError, match=rf"growth\.{name}=.* has an effect only where parent is set"):
            freeze_options({f"growth.{name}": value})


@pytest.mark.parametrize(("name", "value"), [("final", 0.5), ("decay_shape", "linear")])
def test_a_power_schedule_without_a_cooldown_has_no_options_of_one(name: str, value: Any):
    freeze_options({"schedule.name": "power"})
    with pytest.raises(
        InputError, match=rf"schedule\.{name}=.* has an effect only where schedule.decay_tokens is above"
    ):
        freeze_options({"schedule.name": "power", f"schedule.{name}": value})
    freeze_options({"schedule.name": "power", f"schedule.{name}": value, "schedule.decay_tokens": 10_000})


def test_weights_of_a_single_text_are_refused():
    with pytest.raises(InputError, match=r"evaluation\.weights=\(1\.0,\) has an effect only where data\.corpus names"):
        freeze_options({"evaluation.weights": (1.0,)})
    with pytest.raises(InputError, match=r"data\.weights=\(1\.0,\) has an effect only where data\.corpus names"):
        freeze_options({"data.weights": (1.0,)})


IMPOSSIBLE = {
    "execution.mesh.trial": 0,
    "execution.mesh.data": -2,
    "execution.mesh.fsdp": 0,
    "execution.mesh.expert": 0,
    "execution.mesh.sequence": -1,
    "execution.mesh.tensor": -1,
    "execution.steps_per_dispatch": -3,
    "execution.log_every_steps": 0,
    "execution.eval_every_tokens": -5,
    "execution.checkpoint_every_tokens": 0,
    "execution.checkpoint_every_seconds": -1.0,
    "execution.keep_checkpoints": 0,
    "execution.cpu_devices": 0,
    "execution.microbatches": 0,
    "execution.stall_factor": 0.0,
    "execution.stall_seconds": -1.0,
    "averaging.ema_decay": 1.0,
    "averaging.tail_share": 0.0,
    "averaging.tail_every_tokens": 0,
    "spikes.factor": -1.0,
    "spikes.limit": -1,
    "execution.offload": "all",
    "execution.packing": "vmapp",
    "execution.wandb": "../p",
    "seed": 2**32,
    "tokens": 0,
    "batch_tokens": 0,
    "seq_len": -1,
    "evaluation.tokens": 1,
    "evaluation.positions": 3,
    "evaluation.seq_lens": (64, 64),
    "loss.chunk": 0,
    "loss.z_loss": -1e-4,
    "schedule.warmup_tokens": -1,
    "schedule.warmup_start": 1.5,
    "schedule.final": -0.1,
    "schedule.a": 0.0,
    "schedule.b": 0.5,
    "data.unique_tokens": 0,
    "data.holdout": 1.0,
    "data.text_field": "",
    "family": 3,
}


@pytest.mark.parametrize(("old", "new"), build.MOVED.items())
def test_an_option_that_has_moved_is_named(old: str, new: str):
    """In stored configs, and on the command line: what changes numbers belongs to the run."""
    with pytest.raises(InputError, match=rf"{re.escape(old)} is {re.escape(new)} today"):
        freeze_options({old: 3})
    smoke = str(REPOSITORY / "experiments" / "configs" / "smoke.py")
    with pytest.raises(InputError, match=rf"{re.escape(old)} is {re.escape(new)} today"):
        config_file.check_arguments(["train", f"--config={smoke}", f"--config.{old}=3"])
    assert new in OPTIONS


def test_spikes_are_part_of_a_runs_identity_and_of_no_program():
    base, _ = freeze_options({})
    run, _ = freeze_options({"spikes.factor": 5.0, "spikes.every_tokens": 20_480})
    assert identity.fingerprint(run, ("m",)) != identity.fingerprint(base, ("m",))
    assert identity.signature(run) == identity.signature(base)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_value_is_one_line_that_names_the_field(name: str):
    value = IMPOSSIBLE[name]
    with pytest.raises(InputError) as error:
        freeze_options({name: value})
    text = str(error.value)
    assert text.startswith(f"{name}={value!r} ") and "\n" not in text, text


def test_options_without_effect_are_unset():
    @dataclasses.dataclass(frozen=True)
    class Section:
        name: str = option("plain", choices=("plain", "fancy"))
        colour: str = option("red", when=when("name", "fancy"))
        shade: int = option(1, when=when("colour", "blue"))

    plain = Section("plain", "blue", 3)
    assert with_idle_options_unset(plain) == Section()
    assert with_idle_options_unset(Section("fancy", "red", 3)) == Section("fancy")
    kept = Section("fancy", "blue", 3)
    assert with_idle_options_unset(kept) == kept
    assert [unmet(kept, field) for field in dataclasses.fields(kept)] == [None, None, None]


def test_every_option_has_a_line_of_help():
    lacking = [name for name, field in OPTIONS.items() if not field.metadata.get("help")]
    assert not lacking


def test_an_option_that_a_file_leaves_at_a_plain_none_can_be_given(tiny, tmp_path):
    """Its type is that of the default config: a file made from JSON, say, has no types for what is not set."""
    command = ("experiments.prepare", f"--config={write_config(tiny, tmp_path / 'config.py')}")
    given = "--config.execution.checkpoint_every_seconds="
    done = run_command(*command, f"{given}60", "--config.opt.clip_norm=2")
    assert done.returncode == 0, done.stderr
    done = run_command(*command, f"{given}often")
    assert done.returncode == 2 and "checkpoint_every_seconds=often is not a number" in done.stderr
    done = run_command(*command, f"{given}-1")
    assert done.returncode == 2 and "execution.checkpoint_every_seconds=-1.0" in done.stderr
