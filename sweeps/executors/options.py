"""Find an executor by name and read its options."""

import dataclasses
import importlib
from typing import Any

from experiments.cli import InputError, nearest
from sweeps.executors.protocol import Executor

# Module of each: it has `Options`, a frozen dataclass whose fields have defaults, and `executor(options)`.
EXECUTORS = {"local": "local", "slurm": "slurm", "ray": "ray", "tpu-vm": "tpu_vm"}


def load(spec: str) -> Executor:
    """The executor of NAME or NAME:key=value,…. Raises InputError for an unknown name or key, and a wrong value."""
    name, _, rest = spec.partition(":")
    if name not in EXECUTORS:
        raise InputError(f"--executor={name!r} is not known; {nearest(name, EXECUTORS, 'executor')}")
    module = importlib.import_module(f"sweeps.executors.{EXECUTORS[name]}")
    return module.executor(options(module.Options, rest, f"--executor={name}"))


def options(cls: Any, text: str, flag: str) -> Any:
    """A dataclass from `key=value,…`. Raises InputError naming the flag, the key and what was expected."""
    fields, out = {field.name: field for field in dataclasses.fields(cls)}, {}
    for word in filter(None, text.split(",")):
        key, given, value = word.partition("=")
        if key not in fields:
            raise InputError(f"{flag}:{word}: unknown option; {nearest(key, fields, 'option')}")
        kind = type(fields[key].default)
        try:
            if not given:
                raise ValueError
            out[key] = {"true": True, "false": False}[value] if kind is bool else kind(value)
        except (ValueError, KeyError):
            expected = "true or false" if kind is bool else f"{key}=… of type {kind.__name__}"
            raise InputError(f"{flag}:{word}: expected {expected}") from None
    return cls(**out)
