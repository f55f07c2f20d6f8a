"""The laws from Python: `import analysis as lab` gives functions, at once, and what they return shows itself."""

import dataclasses
import importlib
import re
import subprocess
import sys
from typing import Any

from matplotlib.figure import Figure
import pandas as pd
import pytest

import analysis as lab
from analysis.fitting.spec import KINDS, FitSpec
from analysis.laws import LAWS
from analysis.laws.chinchilla import Chinchilla
from analysis.questions import predict as predicting
from experiments.cli import InputError
from tests.support import planted
from tests.support.planted import TRUTH

QUICK = {"bootstrap": 0, "starts": 16, "thorough": False}
DRAWINGS = ("isoflop", "allocation", "surface", "residuals", "observed", "cloud", "profiles", "backtest")


@pytest.fixture(scope="module")
def own_frame() -> pd.DataFrame:
    """A table as somebody has it: other names, a run that is not to be used."""
    frame = planted.isoflop_frame(noise=0.003, seed=2, budgets=4)
    names = {"params": "model_size", "tokens": "seen", "loss": "val_loss"}
    frame = frame.drop(columns="flops").rename(columns=names)
    frame["run_id"] = [f"run-{row}" for row in range(len(frame))]
    frame["kind"] = ["main"] * (len(frame) - 1) + ["<broken>"]
    return frame


@pytest.fixture(scope="module")
def grid(own_frame):
    return lab.read(own_frame, N="model_size", D="seen", loss="val_loss", run="run_id", where="kind == 'main'")


@pytest.fixture(scope="module")
def fitted(grid):
    return lab.fit(grid, "chinchilla", bootstrap=20, starts=16)


def test_importing_it_loads_nothing_heavy():
    program = (
        "import sys, analysis\nprint([name for name in ('numpy', 'pandas', 'scipy', 'jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done


@pytest.mark.parametrize("name", ["fit", "predict", "compare", "design", "scoreboard", "trend"])
def test_a_function_stays_when_the_command_of_its_name_is_imported(name):
    function = getattr(lab, name)
    command = importlib.import_module(f"analysis.{name}")
    assert hasattr(command, "main") and getattr(lab, name) is function and callable(function)


@pytest.mark.parametrize("law", ["chinchilla", Chinchilla])
def test_a_frame_is_fitted_and_predicted_from(law):
    frame = planted.isoflop_frame()
    result = lab.fit(frame, law, N="params", **QUICK)
    assert result.law.alpha == pytest.approx(TRUTH.alpha, rel=1e-5)
    N, _ = TRUTH.optimum(1e22)
    assert lab.predict(result, C=1e22).optimum["N"] == pytest.approx(N, rel=1e-3)
    assert result.predict(N=1e9, D=2e10).loss == pytest.approx(TRUTH.predict(1e9, 2e10), rel=1e-5)


def test_a_path_a_frame_and_a_grid_are_one_grid(tmp_path):
    frame = planted.isoflop_frame()
    frame.to_csv(tmp_path / "grid.csv", index=False)
    from_path = lab.read(tmp_path / "grid.csv")
    from_frame = lab.read(frame)
    assert lab.read(from_path) is from_path
    assert from_path.sha256 == from_frame.sha256
    assert lab.fit(from_path, **QUICK).objective == lab.fit(from_frame, **QUICK).objective


def test_what_read_was_told_holds_for_every_question(grid, fitted, own_frame):
    assert set(fitted.columns.sources) >= {"N", "D", "loss", "run"} and fitted.columns.sources["N"] == "model_size"
    assert len(fitted.columns) == len(own_frame) - 1
    both = lab.read(grid, where="val_loss < 100")
    assert both.where == "(kind == 'main') and (val_loss < 100)" and both.columns == grid.columns
    assert len(lab.fit(both, **QUICK).columns) == len(own_frame) - 1
    assert "model_size" in repr(grid) and "<table>" in grid._repr_html_()


def test_a_fit_shows_itself_in_a_terminal_and_in_a_notebook(fitted):
    text, html = repr(fitted), fitted._repr_html_()
    for shown in (text, html):
        assert "chinchilla" in shown and "90% interval" in shown and "exponent_N" in shown and "rows used" in shown
    for note in fitted.certificate.warnings:
        assert note in text
    assert html.count("<table>") == html.count("</table>") > 0
    assert "[yellow]" not in html + text and "<broken>" not in html


def test_columns_have_the_names_that_people_give_them(own_frame):
    odd = {"val_loss": "eval/loss, nats", "model_size": "Model Size", "seen": "tokens (1e9)"}
    renamed = own_frame.rename(columns=odd)
    renamed["tokens (1e9)"] /= 1e9
    grid = lab.read(renamed, N="Model Size", D="1e9 * `tokens (1e9)`", loss="eval/loss, nats")
    assert lab.fit(grid, **QUICK).objective == pytest.approx(
        lab.fit(own_frame, N="model_size", D="seen", loss="val_loss", **QUICK).objective
    )


def test_several_files_are_one_grid(own_frame, tmp_path):
    own_frame.iloc[:10].to_csv(tmp_path / "a.csv", index=False, sep=";")
    own_frame.iloc[10:].to_csv(tmp_path / "b.csv", index=False, sep=";")
    grid = lab.read(f"{tmp_path}/*.csv", N="model_size", delimiter=";")
    assert len(grid) == len(lab.read([tmp_path / "a.csv", tmp_path / "b.csv"])) == len(own_frame)


def test_what_is_shown_in_a_notebook_is_escaped(own_frame):
    renamed = own_frame.rename(columns={"val_loss": "loss<i>"})
    html = lab.read(renamed.rename(columns={"model_size": "a&b"}), N="a&b", loss="loss<i>")._repr_html_()
    assert "loss&lt;i&gt;" in html and "a&amp;b" in html and "<i>" not in html


def test_numbers_of_a_fit_are_a_frame(fitted):
    frame = fitted.to_frame()
    assert list(frame.index) == ["E", "A", "B", "alpha", "beta", "exponent_N", "exponent_D"]
    assert frame.loc["alpha", "value"] == fitted.law.alpha
    assert (frame["low"] <= frame["high"]).all()
    assert list(fitted.predict(C=1e22).to_frame().index)[:3] == ["loss", "loss of one run", "N"]


def test_a_saved_fit_predicts_the_same_through_the_command(fitted, tmp_path):
    path = tmp_path / "fit.json"
    fitted.save(path)
    assert predicting.read(str(path)).command.startswith("analysis.fit('DataFrame', 'chinchilla', where=")
    here, there = fitted.predict(C=1e22), lab.predict(path, C=1e22)
    assert here.optimum == there.optimum and here.optimum_intervals == there.optimum_intervals
    assert repr(here) == repr(there) and "optimal N" in repr(here)
    with pytest.raises(InputError, match="path"):
        fitted.save(tmp_path)


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_drawing_is_a_figure_that_a_notebook_shows(fitted, name):
    figure = getattr(fitted.plot, name)()
    assert isinstance(figure, Figure) and figure.axes
    png = figure._repr_png_()
    assert png.startswith(b"\x89PNG") and 3_000 < len(png) < 60_000
    assert name in repr(fitted.plot)


def test_back_tests_are_made_once_and_show_themselves(fitted):
    tests = fitted.backtest()
    assert fitted.backtest() is tests
    assert "root mean square" in repr(tests) and len(tests.to_frame()) == len(tests.by_factor())


@pytest.mark.parametrize(("law", "drawing"), [("kaplan_n", "surface"), ("kaplan_n", "isoflop"), ("kaplan_n", "cloud")])
def test_a_drawing_that_does_not_apply_says_what_it_needs(law, drawing):
    fit = lab.fit(planted.isoflop_frame(), law, N="params", where="flops > 9e19", **QUICK)
    with pytest.raises(InputError, match=f"^{drawing}: "):
        getattr(fit.plot, drawing)()


def test_families_are_compared_and_runs_are_designed():
    frame = planted.isoflop_frame(noise=0.002, seed=1)
    frame["family"] = ["dense", "moe"] * 17 + ["dense"]
    compared = lab.compare(frame, shared=["alpha", "beta"], bootstrap=0, starts=16)
    assert compared.baseline == "dense" and set(compared.rates) == {"moe"}
    assert "exchange rates" in repr(compared) and set(compared.to_frame()["family"]) == {"moe"}
    assert isinstance(compared.plot(), Figure)
    designed = lab.design(frame, "loss@C=1e22", laws=["chinchilla"], count=1, bootstrap=20, starts=16)
    assert len(designed.steps) == 1 == len(designed.to_frame())
    assert "loss@C=" in repr(designed)


def test_runs_are_chosen_from_a_table_until_enough_is_known(grid):
    table = pd.DataFrame({"N": [1e9, 3e9, 1e8], "D": [1e11, 1e10, 3e11], "dollars": [5.0, 7.0, 1.0]})
    options = {"laws": ["chinchilla"], "bootstrap": 20, "starts": 16}
    offered = lab.read(table, cost="dollars")
    designed = lab.design(grid, "loss@C=1e22", candidates=offered, budget=6.0, **options)
    assert 0 < designed.steps[-1].spent <= 6
    assert lab.design(grid, "loss@C=1e22", candidates=offered, budget=6.0, until="50%", **options).steps == ()


def test_a_model_that_serves_is_smaller(fitted):
    trained, served = fitted.predict(C=1e21), fitted.predict(C=1e21, serve_tokens=1e11)
    assert served.optimum["N"] < trained.optimum["N"] and "serving" in repr(served)
    assert fitted.predict(C=1e21, serve_tokens=0).optimum["N"] == pytest.approx(trained.optimum["N"])


def test_laws_are_scored_and_trends_are_found():
    frame = planted.isoflop_frame(noise=0.002, seed=1, budgets=4)
    scores = lab.scoreboard(frame, ["chinchilla", "kaplan"], bootstrap=0, starts=8)
    assert set(scores.to_frame()["law"]) == {"chinchilla", "kaplan"} and "held-out error" in scores._repr_html_()
    assert "falls" in repr(lab.trend(frame, "flops", "loss"))


def test_what_is_not_known_is_refused_with_the_nearest_name():
    frame = planted.isoflop_frame()
    with pytest.raises(InputError, match="did you mean 'bootstrap'"):
        lab.fit(frame, bootstrp=10)
    with pytest.raises(InputError, match="did you mean 'chinchilla'"):
        lab.fit(frame, "chinchila")
    with pytest.raises(InputError, match="did you mean 'tokens'"):
        lab.read(frame, D="token")
    with pytest.raises(InputError, match="^los: not a role"):
        lab.read(frame, los="loss")
    assert "chinchilla" in set(lab.list_laws()["law"])


def test_a_formula_is_a_law(tmp_path):
    frame = planted.isoflop_frame().rename(columns={"loss": "eval/loss"})
    grid = lab.read(frame, N="params", loss="eval/loss")
    ours = lab.fit(grid, **QUICK)
    written = lab.fit(grid, "L = E + A/N^alpha + B/D^beta", **QUICK)
    assert written.objective == pytest.approx(ours.objective, abs=1e-12)
    assert written.predict(C=1e22).optimum["N"] == pytest.approx(ours.predict(C=1e22).optimum["N"], rel=1e-3)
    written.save(tmp_path / "fit.json")
    assert "L = E + A/N^alpha + B/D^beta" in predicting.read(str(tmp_path / "fit.json")).command
    assert isinstance(written.plot.isoflop(), Figure)


def test_a_formula_is_known_by_its_name_and_may_be_written_again():
    try:
        lab.law("mine: L = E + A/N^alpha")
        law = lab.law("mine: L = E + A/N^alpha + B/D^beta")
        assert lab.fit(planted.isoflop_frame(), "mine", N="params", **QUICK).law.FORMULA == law.FORMULA
        assert "mine" in set(lab.list_laws()["law"])
        with pytest.raises(InputError, match="^law: 'chinchilla' is the name of"):
            lab.law("chinchilla: L = E + A/N^alpha")
    finally:
        LAWS.pop("mine", None)


def test_in_a_notebook_bad_input_is_one_line(capsys):
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    shell.run_cell("import analysis as lab")
    shell.run_cell("lab.fit('nowhere.csv')")
    said = capsys.readouterr().out.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("InputError: GRID: nowhere.csv does not exist")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bootstrap": "many"}, "bootstrap='many': expected a whole number"),
        ({"resample": 20}, "resample=20: expected a text"),
        ({"level": None}, "level=None: expected a number"),
        ({"starts": 0}, "starts=0: expected at least 1"),
        ({"weighted": 1}, "weighted=1: expected True or False"),
        ({"fixed": 0.3}, "fixed=0.3: expected coefficients by name"),
        ({"objective": "huber"}, "objective='huber': expected an analysis.solve.objective.Objective"),
    ],
)
def test_a_choice_of_another_type_is_one_line(given: dict[str, Any], said: str):
    with pytest.raises(InputError, match=re.escape(said)):
        FitSpec(**given)


def test_the_type_of_every_choice_is_known():
    assert set(KINDS) == {field.name for field in dataclasses.fields(FitSpec)}
