"""The commands of analysis/: fit, predict, report, from the command line to the files."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from analysis import figures
from analysis.fitting.spec import FitSpec
from analysis.grid.table import load
from analysis.laws.written import law_of
from analysis.questions import predict
from analysis.questions.target import Target
from analysis.reporting import numbers, page
from analysis.reporting.survey import survey
from experiments.cli import InputError
from tests.support import planted
from tests.support.commands import command
from tests.support.planted import TRUTH

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def grid_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "grid.csv"
    planted.isoflop_frame(noise=0.002, seed=1).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def fits(grid_path):
    """fit.json of both approaches."""
    paths = {}
    for law in ("chinchilla", "isoflop"):
        paths[law] = grid_path.parent / f"{law}.json"
        done = command("analysis.fit", grid_path, f"--law={law}", f"--out={paths[law]}", "--bootstrap=200")
        assert done.returncode == 0, done.stderr
    return paths


def test_fit_writes_json_and_says_what_it_found(grid_path, fits):
    data = json.loads(fits["chinchilla"].read_text())
    assert data["law"] == "chinchilla" and data["rows_used"] == 35
    assert data["command"].startswith("python -m analysis.fit ")
    assert data["columns"] == {"N": "params", "D": "tokens", "C": "flops", "loss": "loss"}
    assert data["coefficients"]["alpha"] == pytest.approx(TRUTH.alpha, rel=0.2)
    data = json.loads(fits["isoflop"].read_text())
    assert data["optimum"]["exponent_N"] == data["coefficients"]["a"]


def test_predict_a_run(fits, tmp_path):
    out = tmp_path / "prediction.json"
    done = command("analysis.predict", fits["chinchilla"], "--at=N=1e9,D=2e10", f"--json={out}")
    assert done.returncode == 0, done.stderr
    data = json.loads(out.read_text())
    assert data["at"] == {"N": 1e9, "D": 2e10} and set(data["interval"]) == {"level", "low", "high"}
    assert data["interval"]["low"] < data["prediction"] < data["interval"]["high"]
    assert data["prediction"] == pytest.approx(TRUTH.predict(1e9, 2e10), rel=0.01)
    wide, narrow = data["interval_new_run"], data["interval"]
    assert wide["high"] - wide["low"] > narrow["high"] - narrow["low"]


@pytest.mark.parametrize("law", ["chinchilla", "isoflop"])
def test_predict_an_optimum(fits, law):
    fitted = predict.read(str(fits[law]))
    found = predict.predict(fitted, predict.parse_at("C=1e22", fitted.law))
    N, D = TRUTH.optimum(1e22)
    assert found.optimum["N"] == pytest.approx(N, rel=0.3) and found.optimum["D"] == pytest.approx(D, rel=0.3)
    interval = found.optimum_intervals["N"]
    assert interval is not None and interval.low < found.optimum["N"] < interval.high
    assert found.loss == pytest.approx(TRUTH.predict(N, D), rel=0.02)
    assert found.extrapolation == pytest.approx(100, rel=1e-3)
    json.dumps(predict.to_json(found), allow_nan=False)


@pytest.mark.parametrize(
    "text", ["N=1e9", "N=1e9,D=x", "N=-1,D=1", "N=1,M=2", "N=1,D=2,C=3", "", "N=nan,D=1", "N=1,N=2"]
)
def test_predict_refuses_what_the_law_does_not_take(fits, text):
    with pytest.raises(InputError, match="--at"):
        predict.parse_at(text, predict.read(str(fits["chinchilla"])).law)


def test_predict_reads_numbers_as_tables_do(fits):
    law = predict.read(str(fits["chinchilla"])).law
    assert predict.parse_at("N=7B,D=1.5T", law) == {"N": 7e9, "D": 1.5e12}
    assert Target.parse("loss@N=7B,D=140B").at == {"N": 7e9, "D": 1.4e11}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 99}', '{"schema": 1, "law": "chinchilla"}'])
def test_a_damaged_fit_is_bad_input(tmp_path, content):
    path = tmp_path / "fit.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"fit\.json"):
        predict.read(str(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--law=chinchila"], "did you mean 'chinchilla'"),
        (["--columns=N=parms"], "did you mean 'params'"),
        (["--where=__import__('os').system('echo no')"], "--where"),
        (["--where=params<0"], "none of the 35 rows"),
        (["--hubr_delta=1"], "huber_delta"),
        (["--loss=hubber"], "did you mean 'huber'"),
        (["--level=2"], "--level"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(grid_path, tmp_path, arguments, message):
    out = tmp_path / "fit.json"
    done = command("analysis.fit", grid_path, f"--out={out}", *arguments)
    assert done.returncode == 2, done
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written(grid_path, tmp_path):
    (tmp_path / "file").write_text("")
    for module in ("analysis.fit", "analysis.report"):
        done = command(module, grid_path, f"--out={tmp_path / 'file' / 'out'}")
        assert done.returncode == 2 and "--out" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_fit_that_fails_is_exit_code_1(grid_path, tmp_path):
    program = (
        "import importlib; from experiments import cli; from tests.support import search\n"
        "search.switch_off()\n"
        "command = importlib.import_module('analysis.fit'); command.define_flags(); cli.run(command.main, arguments='GRID')\n"
    )
    out = tmp_path / "fit.json"
    done = subprocess.run(
        [sys.executable, "-c", program, grid_path, f"--out={out}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "FitError" in done.stderr and not out.exists()


def test_help_and_laws_need_no_grid(tmp_path):
    out = tmp_path / "laws.json"
    laws = command("analysis.fit", "--laws", f"--out={out}")
    listed = {law["law"]: law for law in json.loads(out.read_text())["laws"]}
    assert listed["chinchilla"]["coefficients"] == ["E", "A", "B", "alpha", "beta"]
    assert listed["chinchilla"]["columns"] == ["N", "D", "loss"] and "isoflop" in listed
    assert laws.returncode == 0 and all(name in laws.stdout for name in ("chinchilla", "isoflop", "envelope"))
    assert "--huber_delta" in command("analysis.fit", "--help").stdout


def test_analysis_needs_no_jax_and_no_model():
    program = (
        "import sys\nfrom analysis import figures\nfrom analysis.from_python import questions\nfrom analysis.questions import scoreboard, trend\n"
        "from analysis.reporting import numbers\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('jax', 'flax', 'tensorflow')])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done


# --- report


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The report of a grid with our own columns."""
    folder = tmp_path_factory.mktemp("report")
    planted.our_frame().to_parquet(folder / "grid.parquet")
    done = command(
        "analysis.report", folder / "grid.parquet", f"--out={folder / 'out' / 'report.html'}", "--bootstrap=100"
    )
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout


def test_report_is_one_file_that_fetches_nothing(reported):
    folder, _ = reported
    html = (folder / "report.html").read_text()
    assert planted.outside_references(html) == []
    assert html.count("<svg") == html.count("</svg>") == html.count("<figcaption") == len(figures.FIGURES) - 2
    for heading in ("Where the next budgets should go", "Back-test", "Learning rate", "every count", "Rows left out"):
        assert heading in html
    assert "group is lr_bracket, not isoflop" in html and "status is diverged" in html
    assert html.index("Compute-optimal parameters grow as") < html.index("Where the next budgets should go")


def test_report_writes_numbers_and_figures(reported):
    folder, _ = reported
    names = {path.name for path in (folder / "report_figures").iterdir()}
    drawn = set(figures.FIGURES) - {"rate_batch", "exchange"}  # this grid has one batch and one family
    assert names == {f"{name}.{kind}" for name in drawn for kind in ("svg", "png")}
    html = (folder / "report.html").read_text()
    for name in drawn:
        assert f'<figure class="card" id="{name}">' in html and f'href="report_figures/{name}.svg"' in html
    data = json.loads((folder / "report.numbers.json").read_text())
    assert data["schema"] == numbers.SCHEMA and len(data["data"]["sha256"]) == 64
    assert data["data"]["rows_used"] == 20 and len(data["data"]["rows_dropped"]) == 6
    rows = {(row["law"], row["times_largest"]): row for row in data["optimal"]}
    assert {factor for _, factor in rows} == {1, 10, 100}
    row = rows["chinchilla", 100]
    assert row["C"] == pytest.approx(100 * data["largest_budget_flops"])
    assert row["intervals"]["N"]["low"] < row["N"] < row["intervals"]["N"]["high"]
    assert row["N"] * row["D"] * data["fits"]["chinchilla"]["flops_per_param_token"] == pytest.approx(row["C"])
    assert data["fits"]["chinchilla"]["flops_per_param_token"] == pytest.approx(7.2)
    assert {row["N"] for row in data["conventions"]} == {"params_total", "params_no_embed"}
    assert {row["C"] for row in data["conventions"]} == {"flops_total", "flops_6nd"}
    assert data["back_test"]["rows_held_out"] == 5
    assert data["learning_rate"][0]["best"] == pytest.approx(3e-3, rel=0.2)
    assert all(entry["value"] for entry in data["checklist"])


def test_report_prints_the_law_and_where_the_files_are(reported):
    folder, text = reported
    assert "L = " in text and "10x" in text and "100x" in text
    assert str(folder / "report.html") in text and str(folder / "report.numbers.json") in text


def test_report_without_budgets_says_why(tmp_path):
    stream = np.random.default_rng(0)
    N, D = 10 ** stream.uniform(6, 9, 40), 10 ** stream.uniform(8, 11, 40)
    path = tmp_path / "free.csv"
    np.savetxt(path, np.stack([N, D, TRUTH.predict(N, D)], 1), delimiter=",", header="N,D,loss", comments="")
    grid = load(path)
    mine = law_of("mine: L = E + A/N^alpha + B/D^beta")  # beside the approaches
    found = survey(grid, FitSpec(bootstrap=50), None, None, [mine])
    assert list(found.results) == ["chinchilla", "envelope", "mine"] and "budget" in found.failures["isoflop"]
    html = page.render(found, grid, "command", figures.draw_all(found))
    assert "mine" in html and len([row for row in found.optima if row["law"] == "mine"]) == 3
    assert "approach 2, parabola: not fitted" in html and "isoflop needs" in html
    assert planted.outside_references(html) == []


def test_a_name_in_the_grid_cannot_become_markup(tmp_path):
    frame = planted.isoflop_frame(noise=0.002).assign(family="<script>alert(1)</script>")
    path = tmp_path / "grid.csv"
    frame.to_csv(path, index=False)
    grid = load(path)
    found = survey(grid, FitSpec(bootstrap=20), None, None)
    html = page.render(found, grid, "command </script><b>", figures.draw_all(found))
    own = 3  # the page's, the calculator's, and the numbers that this one computes with
    assert html.count("<script") == html.count("</script") == own
    assert "<script>alert" not in html and "alert(1)&lt;/script&gt;" in html
