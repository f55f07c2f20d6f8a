"""Read a run back as a file of a workdir holds it: run.json, record.json, study.json.

SCHEMA is the version of run.json. Until version 1 options were accepted where they do nothing. Such a run still names
what was trained, by the fingerprint beside it; today's Run of it has those options at their defaults.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from experiments.run.check import check
from experiments.run.freeze import build_run
from experiments.run.schema import Run
from models.errors import InputError
from models.option import with_idle_options_unset

SCHEMA = 2


def version(value: Mapping[str, Any]) -> int:
    """Return the schema version of a run.json. Raises InputError for one that this program does not know."""
    found = value.get("schema", 1)
    if type(found) is not int or not 1 <= found <= SCHEMA:
        raise InputError(f"schema {found!r} is not known; this program knows up to {SCHEMA}")
    return found


def read(values: Mapping[str, Any], schema: int = 1) -> Run:
    """Return a recorded run. It is resolved already, so that no tokenizer is looked at.

    `schema` is the version of the run.json that it comes from; 1 where a file does not say it, which is always safe.
    Raises InputError for what is no run of this version's options.
    """
    if "family" not in values:
        raise InputError("family is missing from a recorded run")
    run = build_run(values)
    return _with_idle_options_unset(run) if schema < 2 else run


def read_checked(values: Mapping[str, Any], schema: int = 1) -> Run:
    """Return a recorded run whose numbers can be computed with. Raises InputError where a value cannot be."""
    run = read(values, schema)
    check(run)
    _check_resolved(run)
    return run


def _check_resolved(run: Run) -> None:
    """Check that nothing that a model derives from its other options is missing, as it never is in a file of ours."""
    model = run.model
    resolved = model.resolve(model.vocab, run.seq_len, separator=0)
    for field in dataclasses.fields(model):
        name = field.name
        if getattr(model, name) is None and getattr(resolved, name) is not None:
            raise InputError(f"model.{name} is missing from a recorded run")


def _with_idle_options_unset(run: Run) -> Run:
    """Return a run of before with options that do nothing at their defaults, in every section."""
    sections = {}
    for field in dataclasses.fields(run):
        value = getattr(run, field.name)
        if dataclasses.is_dataclass(value):
            sections[field.name] = with_idle_options_unset(value)
    return dataclasses.replace(run, **sections)
