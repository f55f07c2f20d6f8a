"""Turn a config into a frozen, checked Run and Execution."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from ml_collections import ConfigDict

from experiments.data import tasks
from experiments.run.build import build, cast, type_hints
from experiments.run.check import check
from experiments.run.schema import SECTIONS, Execution, Run, optimizer_options
import models
from models.errors import InputError, nearest


def freeze(config: Mapping[str, Any] | ConfigDict) -> tuple[Run, Execution]:
    """Return a config (mapping or ConfigDict) as a checked Run and Execution. Raises InputError naming the field."""
    values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    execution = build(Execution, values.pop("execution", {}), "execution.")
    run = build_run(values)
    check(run, execution)
    # Some tokenizers are files, and all tasks: they are read once the rest is known to be good.
    from experiments.data.tokenizer import separator, vocab_size

    # That of a file is looked at only where a model asks for it.
    own = separator(run.data) if run.model.reads_separator else None
    vocab = vocab_size(run.data)
    model = run.model.resolve(vocab, run.seq_len, own)
    evaluation = run.evaluation
    checked_tasks = tasks.resolve(evaluation.tasks)
    evaluation = dataclasses.replace(evaluation, tasks=checked_tasks)
    run = dataclasses.replace(run, model=model, evaluation=evaluation)
    return run, execution


def build_run(values: Mapping[str, Any]) -> Run:
    """Build a Run of nested plain values. Only names and types are checked. Raises InputError naming the field."""
    hints = type_hints(Run)
    family = cast("family", values.get("family", "dense"), str)
    sections = SECTIONS | {"model": models.load(family).Config, "opt": optimizer_options(values.get("opt"))}
    options: dict[str, Any] = {"family": family}
    for name, section in sections.items():
        options[name] = build(section, values.get(name, {}), f"{name}.")
    for name, value in values.items():
        if name in options:
            continue
        if name not in hints:
            raise InputError(f"unknown config key {name}; {nearest(name, [*hints, 'execution'], 'key')}")
        options[name] = cast(name, value, hints[name])
    return Run(**options)
