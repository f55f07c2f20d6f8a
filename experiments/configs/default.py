"""Every option at its default, locked: a misspelt override is refused.

    python -m experiments.train --config=experiments/configs/default.py:dense --config.model.width=128 --workdir=runs/a

The argument after the colon is the family. `python -m experiments.train --options=FAMILY` prints all options.
"""

import dataclasses
import types
import typing
from typing import Any, cast

from ml_collections import ConfigDict, config_dict

from experiments.run import schema
from experiments.training import optimizers
import models
from models.errors import InputError, nearest


def section(cls: type) -> ConfigDict:
    """Return the defaults of a dataclass; an unset (None) option keeps its type, so that overrides are parsed."""
    hints = typing.get_type_hints(cls)
    defaults = ConfigDict()
    for field in dataclasses.fields(cls):
        name = field.name
        hint = hints[name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            defaults[name] = section(hint)
        elif field.default is None and isinstance(hint, types.UnionType):
            defaults[name] = _unset(hint)
        elif field.default is not dataclasses.MISSING:
            defaults[name] = field.default
    return defaults


def _unset(hint: types.UnionType) -> Any:
    """Return an unset option of the type that it may have."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return config_dict.placeholder(kinds[0])


def choose_optimizer(config: ConfigDict, name: str) -> None:
    """Give a config the options of another optimizer, at its defaults; what was set in the config before stays set.

    Raises InputError for an optimizer that is not known, and for an option that was set and that it has not.
    """
    options = cast(Any, config.opt)  # its type is not known: a section of any optimizer
    former = section(optimizers.load(options.name).Config)
    chosen = section(optimizers.load(name).Config)
    for key, value in options.items():
        if key == "name" or value == former[key]:
            continue
        if key not in chosen:
            raise InputError(f"opt.{key}={value!r} is no option of opt.name={name!r}; {nearest(key, chosen, 'option')}")
        chosen[key] = value
    with config.unlocked():
        config.opt = chosen


def get_config(family: str | None = None) -> Any:
    """Return the defaults of a family (dense when none is named) as a locked ConfigDict."""
    family = family or "dense"
    optimizer = optimizers.load(optimizers.DEFAULT)
    config = ConfigDict({"family": family})
    config.model = section(models.load(family).Config)
    config.opt = section(optimizer.Config)
    for name, cls in schema.SECTIONS.items():
        config[name] = section(cls)
    hints = typing.get_type_hints(schema.Run)
    for field in dataclasses.fields(schema.Run):
        name = field.name
        if name not in config:
            config[name] = _unset(hints[name]) if field.default is None else field.default
    config.execution = section(schema.Execution)
    return config.lock()
