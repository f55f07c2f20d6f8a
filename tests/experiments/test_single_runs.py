"""A run that nobody hands out is safe too: one process at a time, and a request to stop saves whatever it is called."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from etils import epath
import orbax.checkpoint as ocp
import pytest

from experiments.alive import claims, holding, lease
from experiments.alive.lease import Process
from experiments.cli import InputError
from experiments.store import record, segments
from experiments.training.loop import Stopped
from tests.support.paths import REPOSITORY
from tests.support.training import assert_same_run, rows, run, write_config

NAME = "0" * 16


def trainer(config: pathlib.Path, workdir: pathlib.Path, *before: str) -> subprocess.Popen[str]:
    """A process of `experiments.train` on one device."""
    command = [*before, sys.executable, "-m", "experiments.train", f"--config={config}", f"--workdir={workdir}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=REPOSITORY, **pipes)


def wait_for_rows(process: subprocess.Popen[str], workdir: pathlib.Path, count: int) -> None:
    """Wait until a process has written so many rows of metrics."""
    while len(segments.read(workdir)) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture
def long_config(tiny, tmp_path: pathlib.Path) -> pathlib.Path:
    """A run that is under way for a while."""
    options = {"data.unique_tokens": 256 * 100, "execution.steps_per_dispatch": 5}
    return write_config(tiny, tmp_path / "config.py", tokens=256 * 20_000, **options)


@pytest.mark.parametrize("below", ["", "run"])
def test_a_workdir_that_is_a_file_is_refused(tiny, tmp_path: pathlib.Path, below: str):
    (tmp_path / "file").write_text("somebody's")
    with pytest.raises(InputError, match=r"--workdir=.*: .*file is a file; expected a folder$"):
        run(tiny(), tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "somebody's"


def test_a_second_process_is_refused_and_the_first_one_goes_on(long_config, tmp_path):
    folder = tmp_path / "run"
    first = trainer(long_config, folder)
    wait_for_rows(first, folder, 5)
    second = trainer(long_config, folder)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 75, out + err
    assert out == ""
    assert err.count("\n") == 1 and f"process {first.pid}" in err and str(folder) in err
    seen = len(rows(folder))
    wait_for_rows(first, folder, seen + 5)
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 75 and "saved" in err
    steps = [row["step"] for row in rows(folder)]
    assert steps == sorted(steps)
    assert not (folder / "claim.json").exists() and not (folder / "workers").exists(), "it lets go of the folder"


def test_two_that_start_at_once_leave_one_record(tiny, tmp_path):
    config = write_config(tiny, tmp_path / "config.py")
    both = [trainer(config, tmp_path / "run") for _ in range(2)]
    ends = [process.communicate(timeout=240) for process in both]
    assert sorted(process.returncode for process in both) in ([0, 0], [0, 75]), ends
    run_alone = trainer(config, tmp_path / "alone")
    run_alone.communicate(timeout=240)
    assert_same_run(tmp_path / "run", tmp_path / "alone")
    assert record.read(tmp_path / "run" / "record.json")["status"] == "complete"


def test_the_claim_of_a_killed_process_is_taken_over_at_once(tiny, tmp_path):
    config = write_config(tiny, tmp_path / "config.py")
    first = trainer(config, tmp_path / "run")
    wait_for_rows(first, tmp_path / "run", 5)
    first.kill()
    first.communicate()
    assert (tmp_path / "run" / "claim.json").exists(), "nobody was there to take it away"
    again = trainer(config, tmp_path / "run")
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0 and not err, out + err


def test_a_claim_from_another_host_is_watched_until_it_is_known_to_be_dead(tmp_path, monkeypatch):
    """A requeued job on another machine: nobody there is at it any more, which only time can show."""
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(holding, "POLL_SECONDS", 0.05)
    folder = epath.Path(tmp_path)
    far = dataclasses.replace(Process.of(os.getpid()), host="elsewhere", boot="other")
    dead = claims.Claim(NAME, far, far, "", 0.0, "abc", "def")
    left = claims.Claims(folder, lambda name: folder)
    left._write(dead)
    said = []
    with holding.hold([folder], [NAME], said.append) as held:
        assert held.holds([folder])
        assert left.mine(NAME)
    assert len(said) == 1 and "elsewhere" in said[0]


def test_a_claim_from_another_host_that_lives_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(holding, "POLL_SECONDS", 0.05)
    folder = epath.Path(tmp_path)
    far = dataclasses.replace(Process.of(os.getpid()), host="elsewhere", boot="other")
    claims.Claims(folder, lambda name: folder)._write(claims.Claim(NAME, far, far, "", 0.0, "abc", "def"))
    beats = lease.beat_path(folder, "def")
    beats.parent.mkdir()
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(0.02):
            count += 1
            beats.write_text(json.dumps({"beat": count}))

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(lease.Lost, match="on elsewhere"), holding.hold([folder], [NAME], print):
        pass
    over.set()
    thread.join()
    found = claims.Claims(folder, lambda name: folder).read(NAME)
    assert found is not None and found.token == "def"


def test_a_run_of_a_study_that_a_launcher_has_is_left_alone(tmp_path):
    """One claim for both: a launcher's is seen by whoever trains in the run's folder, and the other way round."""
    folder = epath.Path(tmp_path) / "runs" / NAME
    folder.mkdir(parents=True)
    (epath.Path(tmp_path) / "study.json").write_text("{}")
    launcher = claims.Claims(epath.Path(tmp_path))
    parent = Process.of(os.getppid())
    launcher._write(claims.Claim(NAME, parent, parent, "p", 0.0, "abc", "def"))
    with pytest.raises(lease.Lost, match=str(os.getppid())), holding.hold([folder], [NAME], print):
        pass
    launcher._path(NAME).unlink()
    with holding.hold([folder], [NAME], print):
        claim = launcher.read(NAME)
        assert claim is not None and launcher.alive(claim)
    assert launcher.read(NAME) is None


SIGNALS = ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"]


@pytest.mark.parametrize("name", [name for name in SIGNALS if hasattr(signal, name)])
def test_every_request_to_stop_saves(name, long_config, tmp_path):
    process = trainer(long_config, tmp_path / "run")
    wait_for_rows(process, tmp_path / "run", 5)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, out + err
    assert err == "stopped; everything is saved, the same command goes on\n"
    saved = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()]
    assert max(saved) == rows(tmp_path / "run")[-1]["step"]


def test_a_request_to_stop_before_the_first_step_is_heard(long_config, tmp_path):
    process = trainer(long_config, tmp_path / "run")
    while not (tmp_path / "run" / "claim.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, out + err
    assert err.count("\n") == 1 and "the same command goes on" in err


def test_a_request_to_stop_while_state_is_read_is_no_damage(tiny, tmp_path, monkeypatch):
    """A restore of many gigabytes takes its time: a signal in it is a signal, and says nothing of the checkpoint."""
    folder = tmp_path / "run"
    run(tiny(), folder)
    (folder / "record.json").unlink()
    before = {path.name for path in (folder / "checkpoints").iterdir()}
    restore = ocp.PyTreeCheckpointHandler.restore

    def stopped(*arguments, **named):
        signal.raise_signal(signal.SIGTERM)
        return restore(*arguments, **named)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", stopped)
    with pytest.raises(Stopped):
        run(tiny(), folder)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == before
    monkeypatch.undo()
    starts = []
    run(tiny(), folder, starts.append)
    assert starts[0]["done"] == 50


def test_nohup_stays_in_force(long_config, tmp_path):
    process = trainer(long_config, tmp_path / "run", "nohup")
    wait_for_rows(process, tmp_path / "run", 5)
    process.send_signal(signal.SIGHUP)
    wait_for_rows(process, tmp_path / "run", len(rows(tmp_path / "run")) + 20)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 75


def test_signals_are_the_callers_again_after_training(tiny, tmp_path):
    before = {name: signal.getsignal(getattr(signal, name)) for name in SIGNALS}
    run(tiny(), tmp_path / "run")
    assert {name: signal.getsignal(getattr(signal, name)) for name in SIGNALS} == before


def test_training_works_outside_the_main_thread(tiny, tmp_path):
    problems: list[BaseException] = []

    def work() -> None:
        try:
            run(tiny(), tmp_path / "run")
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not problems
    assert record.read(tmp_path / "run" / "record.json")["status"] == "complete"


def test_signals_are_the_callers_again_after_a_stop(tiny, tmp_path):
    """Ctrl-C in a notebook saves and ends the training; the next one is the notebook's own."""
    before = signal.getsignal(signal.SIGINT)

    def interrupt(event: dict) -> None:
        if event["event"] == "progress":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped):
        run(tiny(**{"execution.steps_per_dispatch": 5}), tmp_path / "run", interrupt)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_save_that_fails_ends_the_process(tiny, tmp_path, small_disk):
    """A real file system that is full: one line, and no process that stays."""
    disk, _ = small_disk
    config = write_config(tiny, tmp_path / "config.py", **{"model.width": 64, "model.depth": 6})
    process = trainer(config, disk / "run")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1, out + err
    assert err.count("\n") == 1 and "no space left" in err, err
    assert not (disk / "run" / "record.json").exists()
