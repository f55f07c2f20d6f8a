"""A law of one's own is one class: with a role of its own it is fitted, predicted, and known to the commands."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from analysis import laws
from analysis.fitting.spec import FitSpec
from analysis.grid import roles
from analysis.grid.selection import select
from analysis.grid.table import Grid
from analysis.questions import fit as fitting

ROOT = pathlib.Path(__file__).parents[2]
TOY = '''"""The loss over the length of the context."""

import dataclasses

from analysis import laws
from analysis.grid.roles import Role
from analysis.laws.base import Number, SumLaw, Term


@laws.add
@dataclasses.dataclass(frozen=True)
class ContextLength(SumLaw):
    """L = E + A/T^alpha, nats per token, for contexts of T tokens."""

    E: Number
    A: Number
    alpha: Number

    NAME = "context_length"
    FORMULA = "L = E + A/T^alpha"
    SOURCE = "this test"
    ROLES = ("T", "loss")
    OWN_ROLES = {"T": Role("context length, tokens", ("context", "seq_len"))}
    TERMS = (Term("E"), Term("A", (("T", -1.0, "alpha"),)))
'''


@pytest.fixture
def frame() -> pd.DataFrame:
    """Rows that E = 2, A = 30, alpha = 0.5 would give."""
    context = np.geomspace(64, 16384, 24)
    return pd.DataFrame({"seq_len": context, "loss": 2 + 30 / np.sqrt(context)})


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The class of the law in a file outside of the package; forgotten afterwards."""
    monkeypatch.setattr(laws, "LAWS", dict(laws.LAWS))
    (tmp_path / "toy_law.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    import toy_law  # pyright: ignore[reportMissingImports] made a line above

    yield toy_law.ContextLength
    sys.modules.pop("toy_law")
    roles.ROLES.pop("T")


def test_a_law_from_elsewhere_is_fitted_and_predicts(toy, frame):
    columns = select(Grid("grid.csv", frame, "0" * 64), toy.ROLES, optional=toy.OPTIONAL)
    assert columns.sources["T"] == "seq_len"
    found = fitting.fit(columns, laws.load("context_length"), FitSpec(bootstrap=0))
    assert found.law.coefficients() == pytest.approx({"E": 2, "A": 30, "alpha": 0.5}, rel=1e-6)
    assert found.law.target_at({"T": 1e6}) == pytest.approx(2.03, rel=1e-6)


def test_commands_know_a_law_that_was_added(toy, frame, tmp_path):
    del toy
    frame.to_csv(tmp_path / "grid.csv", index=False)
    run = "import runpy, sys, toy_law; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", run, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    command(
        "analysis.fit", "grid.csv", "--law=context_length", "--columns=T=seq_len", "--bootstrap=0", "--out=fit.json"
    )
    command("analysis.predict", "fit.json", "--at=T=1e6", "--json=prediction.json")
    assert json.loads((tmp_path / "prediction.json").read_text())["prediction"] == pytest.approx(2.03, rel=1e-6)


def test_a_name_or_a_role_that_is_taken_is_refused(toy):
    with pytest.raises(ValueError, match="'chinchilla' is the name of"):
        laws.add(type("Other", (toy,), {"NAME": "chinchilla"}))
    with pytest.raises(ValueError, match="role 'N' means 'parameters' already"):
        roles.declare({"N": roles.Role("neurons")})
