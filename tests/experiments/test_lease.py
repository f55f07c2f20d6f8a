"""A worker holds its runs itself: a launcher that dies hands nothing over, and who was taken for dead writes nothing."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from etils import epath
import pytest

from experiments.alive import claims, lease
from experiments.cli import InputError
from experiments.store import segments
from sweeps.study import file
from sweeps.study.corpora import prepare_corpora
from sweeps.work import populations
from sweeps.work import workdir as store
from tests.support.paths import REPOSITORY

NAME = "0" * 16


def workdir(folder: pathlib.Path) -> tuple[claims.Claims, epath.Path]:
    """Claims of an empty workdir, and the folder of its only run."""
    run = epath.Path(folder) / "runs" / NAME
    run.mkdir(parents=True, exist_ok=True)
    return claims.Claims(epath.Path(folder)), run


def far(claim: claims.Claim, **changes) -> claims.Claim:
    """The claim of a launcher of this host that is dead, for a worker that it cannot name."""
    gone = dataclasses.replace(claim.launcher, pid=2**22 + 1)
    return dataclasses.replace(claim, launcher=gone, worker=gone, **changes)


HOLDER = """
import sys
from etils import epath
from experiments.alive import lease
root, name = sys.argv[1:]
held = lease.given(epath.Path(root))
try:
    held.begin([epath.Path(root) / "runs" / name])
except lease.Lost:
    sys.exit("lost")
print("holds", flush=True)
sys.stdin.readline()
print("still" if held.holds([epath.Path(root) / "runs" / name]) else "superseded", flush=True)
"""


def holder(root: pathlib.Path, token: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = os.environ | {lease.VARIABLE: token}
    return subprocess.Popen([sys.executable, "-c", HOLDER, str(root), NAME], cwd=REPOSITORY, env=env, **pipes)


def test_a_run_is_its_workers_after_the_launcher_is_gone(tmp_path: pathlib.Path):
    """A real process that holds it; its launcher is dead and does not know it. Over at once when it ends, or is killed."""
    mine, _ = workdir(tmp_path)
    for end in ("by itself", "killed"):
        token = mine.take([NAME], os.getpid(), "p")
        mine._write(claim := far(mine.read(NAME)))
        assert not mine.alive(claim), "it has not begun"
        process = holder(tmp_path, token)
        assert process.stdout.readline() == "holds\n"
        assert mine.alive(claim) and claims.Claims(mine.root).by_other(NAME), "it is saving; nobody may take it"
        if end == "killed":
            process.kill()
            process.wait()
        else:
            assert process.communicate("\n")[0] == "still\n"
            assert not lease.beat_path(mine.root, token).exists()
        assert not mine.alive(claim)
        assert mine.take([NAME], os.getpid(), "p") != token
        assert not lease.beat_path(mine.root, token).exists(), "whoever takes over clears away"
    mine.release([NAME])


def test_who_was_taken_for_dead_finds_out(tmp_path: pathlib.Path, monkeypatch):
    """Superseded while it slept, or before it began: it holds nothing, and does not begin."""
    mine, _ = workdir(tmp_path)
    process = holder(tmp_path, token := mine.take([NAME], os.getpid(), "p"))
    assert process.stdout.readline() == "holds\n"
    process.send_signal(signal.SIGSTOP)
    other = mine.take([NAME], os.getpid(), "p")
    process.send_signal(signal.SIGCONT)
    assert process.communicate("\n")[0] == "superseded\n"
    late = holder(tmp_path, token)
    assert late.communicate()[1].strip() == "lost" and late.returncode == 1
    assert not lease.beat_path(mine.root, token).exists() and mine.read(NAME).token == other
    mine.release([NAME])
    assert holder(tmp_path, other).wait() == 1, "a claim that was given back is nobody's"
    for bad in ("../x", "a b", "g" * 16):
        with pytest.raises(ValueError, match="expected hexadecimal digits"):
            lease.Lease(mine.root, bad)
        monkeypatch.setenv(lease.VARIABLE, bad)
        with pytest.raises(InputError, match=lease.VARIABLE):
            lease.given(mine.root)


def test_a_worker_on_another_host_is_judged_by_its_counter(tmp_path: pathlib.Path, monkeypatch):
    """Launcher and worker are elsewhere: both counters have to stand still for long enough."""
    mine, run = workdir(tmp_path)
    held = lease.Lease(mine.root, mine.take([NAME], os.getpid(), "p"))
    held._beat()
    path = lease.beat_path(mine.root, held.token)
    value = json.loads(path.read_text())
    value["worker"]["host"] = "elsewhere"
    claim, clock = far(mine.read(NAME)), 1000.0
    claim = dataclasses.replace(claim, launcher=dataclasses.replace(claim.launcher, host="elsewhere"))
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock)
    for beat in (1, 2, 3):
        path.write_text(json.dumps(value | {"beat": beat}))
        assert mine.alive(claim)
        clock += claims.STALE_SECONDS - 1
    assert mine.alive(claim)
    clock += claims.STALE_SECONDS + 1
    assert not mine.alive(claim), "launcher and worker were watched at the same time"
    assert held.holds([run]), "nobody has taken it over"
    mine.release([NAME])
    assert not held.holds([run]) and not path.exists()


def population(study_path: pathlib.Path, root: pathlib.Path, arg: str) -> tuple[store.Workdir, pathlib.Path, list[str]]:
    """A workdir with the file of the study's largest population; its fingerprints."""
    loaded, held = file.load(f"{study_path}:{arg}"), store.Workdir(root)
    nodes = store.distinct(store.identify(loaded, prepare_corpora(loaded, progress=False)))
    (root / "populations").mkdir(parents=True)
    whole = max(populations.arrange(nodes, 1, lambda parent: True), key=lambda p: len(p.nodes))
    value = populations.worker_input(whole, cpu_devices=1)
    (root / "populations" / "p.json").write_text(json.dumps(value))
    return held, root / "populations" / "p.json", value["fingerprints"]


@pytest.mark.slow
def test_a_superseded_worker_writes_nothing_more(tiny_study, tmp_path: pathlib.Path):
    """A real worker, stopped (SIGSTOP) in the middle, its runs given to somebody else: it comes back, and ends with
    'again'; not a step was logged or saved after that."""
    root = tmp_path / "w"
    (tmp_path / "long.py").write_text(
        tiny_study.read_text().replace('"seq_len": 32,', '"seq_len": 32, "data.unique_tokens": 200_000,')
    )
    held, path, names = population(tmp_path / "long.py", root, "20000")
    token = held.claims.take(names, os.getpid(), "p")
    command = [sys.executable, "-m", "experiments.train", f"--population={path}", f"--workdir={root}"]
    env = os.environ | {lease.VARIABLE: token}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not (logs := [log for log in root.glob("runs/*/metrics/*.jsonl") if log.stat().st_size]):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)
    held.claims.take(names, os.getpid(), "p")
    # Who takes a run over begins so. The worker may have been stopped in the middle of writing some rows.
    before = [segments.cut(epath.Path(log.parent.parent), 10**9)[1] for log in logs]
    time.sleep(lease.LOOK_SECONDS_LOCAL + 0.1)  # for so long it may believe what it has seen
    process.send_signal(signal.SIGCONT)
    said = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 75 and "error: another launcher has taken over" in said, said
    assert [segments.read(log.parent.parent) for log in logs] == before and len(before) >= 1
    assert not list(root.glob("runs/*/record.json")) and not list(root.glob("runs/*/checkpoints/*"))
    assert not list((root / "workers").iterdir())
