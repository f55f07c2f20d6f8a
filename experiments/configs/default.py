"""Every option at its default, locked: a misspelt override is refused.

    python -m experiments.train --config=experiments/configs/default.py:dense --config.model.width=128 --workdir=runs/a

The argument after the colon is the family. Options and their meaning: the dataclasses in experiments/run/schema.py,
experiments/data/batches.py and models/FAMILY.py.
"""

import dataclasses
import types
import typing
from typing import Any

from ml_collections import ConfigDict, config_dict

from experiments.cli import InputError, nearest
from experiments.run import schema
from experiments.training import optimizers
import models


def _fields(cls: type) -> ConfigDict:
    """A ConfigDict of a dataclass's defaults; an unset (None) field keeps its type, so that overrides are parsed."""
    hints, out = typing.get_type_hints(cls), ConfigDict()
    for field in dataclasses.fields(cls):
        hint, value = hints[field.name], field.default
        if dataclasses.is_dataclass(hint):
            out[field.name] = _fields(hint)
        elif value is None and isinstance(hint, types.UnionType):
            kind = next(kind for kind in typing.get_args(hint) if kind is not type(None))
            out[field.name] = config_dict.placeholder(kind)
        elif value is not dataclasses.MISSING:
            out[field.name] = value
    return out


def choose_optimizer(config: ConfigDict, name: str) -> None:
    """Give a config the options of another optimizer, at its defaults; what was set in the config before stays set.

    Raises InputError for an optimizer that is not known, and for an option that was set and that it has not.
    """
    former = _fields(optimizers.load(config.opt.name).Config)
    chosen = _fields(optimizers.load(name).Config)
    for key, value in config.opt.items():
        if key == "name" or value == former[key]:
            continue
        if key not in chosen:
            raise InputError(f"opt.{key}={value!r} is no option of opt.name={name!r}; {nearest(key, chosen, 'option')}")
        chosen[key] = value
    with config.unlocked():
        config.opt = chosen


def get_config(family: str | None = None) -> Any:
    """The defaults of a family (dense when none is named) as a locked ConfigDict."""
    family = family or "dense"
    config = ConfigDict({"family": family})
    config.model = _fields(models.load(family).Config)
    config.opt = _fields(optimizers.load(optimizers.DEFAULT).Config)
    for name, cls in schema.SECTIONS.items():
        config[name] = _fields(cls)
    hints = typing.get_type_hints(schema.Run)
    for field in dataclasses.fields(schema.Run):
        if field.name not in ("family", "model", "opt", *schema.SECTIONS):
            config[field.name] = (
                config_dict.placeholder(typing.get_args(hints[field.name])[0])
                if field.default is None
                else field.default
            )
    config.execution = _fields(schema.Execution)
    return config.lock()
