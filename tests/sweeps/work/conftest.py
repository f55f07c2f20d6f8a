"""A clock that tests set, and a workdir that asks no machine what it is."""

import pathlib

import pytest

from experiments.store import record
from sweeps.work.workdir import Workdir
from tests.support.fake_place import Clock


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    made.install(monkeypatch)
    return made


@pytest.fixture
def workdir(tmp_path: pathlib.Path, monkeypatch) -> Workdir:
    monkeypatch.setattr(record, "environment", dict)  # jax would have to be asked
    return Workdir(tmp_path)
