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
) -> bool:
    """Write run.json, or check the one that is there; return whether it was written.

    Raises InputError when the folder holds another run. `manifests`: fingerprints of the run's corpora.
    """
    if check(directory, run, fingerprint):
        return False
    value = {
        "schema": stored.SCHEMA,
        "fingerprint": fingerprint,
        "run": identity.to_dict(run),
        "manifests": list(manifests),
        "parent": run.parent,
    }
    if lineage is not None:
        value["lineage"] = lineages.to_json(lineage)
    files.write_json(directory / NAME, value)
    return True


def withdraw(directory: epath.Path) -> None:
    """Delete run.json where nothing has been trained under it: a run that could not start is not one that has begun."""
    if not _has_trained(directory):
        (directory / NAME).unlink(missing_ok=True)


def check(directory: epath.Path, run: Run, fingerprint: str) -> bool:
    """Say whether a folder has its run.json. Raises InputError where it belongs to another run, or is damaged."""
    path = directory / NAME
    if not path.exists():
        return False
    try:
        found = files.read_json(path)
        other = found["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}); delete it to use the folder") from error
    if other == fingerprint:
        return True
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
    """Say that a folder may go when its process ended after run.json was written: nothing was trained in it."""
    if _has_trained(directory) or (directory / "claim.json").exists():
        return ""
    return ", or delete this one: nothing has been trained in it"


def _has_trained(directory: epath.Path) -> bool:
    """Say whether a folder has anything of what a run leaves as it trains."""
    for name in (segments.FOLDER, segments.OLD_FILE, "record.json"):
        if (directory / name).exists():
            return True
    checkpoints = directory / "checkpoints"
    return checkpoints.exists() and any(checkpoints.iterdir())


def _options(sections: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every option by its dotted name."""
    for key, value in sections.items():
        if isinstance(value, dict):
            yield from _options(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
