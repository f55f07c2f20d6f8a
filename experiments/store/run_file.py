"""run.json: which run a folder is for, written before the first step. experiments/run/stored.py reads it back."""

from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from experiments import files
from experiments.cli import InputError
from experiments.run import identity, stored
from experiments.run.schema import Run
from experiments.store import lineage as lineages
from experiments.store import segments
from experiments.store.lineage import Lineage

NAME = "run.json"
_SHOWN = 4  # options in which two runs differ


def reserve(
    directory: epath.Path,
    run: Run,
    fingerprint: str,
    manifests: tuple[str, ...],
    lineage: Lineage | None = None,
) -> None:
    """Write run.json, or check the one that is there. Raises InputError when the folder holds another run.

    `manifests`: fingerprints of the run's corpora.
    """
    path = directory / NAME
    if path.exists():
        _check_same(path, run, fingerprint)
        return
    value = {
        "schema": stored.SCHEMA,
        "fingerprint": fingerprint,
        "run": identity.to_dict(run),
        "manifests": list(manifests),
        "parent": run.parent,
    }
    if lineage is not None:
        value["lineage"] = lineages.to_json(lineage)
    files.write_json(path, value)


def _check_same(path: epath.Path, run: Run, fingerprint: str) -> None:
    """Raise InputError where a folder belongs to another run, or its run.json is damaged."""
    try:
        found = files.read_json(path)
        other = found["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}); delete it to use the folder") from error
    if other == fingerprint:
        return
    ours = dict(_options(identity.to_dict(run)))
    theirs = dict(_options(found["run"]))
    differing = [name for name, value in ours.items() if value != theirs.get(name)] or [
        "the data, or the version of the numerics"
    ]
    raise InputError(
        f"--workdir={path.parent} holds run {other}; this config is run {fingerprint} (they differ in "
        f"{', '.join(differing[:_SHOWN])}): choose another folder{_or_delete(path.parent)}"
    )


def _or_delete(directory: epath.Path) -> str:
    """Say that a folder may go when its run was refused after run.json was written: nothing was trained in it."""
    used = any(
        (directory / name).exists() for name in ("claim.json", segments.FOLDER, segments.OLD_FILE, "record.json")
    )
    checkpoints = directory / "checkpoints"
    if used or (checkpoints.exists() and any(checkpoints.iterdir())):
        return ""
    return ", or delete this one: nothing has been trained in it"


def _options(sections: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every option by its dotted name."""
    for key, value in sections.items():
        if isinstance(value, dict):
            yield from _options(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
