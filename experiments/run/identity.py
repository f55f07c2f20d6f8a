"""Identify runs: fingerprints of what changes numbers, signatures of what changes programs."""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import hashlib
import json
from typing import Any

from experiments.data import tasks
from experiments.data.options import Data
from experiments.run.schema import Run, Spikes
from experiments.training import optimizers
from models.growing.options import Growth

NUMERICS_VERSION = 1  # raise when the same run would train to other numbers: a changed default, an equation, a shuffle

_PLAIN = (str, int, float, bool, type(None))

# These options of the section `data` are in the manifest, whose fingerprint stands for them.
_IN_MANIFEST = (
    "data.corpus",
    "data.tokenizer",
    "data.text_field",
    "data.deduplicate",
    "data.holdout",
    "data.pairs",
    "data.between",
)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield (dotted path, value, metadata with the default) of every option of a tree of dataclasses."""
    for name, metadata in _declared(type(node)):
        value = getattr(node, name)
        path = prefix + name
        if dataclasses.is_dataclass(value):
            yield from leaves(value, path + ".")
        else:
            yield path, value, metadata


@functools.cache
def _declared(cls: type) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """Return the names of a dataclass's fields, each with its metadata and default."""
    return tuple((field.name, {"default": field.default, **field.metadata}) for field in dataclasses.fields(cls))


def short_digest(value: Any) -> str:
    """Return 16 hex digits of the hash of a JSON value."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_default(path: str, value: Any, default: Any) -> bool:
    # Each optimizer's Config has its own name as the default: only that of the default optimizer says nothing.
    return value == (optimizers.DEFAULT if path == "opt.name" else default)


def numerics_version(run: Run) -> int:
    """Return the version of the numbers that a run trains to: of all runs, or a later one of models with its options."""
    return max(NUMERICS_VERSION, run.model.numerics_version)


def fingerprint(run: Run, manifests: tuple[str, ...]) -> str:
    """Return 16 hex digits for everything that can change the run's numbers. `manifests`: fingerprints of its corpora.

    Options at their default are left out, so that a new option does not rename old runs; a changed default has to
    raise NUMERICS_VERSION, or `numerics_version` of the models that it concerns.
    """
    options = {}
    for path, value, metadata in leaves(run):
        changes_numbers = metadata.get("numerics", True) and path not in _IN_MANIFEST
        if changes_numbers and not _is_default(path, value, metadata["default"]):
            options[path] = tasks.identity(value) if path == tasks.OPTION else value
    if run.data.weights and not run.evaluation.weights:
        # Such runs were judged in the shares of data.weights once: those of today have other numbers, and other names.
        options["evaluation.weights"] = "by size"
    return short_digest({"numerics": numerics_version(run), "run": options, "data": list(manifests)})


def representative(run: Run) -> Run:
    """Return the run with its runtime options and data at their defaults: one for all that can share a program."""
    defaults = {path: metadata["default"] for path, _, metadata in leaves(run) if metadata.get("runtime")}
    growth = Growth(width="random") if run.growth.masked else Growth()  # all that a program knows of it
    return dataclasses.replace(with_runtime(run, defaults), data=Data(), parent=None, growth=growth, spikes=Spikes())


@functools.lru_cache(maxsize=1 << 15)  # a launch asks again and again for each run of its study
def signature(run: Run) -> str:
    """Hash everything that fixes array shapes and program structure: runs that share it train as a population."""
    options = to_dict(representative(run))
    del options["spikes"]  # programs know nothing of them
    return short_digest(options)


def runtime_values(run: Run) -> dict[str, float | int]:
    """Return the run's runtime options by path, as the numbers that enter a program. An unset one is infinite."""
    values = {}
    for path, value, metadata in leaves(run):
        if metadata.get("runtime"):
            values[path] = float("inf") if value is None else value
    return values


def with_runtime(run: Run, values: Mapping[str, Any]) -> Run:
    """Return `run` with its runtime options replaced, in a compiled program by traced numbers. Tokens stay tokens."""
    return _with_values(run, values, "")


def _with_values(node: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """Return the dataclass tree with the values whose dotted paths are given."""
    changed = {}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        path = prefix + field.name
        if dataclasses.is_dataclass(value):
            changed[field.name] = _with_values(value, values, path + ".")
        elif path in values:
            changed[field.name] = values[path]
    return dataclasses.replace(node, **changed) if changed else node


def to_dict(run: Run) -> dict[str, Any]:
    """Return plain nested values, as they are written to files; stored.py and freeze.py read them back."""
    return _plain(run)


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back. Ten times faster than to write it and read it."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple:
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(kind):
        return {name: _plain(getattr(value, name)) for name, _ in _declared(kind)}
    return json.loads(json.dumps(value))
