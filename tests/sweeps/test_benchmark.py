"""The benchmark of the launcher, at toy size: what it counts, not how long it takes."""

import pathlib

import pytest

from sweeps.benchmarks.finished import FinishedStudy, time_command, time_parts
from sweeps.benchmarks.loop import measure_loop


def test_a_poll_of_talking_workers_opens_nothing():
    """Real workers, the real display; what a heartbeat opens is counted apart."""
    found = measure_loop(runs=20, jobs=2, seconds=0.5)
    assert found["polls"] > 1 and found["files_opened_by_polls"] == 0
    assert found["cpu_seconds"] > 0 and found["core_share"] == found["cpu_seconds"] / found["wall_seconds"]


def test_a_finished_study_is_read_once(corpus: pathlib.Path, data_root: pathlib.Path, tmp_path: pathlib.Path):
    """By the command itself; the record and the claim of each run, and no more than a few files of the study."""
    study = FinishedStudy(8, str(tmp_path / "s"), str(data_root), [str(corpus)])
    found = time_command(study)
    assert found["cpu_seconds"] > 0 and found["seconds"] > 0
    assert time_parts(study)["files_opened_for_a_run"] == pytest.approx(2, abs=1)
