"""No command replaces what is not its own output: not its input, not a device, not somebody's file."""

import os
import pathlib
import stat
import subprocess

import pytest

from experiments import files
from tests.support.commands import command
from tests.support.planted import isoflop_frame

SOMEBODYS = "three years of notes\n"


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("grid") / "grid.csv"
    isoflop_frame(noise=0.002, seed=1).to_csv(path, index=False)
    return path


def fit(grid: pathlib.Path, out: object, *flags: str) -> subprocess.CompletedProcess[str]:
    return command("analysis.fit", str(grid), f"--out={out}", "--bootstrap=0", "--noback_test", *flags)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_the_input_is_never_an_output(grid, tmp_path):
    before = grid.read_bytes()
    link = tmp_path / "link.csv"
    link.symlink_to(grid)
    for out in (grid, link, grid.parent / ".." / grid.parent.name / grid.name):
        assert_refused(fit(grid, out), "--out", "reads")
        assert_refused(fit(grid, out, "--overwrite"), "--out", "reads")
    assert_refused(command("analysis.report", str(grid), f"--out={grid}"), "--out")
    assert_refused(command("analysis.design", str(grid), f"--out={grid}", "--target=E"), "--out")
    assert grid.read_bytes() == before


def test_the_same_command_again_replaces_its_own_file_and_no_other(grid, tmp_path):
    out = tmp_path / "fit.json"
    for _ in range(2):
        done = fit(grid, out)
        assert done.returncode == 0, done.stderr
    assert_refused(
        command("analysis.scoreboard", str(grid), f"--out={out}"), "--out", "analysis.scoreboard", "--overwrite"
    )
    assert_refused(command("analysis.predict", str(out), f"--json={out}", "--at=N=1e9,D=1e10"), "--json")
    notes = tmp_path / "notes.txt"
    notes.write_text(SOMEBODYS)
    assert_refused(fit(grid, notes), "notes.txt", "--overwrite")
    assert notes.read_text() == SOMEBODYS
    assert fit(grid, notes, "--overwrite").returncode == 0
    assert notes.read_text() != SOMEBODYS
    (tmp_path / "empty.json").touch()
    assert fit(grid, tmp_path / "empty.json").returncode == 0


def test_commands_of_studies_replace_only_their_own_files(tmp_path):
    study = "--study=sweeps/studies/quickstart.py"
    out = tmp_path / "runs.csv"
    for _ in range(2):
        done = command("sweeps.plan", study, f"--runs={out}")
        assert done.returncode == 0, done.stderr
    out.write_text(SOMEBODYS)
    assert_refused(command("sweeps.plan", study, f"--runs={out}"), "runs.csv")
    for module, flag in (("sweeps.collect", "out"), ("sweeps.status", "json"), ("sweeps.benchmark", "json")):
        path = tmp_path / "grid.csv"
        path.write_text(SOMEBODYS)
        flags = () if module == "sweeps.benchmark" else (f"--workdir={tmp_path}",)
        assert_refused(command(module, *flags, f"--{flag}={path}"), "grid.csv", module)
        assert path.read_text() == SOMEBODYS


def test_what_is_no_file_is_written_to_and_stays(grid, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    files.write_json(pipe, {"a": 1})
    assert reader.communicate(timeout=60)[0] == b'{\n "a": 1\n}\n'
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    before = os.stat("/dev/null")
    assert fit(grid, "/dev/null").returncode == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and os.stat("/dev/null").st_ino == before.st_ino


def test_two_reports_in_one_folder_keep_their_numbers_and_figures(grid, tmp_path):
    for name in ("one", "two"):
        done = command("analysis.report", str(grid), f"--out={tmp_path}/{name}.html", "--bootstrap=20")
        assert done.returncode == 0, done.stderr
        first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("one*/*")}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{name}{end}" for name in ("one", "two") for end in (".html", ".numbers.json", "_figures")}
    assert first == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("one*/*")}
    page = (tmp_path / "two.html").read_text()
    assert 'href="two_figures/' in page and "two.numbers.json" in page
    assert command("analysis.report", str(grid), f"--out={tmp_path}/two.html", "--bootstrap=20").returncode == 0


def test_no_score_stands_in_the_place_of_a_forecast(grid, tmp_path):
    assert fit(grid, tmp_path / "fit.json", "--bootstrap=100").returncode == 0
    forecast = tmp_path / "forecast.json"
    done = command("analysis.forecast", f"{tmp_path}/fit.json", "--at=N=1e9,D=1e10", f"--out={forecast}")
    assert done.returncode == 0, done.stderr
    before = forecast.read_bytes()
    for flags in ((), ("--overwrite",)):
        done = command("analysis.forecast", str(forecast), f"--score={grid}", f"--out={forecast}", *flags)
        assert_refused(done, "--out", "reads")
    other = tmp_path / "other.json"
    other.write_bytes(before)
    assert_refused(command("analysis.forecast", str(forecast), f"--score={grid}", f"--out={other}"), "--overwrite")
    assert forecast.read_bytes() == before == other.read_bytes()
