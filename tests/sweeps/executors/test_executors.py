"""Executors: their options, gangs. What they talk to: test_slurm.py, test_ray.py, and the files beside them."""

import dataclasses
import importlib
import pathlib
import pkgutil
import re
import time

import pytest

from experiments.cli import InputError
from sweeps import executors, manifests
from sweeps.executors import load
from sweeps.executors.support import gang
from sweeps.executors.support.options import parse_options
from tests.support.executors import launch

# --- one interface


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("slrum", "did you mean 'slurm'"),
        ("slurm:gpu=1", "is no option; expected one that there is; did you mean 'gpus'"),
        ("slurm:gpus=many", "'gpus=many' is not a whole number; expected gpus=whole number"),
        ("local:cores=3", "known options: none"),
        ("tpu-vm:type=v5litepod-16", "zone=: expected"),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-16;rm", "type=v5litepod-16;rm"),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-17", "is no slice"),
        ("tpu-vm:zone=us-east5-b,type=h100-8", "expected a TPU slice"),
        ("tpu-vm:zone=us-east5-b,type=tpu7x-16", "sweeps.manifest --kind=xpk"),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-16,spot=yes", "true or false"),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-16,spot=true,reserved=true", "one of them at most"),
        (
            "tpu-vm:zone=us-east5-b,type=v5litepod-16,max_hours=0",
            "'max_hours=0' is too small; expected max_hours of at least 1",
        ),
        ("tpu-vm:zone=us-east5-b,type=v5litepod-16,owner=Anna", "owner=Anna: expected"),
    ],
)
def test_bad_options_are_one_line(spec: str, named: str):
    with pytest.raises(InputError, match=re.escape(named)):
        load(spec)


def counts() -> list[tuple[str, type, str]]:
    """Every option that is a whole number, of every executor and every kind of manifest."""
    found = []
    for folder in (executors, manifests):
        for file in pkgutil.iter_modules(folder.__path__):
            if not file.ispkg:
                options = importlib.import_module(f"{folder.__name__}.{file.name}").Options
                for field in dataclasses.fields(options):
                    if type(field.default) is int:
                        found.append((f"{folder.__name__}.{file.name}", options, field.name))
    return found


@pytest.mark.parametrize(("place", "options", "name"), counts())
def test_no_count_is_negative(place: str, options: type, name: str):
    with pytest.raises(InputError, match=rf"^{place}: '{name}=-1' is too small; expected {name} of at least [0-9]+$"):
        parse_options(options, f"{name}=-1", place)


def test_a_missing_package_is_one_line(tmp_path: pathlib.Path):
    """A folder that shadows the package as if it was not there."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise ImportError('not here')")
    (tmp_path / "s.py").write_text("from sweeps.study.grid import over\ndef get_study(): return over('seed', 0)\n")
    done = launch(tmp_path / "s.py", tmp_path / "w", "ray", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "requirements-ray.txt" in done.stderr


class Member:
    """A worker whose end is set by the test."""

    def __init__(self) -> None:
        self.code, self.asked = None, []

    def poll(self):
        return self.code

    def events(self):
        return [{"event": "x"}]

    def stop(self, force: bool = False):
        self.asked.append(force)


def test_a_group_ends_with_its_first_loss(monkeypatch: pytest.MonkeyPatch):
    """The others have a while to notice, then they are ended; the first failure is the group's."""
    monkeypatch.setattr(gang, "GRACE_SECONDS", 0.05)
    members = [Member(), Member(), Member()]
    whole = gang.Gang(members)
    assert whole.poll() is None and len(whole.events()) == 3
    members[1].code = -9
    assert whole.poll() is None and not any(m.asked for m in members)
    time.sleep(0.1)
    assert whole.poll() is None and [m.asked for m in members] == [[True], [], [True]]
    members[0].code = members[2].code = 1
    assert whole.poll() == -9
    for member in members:
        member.code = 0
    assert gang.Gang(members).poll() == 0
