"""A run and how it is executed, as frozen, validated dataclasses; freeze() and fingerprint().

A `Run` is everything that can change the numbers of one training run; an `Execution` is where and how it is carried
out. Each option is declared once, in the dataclass that uses it; `get_config` (experiments/configs) makes a locked
ConfigDict from them and `freeze` turns that back and checks it.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import hashlib
import json
import math
import re
import types
import typing
from typing import Any

from experiments.cli import InputError, nearest
from experiments.data.batches import Data
import models
from models.growing.operators import Growth
from models.mesh.rules import MeshShape
from models.option import option

NUMERICS_VERSION = 1  # raise when the same run would train to other numbers: a changed default, an equation, a shuffle


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with decoupled weight decay (Loshchilov & Hutter 2019) on matrices only, after clipping by global norm."""

    name: str = "adamw"
    lr: float = option(2e-3, runtime=True)  # peak
    beta1: float = option(0.9, runtime=True)
    beta2: float = option(0.95, runtime=True)
    eps: float = option(1e-8, runtime=True)
    weight_decay: float = option(0.1, runtime=True)  # multiplied by the learning rate
    clip_norm: float | None = option(1.0, runtime=True)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Learning rate over tokens, as a factor of the peak: warm-up, body, decay."""

    name: str = "cosine"  # cosine | cosine_halved | wsd | constant
    warmup_tokens: int = option(0, runtime=True)
    warmup_start: float = option(0.01, runtime=True)  # factor at the first step
    decay_tokens: int = option(0, runtime=True)  # wsd: length of the cooldown, which ends with the run
    decay_shape: str = "sqrt"  # wsd: sqrt | linear | cosine | square | mirror_cosine | exponential
    final: float = option(0.1, runtime=True)  # factor at the end


@dataclasses.dataclass(frozen=True)
class Loss:
    """Next-token cross-entropy in nats plus weighted terms."""

    z_loss: float = option(0.0, runtime=True)  # coefficient of mean logsumexp(logits)^2 (PaLM: 1e-4)
    chunk: int | None = option(None, numerics=False)  # tokens whose logits a device has at a time; None: by memory


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Held-out loss at the end of a run (and on the way: execution.eval_every_tokens)."""

    tokens: int = 65_536  # at most; fewer when the corpus holds out fewer
    weights: tuple[float, ...] = ()  # share of each corpus in what is evaluated; empty: data.weights, or by size


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run. Token counts are rounded to whole steps of `batch_tokens`."""

    family: str
    model: Any
    data: Data = Data()
    opt: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: Loss = Loss()
    evaluation: Evaluation = Evaluation()
    growth: Growth = Growth()
    tokens: int = option(2_000_000, runtime=True)
    batch_tokens: int = 2_048
    seq_len: int = 128
    seed: int = option(0, runtime=True)
    parent: str | None = None  # fingerprint of the run whose last checkpoint this one starts from (see growth)

    @property
    def batch(self) -> int:
        """Sequences a step."""
        return self.batch_tokens // self.seq_len

    @property
    def steps(self) -> int:
        """Optimizer steps: the tokens in whole batches, rounded to the nearest."""
        return round(self.tokens / self.batch_tokens)


@dataclasses.dataclass(frozen=True)
class Execution:
    """Where a run is carried out and what is kept. Never part of the fingerprint."""

    data_root: str = "data"
    parent_workdir: str | None = None  # folder of the parent: a run's, or of weights; None: beside the run's own
    mesh: MeshShape = MeshShape()
    cpu_devices: int | None = None  # simulated devices on a CPU; None: one per core this process may use
    # A step's batch goes through the model in so many equal parts, for the memory of one: the numbers of the whole batch.
    # On each device as many of its own sequences; weights that are split are gathered once a part.
    microbatches: int = 1
    offload: str = "none"  # none | optimizer: Adam's moments in the host's memory between updates; the same numbers
    packing: str = "auto"  # auto | map (trials one after the other on each device) | vmap (all at once)
    steps_per_dispatch: int | None = None  # None: about a quarter of a second's work
    log_every_steps: int = 10
    eval_every_tokens: int | None = None
    checkpoint_every_tokens: int | None = None  # None: at the end only
    checkpoint_every_seconds: float | None = 120.0  # and so often while a run is under way
    keep_checkpoints: int = 2
    tensorboard: bool = True
    compile_cache: str | None = "~/.cache/lossgrid/xla"
    wandb: str | None = None  # project of a Weights & Biases mirror of the metrics; its own settings are its variables'
    stall_factor: float | None = 30.0  # a step so many times slower than any before it ends the process (watchdog.py)
    stall_seconds: float = 300.0  # but never one faster than this
    spike_factor: float | None = None  # go back and leave out batches after such a loss spike; see spikes.py
    spike_limit: int = 3  # how often a run may do that


SECTIONS = {
    "data": Data,
    "opt": Optimizer,
    "schedule": Schedule,
    "loss": Loss,
    "evaluation": Evaluation,
    "growth": Growth,
}
CHOICES = {
    "opt.name": ("adamw",),
    "schedule.name": ("cosine", "cosine_halved", "wsd", "constant"),
    "schedule.decay_shape": ("sqrt", "linear", "cosine", "square", "mirror_cosine", "exponential"),
    "execution.packing": ("auto", "map", "vmap"),
    "execution.offload": ("none", "optimizer"),
}
# What of the data section is the manifest's to say, and therefore not the run's.
_IN_MANIFEST = ("data.corpus", "data.tokenizer", "data.text_field", "data.holdout")


def _cast(name: str, value: Any, annotation: Any) -> Any:
    """`value` as the annotated type. Raises InputError when it is of another."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    for kind in options:
        if kind is type(None) and value is None:
            return None
        if kind is bool and isinstance(value, bool):
            return value
        if kind is int and not isinstance(value, bool):
            if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
                return int(value)
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            if math.isfinite(value):
                return float(value)
            raise InputError(f"{name}={value} must be finite")
        if kind is str and isinstance(value, str):
            return value
        if typing.get_origin(kind) is tuple and isinstance(value, list | tuple | str):
            items = (value,) if isinstance(value, str) else value
            return tuple(_cast(name, item, typing.get_args(kind)[0]) for item in items)
    expected = " or ".join("unset (None)" if k is type(None) else getattr(k, "__name__", str(k)) for k in options)
    raise InputError(f"{name}={value!r} is of type {type(value).__name__}; expected {expected}")


def build(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A dataclass from a mapping. Raises InputError for a key that it lacks (nearest named) or a wrong type."""
    hints, fields = typing.get_type_hints(cls), {field.name: field for field in dataclasses.fields(cls)}
    if not isinstance(values, Mapping):
        raise InputError(f"{prefix.rstrip('.') or 'the run'}={values!r:.40}: expected options by name")
    for key in values:
        if key not in fields:
            raise InputError(f"unknown config key {prefix}{key}; {nearest(key, fields, 'key')}")
    out = {}
    for key, value in values.items():
        hint = hints[key]
        nested = dataclasses.is_dataclass(hint)
        out[key] = build(hint, value, f"{prefix}{key}.") if nested else _cast(prefix + key, value, hint)
    return cls(**out)


def freeze(config: Mapping[str, Any]) -> tuple[Run, Execution]:
    """A config (mapping or ConfigDict) as a validated Run and Execution. Raises InputError naming the field."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    execution = build(Execution, values.pop("execution", {}), "execution.")
    family = models.load(values.get("family", "dense"))
    sections: dict[str, Any] = {"model": build(family.Config, values.pop("model", {}), "model.")}
    for name, cls in SECTIONS.items():
        sections[name] = build(cls, values.pop(name, {}), f"{name}.")
    plain = {f.name for f in dataclasses.fields(Run)} - {"model", *SECTIONS}
    hints = typing.get_type_hints(Run)
    for key, value in values.items():
        if key not in plain:
            raise InputError(f"unknown config key {key}; {nearest(key, [*plain, *sections, 'execution'], 'key')}")
        sections[key] = _cast(key, value, hints[key])
    run = Run(**{"family": "dense"} | sections)
    check(run, execution)
    from experiments.data.tokenizer import (
        vocab_size,  # reads files for some tokenizers: only once the rest is known good
    )

    return dataclasses.replace(run, model=run.model.resolve(vocab_size(run.data), run.seq_len)), execution


def _positive(run: Run) -> Iterator[tuple[str, float]]:
    yield from (("tokens", run.tokens), ("batch_tokens", run.batch_tokens), ("seq_len", run.seq_len))
    yield from (("opt.lr", run.opt.lr), ("opt.eps", run.opt.eps), ("evaluation.tokens", run.evaluation.tokens))
    if run.opt.clip_norm is not None:
        yield "opt.clip_norm", run.opt.clip_norm


def check(run: Run, execution: Execution = Execution()) -> None:
    """Raises InputError, one line naming the fields, for values that no run can have."""
    for name, known in CHOICES.items():
        section, field = name.split(".")
        value = getattr(execution if section == "execution" else getattr(run, section), field)
        if value not in known:
            raise InputError(f"{name}={value!r} is not known; {nearest(value, known, 'choice')}")
    for name, value in _positive(run):
        if not value > 0:
            raise InputError(f"{name}={value} must be positive")
    if run.loss.chunk is not None and run.loss.chunk < 1:
        raise InputError(f"loss.chunk={run.loss.chunk} must be at least 1")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(run.opt, name) < 1:
            raise InputError(f"opt.{name}={getattr(run.opt, name)} must be in [0, 1)")
    for name in ("warmup_start", "final"):
        if not 0 <= getattr(run.schedule, name) <= 1:
            raise InputError(f"schedule.{name}={getattr(run.schedule, name)} must be in [0, 1]")
    for name, value in (("opt.weight_decay", run.opt.weight_decay), ("loss.z_loss", run.loss.z_loss)):
        if value < 0:
            raise InputError(f"{name}={value} must not be negative")
    if run.batch_tokens % run.seq_len:
        raise InputError(f"batch_tokens={run.batch_tokens} is not a multiple of seq_len={run.seq_len}")
    if run.steps < 1:
        raise InputError(f"tokens={run.tokens} is less than half a step of batch_tokens={run.batch_tokens}")
    schedule = run.schedule
    if min(schedule.warmup_tokens, schedule.decay_tokens) < 0 or run.seed < 0:
        raise InputError("schedule.warmup_tokens, schedule.decay_tokens and seed must not be negative")
    decay = schedule.decay_tokens if schedule.name == "wsd" else 0
    if schedule.warmup_tokens + decay > run.tokens:
        raise InputError(
            f"schedule.warmup_tokens={schedule.warmup_tokens} + schedule.decay_tokens={decay} exceed tokens={run.tokens}"
        )
    if schedule.name == "wsd" and not decay:
        raise InputError("schedule.decay_tokens=0: expected the length of the cooldown for schedule.name='wsd'")
    if schedule.decay_shape == "exponential" and schedule.final <= 0 and schedule.name == "wsd":
        raise InputError("schedule.final=0 cannot be reached by schedule.decay_shape='exponential'")
    if run.growth.ramp_tokens > run.tokens:
        raise InputError(f"growth.ramp_tokens={run.growth.ramp_tokens} exceed tokens={run.tokens}")
    if run.parent is None and run.growth != Growth():
        changed = next(f.name for f in dataclasses.fields(Growth) if getattr(run.growth, f.name) != f.default)
        raise InputError(f"growth.{changed}={getattr(run.growth, changed)!r} has no meaning without a parent")
    for name in ("stall_factor", "stall_seconds", "spike_factor"):
        if (value := getattr(execution, name)) is not None and not value > 0:
            raise InputError(f"execution.{name}={value} must be positive")
    if execution.wandb is not None and not re.fullmatch(r"[\w.-]{1,128}", execution.wandb):
        raise InputError(f"execution.wandb={execution.wandb!r}: expected a project name of letters, digits, . _ and -")
    for name in ("log_every_steps", "keep_checkpoints", "microbatches"):
        if getattr(execution, name) < 1:
            raise InputError(f"execution.{name}={getattr(execution, name)} must be at least 1")
    run.growth.check()
    run.data.check()
    weights = run.evaluation.weights
    if weights and (len(weights) != len(run.data.corpus) or not all(0 < w < math.inf for w in weights)):
        raise InputError(
            f"evaluation.weights={weights}: expected {len(run.data.corpus)} positive numbers, one per data.corpus, or none"
        )
    run.model.check(run.seq_len)
    if (parts := execution.microbatches) > 1:
        if run.batch % parts:
            raise InputError(
                f"batch_tokens / seq_len = {run.batch} sequences do not divide into execution.microbatches={parts}"
            )
        run.model.check_parts(run.seq_len)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """(dotted path, value, field metadata) of every option of a frozen dataclass tree."""
    for field in dataclasses.fields(node):
        value, path = getattr(node, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from leaves(value, path + ".")
        else:
            yield path, value, {"default": field.default, **field.metadata}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


def fingerprint(run: Run, manifests: tuple[str, ...]) -> str:
    """16 hex digits for everything that can change the run's numbers. `manifests`: fingerprints of its corpora.

    Options at their default are left out, so that a new option does not rename old runs; a changed default has to
    raise NUMERICS_VERSION.
    """
    options = {
        path: value
        for path, value, meta in leaves(run)
        if meta.get("numerics", True) and path not in _IN_MANIFEST and value != meta["default"]
    }
    return _digest({"numerics": NUMERICS_VERSION, "run": options, "data": list(manifests)})


def representative(run: Run) -> Run:
    """The run with its runtime options and data at their defaults: the same for all runs that can share a program."""
    plain = {path: meta["default"] for path, _, meta in leaves(run) if meta.get("runtime")}
    growth = Growth(width="random") if run.growth.masked else Growth()  # all that a program knows of it
    return dataclasses.replace(with_runtime(run, plain), data=Data(), parent=None, growth=growth)


def signature(run: Run) -> str:
    """Hash of everything that fixes array shapes and program structure: runs that share it train as a population."""
    return _digest(to_dict(representative(run)))


def runtime_values(run: Run) -> dict[str, float | int]:
    """The run's runtime options by path, as the numbers that enter a compiled program. An unset one is infinite."""
    return {p: (float("inf") if v is None else v) for p, v, meta in leaves(run) if meta.get("runtime")}


def with_runtime(run: Run, values: Mapping[str, Any]) -> Run:
    """`run` with its runtime options replaced, by traced numbers inside a compiled program. Token counts stay tokens."""

    def rebuild(node: Any, prefix: str) -> Any:
        changed = {}
        for field in dataclasses.fields(node):
            value, path = getattr(node, field.name), prefix + field.name
            if dataclasses.is_dataclass(value):
                changed[field.name] = rebuild(value, path + ".")
            elif path in values:
                changed[field.name] = values[path]
        return dataclasses.replace(node, **changed) if changed else node

    return rebuild(run, "")


def to_dict(run: Run) -> dict[str, Any]:
    """Plain nested values, as written to a record; `freeze` reads them back."""
    return json.loads(json.dumps(dataclasses.asdict(run)))
