"""A law is fitted to each group of a grid, alone or with coefficients in common."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis import laws
from analysis.command_line.answers import groups as answer
from analysis.fitting.result import SCHEMA
from analysis.fitting.spec import FitSpec
from analysis.grid.selection import select
from analysis.grid.table import Grid
from analysis.laws.written import law_of
from analysis.questions import predict
from analysis.questions.groups import fit_groups, groups_to_json
from experiments.cli import InputError
from tests.support.commands import command

ROWS = 20
PLANTED = {"adam": (1.7, 300.0), "muon": (1.7, 200.0), "sgd": (1.9, 500.0)}  # E and A; alpha is 0.3 in all


def frame(seed: int = 1) -> pd.DataFrame:
    """Rows of three optimizers, and two of a fourth."""
    stream = np.random.default_rng(seed)
    parts = []
    for name, (E, A) in PLANTED.items():
        N = np.geomspace(1e6, 1e10, ROWS)
        loss = (E + A / N**0.3) * np.exp(0.001 * stream.standard_normal(ROWS))
        parts.append(pd.DataFrame({"params": N, "loss": loss, "the optimizer": name}))
    few = parts[0][:2].assign(**{"the optimizer": "lion"})
    return pd.concat([*parts, few], ignore_index=True)


def columns(seed: int = 1):
    law = law_of("L = E + A/N^alpha")
    grid = Grid("grid.csv", frame(seed), "0" * 64)
    return select(grid, (*law.ROLES, "family"), columns="family=the optimizer"), law


@pytest.mark.parametrize("shared", [(), ("alpha",), ("E", "alpha")])
def test_each_group_has_its_law(shared):
    rows, law = columns()
    if "E" in shared:  # two rows are enough for the one coefficient that is left
        rows = rows.take(rows["family"] != "lion")
    found = fit_groups(rows, law, FitSpec(bootstrap=8, starts=16, thorough=False), shared)
    assert set(found.failures) == (set() if "E" in shared else {"lion"})
    assert set(found.fits) == set(PLANTED)
    for name, (E, A) in PLANTED.items():
        fitted = found.fits[name].law
        assert fitted.alpha == pytest.approx(0.3, rel=0.1)
        if "E" not in shared:
            assert pytest.approx((E, A), rel=0.2) == (fitted.E, fitted.A)
    for coefficient in shared:
        assert len({getattr(one.law, coefficient) for one in found.fits.values()}) == 1
    justified = None if found.sharing is None else found.sharing.justified
    assert justified == (("E" not in shared) if shared else None)


def test_groups_that_cannot_be_fitted_are_refused():
    rows, law = columns()
    with pytest.raises(InputError, match="--shared: 'alfa' is not a coefficient.*did you mean 'alpha'"):
        fit_groups(rows, law, FitSpec(bootstrap=0), ("alfa",))
    with pytest.raises(InputError, match="--shared: isoflop is fitted in steps of its own"):
        fit_groups(rows, laws.load("isoflop"), FitSpec(bootstrap=0), ("alpha",))
    with pytest.raises(InputError, match="none of the 1 groups can be fitted"):
        fit_groups(rows.take(rows["family"] == "lion"), law, FitSpec(bootstrap=0))


def test_the_command_fits_groups_and_predicts_for_one(tmp_path):
    path = tmp_path / "grid.csv"
    frame().to_csv(path, index=False)
    out = tmp_path / "fits.json"
    done = command(
        "analysis.fit", path, "--formula=L = E + A/N^alpha", "--by=the optimizer", "--bootstrap=60", "--noback_test",
        f"--out={out}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not fitted: lion" in done.stdout and set(json.loads(out.read_text())["fits"]) == set(PLANTED)
    done = command("analysis.predict", out, "--group=muon", "--at=N=1e8")
    assert done.returncode == 0, done.stderr
    done = command("analysis.forecast", out, "--group=muon", "--at=N=1e8", f"--out={tmp_path / 'forecast.json'}")
    assert done.returncode == 0, done.stderr
    done = command("analysis.predict", out, "--at=N=1e8")
    assert done.returncode == 2 and "adam, muon, sgd; expected --group=NAME" in done.stderr


@pytest.mark.parametrize("shared", [(), ("alpha",)])
def test_answers_on_groups_begin_with_their_verdicts(shared):
    """One group has one size: its verdict is its own line, what holds for several is said once, and no number is shown."""
    rows, law = columns(seed=0)
    rows = rows.take(rows["family"] != "lion")
    rows.values["N"][rows["family"] == "sgd"] = 1e8
    found = fit_groups(rows, law, FitSpec(bootstrap=100, starts=16, thorough=False), shared)
    stream = io.StringIO()
    answer.show(found, "optimizer", Console(file=stream, width=200, color_system=None))
    first, second, *rest = stream.getvalue().splitlines()
    assert first == "verdict of adam, muon: the rows support every coefficient"
    assert second.startswith("verdict of sgd: the rows do not tell E, A") and "N is 1e+08 in every row" in second
    of_sgd = next(line for line in rest if line.startswith("│ sgd"))
    assert of_sgd.split("│")[3].strip() == "-"
    notes = [line for line in rest if line.startswith("note: ")]
    assert len(notes) == len(set(notes)) and not any(line.startswith("note: adam: compute") for line in notes)


@pytest.mark.parametrize("shared", [("alpha",), ("E", "alpha")])
def test_fits_of_groups_with_common_coefficients_are_read_back(shared):
    """Strict JSON with the verdict of each group first; predictions from the file are those of the fits."""
    rows, law = columns(seed=0)
    rows = rows.take(rows["family"] != "lion")
    rows.values["N"][rows["family"] == "sgd"] = 1e8  # one size: what it tells of alpha is that of the others
    spec = FitSpec(bootstrap=40, starts=16, thorough=False)
    found = fit_groups(rows, law, spec, shared)
    written = groups_to_json(found, "optimizer", law, spec, "0" * 64, "test", back_test=True)
    content = json.loads(json.dumps(written, allow_nan=False))
    assert content["schema"] == SCHEMA and content["shared"] == list(shared)
    assert set(content["fits"]) == set(PLANTED)
    for name, result in found.fits.items():
        of_group = content["fits"][name]
        assert list(of_group)[:2] == ["schema", "verdict"]
        withheld = of_group["verdict"]["withheld"]
        for coefficient, value in of_group["coefficients"].items():
            assert (value is None) == (coefficient in withheld) == (coefficient in of_group["one_point_of_a_valley"])
        fitted = predict.from_json(of_group)
        assert fitted.verdict.line == result.verdict.line
        for N in (1e8, 1e9):
            there = predict.to_json(predict.predict(fitted, {"N": N}))
            here = predict.to_json(predict.predict(predict.of_result(result), {"N": N}))
            assert there == here and (there["prediction"] is not None or there["why_no_interval"]["loss"])
    assert ("E" in found.fits["sgd"].verdict.withheld) == ("E" not in shared)
