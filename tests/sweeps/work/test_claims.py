"""Claims of runs by launchers: never two at a time, and none that outlives its processes."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time

from etils import epath

from experiments.alive import claims
from tests.support.paths import REPOSITORY

RACER = """
import os, sys, time
from etils import epath
from experiments.alive import claims
mine, taken = claims.Claims(epath.Path(sys.argv[1])), []
sys.stdin.readline()
for name in sys.argv[2:]:
    with mine.lock():
        if not mine.by_other(name):
            mine.take([name], os.getpid(), "p")
            taken.append(name)
print(*taken, flush=True)
sys.stdin.readline()  # alive until all have looked
"""


def test_racing_launchers_never_claim_a_run_twice(tmp_path: pathlib.Path):
    """Four processes go for the same twenty runs, as launchers do."""
    names = [f"{i:016x}" for i in range(20)]
    command = [sys.executable, "-c", RACER, str(tmp_path), *names]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    racers = [subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) for _ in range(4)]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    taken = [name for racer in racers for name in racer.stdout.readline().split()]
    assert sorted(taken) == names
    for racer in racers:
        racer.communicate()
    dead = claims.Claims(epath.Path(tmp_path))
    assert all(dead.read(name) and not dead.by_other(name) for name in names), "claims of ended processes are dead"


def test_a_claim_of_this_host_lives_as_long_as_its_processes(tmp_path: pathlib.Path):
    """Whatever the clock says; a process id that another process has now does not count."""
    mine = claims.Claims(epath.Path(tmp_path))
    sleeper = subprocess.Popen(["sleep", "60"])
    gone = dataclasses.replace(claims.Process.of(sleeper.pid), pid=2**22 + 1)
    claim = claims.Claim("f", gone, claims.Process.of(sleeper.pid), "p", 0.0, "abc")
    assert mine.alive(claim), "the launcher is gone, its worker is not"
    recycled = dataclasses.replace(claim.worker, started="1")
    assert not mine.alive(dataclasses.replace(claim, worker=recycled)), "the same process id, another process"
    assert not mine.alive(dataclasses.replace(claim, worker=dataclasses.replace(claim.worker, boot="before")))
    sleeper.kill()
    sleeper.wait()
    assert not mine.alive(claim)
    mine.take(["a", "b"], os.getpid(), "p")
    mine._write(dataclasses.replace(claim, fingerprint="b", launcher=dataclasses.replace(gone, host="elsewhere")))
    assert mine.beat(["a", "b"]) == ["b"], "b was taken over by another host"
    mine.release(["a", "b"])
    assert mine.read("a") is None and mine.read("b") is not None
    mine.close()
    assert not list((tmp_path / "launchers").iterdir())


def test_a_lease_of_another_host_is_judged_by_its_counter_alone(tmp_path: pathlib.Path, monkeypatch):
    """The other's clock may say anything, files may have any date; what counts is how long we saw nothing move."""
    mine, theirs = claims.Claims(epath.Path(tmp_path)), claims.Claims(epath.Path(tmp_path))
    far = dataclasses.replace(theirs.me, host="elsewhere")
    theirs.me = far
    theirs.take(["f"], os.getpid(), "p")
    clock = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock)
    path = tmp_path / "launchers" / f"{theirs.lease}.json"
    assert mine.by_other("f"), "just seen for the first time"
    for jump in (-1e9, 1e9):  # seconds: their clock, or the file server's, is wrong by decades
        os.utime(path, (time.time() + jump, time.time() + jump))
        monkeypatch.setattr(claims.time, "time", lambda jump=jump: 1.7e9 + jump)
        theirs.beat(["f"])
        clock += claims.STALE_SECONDS - 1
        assert mine.by_other("f"), "the counter has moved"
    clock += claims.STALE_SECONDS - 1
    assert mine.by_other("f"), "not for long enough"
    clock += 2
    assert mine.by_other("f") is None, "nobody is at it any more"
    mine.take(["f"], os.getpid(), "p")
    assert theirs.beat(["f"]) == ["f"], "the other comes back from a long sleep, and learns of it"


def test_a_host_of_the_same_name_is_another_host(tmp_path: pathlib.Path, monkeypatch):
    """Two machines are called localhost, and share a disk: the claim of the other is watched, and not dead at once."""
    mine, theirs = claims.Claims(epath.Path(tmp_path)), claims.Claims(epath.Path(tmp_path))
    theirs.me = dataclasses.replace(theirs.me, boot="of the other machine", pid=2**22 + 1)
    theirs.take(["f"], os.getpid(), "p")
    clock = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock)
    claim = mine.by_other("f")
    assert claim and not mine.is_seen_alive(claim), "no process here has this id, and that says nothing"
    theirs.beat(["f"])
    clock += claims.STALE_SECONDS - 1
    claim = mine.by_other("f")
    assert claim and mine.is_seen_alive(claim)
    clock += claims.STALE_SECONDS + 1
    assert mine.by_other("f") is None
