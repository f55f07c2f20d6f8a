"""The --config flag of every command: an ml_collections file with `get_config(arg)`, and dotted overrides.

--config=FILE.py[:ARG] --config.model.width=128 --config.opt.clip_norm=none
"""

import importlib.util
import os
import re
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments.cli import InputError, nearest
from experiments.configs import default
from experiments.run import freeze, schema

_unset: list[str] = []
# Where --config.opt.name chooses an optimizer, all --config.opt overrides: the flags of the config are parsed for the
# options of another one.
_of_optimizer: dict[str, Any] = {}


def define() -> None:
    """Declare --config (ml_collections config_flags, locked)."""
    config_flags.DEFINE_config_file(
        "config", None, "FILE.py[:ARG] with get_config(arg); override with --config.a.b=value", lock_config=True
    )


def load_module(path: str, function: str, flag: str) -> Any:
    """A function of a Python file that the user names. Raises InputError when file or function is not there."""
    if not path.endswith(".py") or not os.path.isfile(path):
        raise InputError(f"{flag}={path}: expected a Python file with {function}(arg)")
    spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{flag}={path} cannot be loaded: {type(error).__name__}: {error}") from error
    if not hasattr(module, function):
        raise InputError(f"{flag}={path} has no function {function}(arg)")
    return getattr(module, function)


def call(function: Any, argument: str | None, flag: str) -> Any:
    """`function(argument)`, or `function()` without one. Raises InputError for an argument that it does not take."""
    try:
        return function(argument) if argument is not None else function()
    except InputError:
        raise
    except TypeError as error:
        if argument is None:
            return function(None)
        raise InputError(f"{flag}: argument {argument!r} is not taken: {error}") from error


def check_arguments(argv: list[str]) -> list[str]:
    """Look at --config flags before they are parsed, for errors that name the key. Returns argv without `=none` ones."""
    _unset.clear()
    _of_optimizer.clear()
    given = [match[1] for arg in argv if (match := re.fullmatch(r"--?config=(.*)", arg))]
    if not given:
        return argv
    path, _, argument = given[-1].partition(":")
    config = call(load_module(path, "get_config", "--config"), argument or None, f"--config={given[-1]}")
    for arg in argv:
        if match := re.fullmatch(r"--?config\.opt\.name=(.*)", arg):
            default.choose_optimizer(config, match[1])
            _of_optimizer["name"] = match[1]
    kept = []
    for arg in argv:
        match = re.fullmatch(r"--?config\.([^=]+)(?:=(.*))?", arg, re.DOTALL)
        if match:
            kind = _kind(config, match[1])
            _check_value(match[1], match[2], kind)
            if (match[2] or "").lower() == "none":
                _unset.append(match[1])
                continue
            if _of_optimizer and match[1].startswith("opt."):
                _of_optimizer[match[1].removeprefix("opt.")] = _parse(match[2], kind)
                continue
        kept.append(arg)
    return kept


def _parse(value: str | None, kind: type) -> Any:
    """A value that `_check_value` has found to be of its kind. A flag without a value is a switch."""
    if value is None:
        return True
    if kind is bool:
        return value.lower() == "true"
    return kind(value) if kind in (int, float) else value


def _kind(config: ConfigDict, key: str) -> type:
    node: Any = config
    kind: type = type(None)
    for part in key.split("."):
        if not isinstance(node, ConfigDict) or part not in node:
            known = list(node) if isinstance(node, ConfigDict) else []
            raise InputError(f"unknown config key {key}; {nearest(part, known, 'key')}")
        kind, node = node.get_type(part), node[part]
    if isinstance(node, ConfigDict):
        raise InputError(f"--config.{key} is a section; expected one of its keys: {', '.join(node)}")
    return kind


def _check_value(key: str, value: str | None, kind: type) -> None:
    if value is None or value.lower() == "none" or kind not in (int, float, bool):
        return
    try:
        if kind is bool and value.lower() not in ("true", "false"):
            raise ValueError
        if kind is int:
            int(value)
        if kind is float:
            float(value)
    except ValueError:
        raise InputError(f"--config.{key}={value} is not of type {kind.__name__}") from None


def frozen() -> tuple[schema.Run, schema.Execution]:
    """The Run and Execution of the parsed flags."""
    config = flags.FLAGS.config
    if _of_optimizer:
        default.choose_optimizer(config, _of_optimizer["name"])
        config.opt.update(_of_optimizer)
    with config.unlocked(), config.ignore_type():
        for key in _unset:
            section, _, name = key.rpartition(".")
            (config[section] if section else config)[name] = None
    return freeze.freeze(config)
