"""Read the --config flag of every command: an ml_collections file with `get_config(arg)`, and dotted overrides.

    --config=FILE.py[:ARG] --config.model.width=128 --config.opt.clip_norm=none

absl and ml_collections parse most of it. Here are the errors that name the key, `=none`, which unsets an option of any
type, options that a file has set to a plain None, and `--config.opt.name`, which brings the options of another optimizer.
"""

from collections.abc import Iterator
import dataclasses
import importlib.util
import os
import re
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import cli
from experiments.configs import default
from experiments.run import freeze, schema
from experiments.run.build import check_moved
from models.errors import InputError, nearest

CONFIG = re.compile(r"--?config=(.*)")
_KINDS = {int: "a whole number", float: "a number", bool: "True or False"}
OVERRIDE = re.compile(r"--?config\.([^=]+)(?:=(.*))?", re.DOTALL)


@dataclasses.dataclass
class _Overrides:
    """What a command line says and absl cannot parse: kept from `check_arguments` until `frozen`."""

    unset: list[str] = dataclasses.field(default_factory=list)
    untyped: dict[str, Any] = dataclasses.field(default_factory=dict)  # of options whose plain None has no type
    names: list[str] = dataclasses.field(default_factory=list)  # of all options of the config
    # Where --config.opt.name chooses an optimizer, all --config.opt overrides: the flags of the config are parsed for
    # the options of another one.
    of_optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)


_overrides = _Overrides()
_left_to_absl: list[str] = []  # by ml_collections, which would look at sys.argv for overrides


def define() -> None:
    """Declare --config (ml_collections config_flags, locked). The command line goes through `check_arguments` first."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "FILE.py[:ARG] with get_config(arg); override with --config.a.b=value",
        lock_config=True,
        sys_argv=_left_to_absl,
    )


def load_module(path: str, function: str, flag: str) -> Any:
    """Return a function of a Python file that the user names. Raises InputError when file or function is not there."""
    if not path.endswith(".py") or not os.path.isfile(path):
        raise InputError(f"{flag}={path}: expected a Python file with {function}(arg)")
    spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:  # it is the user's code: anything may happen in it
        raise InputError(f"{flag}={path} cannot be loaded: {type(error).__name__}: {error}") from error
    if not hasattr(module, function):
        raise InputError(f"{flag}={path} has no function {function}(arg)")
    return getattr(module, function)


def call(function: Any, argument: str | None, flag: str) -> Any:
    """Call `function(argument)`, or `function()` without one. Raises InputError for an argument that is not taken."""
    try:
        return function(argument) if argument is not None else function()
    except InputError:
        raise
    except TypeError as error:
        if argument is None:
            return function(None)
        raise InputError(f"{flag}: argument {argument!r} is not taken: {error}") from error


def check_arguments(argv: list[str]) -> list[str]:
    """Check --config flags before they are parsed, and return the arguments that absl is to parse.

    Raises InputError naming the key that is unknown or the value that is of another type.
    """
    _left_to_absl[:] = _checked(argv)
    return list(_left_to_absl)


def _checked(argv: list[str]) -> list[str]:
    """Return what is left to absl, and keep the rest in _overrides."""
    global _overrides
    _overrides = _Overrides()
    given = [match[1] for match in map(CONFIG.fullmatch, argv) if match]
    if not given:
        return argv
    path, _, argument = os.path.expanduser(given[-1]).partition(":")
    config = call(load_module(path, "get_config", "--config"), argument or None, f"--config={given[-1]}")
    _overrides.names = list(_names(config, "config."))
    _choose_optimizer(config, argv)
    return [_as_absl_reads(config, arg) for arg in argv if not _taken(config, arg)]


def names() -> list[str]:
    """Return the names of all overrides of the config that `check_arguments` has read."""
    return _overrides.names


def _names(config: ConfigDict, prefix: str) -> Iterator[str]:
    """Yield the dotted names of a config's options, sections inside it too."""
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict):
            yield from _names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _as_absl_reads(config: ConfigDict, arg: str) -> str:
    """Return an argument as absl reads it: a whole number without an exponent, a home folder by its path."""
    chosen = CONFIG.fullmatch(arg)
    if chosen:
        return f"--config={os.path.expanduser(chosen[1])}"
    match = OVERRIDE.fullmatch(arg)
    if match and match[2] is not None and _kind(config, match[1]) is int:
        return f"--config.{match[1]}={cli.whole_number(match[2])}"
    return arg


def _choose_optimizer(config: ConfigDict, argv: list[str]) -> None:
    """Give the config the options of the optimizer that the command line names."""
    for match in map(OVERRIDE.fullmatch, argv):
        if match and match[1] == "opt.name" and match[2] is not None:
            default.choose_optimizer(config, match[2])
            _overrides.of_optimizer["name"] = match[2]


def _taken(config: ConfigDict, arg: str) -> bool:
    """Check an argument, and tell whether it is kept in _overrides and not for absl to parse."""
    match = OVERRIDE.fullmatch(arg)
    if match is None:
        return False
    key = match[1]
    value = match[2]
    kind = _kind(config, key)
    is_untyped = kind is type(None)
    if is_untyped:
        kind = _kind(default.get_config(str(config.get("family", "dense"))), key)
    _check_value(key, value, kind)
    if value is not None and value.lower() == "none":
        _overrides.unset.append(key)
        return True
    if _overrides.of_optimizer and key.startswith("opt."):
        _overrides.of_optimizer[key.removeprefix("opt.")] = _parse(value, kind)
        return True
    if is_untyped and kind in (int, float, bool, str):
        _overrides.untyped[key] = _parse(value, kind)
        return True
    return False


def _kind(config: ConfigDict, key: str) -> type:
    """Return the type of an option. Raises InputError for a key that is unknown, or that of a section."""
    node: Any = config
    kind: type = type(None)
    for part in key.split("."):
        if not isinstance(node, ConfigDict) or part not in node:
            check_moved(key)
            known = list(node) if isinstance(node, ConfigDict) else []
            raise InputError(f"unknown config key {key}; {nearest(part, known, 'key')}")
        kind = node.get_type(part)
        node = node[part]
    if isinstance(node, ConfigDict):
        raise InputError(f"--config.{key} is a section; expected one of its keys: {', '.join(node)}")
    return kind


def _check_value(key: str, value: str | None, kind: type) -> None:
    """Check that a number or a switch is spelt as one. Raises InputError. Other types are for absl to parse."""
    if value is None or value.lower() == "none":
        return
    try:
        _parse(value, kind)
    except (ValueError, OverflowError):
        raise InputError(f"--config.{key}={value} is not {_KINDS[kind]}") from None


def _parse(value: str | None, kind: type) -> Any:
    """Return a value of its kind; a flag without a value is a switch. Raises ValueError where it cannot be one."""
    if value is None:
        return True
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError(value)
        return value.lower() == "true"
    if kind is int:
        return cli.whole_number(value)
    return float(value) if kind is float else value


def frozen() -> tuple[schema.Run, schema.Execution]:
    """Return the Run and Execution of the parsed flags."""
    config = flags.FLAGS.config
    if _overrides.of_optimizer:
        default.choose_optimizer(config, _overrides.of_optimizer["name"])
        config.opt.update(_overrides.of_optimizer)
    with config.unlocked(), config.ignore_type():
        for key, value in (dict.fromkeys(_overrides.unset) | _overrides.untyped).items():
            section, _, name = key.rpartition(".")
            (config[section] if section else config)[name] = value
    return freeze.freeze(config)
