"""Identify runs: fingerprints of what changes numbers, signatures of what changes programs."""

from collections.abc import Iterator, Mapping
import dataclasses
import hashlib
import json
from typing import Any

from experiments.data.options import Data
from experiments.run.schema import Run
from models.growing.options import Growth

NUMERICS_VERSION = 1  # raise when the same run would train to other numbers: a changed default, an equation, a shuffle


# What of the data section is the manifest's to say, and therefore not the run's.
_IN_MANIFEST = ("data.corpus", "data.tokenizer", "data.text_field", "data.holdout")


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
