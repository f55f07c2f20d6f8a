"""Check a run and its execution: values that no run can have raise InputError, one line naming the field."""

from collections.abc import Iterator
import dataclasses
import math
import re

from experiments.cli import InputError, nearest
from experiments.run.schema import Execution, Run
from models.growing.options import Growth
from models.option import check_options

CHOICES = {
    "opt.name": ("adamw",),
    "schedule.name": ("cosine", "cosine_halved", "wsd", "constant"),
    "schedule.decay_shape": ("sqrt", "linear", "cosine", "square", "mirror_cosine", "exponential"),
    "execution.packing": ("auto", "map", "vmap"),
    "execution.offload": ("none", "optimizer"),
}


def _positive(run: Run) -> Iterator[tuple[str, float]]:
    yield from (("tokens", run.tokens), ("batch_tokens", run.batch_tokens), ("seq_len", run.seq_len))
    yield from (("opt.lr", run.opt.lr), ("opt.eps", run.opt.eps), ("evaluation.tokens", run.evaluation.tokens))
    if run.opt.clip_norm is not None:
        yield "opt.clip_norm", run.opt.clip_norm


def check(run: Run, execution: Execution = Execution()) -> None:
    """Raises InputError, one line naming the fields, for values that no run can have."""
    check_options(execution.mesh, "execution.mesh")
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
