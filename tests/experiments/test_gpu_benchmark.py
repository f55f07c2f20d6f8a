"""The benchmark for one accelerator, on a CPU at toy sizes: each line says what it measured, or why it did not."""

import json
import subprocess
import sys

import pytest

from experiments.benchmarks import gpu
from experiments.run import freeze
from models.errors import InputError
from tests.support.paths import REPOSITORY

OK_ON_A_CPU = {
    "one run, cold",
    "one run, warm",
    "population of 4",
    "sequence of 2",
    "dense 0.3B 32 xla",
    "dense 1B 32 xla",
    "moe 0.3B active, blocks",
    "moe 0.3B active, ragged",
    "matmul_free 0.3B",
    "fp8 1B (simulated)",
    "dense 0.3B 128 xla",
    "dense 1B 128 xla",
}
NO_KERNEL = {
    "dense 0.3B 32 fused",
    "dense 1B 32 fused",
    "dense 0.3B 128 fused",
    "dense 1B 128 fused",
}


def measure(path, *flags):
    """The tables of the command, and what it printed."""
    command = [sys.executable, "-m", "experiments.benchmark", "--parts=gpu", f"--json={path}", *flags]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text()), done.stdout


def by_line(tables):
    return {row["line"]: row for row in tables["gpu_lines"]}


def test_a_line_that_fails_ends_no_other_and_says_why(tmp_path):
    tables, shown = measure(tmp_path / "gpu.json", "--gpu_lines=0.3B 32")
    lines = by_line(tables)
    assert lines["dense 0.3B 32 fused"]["status"] == "failed"
    assert "there is no kernel for cpu" in lines["dense 0.3B 32 fused"]["note"]
    assert lines["dense 0.3B 32 xla"]["status"] == "ok"
    (step,) = tables["gpu_steps"]
    assert step["program"] == "dense 0.3B 32 xla"
    assert step["step_seconds"] > 0
    assert step["plan_bytes"] > 0
    assert tables["gpu_device"][0]["sizes"] == "toy"
    assert "dense 0.3B 32 xla" in shown


def test_a_line_that_would_pass_the_time_is_skipped_and_says_so(tmp_path):
    tables, _ = measure(tmp_path / "gpu.json", "--gpu_seconds=1", "--gpu_lines=dense")
    assert {row["status"] for row in tables["gpu_lines"]} == {"skipped"}
    assert all("s are left" in row["note"] for row in tables["gpu_lines"])
    assert "gpu_steps" not in tables


def test_a_line_that_there_is_not_is_refused_with_the_nearest_one(tmp_path):
    lines = gpu.step_lines(gpu.TOY, "xla", str(tmp_path))
    wanted = "dense 0.3B 128 xla"
    with pytest.raises(InputError, match=f"--gpu_lines=dense 0.3B 129 xla.*{wanted}"):
        gpu.chosen(lines, [wanted, "dense 0.3B 129 xla"])
    assert [line.name for line in gpu.chosen(lines, [wanted])] == [wanted]
    assert gpu.chosen(lines, []) == lines


@pytest.mark.parametrize(("sizes", "kernel"), [(gpu.FULL, "fused"), (gpu.TOY, "xla")], ids=["full", "toy"])
def test_every_program_of_the_benchmark_is_a_sound_run(sizes, kernel, tmp_path):
    lines = gpu.step_lines(sizes, kernel, str(tmp_path))
    names = {line.name for line in lines}
    assert len(names) == len(lines)
    for line in lines:
        freeze.freeze(line.job["config"])
        assert line.beside is None or line.beside in names


@pytest.mark.slow
def test_all_lines_are_measured_at_toy_sizes(tmp_path):
    tables, _ = measure(tmp_path / "gpu.json", "--gpu_seconds=3600")
    lines = by_line(tables)
    assert {name for name, row in lines.items() if row["status"] == "ok"} == OK_ON_A_CPU
    assert {name for name, row in lines.items() if row["status"] == "failed"} == NO_KERNEL
    assert {row["way"] for row in tables["gpu_runs"]} == {"population", "sequence", "processes"}
    assert [row["process"] for row in tables["gpu_start"]] == ["one run, cold", "one run, warm"]
