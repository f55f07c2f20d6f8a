"""A launcher is killed and started again at once, while its worker, wherever that is, has not yet saved."""

import json
import os
import pathlib
import signal
import time

import pytest

from experiments.alive import claims
from experiments.store import segments
from tests.support.executors import losses, started, until

SPECS = [
    "local",
    pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.xdist_group("ray")]),
    pytest.param("slurm:slots=2", marks=pytest.mark.xdist_group("slurm")),
]


def workers(workdir: pathlib.Path) -> list[claims.Process]:
    """Who holds runs of a workdir, by its own word."""
    out = []
    for path in workdir.glob("workers/*.json"):
        out.append(claims.Process(**json.loads(path.read_text())["worker"]))
    return out


def claimed_by(workdir: pathlib.Path) -> dict[str, int]:
    """Process id of each claimed run's launcher."""
    found = {path.parent.name: json.loads(path.read_text()) for path in workdir.glob("runs/*/claim.json")}
    return {name: claim["launcher"]["pid"] for name, claim in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL], ids=["saves late", "dies"])
@pytest.mark.parametrize("spec", SPECS, ids=["local", "ray", "slurm"])
def test_runs_are_handed_over_when_their_worker_is_over_and_not_before(
    spec: str,
    end: signal.Signals,
    executor_study: pathlib.Path,
    tmp_path: pathlib.Path,
    request,
):
    """The worker cannot answer for a while (SIGSTOP) as its launcher is killed. The next launcher leaves its runs alone
    for that time, and takes them over as soon as it has saved and ended, or died: no step is taken twice. A Slurm job that
    lives outlives its launcher, and trains to its end."""
    if spec == "ray":
        spec = f"ray:address={request.getfixturevalue('cluster').address}"
    elif spec.startswith("slurm"):
        request.getfixturevalue("slurm")
    text = executor_study.read_text().replace('"seq_len": 32,', '"seq_len": 32, "data.unique_tokens": 200_000,')
    (tmp_path / "long.py").write_text(text)
    workdir, long = tmp_path / "w", pathlib.Path(f"{tmp_path}/long.py:3000")
    first = started(long, workdir, spec)
    until(lambda: len(workers(workdir)) == 2 and len(list(workdir.glob("runs/*/metrics"))) == 2)
    olds = workers(workdir)
    for old in olds:
        os.kill(old.pid, signal.SIGSTOP)
    held = set(claimed_by(workdir))
    finished = {path.parent.name for path in workdir.glob("runs/*/record.json")}
    first.kill()
    first.wait()  # not for its pipes, which what it has started holds open
    before = (workdir / "study.json").stat().st_mtime_ns
    second, seen = started(long, workdir, spec), None
    while seen is None or time.monotonic() < seen + 5:
        if seen is None and (workdir / "study.json").stat().st_mtime_ns != before:
            seen = time.monotonic()  # now it looks at the claims
        assert second.poll() is None, second.communicate()
        by = claimed_by(workdir)
        assert not [name for name in held - finished if by.get(name) != first.pid], "they are not free yet"
        assert all(old.alive for old in olds)
        time.sleep(0.2)
    for old in olds:
        os.kill(old.pid, end)
    out, err = second.communicate(timeout=300)
    assert second.returncode == 0, out + err
    goes_on = spec.startswith("slurm") and end == signal.SIGCONT
    assert "is being trained by" in err and ("taking over" in err) != goes_on, err
    assert len(losses(workdir)) == 3
    for path in workdir.glob("runs/*/metrics"):
        rows = segments.read(path.parent)
        assert [row["step"] for row in rows if "loss" in row] == [1, *range(10, 3001, 10)], "each step once, in order"
    assert not any(old.alive for old in olds) and claimed_by(workdir) == {} and workers(workdir) == []
