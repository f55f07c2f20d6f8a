"""Turn a config into a frozen, checked Run and Execution."""

from collections.abc import Mapping
import dataclasses
import typing
from typing import Any

from experiments.cli import InputError, nearest
from experiments.run.build import _cast, build
from experiments.run.check import check
from experiments.run.schema import SECTIONS, Execution, Run
import models


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
