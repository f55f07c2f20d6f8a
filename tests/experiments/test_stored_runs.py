"""Runs that older versions recorded: options that did nothing are read at their defaults, under the old fingerprint."""

import json
import pathlib

import pytest

from experiments.cli import InputError
from experiments.run import freeze, identity, stored
from experiments.store import inherit, record, weights
from experiments.store.run_file import reserve
from sweeps.watch import grid_table
from sweeps.work.workdir import State

# What schema 1 accepted, although it changes nothing: with a cosine schedule, no warm-up and a single text.
IDLE = {"schedule": {"decay_shape": "linear", "warmup_start": 0.5}, "data": {"weights": [2.0]}}


def old_values(tiny) -> dict:
    """Return a run as an older version wrote it."""
    run, _ = freeze.freeze(tiny())
    values = identity.to_dict(run)
    for section, options in IDLE.items():
        values[section] |= options
    return values


@pytest.fixture
def old_folder(tiny, tmp_path: pathlib.Path) -> pathlib.Path:
    """Write the run.json of schema 1 by hand, and the record beside it."""
    folder = tmp_path / "old"
    folder.mkdir()
    name = "0123456789abcdef"
    value = {"schema": 1, "fingerprint": name, "run": old_values(tiny), "manifests": ["m"], "parent": None}
    (folder / "run.json").write_text(json.dumps(value))
    run, _ = freeze.freeze(tiny())
    written = record.make(run, name, ("m",), "complete") | {"run": value["run"]}
    (folder / "record.json").write_text(json.dumps(written))
    return folder


def test_an_old_run_is_read_with_its_fingerprint(old_folder: pathlib.Path, tiny):
    run, _ = freeze.freeze(tiny())
    parent = inherit.read(old_folder)
    assert parent.fingerprint == "0123456789abcdef"
    assert parent.run == run
    assert identity.fingerprint(parent.run, ("m",)) != parent.fingerprint


@pytest.mark.parametrize("schema", [1, None])
def test_a_file_without_a_version_is_the_first(old_folder: pathlib.Path, tiny, schema: int | None):
    path = old_folder / "run.json"
    value = json.loads(path.read_text())
    del value["schema"]
    path.write_text(json.dumps(value if schema is None else value | {"schema": schema}))
    assert inherit.read(old_folder).run == freeze.freeze(tiny())[0]


def test_what_an_old_run_did_is_refused_in_a_config(tiny):
    with pytest.raises(InputError, match=r"schedule\.warmup_start=0\.5 has an effect only where"):
        freeze.freeze(old_values(tiny))


def test_an_old_point_of_a_study_has_its_columns(tiny):
    run, _ = freeze.freeze(tiny())
    point = {"fingerprint": "0123456789abcdef", "name": "old", "tags": {}, "run": old_values(tiny)}
    columns = grid_table._run_columns(point, State("waiting"))
    assert columns["tokens"] == run.tokens and columns["schedule_decay_shape"] == "sqrt"


def test_a_run_is_written_with_todays_version(tiny, tmp_path: pathlib.Path):
    run, _ = freeze.freeze(tiny())
    name = identity.fingerprint(run, ("m",))
    reserve(tmp_path / "new", run, name, ("m",))
    value = json.loads((tmp_path / "new" / "run.json").read_text())
    assert stored.version(value) == stored.SCHEMA == 2
    assert stored.read(value["run"], 2) == run


def test_a_run_of_the_future_is_refused(old_folder: pathlib.Path):
    path = old_folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 3}))
    for read in (inherit.read, weights.load):
        with pytest.raises(InputError, match=r"run\.json: schema 3 is not known; this program knows up to 2"):
            read(old_folder)
